"""Text to token ids, without padding, from any number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cache_schema import Ragged

from .base import Sample
from .errors import BackboneError, UnsupportedBackboneError
from .first_tokens import FIRST_TOKENS, first_tokens, whole_text
from .python_tokenizer import PythonTokenizer
from .word_views import WordViews

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Tokenizers without a limit of their own report a huge number instead of none.
_NO_LIMIT = 10**9


@dataclass(frozen=True, eq=False)
class Tokens:
    """Texts as token ids.

    Attributes:
        inputs: `token_ids`, `segment_ids` where the model tells the texts of a pair apart, and
            `first_tokens` where words are aligned.
        lengths: (B,) int64, tokens of each sample, special ones included.
        truncated: (B,) bool, whether the sample was cut.
    """

    inputs: dict[str, Ragged]
    lengths: np.ndarray
    truncated: np.ndarray


class TextTokenizer:
    """The tokenizer of a text encoder, cutting at one length.

    It keeps its own copy of the Rust tokenizer and never changes it afterwards: the shared one
    has its truncation set by every call, which breaks under threads.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        uses_segments: bool,
        aligns_words: bool = False,
    ) -> None:
        from tokenizers import Tokenizer

        self.max_length = max_length
        self._uses_segments = uses_segments
        self._aligns_words = aligns_words
        self._backend: Any
        if tokenizer.is_fast:
            self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
            self._backend.no_padding()
            self._backend.enable_truncation(
                max_length, strategy="longest_first", direction=tokenizer.truncation_side
            )
        else:
            self._backend = PythonTokenizer(tokenizer, max_length)
        self._views = WordViews(tokenizer, self._backend)

    def tokenize(self, samples: Sequence[Sample]) -> Tokens:
        """Tokenise samples with a `text` and, in all of them or none, a `text_pair`.

        A `text` may be the list of its words. Samples with a `view` above 0 have words of their
        first text masked, replaced or removed.

        Raises:
            BackboneError: A sample has no text, or some have a pair and others do not.
        """
        texts = _texts(samples)
        # The fast way does not tell where in the text a token comes from.
        encode = (
            self._backend.encode_batch if self._aligns_words else self._backend.encode_batch_fast
        )
        encodings = encode(texts)
        ids, segments = [e.ids for e in encodings], [e.type_ids for e in encodings]
        augmented = [at for at, sample in enumerate(samples) if sample.get("view")]
        placed = self._backend.encode_batch([texts[at] for at in augmented])
        for at, encoding in zip(augmented, placed, strict=True):
            ids[at], segments[at] = self._views.change(encoding, _first(texts[at]), samples[at])
        token_ids = Ragged.from_rows(ids, np.int32)
        inputs = {"token_ids": token_ids}
        if self._uses_segments:
            inputs["segment_ids"] = Ragged.from_rows(segments, np.int8)
        if self._aligns_words:
            if augmented:
                raise BackboneError(
                    "align: words are dropped in augmented views, needed all of them to align "
                    "labels with words. Leave out --views or --align."
                )
            given: list[Any] = [sample["text"] for sample in samples]  # as _texts allows
            rows = [first_tokens(e, t) for e, t in zip(encodings, given, strict=True)]
            inputs[FIRST_TOKENS] = Ragged.from_rows(rows, np.int32)
        truncated = np.array([bool(e.overflowing) for e in encodings], dtype=bool)
        return Tokens(inputs, token_ids.lengths, truncated)

    def tokenize_apart(self, samples: Sequence[Sample]) -> tuple[Tokens, Tokens | None]:
        """Each `text` alone, and each `text_pair` alone where there are pairs.

        Raises:
            BackboneError: A sample has no text, or some have a pair and others do not.
        """
        texts = _texts(samples)
        first = [{k: v for k, v in sample.items() if k != "text_pair"} for sample in samples]
        pairs = [{"text": text[1]} for text in texts if isinstance(text, tuple)]
        return self.tokenize(first), self.tokenize(pairs) if pairs else None


def _first(text: str | tuple[str, str]) -> str:
    return text if isinstance(text, str) else text[0]


def model_maximum(tokenizer: PreTrainedTokenizerBase, num_positions: int | None) -> int:
    """Tokens a model takes at most: the smaller of its tokenizer's and its positions' limit."""
    limits = [n for n in (tokenizer.model_max_length, num_positions) if n and n < _NO_LIMIT]
    if not limits:
        raise UnsupportedBackboneError(
            f"{tokenizer.name_or_path}: neither tokenizer nor config says how many tokens the "
            "model takes. Say it with --max-length."
        )
    return int(min(limits))


def _texts(samples: Sequence[Sample]) -> list[str | tuple[str, str]]:
    has_pair = bool(samples) and "text_pair" in samples[0]
    texts: list[str | tuple[str, str]] = []
    for position, sample in enumerate(samples):
        text, pair = sample.get("text"), sample.get("text_pair")
        if isinstance(text, list) and all(isinstance(word, str) for word in text):
            text = whole_text(text)
        if not isinstance(text, str) or (has_pair and not isinstance(pair, str)):
            raise BackboneError(
                f"sample {position}: text is {text!r}"
                + (f" and its pair {pair!r}" if has_pair else "")
                + ", needed strings."
            )
        if pair is not None and not has_pair:
            raise BackboneError(
                f"sample {position}: has a text pair, sample 0 has none. "
                "Give all samples a pair or none."
            )
        texts.append((text, pair) if isinstance(pair, str) else text)
    return texts
