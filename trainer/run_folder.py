"""The files of one training run, and who may write them.

RUN/config.json            what the run is; written first
RUN/metrics.jsonl          one line per logged step and per validated epoch and learning rate
RUN/events/                the same for TensorBoard
RUN/checkpoints/           for `--resume`
RUN/curves.png, README.md  for a person
RUN/report.json            the outcome
RUN/model.safetensors      the best weights; written last, so a run that has it is finished
RUN/metrics-<split>.json   from `unipt evaluate`
RUN/.lock                  while a process trains here
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cache_schema import StorageError, differing_fields, looks_like_url

from .durable import write_durably, write_text_durably
from .errors import CheckpointMismatchError, RunFolderError, RunNotFoundError
from .lock import FolderLock
from .record import RunRecord


class RunFolder:
    """Paths of a run folder, and reading and writing of its documents."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.events = self.path / "events"
        self.checkpoints = self.path / "checkpoints"
        self.curves = self.path / "curves.png"
        self.card = self.path / "README.md"
        self.report = self.path / "report.json"
        self.weights = self.path / "model.safetensors"
        self._lock = FolderLock(self.path / ".lock")

    @property
    def is_finished(self) -> bool:
        """Whether training ended and the best weights are there."""
        return self.weights.exists()

    def claim(
        self, record: RunRecord, *, resume: bool, overwrite: bool, say: Callable[[str], None]
    ) -> None:
        """Make the folder this run's own, until `release`.

        Args:
            record: Of the run that is about to start or to go on.
            resume: Go on with a run of the same settings; start it if there is none.
            overwrite: Delete the run that lies there.
            say: Shows a line to the user.

        Raises:
            RunFolderError: The folder is in use and neither flag is set, or holds something else.
            CheckpointMismatchError: `resume`, and the run there has other settings.
            StorageError: The folder cannot be written.
        """
        if resume and overwrite:
            raise RunFolderError(f"{self.path}: both resume and overwrite are set; choose one.")
        if looks_like_url(self.path):
            raise RunFolderError(
                f"{self.path}: is a URL, needed a folder of this machine. Copy the run there "
                "afterwards; caches may lie at a URL."
            )
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path}: is a file, needed a folder. Choose another --run.")
        if self.path.is_dir():
            self._take()
        if self.config.exists():
            if resume:
                theirs = self.read_record().origin
                return check_origin(self.config, theirs, record.origin)
            if not overwrite:
                raise RunFolderError(
                    f"{self.path}: a run lies here already. Go on with it (--resume), replace it "
                    "(--overwrite), or choose another --run."
                )
            self._delete_run()
        elif self.path.is_dir() and {path.name for path in self.path.iterdir()} - {".lock"}:
            raise RunFolderError(
                f"{self.path}: holds files that are not a run. Choose another --run."
            )
        if resume:
            say(f"{self.path}: no run to resume yet; starting it")
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{self.path}: cannot be made ({error.strerror}). Choose another --run."
            ) from error
        self._take()
        write_text_durably(self.config, record.model_dump_json(indent=2) + "\n")
        return None

    def release(self) -> None:
        """Let other processes train here."""
        self._lock.release()

    def _take(self) -> None:
        if not self._lock.acquire():
            raise RunFolderError(
                f"{self.path}: another process is training here. Wait for it, stop it, or choose "
                "another --run."
            )

    def read_record(self) -> RunRecord:
        """What the run is.

        Raises:
            RunNotFoundError: There is no run here.
            RunFolderError: `config.json` is damaged or of another version.
        """
        try:
            text = self.config.read_text()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunNotFoundError(self.path) from error
        try:
            return RunRecord.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "document"
            raise RunFolderError(
                f"{self.config}: {where}: {first['msg']}. Use the unipt that wrote it, or train "
                "again."
            ) from error

    def write_weights(self, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Write the best weights: the last file of a run."""
        data = save({name: value.contiguous() for name, value in weights.items()}, dict(metadata))
        write_durably(self.weights, lambda file: file.write(data))

    def read_weights(self) -> dict[str, Tensor]:
        """The best weights.

        Raises:
            RunFolderError: Training has not ended, or the file is damaged.
        """
        try:
            return load(self.weights.read_bytes())
        except FileNotFoundError as error:
            raise RunFolderError(
                f"{self.path}: training has not ended (no model.safetensors). "
                "Finish it with the same `unipt fit` and --resume."
            ) from error
        except SafetensorError as error:
            raise RunFolderError(f"{self.weights}: damaged ({error}). Train again.") from error

    def append_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add lines to `metrics.jsonl`."""
        try:
            with self.metrics.open("a") as file:
                file.writelines(_json_line(row) for row in rows)
        except OSError as error:
            raise StorageError(
                f"{self.metrics}: cannot be written ({error.strerror}). Free some space, then "
                "resume with --resume."
            ) from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """All lines of `metrics.jsonl`; a last line that a crash cut off is left out."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def forget_metrics_after(self, step: int, epochs_done: int) -> None:
        """Drop lines of steps and validations that are about to be done again."""
        rows = [
            row
            for row in self.read_metrics()
            if row["step"] <= step and (row["split"] == "train" or row["epoch"] <= epochs_done)
        ]
        write_text_durably(self.metrics, "".join(map(_json_line, rows)))

    def _delete_run(self) -> None:
        # The weights go first: what is left of a deletion that is cut short is no finished run.
        self.weights.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.events):
            shutil.rmtree(folder, ignore_errors=True)
        for path in (self.metrics, self.curves, self.card, self.report, self.config):
            path.unlink(missing_ok=True)
        for path in self.path.glob("metrics-*.json"):
            path.unlink()


def _json_line(row: Mapping[str, Any]) -> str:
    """One line of JSON, which has no NaN: null stands for it."""
    finite = {k: None if isinstance(v, float) and isnan(v) else v for k, v in row.items()}
    return json.dumps(finite) + "\n"


def check_origin(path: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Refuse to go on with a run of other settings.

    Raises:
        CheckpointMismatchError: Names every key that differs.
    """
    differences = differing_fields(dict(ours), dict(theirs))
    if differences:
        raise CheckpointMismatchError(path, differences)
