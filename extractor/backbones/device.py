"""Where a backbone runs and in which precision."""

from __future__ import annotations

import torch

from .config import Precision
from .errors import BackboneError


def pick_device(device: torch.device | str) -> torch.device:
    """The device of this name; `auto` is the first of CUDA, MPS and CPU that is there.

    Raises:
        BackboneError: There is no such device on this machine.
    """
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise BackboneError(
            f"--device {device}: not usable here ({str(error).splitlines()[0]}). "
            "Use auto, cpu, cuda or cuda:N."
        ) from error
    return chosen


def resolve_precision(precision: Precision, device: torch.device) -> str:
    """The precision of the forward pass, with `auto` decided.

    Half the bytes and a multiple of the speed on a GPU; on a CPU the gain depends on the machine
    and the loss does not, so `auto` stays exact there.
    """
    if precision != "auto":
        return precision
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has_bfloat16 else "float32"
