"""Where and in which precision a run computes."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import get_args

import torch

from .config import DeviceName, PrecisionName
from .errors import ConfigError


def resolve_device(name: DeviceName) -> torch.device:
    """The device of this name; `auto`: a GPU if there is one.

    Raises:
        ConfigError: There is no such name, or this machine has no such device.
    """
    if name not in get_args(DeviceName):
        known = ", ".join(get_args(DeviceName))
        raise ConfigError("device", [f"{name!r} is unknown, choose one of {known}"])
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if available[device])
    if not available[name]:
        found = [device for device, there in available.items() if there]
        raise ConfigError("device", [f"{name!r} is not available here, there are {found}"])
    return torch.device(name)


def resolve_precision(name: PrecisionName, device: torch.device) -> torch.dtype:
    """The dtype of matrix products on a device.

    Raises:
        ConfigError: The device cannot train in it.
    """
    if name == "auto":
        return torch.bfloat16 if _gains_from_bfloat16(device) else torch.float32
    if name == "float16" and device.type == "cpu":
        raise ConfigError(
            "precision", ["float16 needs a GPU; on a CPU use bfloat16, float32 or auto"]
        )
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def dtype_on_arrival(device: torch.device, dtype: torch.dtype) -> torch.dtype | None:
    """What hidden states are cast to when they come to a device; None: they stay as stored.

    Cast there once, and not once per learning rate. On a CPU networks cast layer by layer, while
    a layer's rows are in the core's cache: a second, larger copy of a batch costs more (measured
    at BERT-base size: an epoch takes a fifth longer).
    """
    return None if device.type == "cpu" else dtype


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Matrix products in `dtype` inside; nothing changes for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def keep_few_kernels() -> None:
    """Let oneDNN forget all but 64 of its compiled kernels, where it has not been used yet.

    On CPUs it compiles one for every new shape of a product in bfloat16, a third of a millisecond
    each. Batches of ragged rows bring new shapes all the time, and 1,024 of them, as many as it
    keeps by itself, took 0.8 GB.
    """
    for variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(variable, "64")


def _gains_from_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        # Compute capability 8.0 (Ampere); older GPUs only emulate it.
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # Without tiles, Intel's bfloat16 instruction has no more throughput than float32's, and
        # measured 0.57 of it (linear maps of 768 x 3072 on a Xeon); AMD's has twice as much.
        has_instruction = torch.cpu._is_avx512_bf16_supported()
        return torch.cpu._is_amx_tile_supported() or (has_instruction and _is_amd())
    return False


def _is_amd() -> bool:
    cpu_info = Path("/proc/cpuinfo")
    return cpu_info.is_file() and "AuthenticAMD" in cpu_info.read_text()
