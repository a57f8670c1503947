"""What a run tells while it trains: `metrics.jsonl`, TensorBoard, and lines for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import Accelerator

from cache_schema import Progress

from .run_folder import RunFolder
from .tasks import Task
from .trial import Trial


class RunLog:
    """Writes on the main process only; others call it too, because losses are summed over all."""

    def __init__(
        self, folder: RunFolder, accelerator: Accelerator, task: Task, progress: Progress
    ) -> None:
        self.facts: dict[str, float] = {}
        self._folder = folder
        self._accelerator = accelerator
        self._task = task
        self._progress = progress

    def open(self, step: int, epochs_done: int) -> None:
        """Start, or go on from there: what was logged of later steps is forgotten."""
        if self._accelerator.is_main_process:
            self._folder.forget_metrics_after(step, epochs_done)
        self._accelerator.init_trackers(
            self._folder.events.name, init_kwargs={"tensorboard": {"purge_step": step + 1}}
        )

    def close(self) -> None:
        """Write out what the trackers hold."""
        # Not `end_training`: it would also end the process group, which others may still use.
        for tracker in self._accelerator.trackers:
            tracker.finish()

    def training(self, step: int, epoch: int, trials: Sequence[Trial], factor: float) -> None:
        """Mean training losses since the last call."""
        rows: list[dict[str, Any]] = [
            {
                "split": "train",
                "step": step,
                "epoch": epoch,
                "learning_rate": trial.learning_rate,
                "rate": trial.learning_rate * factor,
                "loss": trial.take_mean_loss(),
            }
            for trial in trials
        ]
        self.facts = {"loss": min(row["loss"] for row in rows)}
        self._write(rows, ("rate", "loss"))

    def validation(
        self, step: int, epoch: int, num_epochs: int, results: Mapping[float, dict[str, float]]
    ) -> None:
        """Validation metrics of an epoch, by learning rate."""
        rows: list[dict[str, Any]] = [
            {"split": "validation", "step": step, "epoch": epoch, "learning_rate": rate} | metrics
            for rate, metrics in results.items()
        ]
        self._write(rows, tuple(next(iter(results.values()))))
        primary = self._task.primary
        values = [
            f"{metrics[primary]:.4f}" + (f" (lr {rate:g})" if len(results) > 1 else "")
            for rate, metrics in results.items()
        ]
        self._progress.say(f"epoch {epoch}/{num_epochs}: validation {primary} {', '.join(values)}")

    def _write(self, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
        if not self._accelerator.is_main_process:
            return
        self._folder.append_metrics(rows)
        tags = {
            f"{row['split']}/{name}/lr-{row['learning_rate']:g}": row[name]
            for row in rows
            for name in names
        }
        self._accelerator.log(tags, step=rows[0]["step"])
