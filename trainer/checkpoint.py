"""The state of a training run between two steps: saved whole, or not there.

`checkpoints/step-000000123.pt` is what `torch.save` makes of a `Checkpoint`'s fields: plain
numbers, texts and tensors, so that it loads without running any code.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .durable import write_durably

_NAME = re.compile(r"step-(\d{9})\.pt")
_KEPT = 2  # the newest, and the one before it in case the newest is damaged on disk


@dataclass(frozen=True)
class Checkpoint:
    """Everything that decides how a run goes on.

    Attributes:
        step: Optimizer steps done.
        epochs_done: Epochs that are trained and validated.
        seconds: Time spent training so far.
        origin: Flat facts (settings, cache, world size) that a resumed run must share.
        trials: One state for each learning rate.
    """

    step: int
    epochs_done: int
    seconds: float
    origin: dict[str, Any]
    trials: list[dict[str, Any]]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint and remove older ones, and what a killed run left half written."""
    path = folder / f"step-{checkpoint.step:09d}.pt"
    write_durably(path, lambda file: torch.save(vars(checkpoint), file))
    for old in _finished(folder)[:-_KEPT]:
        old.unlink()
    for remnant in folder.glob(".step-*.tmp"):
        remnant.unlink()
    return path


def load_newest(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that can be read; None if there is none.

    A damaged one is named through `say`, and the one before it is taken.
    """
    for path in reversed(_finished(folder)):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            return Checkpoint(**state)
        except (RuntimeError, TypeError, EOFError, pickle.UnpicklingError) as error:
            say(f"{path}: damaged checkpoint ({str(error).splitlines()[0]}); trying the one before")
    return None


def flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as `section.key: value`."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _finished(folder: Path) -> list[Path]:
    """Checkpoints in the order of their steps."""
    return sorted(path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name))
