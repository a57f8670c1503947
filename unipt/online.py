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

from cache_schema import FeatureBatch, UserError, encoding
from extractor import BackboneConfig, load_backbone, roles_read

if TYPE_CHECKING:
    from torch import Tensor

    from trainer import TrainedRun

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

    Attributes:
        backbone: Loaded and checked.
        reads: Roles of its samples: `text`, `image`, `video`, `regions`.
        lists_hold_words: Whether a list is a text, word by word; else it is a pair of texts.

    Raises:
        FingerprintMismatchError: The backbone is another one now; names what differs.
    """

    def __init__(self, run: TrainedRun, side: int = 0) -> None:
        excerpt = run.record.caches[side]
        chosen = BackboneConfig.from_spec(excerpt.backbone)
        self.backbone = load_backbone(chosen, run.device)
        features: dict[str, object] = {**self.backbone.identity, "encoding": excerpt.encoding}
        run.check_features(features, f"backbone {excerpt.backbone.name}", side)
        self.reads = roles_read(chosen)
        self.lists_hold_words = chosen.align == "words"
        self._task = run.task
        # What training read was rounded to the stored dtype; so is what prediction reads.
        self._stored_dtype = encoding(excerpt.encoding).dtype

    def samples(self, given: Sequence[Any]) -> list[dict[str, Any]]:
        """By role, what a user wrote for each; see `sample_of`."""
        return [
            sample_of(position, each, self.reads, lists_hold_words=self.lists_hold_words)
            for position, each in enumerate(given)
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
            name: replace(stream, values=stream.values.to(self._stored_dtype))
            for name, stream in batch.streams.items()
        }
        return replace(batch, streams=streams)


def sample_of(
    position: int, given: object, reads: Sequence[str], *, lists_hold_words: bool = False
) -> dict[str, Any]:
    """One sample by role, from what a user wrote for it.

    Args:
        position: Its `id`, and its name in errors.
        given: A text or a pair of texts; a path, bytes or PIL image; a video's path or the list
            of its frames; the path or bytes of an npz file of regions; for several roles a
            mapping from role to one of these, or a tuple in the order of `reads`.
        reads: Roles that are needed.
        lists_hold_words: Whether a list is a text, word by word; then a tuple is a pair.

    Raises:
        UserError: It is something else, or a text is empty.
    """
    if reads == ("text",):
        return {"id": position, **_texts(position, given, lists_hold_words)}
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
            _texts(position, part, lists_hold_words)
            if role == "text"
            else {role: _picture(position, role, part)}
        )
    return found


def _texts(position: int, given: object, lists_hold_words: bool) -> dict[str, Any]:
    is_one = isinstance(given, str) or (lists_hold_words and isinstance(given, list))
    parts = (given,) if is_one else given
    if (
        not isinstance(parts, tuple | list)
        or len(parts) not in (1, 2)
        or not all(
            (isinstance(part, str) and part.strip())
            or (lists_hold_words and place == 0 and _are_words(part))
            for place, part in enumerate(parts)
        )
    ):
        words = ", a list of words" if lists_hold_words else ""
        raise UserError(
            f"text {position}: found {given!r}, needed a text{words} or a pair of texts."
        )
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
        return _encoded(given)
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
    image.convert("RGB").save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
