"""A finished run, used on new hidden states: from a cache or straight from the backbone.

B samples, O outputs of the task.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cache_schema import (
    FeatureCache,
    FingerprintMismatchError,
    Progress,
    Ragged,
    SilentProgress,
    differing_fields,
)

from .config import DeviceName, FitConfig, PrecisionName
from .data import labelled
from .device import autocast, dtype_on_arrival, resolve_device, resolve_precision
from .durable import write_text_durably
from .errors import RunFolderError
from .evaluation import measure
from .loader import BatchLoader
from .model import build_model
from .record import CacheExcerpt, RunRecord
from .run_folder import RunFolder
from .sources import Batch, Caches, Source, open_source
from .tasks import Output, TargetReader, Task


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

    def forward(self, batch: Batch) -> Output:
        """Output of the task for a batch on any device, in float32."""
        dtype = dtype_on_arrival(self.device, self.dtype)
        placed = batch.to(self.device, dtype=dtype, non_blocking=True)
        with torch.no_grad(), autocast(self.device, self.dtype):
            return _in_float32(self.model(placed))

    def predict(self, batches: Iterable[Batch]) -> Iterator[Predictions]:
        """Predictions of each batch, one batch at a time.

        Args:
            batches: Hidden states of the run's own features; see `check_features`.
        """
        for batch in batches:
            columns = self.task.predictions(self.forward(batch))
            yield Predictions(batch.sample_ids.cpu().numpy(), columns)

    def check_features(self, features: dict[str, object], source: str, side: int = 0) -> None:
        """Refuse hidden states that differ from those it was trained on.

        Args:
            features: `Identity.features` of the hidden states.
            source: Where they come from, for the message.
            side: Which of the caches it reads: 0, or 1 for the texts of pairs.

        Raises:
            FingerprintMismatchError: Names the fields that differ.
        """
        known = self.record.caches[side].identity.features
        differences = differing_fields(
            known,
            features,  # type: ignore[arg-type]
            ("in the run", "here"),
        )
        if differences:
            raise FingerprintMismatchError(
                source,
                differences,
                f"Use what {self.path} was trained with, or train again with this.",
            )

    def check_number(self, caches: Caches) -> None:
        """Refuse one cache where the run reads items and texts of different caches.

        Raises:
            RunFolderError: Says in which order it needs them.
        """
        num_given = 1 if isinstance(caches, FeatureCache) else len(caches)
        backbones = {cache.identity.features_fingerprint for cache in self.record.caches}
        if num_given < len(backbones):
            raise RunFolderError(
                f"{self.path}: got one cache, the run needs two: items, then texts. Name both: "
                "--cache ITEMS --cache TEXTS."
            )

    def open(self, caches: Caches) -> Source:
        """The caches as the task reads them, each checked against what it was trained on.

        Raises:
            FingerprintMismatchError: Names the fields that differ.
            CacheError: Two caches cannot be joined.
            RunFolderError: The run needs two caches.
        """
        self.check_number(caches)
        source: Source = open_source(self.task, caches)
        for side, cache in enumerate(source.sides):
            self.check_features(dict(cache.manifest.identity.features), str(cache.path), side)
        return source


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
    model = build_model(record.config, record.task, [cache.streams for cache in record.caches])
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
    cache: Caches,
    split: str,
    *,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    progress: Progress | None = None,
) -> dict[str, float]:
    """Metrics of a run on one split of a cache, also written to `RUN/metrics-<split>.json`.

    Args:
        run_dir: A finished run.
        cache: Holds hidden states of the same backbone and settings, and the target. For a task
            that reads pairs, that of the items and that of the texts.
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
    source = run.open(cache)
    notes: list[str] = []
    samples = labelled(run.task, source, split, notes)
    for note in notes:
        progress.say(note)
    reader = run.task.reader(source, samples)
    loader = BatchLoader(source, reader, device=run.device, dtype=run.dtype)
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
        "cache": str(source.path),
        "fingerprint": source.fingerprint,
        "metrics": {k: None if np.isnan(v) else v for k, v in metrics.items()},
    }
    write_text_durably(run.path / f"metrics-{split}.json", json.dumps(document, indent=2) + "\n")
    return metrics


def predict_split(
    run: TrainedRun, caches: Caches, split: str, progress: Progress | None = None
) -> Iterator[dict[str, object]]:
    """Predictions of one split of a cache, without the backbone.

    Yields:
        `row` (in the source of the cache) and the columns of the prediction.

    Raises:
        FingerprintMismatchError: The cache was made from something else; names what differs.
        CacheError: There is no such split.
    """
    source = run.open(caches)
    samples = source.split(split)
    rows = source.sides[-1].source_rows()
    facts = _facts_reader(run.task, source)
    loader = BatchLoader(source, facts, device=run.device, dtype=run.dtype)
    meter = (progress or SilentProgress()).meter(f"predict {split}", len(samples), "samples")
    with meter as shown, loader.batches(samples, run.config.eval_batch_size) as batches:
        for part in run.predict(batches):
            shown.advance(len(part.sample_ids))
            for sample, *values in zip(part.sample_ids, *part.columns.values(), strict=True):
                yield {"row": int(rows[sample]), **dict(zip(part.columns, values, strict=True))}


def _facts_reader(task: Task, source: Source) -> TargetReader:
    """Reads what predictions are made with beside the hidden states.

    Raises:
        CacheError: The cache does not hold it.
    """
    if not task.reads or not isinstance(source, FeatureCache):
        return lambda _: {}
    stored = source.manifest.inputs
    columns = {name: source.target(name) for name in task.reads if name not in stored}

    def read(samples: np.ndarray) -> dict[str, Tensor]:
        values = {name: source.input(name, samples) for name in task.reads if name in stored}
        for name, column in columns.items():
            assert column.offsets is not None, "facts of a sample are lists of numbers"
            ragged = Ragged(column.values, column.offsets)
            values[name] = [ragged[sample] for sample in samples.tolist()]
        return task.facts(values)

    return read


def _in_float32(output: Output) -> Output:
    """A task's output, every floating tensor of it in float32."""
    if isinstance(output, Tensor):
        return output.float() if output.is_floating_point() else output
    if is_dataclass(output) and not isinstance(output, type):
        parts = {field.name: getattr(output, field.name) for field in fields(output)}
        return replace(output, **{name: _in_float32(part) for name, part in parts.items()})
    if isinstance(output, tuple | list):
        return type(output)(_in_float32(part) for part in output)
    return output
