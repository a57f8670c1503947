"""The public face of unipt for Python users.

    import unipt

    report = unipt.extract("minilm", "reviews.csv")
    unipt.fit(report.cache, "label", run="runs/reviews", epochs=5)
    unipt.load("runs/reviews").predict(["a text", "another text"])

Importing it is cheap: torch and the rest come with the first call. Extractor and trainer know
nothing of each other; here is the one place where a backbone and a trained network meet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

    from cache_schema import FeatureBatch, FeatureCache, Progress, StreamSpec, UserError
    from extractor import ExtractConfig, ExtractionReport
    from trainer import FitConfig, FitReport, SideNetwork, TrainedRun

__all__ = [
    "ExtractConfig",
    "FeatureBatch",
    "FeatureCache",
    "FitConfig",
    "Model",
    "UniPT",
    "UserError",
    "evaluate",
    "extract",
    "fit",
    "load",
    "open_cache",
    "predict",
]

SettingsT = TypeVar("SettingsT", bound="BaseModel")
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Sample = str | tuple[str, str]
"""A text, or a pair of texts."""

# Samples tokenised and sorted by length at once: enough to make batches of equal lengths.
_WINDOW = 2048
_HOMES = {
    "ExtractConfig": "extractor",
    "FeatureBatch": "cache_schema",
    "FeatureCache": "cache_schema",
    "FitConfig": "trainer",
    "UserError": "cache_schema",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def extract(
    backbone: str,
    data: str | Path | Sequence[str | Path],
    *,
    cache: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> ExtractionReport:
    """Run a frozen backbone once over the data and keep its hidden states.

    Args:
        backbone: Alias (bert-base, minilm ...), hub id or local folder.
        data: Files, folders or hub data sets, or `split=path`.
        cache: Where to; a speaking name in the current folder if not given.
        progress: Where to report; nowhere if not given.
        **settings: Any other field of `ExtractConfig`: targets, text_column, layers, max_length ...

    Returns:
        The report; its `cache` is where the cache lies.

    Raises:
        UserError: Anything the caller can mend, in one line.
    """
    import extractor

    several = [data] if isinstance(data, str | Path) else data
    asked = {"backbone": backbone, "data": [str(entry) for entry in several], **settings}
    if cache is not None:
        asked["cache"] = str(cache)
    return extractor.extract(_checked(extractor.ExtractConfig, asked, "extract"), progress)


def open_cache(path: str | Path, *, allow_partial: bool = False) -> FeatureCache:
    """Open a cache: `cache[7]` and `cache.gather([3, 1, 2])` are `FeatureBatch`es.

    Raises:
        CacheError: There is none, it is not finished (unless `allow_partial`), or it is damaged.
    """
    from cache_schema import FeatureCache

    return FeatureCache.open(path, allow_partial=allow_partial)


def fit(
    cache: str | Path | FeatureCache,
    target: str | None = None,
    *,
    task: str | None = None,
    network: str = "unipt",
    run: str | Path | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> FitReport:
    """Train a side network from a cache.

    Args:
        cache: A cache or its path.
        target: Stored target to learn; may be left out where there is one only.
        task: classification or regression; may be left out where the target tells.
        network: unipt, lst, probe, mlp-probe or weighted-sum.
        run: Folder for weights, metrics and checkpoints; a speaking name below `runs` if not given.
        overrides: `path=value` each, for settings inside sections: "network.reduction=4".
        resume: Go on with the run that lies there.
        overwrite: Replace the run that lies there.
        progress: Where to report; nowhere if not given.
        **settings: Any other field of `FitConfig`: epochs, batch_size, seed, pooling ...

    Raises:
        UserError: Anything the caller can mend, in one line.
    """
    import trainer

    opened = open_cache(cache) if isinstance(cache, str | Path) else cache
    config = fit_config(opened, target, task, network, overrides, settings, progress)
    folder = run or f"runs/{Path(opened.path).stem}-{config.network.name}"
    return trainer.fit(
        config, opened, folder, resume=resume, overwrite=overwrite, progress=progress
    )


def fit_config(
    cache: FeatureCache,
    target: str | None,
    task: str | None,
    network: str,
    overrides: Sequence[str],
    settings: Mapping[str, Any],
    progress: Progress | None = None,
) -> FitConfig:
    """The settings of `fit`, with target and task guessed where there is only one choice."""
    from trainer import FitConfig, with_overrides

    if target is None:
        target = _only_target(cache)
        if progress is not None:
            progress.say(f"target: {target!r}, the only one in the cache")
    data = {
        "task": {"name": task or _task_of(cache, target), "target": target},
        "network": {"name": network},
        **settings,
    }
    return with_overrides(_checked(FitConfig, data, "fit"), overrides)


def evaluate(
    run: str | Path,
    cache: str | Path | FeatureCache,
    split: str = "test",
    *,
    device: DeviceName = "auto",
    progress: Progress | None = None,
) -> dict[str, float]:
    """Loss and metrics of a run on one split of a cache.

    Raises:
        UserError: The run or the split is not there, or the cache was made from something else.
    """
    import trainer

    opened = open_cache(cache) if isinstance(cache, str | Path) else cache
    return trainer.evaluate(run, opened, split, device=device, progress=progress)


def load(run: str | Path, *, device: DeviceName = "auto") -> Model:
    """A trained run with its frozen backbone, ready for new texts.

    Raises:
        UserError: There is no such run, it is not finished, or the backbone is not the one it
            was trained with; names what differs.
    """
    return Model(run, device=device)


def predict(
    run: str | Path,
    data: str | Path,
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    device: DeviceName = "auto",
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Iterator[dict[str, Any]]:
    """Predict every row of a file, a folder or a hub data set, reading it as it goes.

    Yields:
        `split` and `row` (counted from 0 in its source) and the columns of the prediction.

    Raises:
        UserError: The data cannot be read, or the run cannot be used.
    """
    from cache_schema import SilentProgress
    from extractor import DataConfig, open_data

    reports = progress or SilentProgress()
    config = DataConfig(
        data=(str(data),),
        text_column=text_column,
        text_pair_column=text_pair_column,
        guess_targets=False,
        on_error=on_error,
    )
    # Data first: its mistakes are found before the backbone is loaded.
    source = open_data(config)
    for note in source.notes:
        reports.say(note)
    model = load(run, device=device)
    with reports.meter("predict", sum(source.splits.values()), "samples") as meter:
        for split, count in source.splits.items():
            starts = range(0, count, _WINDOW)
            samples = (s for i in starts for s in source.samples(split, i, i + _WINDOW))
            ids = source.sample_rows(split).tolist()
            found = model.predict_samples(samples, batch_size=batch_size)
            for row, columns in zip(ids, found, strict=True):
                meter.advance(1)
                yield {"split": split, "row": row, **columns}


class Model:
    """A trained run and the frozen backbone that it reads.

    Attributes:
        run: The trained side network, with its settings and task.
        backbone: The frozen backbone, as it was when the cache was made.
    """

    def __init__(self, run: str | Path, *, device: DeviceName = "auto") -> None:
        from cache_schema import encoding
        from extractor import BackboneConfig, load_backbone
        from trainer import load_run

        self.run: TrainedRun = load_run(run, device)
        excerpt = self.run.manifest_excerpt
        chosen = BackboneConfig.from_spec(excerpt.backbone)
        self.backbone = load_backbone(chosen, self.run.device)
        features: dict[str, object] = {**self.backbone.identity, "encoding": excerpt.encoding}
        self.run.check_features(features, f"backbone {excerpt.backbone.name}")
        # What training read was rounded to the stored dtype; so is what prediction reads.
        self._stored_dtype = encoding(excerpt.encoding).dtype

    def predict(self, texts: Sequence[Sample], *, batch_size: int = 32) -> list[dict[str, Any]]:
        """One mapping per text: `label` and `score` for classification, `value` for regression.

        Args:
            texts: Texts, or pairs of texts.
            batch_size: Texts per forward pass.

        Raises:
            UserError: A text is empty.
        """
        samples = [_sample(position, text) for position, text in enumerate(texts)]
        rows = self.predict_samples(iter(samples), batch_size=batch_size)
        return [{k: v for k, v in row.items() if k != "probabilities"} for row in rows]

    def predict_samples(
        self, samples: Iterator[Mapping[str, Any]], *, batch_size: int = 32
    ) -> Iterator[dict[str, Any]]:
        """The prediction of each sample (`text`, maybe `text_pair`) in order, with all columns."""

        while window := list(islice(samples, _WINDOW)):
            prepared = self.backbone.prepare(window)
            # Batches of equal lengths need no padding; the order is restored below.
            order = prepared.longest_first()
            batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
            rows: list[dict[str, Any]] = [{}] * len(window)
            hidden = (self._stored(self.backbone.run(prepared, batch)) for batch in batches)
            for part in self.run.predict(hidden):
                places = part.sample_ids.tolist()
                for place, *values in zip(places, *part.columns.values(), strict=True):
                    rows[place] = dict(zip(part.columns, values, strict=True))
            yield from rows

    def _stored(self, batch: FeatureBatch) -> FeatureBatch:
        from dataclasses import replace

        streams = {
            name: replace(stream, values=stream.values.to(self._stored_dtype))
            for name, stream in batch.streams.items()
        }
        return replace(batch, streams=streams)


def UniPT(streams: Sequence[StreamSpec], **options: Any) -> SideNetwork:  # noqa: N802 - a network
    """A freshly initialised UniPT network, for a training loop of your own.

    Args:
        streams: What it reads: `cache.manifest.streams`.
        **options: Fields of `trainer.UniPTConfig`: preset, reduction, layers ...

    Returns:
        A module: `network(cache.gather(ids)).rows` are its (N, E) outputs, one row per token.
    """
    import trainer

    return trainer.build_network(trainer.UniPTConfig(**options), streams)


def _checked(model: type[SettingsT], settings: Mapping[str, Any], where: str) -> SettingsT:
    """The settings as a document, or every problem of them in words."""
    from pydantic import ValidationError

    from trainer import ConfigError, explain

    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(where, explain(error, model)) from error


def _sample(position: int, text: Sample) -> dict[str, Any]:
    from cache_schema import UserError

    parts = (text,) if isinstance(text, str) else tuple(text)
    if len(parts) not in (1, 2) or not all(isinstance(p, str) and p.strip() for p in parts):
        raise UserError(f"text {position}: found {text!r}, needed a text or a pair of texts.")
    return {"id": position, **dict(zip(("text", "text_pair"), parts, strict=False))}


def _only_target(cache: FeatureCache) -> str:
    from cache_schema import CacheError

    names = [spec.name for spec in cache.manifest.targets]
    if len(names) != 1:
        found = f"there are {names!r}, say which" if names else "it has none; extract with --target"
        raise CacheError(f"{cache.path}: which target to learn? In this cache {found}.")
    return names[0]


def _task_of(cache: FeatureCache, target: str) -> str:
    from cache_schema import CacheError

    kind = cache.target(target).spec.kind
    if kind in ("category", "categories"):
        return "classification"
    if kind == "number":
        return "regression"
    raise CacheError(
        f"{cache.path}: target {target!r} holds {kind!r}, which may be classes or amounts. "
        "Say --task classification or --task regression."
    )
