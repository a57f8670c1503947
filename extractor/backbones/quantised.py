"""Weights of linear layers rounded to 8 or 4 bits while they load, by bitsandbytes."""

from __future__ import annotations

import logging
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import BackboneError

if TYPE_CHECKING:
    from .config import Quantize

_DEVICES = ("cuda", "cpu")
_INPUTS_AT_ONCE = 64
_OUTPUTS_AT_ONCE = 32


def loading_options(
    name: str, quantize: Quantize, precision: str, device: torch.device
) -> dict[str, Any]:
    """What `from_pretrained` is told.

    Args:
        name: Of the backbone.
        quantize: 8bit or 4bit.
        precision: Of the matrix products.
        device: Where to.

    Raises:
        BackboneError: It cannot be done here.
    """
    if device.type not in _DEVICES:
        raise BackboneError(
            f"{name}: quantize is {quantize!r}, which needs a CUDA device or a CPU, this is "
            f"{device}. Choose --device cuda or cpu, or leave --quantize out."
        )
    if find_spec("bitsandbytes") is None:
        raise BackboneError(
            f"{name}: quantize is {quantize!r}, which needs the package bitsandbytes. "
            "Install it (pip install 'unipt[quantize]'), or leave --quantize out."
        )
    from transformers import BitsAndBytesConfig

    # While it is imported it tells everybody on a CPU of a faster kernel for single rows.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    settings = BitsAndBytesConfig(
        load_in_8bit=quantize == "8bit",
        load_in_4bit=quantize == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=getattr(torch, precision),
    )  # type: ignore[no-untyped-call]
    return {"quantization_config": settings, "device_map": {"": device}}


def check_sizes(name: str, model: nn.Module, device: torch.device) -> None:
    """What products of 4 bits need on a CPU: blocks of 32 outputs and of 64 inputs.

    Where a CPU has no instructions for bfloat16, other sizes would do; none is made an exception.

    Raises:
        BackboneError: A layer has another number of either.

    Source: bitsandbytes 0.50, `functional._convert_weight_packed_for_cpu`.
    """
    from bitsandbytes.nn.modules import Linear4bit

    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    odd_inputs = {m.in_features for m in layers if m.in_features % _INPUTS_AT_ONCE}
    odd_outputs = {m.out_features for m in layers if m.out_features % _OUTPUTS_AT_ONCE}
    if device.type == "cpu" and (odd_inputs or odd_outputs):
        found = [
            f"{', '.join(map(str, sorted(odd)))} {what}"
            for odd, what in ((odd_inputs, "inputs"), (odd_outputs, "outputs"))
            if odd
        ]
        raise BackboneError(
            f"{name}: linear layers have {' and '.join(found)}, needed multiples of "
            f"{_INPUTS_AT_ONCE} inputs and {_OUTPUTS_AT_ONCE} outputs for 4 bits on a CPU. "
            "Choose --quantize 8bit."
        )


def round_weights_only(model: nn.Module) -> None:
    """Keep hidden states as they are where a model has weights of 8 bits.

    The library rounds them too, but for the columns in which any row of a batch is large: a
    sample would change with its batch. Weights alone are also nearer to the whole model.
    """
    from bitsandbytes.nn.modules import Linear8bitLt

    for module in model.modules():
        if isinstance(module, Linear8bitLt):
            module.forward = partial(_forward, module)  # type: ignore[method-assign]


def _forward(module: Any, rows: Tensor) -> Tensor:
    from bitsandbytes.functional import int8_vectorwise_dequant

    if module.state.CB is None:
        module.init_8bit_state()
    weight = int8_vectorwise_dequant(module.state.CB, module.state.SCB).to(rows.dtype)
    return F.linear(rows, weight, None if module.bias is None else module.bias.to(rows.dtype))
