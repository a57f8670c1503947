"""What MDETR reads: images with their shorter side at one length, and RoBERTa's tokens.

B samples, T text tokens of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cache_schema import Ragged

from ...media import ImageSource, load_image
from ..base import Sample
from ..errors import BackboneError, UnsupportedBackboneError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Of the shorter side, as shares of the largest: the released training draws 480, 512, ... 800.
_VIEW_SHARES = tuple(side / 800 for side in range(480, 801, 32))


@dataclass(frozen=True)
class DetectorRecipe:
    """How an image becomes pixels.

    An augmented view is the whole image at another size, as a share of `shortest` drawn from the
    released training's: a crop or a mirror image could lose what the text names, or its side.

    Attributes:
        shortest: Pixels that the shorter side is brought to ...
        longest: ... unless the longer side would be longer than this.
    """

    shortest: int
    longest: int

    def size(self, height: int, width: int, sample: Sample) -> tuple[int, int]:
        """(height, width) of the pixels of an image of this size. Source: DETR's resizing."""
        row, view, shortest = sample.get("id"), sample.get("view", 0), self.shortest
        if view:
            assert isinstance(row, int)
            assert isinstance(view, int)
            draw = np.random.default_rng([row, view])
            shortest = round(shortest * _VIEW_SHARES[draw.integers(len(_VIEW_SHARES))])
        low, high = min(height, width), max(height, width)
        if high / low * shortest > self.longest:
            shortest = max(1, round(self.longest * low / high))
        if height < width:
            return shortest, int(shortest * width / height)
        return int(shortest * height / width), shortest

    def pixels(self, sample: Sample, source: ImageSource) -> np.ndarray:
        """(3, H, W) uint8."""
        image = load_image(source)
        height, width = self.size(image.height, image.width, sample)
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


@dataclass(frozen=True, eq=False)
class Words:
    """Texts as tokens.

    Attributes:
        token_ids: int32, special tokens included.
        token_spans: int32, begin and end of each token in the text's characters, one after the
            other; 0 and 0 for special tokens.
        truncated: (B,) bool, whether a text was cut.
    """

    token_ids: Ragged
    token_spans: Ragged
    truncated: np.ndarray


class SpanTokenizer:
    """A tokenizer.json that also says which characters each token is."""

    def __init__(self, path: Path, *, max_length: int) -> None:
        from tokenizers import Tokenizer

        if not path.is_file():
            raise UnsupportedBackboneError(
                f"{path}: there is no such file, needed the tokenizer of the text encoder. "
                "Convert the checkpoint again with --tokenizer."
            )
        self.max_length = max_length
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)

    def tokenize(self, samples: Sequence[Sample]) -> Words:
        """Tokens of the samples' `text`.

        Raises:
            BackboneError: A sample has none.
        """
        texts = [_text(sample, at) for at, sample in enumerate(samples)]
        encodings = self._tokenizer.encode_batch(texts)
        spans = [np.array(e.offsets, dtype=np.int32).reshape(-1) for e in encodings]
        return Words(
            Ragged.from_rows([e.ids for e in encodings], np.int32),
            Ragged.from_rows(spans, np.int32),
            np.array([bool(e.overflowing) for e in encodings], dtype=bool),
        )


def _text(sample: Sample, position: int) -> str:
    text = sample.get("text")
    if not isinstance(text, str):
        raise BackboneError(
            f"sample {position}: text is {text!r}, needed a string. Name the column that holds "
            "what to look for."
        )
    return text
