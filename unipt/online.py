"""A frozen backbone beside a trained run: new samples in, hidden states as the run has seen them.

B samples of a window.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cache_schema import FeatureBatch, UserError, encoding, rounded
from extractor import BackboneConfig, BackboneNotFoundError, as_rgb, load_backbone, roles_read

if TYPE_CHECKING:
    from torch import Tensor

    from extractor import Role
    from trainer import CacheExcerpt, TrainedRun

# Texts are tokenised and sorted by length in windows: enough to make batches of equal lengths.
# Decoded images of a window are held in memory, and all have the same length.
_TEXT_WINDOW = 2048


@dataclass(frozen=True)
class Window:
    """Consecutive samples.

    Attributes:
        num_samples: B.
        batches: Hidden states; `sample_ids` are places in the window, each of those that can be
            read once. `targets` are the facts that the run's task reads.
        failures: Place in the window to why it cannot be read.
    """

    num_samples: int
    batches: Iterator[FeatureBatch]
    failures: Mapping[int, str]


class FrozenSide:
    """The backbone of one of a run's caches, as it was when the cache was made.

    Args:
        run: The trained side network.
        side: Which of its caches: 0, or 1 for the texts of pairs.
        backbone: Where it lies now, if not where it was; its weights decide whether it is the one.

    Attributes:
        backbone: Loaded and checked.
        reads: Roles of its samples: `text`, `image`, `video`, `regions`.
        texts: What a text of a sample may be.

    Raises:
        FingerprintMismatchError: The backbone is another one now; names what differs.
        UserError: It is not where it was.
    """

    def __init__(self, run: TrainedRun, side: int = 0, backbone: str | Path | None = None) -> None:
        excerpt = run.record.caches[side]
        chosen, self.reads = backbone_of(excerpt, backbone)
        self.backbone = load_backbone(chosen, run.device)
        # What training read was rounded as it was stored; so is what prediction reads.
        self._encoding = encoding(excerpt.encoding)
        features: dict[str, object] = {**self.backbone.identity, **self._encoding.identity}
        run.check_features(features, f"backbone {chosen.name}", side)
        self.texts = TextForm.of(excerpt, chosen)
        self._task = run.task

    def samples(self, given: Sequence[Any]) -> list[dict[str, Any]]:
        """By role, what a user wrote for each; see `sample_of`."""
        return [
            sample_of(position, each, self.reads, self.texts) for position, each in enumerate(given)
        ]

    def windows(self, samples: Iterable[Mapping[str, Any]], batch_size: int) -> Iterator[Window]:
        """Hidden states of samples by role, a window at a time; the next one is prepared meanwhile.

        Args:
            samples: `id` and what `reads` names.
            batch_size: Samples per forward pass.
        """
        remaining = iter(samples)
        size = _TEXT_WINDOW if self.reads == ("text",) else batch_size
        coming: tuple[list[Mapping[str, Any]], Future[Any]] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="unipt-prepare") as pool:
            while chunk := list(islice(remaining, size)):
                job = pool.submit(self.backbone.prepare, chunk)
                if coming is not None:
                    yield self._window(coming[0], coming[1].result(), batch_size)
                coming = chunk, job
            if coming is not None:
                yield self._window(coming[0], coming[1].result(), batch_size)

    def _window(
        self, samples: Sequence[Mapping[str, Any]], prepared: Any, batch_size: int
    ) -> Window:
        # Batches of equal lengths need no padding; whoever reads them restores the order.
        order = prepared.longest_first()
        starts = range(0, len(order), batch_size)
        batches = (order[start : start + batch_size] for start in starts)
        hidden = (
            replace(
                self._stored(self.backbone.run(prepared, batch)),
                targets=self._facts(samples, prepared, batch),
            )
            for batch in batches
        )
        return Window(prepared.num_samples, hidden, prepared.failures)

    def _facts(
        self, samples: Sequence[Mapping[str, Any]], prepared: Any, places: np.ndarray
    ) -> dict[str, Tensor]:
        """What the task reads beside the hidden states, of the samples at these places."""
        values = {}
        for name in self._task.reads:
            column = None if name == "size" else prepared.inputs[name]
            values[name] = [
                _size(samples[place]["image"]) if column is None else column[place]
                for place in places.tolist()
            ]
        return self._task.facts(values)

    def _stored(self, batch: FeatureBatch) -> FeatureBatch:
        streams = {
            name: replace(stream, values=rounded(stream.values, self._encoding))
            for name, stream in batch.streams.items()
        }
        return replace(batch, streams=streams)


def backbone_of(
    excerpt: CacheExcerpt, place: str | Path | None
) -> tuple[BackboneConfig, tuple[Role, ...]]:
    """How a cache's backbone is loaded again, and what it reads; nothing is loaded.

    Args:
        excerpt: Of the cache.
        place: Where the backbone lies now; None for where it was.

    Raises:
        UserError: It is not there; names the flag that says where it is.
    """
    chosen = BackboneConfig.from_spec(excerpt.backbone)
    if place is not None:
        chosen = chosen.model_copy(update={"name": str(place), "revision": None})
    try:
        return chosen, roles_read(chosen)
    except BackboneNotFoundError as error:
        raise BackboneNotFoundError(
            f"{error} If the backbone lies elsewhere now, name its folder with --backbone."
        ) from error


@dataclass(frozen=True)
class TextForm:
    """What the texts of a sample are.

    Attributes:
        count: 1, or 2 for a pair; None if the cache did not record it.
        lists_hold_words: Whether a list is a text, word by word; else it is a pair of texts.
    """

    count: int | None = None
    lists_hold_words: bool = False

    @classmethod
    def of(cls, excerpt: CacheExcerpt, backbone: BackboneConfig) -> TextForm:
        """That of a cache's samples."""
        count = 1 + ("text_pair" in excerpt.roles) if excerpt.roles else None
        return cls(count, backbone.align == "words")

    @property
    def needed(self) -> str:
        """In words."""
        text = "a text" + (" or a list of its words" if self.lists_hold_words else "")
        if self.count is None:
            return f"{text} or a pair of texts"
        return f"{text if self.count == 1 else 'a pair of texts'}, which the run was trained with"


