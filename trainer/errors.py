"""What a user can get wrong when training, evaluating or predicting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cache_schema import UserError


class ConfigError(UserError):
    """A setting is unknown, has a wrong value, or cannot take effect."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"{where}: {'; '.join(problems)}")


class RunFolderError(UserError):
    """A run folder is absent, occupied, unfinished or damaged."""


class RunNotFoundError(RunFolderError, FileNotFoundError):
    """There is no run at this path."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(
            f"{path}: no run here (no config.json). Train one with `unipt fit`, or check the path."
        )


class CheckpointMismatchError(RunFolderError):
    """A checkpoint belongs to another configuration, cache or number of processes."""

    def __init__(self, path: str | Path, differences: Sequence[str]) -> None:
        self.differences = tuple(differences)
        super().__init__(
            f"{path}: the checkpoint is of another run: {'; '.join(differences)}. "
            "Resume with the settings it was made with, or start over with --overwrite."
        )


class NonFiniteLossError(UserError, ArithmeticError):
    """The loss or its gradient is infinite or not a number."""
