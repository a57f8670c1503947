"""Load a transformers model and its tokenizer whole, quietly, or say why not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError

from .config import BackboneConfig
from .errors import UnsupportedBackboneError
from .families import FAMILIES
from .kinds import model_type_of
from .resolve import ResolvedBackbone

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Heads that a checkpoint may lack or bring along: nothing of them reaches a hidden state.
_UNREAD = ("pooler.",)


def load_pretrained(
    resolved: ResolvedBackbone, config: BackboneConfig, precision: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The frozen model in eval mode on the CPU, and its tokenizer.

    Raises:
        UnsupportedBackboneError: A file cannot be read, or weights that the model needs are
            missing from the checkpoint.
    """
    from transformers import AutoModel, AutoTokenizer

    family = FAMILIES[str(model_type_of(resolved))]
    code = config.trust_remote_code
    with _quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(resolved.folder, trust_remote_code=code)
            model, report = AutoModel.from_pretrained(
                resolved.folder,
                dtype=getattr(torch, precision),
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=code,
                **family.load_options,
            )
        except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
            raise UnsupportedBackboneError(
                f"{resolved.name}: cannot be loaded from {resolved.folder}: "
                f"{_first_line(error)}. Check that its files are complete."
            ) from error
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(_UNREAD))
    if missing:
        raise UnsupportedBackboneError(
            f"{resolved.name}: the weights lack {len(missing)} tensors of {type(model).__name__}, "
            f"such as {missing[0]!r}, which would be random. Use a checkpoint of this architecture."
        )
    model.eval().requires_grad_(False)
    return model, tokenizer


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's loading report and bar off the screen: missing weights raise here."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
