"""Tokenizers written in Python, such as ByT5's and SigLIP's, behind the face of the Rust ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from .errors import BackboneError

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PythonEncoding:
    """One tokenised text or pair, as `tokenizers.Encoding` names it.

    Attributes:
        ids: Token ids, special ones included.
        type_ids: Which text each is of.
        overflowing: True once if the text was cut.
    """

    ids: list[int]
    type_ids: list[int]
    overflowing: list[bool]


class PythonTokenizer:
    """Cuts at one length; one thread at a time, as these tokenizers keep state while they run."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._lock = Lock()

    def encode_batch_fast(self, texts: Sequence[str | tuple[str, str]]) -> list[PythonEncoding]:
        """Tokenise texts, or pairs of them."""
        with self._lock:
            return [self._encode(text) for text in texts]

    def encode_batch(self, texts: Sequence[str | tuple[str, str]]) -> list[Encoding]:
        """Where in the text each token comes from; such a tokenizer cannot tell.

        Raises:
            BackboneError: There are texts.
        """
        if texts:
            raise BackboneError(
                f"{self._tokenizer.name_or_path}: {type(self._tokenizer).__name__} is written in "
                "Python and does not tell where a token comes from, as views and aligned words "
                "need. Leave out --views and --align, or convert it to a tokenizer.json."
            )
        return []

    def _encode(self, text: str | tuple[str, str]) -> PythonEncoding:
        first, second = (text, None) if isinstance(text, str) else text
        options = {"return_token_type_ids": True, "verbose": False}
        whole = self._tokenizer(first, second, **options)
        is_cut = len(whole["input_ids"]) > self._max_length
        if is_cut:
            whole = self._tokenizer(
                first, second, truncation=True, max_length=self._max_length, **options
            )
        return PythonEncoding(whole["input_ids"], whole["token_type_ids"], [True] * is_cut)
