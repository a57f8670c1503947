"""The public face of unipt for Python users.

    import unipt

    report = unipt.extract("minilm", "reviews.csv")
    unipt.fit(report.cache, "label", run="runs/reviews", epochs=5)
    unipt.load("runs/reviews").predict(["a text", "another text"])

Two caches, of images or videos and of their texts, train a search engine:

    unipt.fit([images, texts], run="runs/search")
    unipt.load("runs/search").search("a dog on a beach", items=images)

Importing it is cheap: torch and the rest come with the first call. Extractor and trainer know
nothing of each other; here is the one place where a backbone and a trained network meet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

    from cache_schema import FeatureBatch, FeatureCache, Progress, StreamSpec, UserError
    from extractor import ExtractConfig, ExtractionReport
    from trainer import FitConfig, FitReport, SideNetwork

    from .model import Model

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
    "predict_cached",
]

SettingsT = TypeVar("SettingsT", bound="BaseModel")
CacheLike: TypeAlias = "str | Path | FeatureCache"
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
_READ_AT_ONCE = 2048  # rows of a file
_HOMES = {
    "ExtractConfig": "extractor",
    "FeatureBatch": "cache_schema",
    "FeatureCache": "cache_schema",
    "FitConfig": "trainer",
    "Model": "unipt.model",
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
    cache: CacheLike | Sequence[CacheLike],
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
        cache: A cache or its path; for retrieval that of the images or videos, then that of
            their texts.
        target: Stored target to learn, or of retrieval the key that joins both caches; may be
            left out where there is one only.
        task: classification, regression, retrieval ...; may be left out where the target tells.
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

    opened = _opened(cache)
    config = fit_config(opened, target, task, network, overrides, settings, progress)
    stems = [Path(each.path).stem for each in opened]
    folder = run or f"runs/{'-'.join([*stems, config.network.name])}"
    return trainer.fit(
        config, opened, folder, resume=resume, overwrite=overwrite, progress=progress
    )


def fit_config(
    caches: Sequence[FeatureCache],
    target: str | None,
    task: str | None,
    network: str,
    overrides: Sequence[str],
    settings: Mapping[str, Any],
    progress: Progress | None = None,
) -> FitConfig:
    """The settings of `fit`, with target and task guessed where there is only one choice."""
    from trainer import FitConfig, with_overrides

    chosen: dict[str, Any]
    if task == "retrieval" or (task is None and len(caches) > 1):
        chosen = {"name": "retrieval", "key": target}
    elif target is None and task in ("vqa", "grounding"):
        chosen = {"name": task}  # their columns have usual names
    else:
        if target is None:
            target = _only_target(caches[0])
            if progress is not None:
                progress.say(f"target: {target!r}, the only one in the cache")
        chosen = {"name": task or _task_of(caches[0], target), "target": target}
    data = {"task": chosen, "network": {"name": network}, **settings}
    return with_overrides(_checked(FitConfig, data, "fit"), overrides)


def evaluate(
    run: str | Path,
    cache: CacheLike | Sequence[CacheLike],
    split: str = "test",
    *,
    device: DeviceName = "auto",
    progress: Progress | None = None,
) -> dict[str, float]:
    """Loss and metrics of a run on one split of a cache; of retrieval, of items and texts.

    Raises:
        UserError: The run or the split is not there, or the cache was made from something else.
    """
    import trainer

    return trainer.evaluate(run, _opened(cache), split, device=device, progress=progress)


def load(run: str | Path, *, device: DeviceName = "auto") -> Model:
    """A trained run with its frozen backbone, ready for new samples.

    Raises:
        UserError: There is no such run, it is not finished, or the backbone is not the one it
            was trained with; names what differs.
    """
    from .model import Model

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
    draw: str | Path | None = None,
    progress: Progress | None = None,
    **columns: Any,
) -> Iterator[dict[str, Any]]:
    """Predict every row of a file, a folder or a hub data set, reading it as it goes.

    Args:
        run: A finished run.
        data: What to predict: rows of texts, images or videos, as the run's backbone reads them.
        text_column: Column of the text; guessed if not given.
        text_pair_column: Column of a second text.
        on_error: What a row without a usable text does. Images and videos that cannot be read
            never stop anything: they get a row without a prediction.
        device: Where to compute.
        batch_size: Samples per forward pass.
        draw: Folder for the images with the boxes of grounding drawn on them.
        progress: Where to report; nowhere if not given.
        **columns: Any other field of `extractor.DataConfig`: image_column, media_root ...

    Yields:
        `split` and `row` (counted from 0 in its source) and the columns of the prediction; where
        images or videos are read, also `error`.

    Raises:
        UserError: The data cannot be read, or the run cannot be used.
    """
    from cache_schema import SilentProgress
    from extractor import BackboneConfig, DataConfig, open_data, roles_read
    from trainer import load_run

    from .drawing import draw_prediction
    from .model import Model

    reports = progress or SilentProgress()
    trained = load_run(run, device)
    reads = roles_read(BackboneConfig.from_spec(trained.record.cache.backbone))
    asked = {
        "data": (str(data),),
        "reads": reads,
        "text_column": text_column,
        "text_pair_column": text_pair_column,
        "guess_targets": False,
        "unique": False,  # every row gets its prediction
        "on_error": on_error,
        **columns,
    }
    # Data first: its mistakes are found before the backbone is loaded.
    source = open_data(_checked(DataConfig, asked, "predict"))
    for note in source.notes:
        reports.say(note)
    model = Model(trained)
    with reports.meter("predict", sum(source.splits.values()), "samples") as meter:
        for split, count in source.splits.items():
            starts = range(0, count, _READ_AT_ONCE)
            waiting: deque[Mapping[str, Any]] = deque()
            read = (s for i in starts for s in source.samples(split, i, i + _READ_AT_ONCE))
            samples = read if draw is None else _noted(read, waiting)
            ids = source.sample_rows(split).tolist()
            found = model.predict_samples(samples, batch_size=batch_size)
            for row, values in zip(ids, found, strict=True):
                meter.advance(1)
                found_row = {"split": split, "row": row, **values}
                if draw is not None:
                    draw_prediction(Path(draw), waiting.popleft(), found_row)
                yield found_row


def predict_cached(
    run: str | Path,
    cache: CacheLike | Sequence[CacheLike],
    split: str = "test",
    *,
    top: int = 10,
    device: DeviceName = "auto",
    progress: Progress | None = None,
) -> Iterator[dict[str, Any]]:
    """Predict one split of a cache, without the backbone.

    Args:
        run: A finished run.
        cache: A cache of the run's own hidden states; for retrieval that of the items, then that
            of the texts.
        split: Which split.
        top: How many matches of each query, of retrieval.
        device: Where to compute.
        progress: Where to report; nowhere if not given.

    Yields:
        `split`, `row` (in the source of the cache) and the columns of the prediction. Of
        retrieval: `split`, `direction`, `query`, `found` and `scores` for each text, then for
        each item.

    Raises:
        UserError: The run or the split is not there, or the cache was made from something else.
    """
    import trainer

    trained, opened = trainer.load_run(run, device), _opened(cache)
    if trained.record.config.task.name != "retrieval":
        for row in trainer.predict_split(trained, opened, split, progress):
            yield {"split": split, **row}
        return
    items = trainer.encode_split(trained, opened[0], split, "items", progress)
    texts = trainer.encode_split(trained, opened[-1], split, "texts", progress)
    for row in trainer.rank_both_ways(items, texts, top):
        yield {"split": split, **row}


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


def _opened(cache: CacheLike | Sequence[CacheLike]) -> list[FeatureCache]:
    from cache_schema import FeatureCache

    several = [cache] if isinstance(cache, str | Path | FeatureCache) else list(cache)
    return [open_cache(each) if isinstance(each, str | Path) else each for each in several]


def _only_target(cache: FeatureCache) -> str:
    from cache_schema import CacheError

    # Strings are keys that join caches, nothing to learn.
    names = [spec.name for spec in cache.manifest.targets if spec.kind != "string"]
    if len(names) != 1:
        found = f"there are {names!r}, say which" if names else "it has none; extract with --target"
        raise CacheError(f"{cache.path}: which target to learn? In this cache {found}.")
    return names[0]


def _noted(
    samples: Iterator[Mapping[str, Any]], waiting: deque[Mapping[str, Any]]
) -> Iterator[Mapping[str, Any]]:
    """The samples, each also put into `waiting`: they are predicted in order, a window later."""
    for sample in samples:
        waiting.append(sample)
        yield sample


def _task_of(cache: FeatureCache, target: str) -> str:
    from cache_schema import CacheError

    kind = cache.target(target).spec.kind
    if kind in ("category", "categories"):
        return "classification"
    if kind == "number":
        return "regression"
    raise CacheError(
        f"{cache.path}: target {target!r} holds {kind!r}, which may be classes or amounts. "
        "Say --task: classification and regression read one value of each sample, vqa lists of "
        "answers, grounding boxes."
    )