def sample_of(
    position: int,
    given: object,
    reads: Sequence[str],
    texts: TextForm = TextForm(),  # frozen
) -> dict[str, Any]:
    """One sample by role, from what a user wrote for it.

    Args:
        position: Its `id`, and its name in errors.
        given: A text or a pair of texts; a path, bytes or PIL image; a video's path or the list
            of its frames; the path or bytes of an npz file of regions; for several roles a
            mapping from role to one of these, or a tuple in the order of `reads`.
        reads: Roles that are needed.
        texts: What a text has to be.

    Raises:
        UserError: It is something else, or a text is empty.
    """
    if reads == ("text",):
        return {"id": position, **_texts(position, given, texts)}
    if len(reads) == 1:
        return {"id": position, reads[0]: _picture(position, reads[0], given)}
    if isinstance(given, tuple) and len(given) == len(reads):
        given = dict(zip(reads, given, strict=True))
    if not isinstance(given, Mapping) or set(given) != set(reads):
        raise UserError(
            f"sample {position}: found {given!r}, needed a mapping with {list(reads)!r}, or a "
            "tuple of them in this order."
        )
    found: dict[str, Any] = {"id": position}
    for role in reads:
        part = given[role]
        found |= (
            _texts(position, part, texts)
            if role == "text"
            else {role: _picture(position, role, part)}
        )
    return found


def _texts(position: int, given: object, form: TextForm) -> dict[str, Any]:
    is_one = isinstance(given, str) or (form.lists_hold_words and isinstance(given, list))
    parts = (given,) if is_one else given
    if (
        not isinstance(parts, tuple | list)
        or len(parts) not in ((1, 2) if form.count is None else (form.count,))
        or not all(
            (isinstance(part, str) and part.strip())
            or (form.lists_hold_words and place == 0 and _are_words(part))
            for place, part in enumerate(parts)
        )
    ):
        raise UserError(f"text {position}: found {given!r}, needed {form.needed}.")
    return dict(zip(("text", "text_pair"), parts, strict=False))


def _are_words(given: object) -> bool:
    return (
        isinstance(given, list)
        and all(isinstance(word, str) for word in given)
        and any(word.strip() for word in given)
    )


def _picture(position: int, role: str, given: object) -> object:
    if isinstance(given, str | Path | bytes):
        return given
    if role == "video" and isinstance(given, list | tuple) and given:
        return [_picture(position, "image", frame) for frame in given]
    if isinstance(given, Image.Image) and role != "regions":
        try:
            return _encoded(given)
        except ValueError as error:
            raise UserError(f"{role} {position}: {error}. Convert it to RGB.") from error
    kinds = {
        "image": "a path, bytes or a PIL image",
        "video": "a path, bytes or a list of frames",
        "regions": "the path or the bytes of an npz file",
    }
    raise UserError(f"{role} {position}: found {given!r}, needed {kinds[role]}.")


def _size(source: str | Path | bytes) -> np.ndarray:
    """Height and width in pixels, from the header of an image that was decoded before."""
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        return np.array([image.height, image.width], dtype=np.float64)


def _encoded(image: Image.Image) -> bytes:
    """The bytes of a file with exactly these pixels: backbones decode images themselves."""
    buffer = io.BytesIO()
    as_rgb(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
