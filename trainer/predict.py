"""A finished run, used on new hidden states: from a cache or straight from the backbone.

B samples, O outputs of the task.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cache_schema import (
    FeatureBatch,
    FeatureCache,
    FingerprintMismatchError,
    Progress,
    SilentProgress,
    differing_fields,
)

from .config import DeviceName, FitConfig, PrecisionName
from .device import autocast, resolve_device, resolve_precision
from .durable import write_text_durably
from .errors import RunFolderError
from .evaluation import measure
from .loader import BatchLoader, place
from .model import build_model
from .record import CacheExcerpt, RunRecord
from .run_folder import RunFolder
from .tasks import Task


@dataclass(frozen=True)
class Predictions:
    """What a run says about one batch.

    Attributes:
        sample_ids: (B,) int64, as in the batch.
        columns: Column name to one value per sample: `label`, `score` and `probabilities` for
            classification, `value` for regression.
    """

    sample_ids: np.ndarray
    columns: dict[str, list[object]]


class TrainedRun:
    """The trained model of a run folder, ready to predict."""

    def __init__(
        self,
        path: Path,
        record: RunRecord,
        model: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.path = path
        self.record = record
        self.model = model.to(device).eval()
        self.device = device
        self.dtype = dtype

    @property
    def config(self) -> FitConfig:
        """The settings it was trained with."""
        return self.record.config

    @property
    def task(self) -> Task:
        """The task with its class names or scale."""
        return self.record.task

    @property
    def manifest_excerpt(self) -> CacheExcerpt:
        """The backbone, identity and streams that its inputs must have."""
        return self.record.cache

    def forward(self, batch: FeatureBatch) -> Tensor:
        """(B, O) float32 output of the task for a batch on any device."""
        placed = place(batch, self.device, self.dtype)
        with torch.no_grad(), autocast(self.device, self.dtype):
            output: Tensor = self.model(placed)
        return output.float()

    def predict(self, batches: Iterable[FeatureBatch]) -> Iterator[Predictions]:
        """Predictions of each batch, one batch at a time.

        Args:
            batches: Hidden states of the run's own features; see `check_features`.
        """
        for batch in batches:
            columns = self.task.predictions(self.forward(batch))
            yield Predictions(batch.sample_ids.cpu().numpy(), columns)

    def check_features(self, features: dict[str, object], source: str) -> None:
        """Refuse hidden states that differ from those it was trained on.

        Args:
            features: `Identity.features` of the hidden states.
            source: Where they come from, for the message.

        Raises:
            FingerprintMismatchError: Names the fields that differ.
        """
        differences = differing_fields(self.record.cache.identity.features, features)  # type: ignore[arg-type]
        if differences:
            raise FingerprintMismatchError(source, differences)


def load_run(
    run_dir: str | Path, device: DeviceName = "auto", precision: PrecisionName = "auto"
) -> TrainedRun:
    """Load the best weights of a finished run.

    Args:
        run_dir: Made by `fit`.
        device: Where to compute.
        precision: Of matrix products; may differ from that of training.

    Raises:
        RunNotFoundError: There is no run.
        RunFolderError: It is not finished, or a weight is missing, unexpected or misshapen.
    """
    folder = RunFolder(run_dir)
    record = folder.read_record()
    weights = folder.read_weights()
    place_of = resolve_device(device)
    model = build_model(record.config, record.task, record.cache.streams)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        details = " ".join(str(error).split())
        raise RunFolderError(
            f"{folder.weights}: does not fit {folder.config.name}: {details}. Train again."
        ) from error
    return TrainedRun(folder.path, record, model, place_of, resolve_precision(precision, place_of))


def evaluate(
    run_dir: str | Path,
    cache: FeatureCache,
    split: str,
    *,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    progress: Progress | None = None,
) -> dict[str, float]:
    """Metrics of a run on one split of a cache, also written to `RUN/metrics-<split>.json`.

    Args:
        run_dir: A finished run.
        cache: Holds hidden states of the same backbone and settings, and the target.
        split: Name of the split.
        device: Where to compute.
        precision: Of matrix products.
        progress: Where to report to.

    Raises:
        FingerprintMismatchError: The cache was made from something else; names what differs.
        TargetError: A target is missing, or a label is unknown to the run.
    """
    progress = progress or SilentProgress()
    run = load_run(run_dir, device, precision)
    run.check_features(dict(cache.manifest.identity.features), str(cache.path))
    samples = cache.split(split)
    loader = BatchLoader(cache, run.task.reader(cache, samples), device=run.device, dtype=run.dtype)
    batch_size = run.config.eval_batch_size
    with (
        progress.meter(f"evaluating {split}", len(samples), "samples") as meter,
        loader.batches(samples, batch_size) as batches,
    ):
        (metrics,) = measure(
            [run.forward],
            run.task,
            batches,
            run.device,
            on_batch=meter.advance,
        )
    document = {
        "split": split,
        "num_samples": len(samples),
        "cache": str(cache.path),
        "fingerprint": cache.fingerprint,
        "metrics": {k: None if np.isnan(v) else v for k, v in metrics.items()},
    }
    write_text_durably(run.path / f"metrics-{split}.json", json.dumps(document, indent=2) + "\n")
    return metrics
