"""Load a transformers model and its tokenizer whole, quietly, or say why not."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from .config import BackboneConfig
from .errors import UnsupportedBackboneError
from .quantised import check_sizes, loading_options, round_weights_only
from .resolve import ResolvedBackbone

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Parts that a checkpoint may lack or bring along: nothing of them reaches a hidden state.
_UNREAD = ("pooler.",)
_FAILURES = (OSError, ValueError, RuntimeError, ImportError, KeyError, SafetensorError)


def load_model(
    resolved: ResolvedBackbone,
    config: BackboneConfig,
    precision: str,
    device: torch.device,
    *,
    architecture: str = "AutoModel",
    with_pooler: bool = False,
) -> PreTrainedModel:
    """The frozen model in eval mode on its device, read directly in the forward pass's precision.

    Args:
        resolved: Its files.
        config: As the user chose.
        precision: float32, bfloat16 or float16.
        device: Where to.
        architecture: Class of transformers to load it as.
        with_pooler: Whether to keep what families add to make one vector of the last state.

    Raises:
        UnsupportedBackboneError: A file cannot be read, or weights that the model needs are
            missing from the checkpoint.
        BackboneError: It cannot be quantised here.
    """
    import transformers

    options: dict[str, Any] = {}
    if config.quantize != "none":
        options = loading_options(resolved.name, config.quantize, precision, device)
    with _loading(resolved):
        if not with_pooler and architecture == "AutoModel" and _has_pooler(resolved, config):
            options["add_pooling_layer"] = False
        model, report = getattr(transformers, architecture).from_pretrained(
            resolved.folder,
            dtype=getattr(torch, precision),
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=config.trust_remote_code,
            **options,
        )
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(_UNREAD))
    if missing:
        raise UnsupportedBackboneError(
            f"{resolved.name}: the weights lack {len(missing)} tensors of {type(model).__name__}, "
            f"such as {missing[0]!r}, which would be random. Use a checkpoint of this architecture."
        )
    frozen: PreTrainedModel = model.eval().requires_grad_(False)
    if config.quantize == "none":
        torch.nn.Module.to(frozen, device)
    elif config.quantize == "8bit":
        round_weights_only(frozen)
    else:
        check_sizes(resolved.name, frozen, device)
    return frozen


def load_tokenizer(resolved: ResolvedBackbone, config: BackboneConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer.

    Raises:
        UnsupportedBackboneError: It has none, or a file cannot be read.
    """
    from transformers import AutoTokenizer

    with _loading(resolved):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            resolved.folder, trust_remote_code=config.trust_remote_code
        )
    return tokenizer


@contextmanager
def _loading(resolved: ResolvedBackbone) -> Iterator[None]:
    try:
        with _quiet():
            yield
    except _FAILURES as error:
        raise UnsupportedBackboneError(
            f"{resolved.name}: cannot be loaded from {resolved.folder}: "
            f"{_first_line(error)}. Check that its files are complete."
        ) from error


def _has_pooler(resolved: ResolvedBackbone, config: BackboneConfig) -> bool:
    from transformers import MODEL_MAPPING, AutoConfig

    settings = AutoConfig.from_pretrained(
        resolved.folder, trust_remote_code=config.trust_remote_code
    )
    try:
        architecture = MODEL_MAPPING[type(settings)]
    except KeyError:  # code of its own
        return False
    return inspect.isclass(architecture) and (
        "add_pooling_layer" in inspect.signature(architecture.__init__).parameters
    )


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
