"""What an extraction did, and what one would cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pydantic import JsonValue


def size_text(num_bytes: int) -> str:
    """`1.25 GB`, and below one of them `21.40 MB`."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.2f} MB"


@dataclass(frozen=True)
class Filled:
    """What one or several processes did to a cache.

    Attributes:
        num_written: Samples.
        seconds: Duration of the forward passes with everything that overlaps them.
    """

    num_written: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class ExtractionReport:
    """What an extraction did.

    Attributes:
        cache: Where the cache lies.
        was_finished: Whether it was complete before, so that nothing was run.
        num_samples: Samples in the cache.
        num_written: Samples written by this run.
        num_shards: Shards in the cache.
        num_bytes: Bytes of its arrays.
        num_skipped: Source rows left out by `on_error=skip`.
        num_unreadable: Samples without hidden states, as their source could not be read.
        num_truncated: Samples cut to the maximum length.
        seconds: Duration of the forward passes with everything that overlaps them.
    """

    cache: str
    was_finished: bool
    num_samples: int
    num_written: int
    num_shards: int
    num_bytes: int
    num_skipped: int
    num_unreadable: int
    num_truncated: int
    seconds: float

    def as_dict(self) -> dict[str, JsonValue]:
        """For `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class ExtractionEstimate:
    """What an extraction would cost: the answer of `--dry-run`.

    Attributes:
        cache: Where the cache would lie.
        num_samples: Samples of all splits.
        num_tokens: Rows of all samples.
        encoding: Of the hidden states.
        encodings: Each encoding's exact bytes of the whole cache, the largest first.
        limit_bytes: What `fit_in` allows; None where there is no limit.
        num_shards: Shards of the whole cache.
        num_missing_shards: Shards that are not finished yet.
        num_bytes: Exact bytes of all arrays.
        missing_bytes: Bytes still to be written.
        free_bytes: Free space there; None where there is no limit.
        seconds: Forward passes still to run, extrapolated from a probe of a few seconds.
        num_skipped: Source rows left out.
        num_unreadable: Samples that cannot be read, as far as known without decoding them.
        num_truncated: Samples that are cut.
    """

    cache: str
    num_samples: int
    num_tokens: int
    encoding: str
    encodings: dict[str, int]
    limit_bytes: int | None
    num_shards: int
    num_missing_shards: int
    num_bytes: int
    missing_bytes: int
    free_bytes: int | None
    seconds: float
    num_skipped: int
    num_unreadable: int
    num_truncated: int

    @property
    def fits(self) -> bool:
        """Whether there is room for what is missing."""
        return self.free_bytes is None or self.missing_bytes < self.free_bytes

    def whole_fits(self, encoding: str) -> bool:
        """Whether there is room for a whole cache in this encoding."""
        limits = [limit for limit in (self.limit_bytes, self.free_bytes) if limit is not None]
        return all(self.encodings[encoding] <= limit for limit in limits)

    def as_dict(self) -> dict[str, JsonValue]:
        """For `--json`."""
        return {**asdict(self), "fits": self.fits}
