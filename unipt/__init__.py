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

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cache_schema import FeatureBatch, FeatureCache, Progress, StreamSpec, UserError
    from extractor import ExtractConfig, ExtractionReport
    from trainer import FitConfig, FitReport, SideNetwork

    from .choices import CacheLike, DeviceName
    from .model import BackbonePlace, Model
    from .predicting import predict, predict_cached

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

_HOMES = {
    "ExtractConfig": "extractor",
    "FeatureBatch": "cache_schema",
    "FeatureCache": "cache_schema",
    "FitConfig": "trainer",
    "Model": "unipt.model",
    "predict": "unipt.predicting",
    "predict_cached": "unipt.predicting",
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

    from .choices import checked, data_paths

    asked = {"backbone": backbone, "data": data_paths(data), **settings}
    if cache is not None:
        asked["cache"] = str(cache)
    return extractor.extract(checked(extractor.ExtractConfig, asked, "extract"), progress)


def open_cache(
    path: str | Path, *, allow_partial: bool = False, local_copy: str | Path | None = None
) -> FeatureCache:
    """Open a cache: `cache[7]` and `cache.gather([3, 1, 2])` are `FeatureBatch`es.

    Args:
        path: Folder or URL.
        allow_partial: Open also what is not finished.
        local_copy: Folder that keeps what was read of a cache that is not on the same disk.

    Raises:
        CacheError: There is none, it is not finished (unless `allow_partial`), or it is damaged.
    """
    from cache_schema import FeatureCache

    return FeatureCache.open(path, allow_partial=allow_partial, local_copy=local_copy)


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
        **settings: Any other field of `FitConfig`: epochs, batch_size, seed, pooling ... Those
            inside sections, such as `optimizer.learning_rates`, go into `overrides`.

    Raises:
        UserError: Anything the caller can mend, in one line.
    """
    import trainer

    from .choices import fit_config, opened

    caches = opened(cache)
    config = fit_config(caches, target, task, network, overrides, settings, progress)
    stems = [Path(each.path).stem for each in caches]
    folder = run or f"runs/{'-'.join([*stems, config.network.name])}"
    return trainer.fit(
        config, caches, folder, resume=resume, overwrite=overwrite, progress=progress
    )


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
        UserError: The run, the split or the device is not there, or the cache was made from
            something else.
    """
    import trainer

    from .choices import opened

    return trainer.evaluate(run, opened(cache), split, device=device, progress=progress)


def load(run: str | Path, *, device: DeviceName = "auto", backbone: BackbonePlace = None) -> Model:
    """A trained run with its frozen backbone, ready for new samples.

    Args:
        run: A finished run.
        device: Where to compute.
        backbone: Folder or hub id of the backbone if it is not where it was; for retrieval one for
            both sides, or that of the items and that of the texts.

    Raises:
        UserError: There is no such run or device, the run is not finished, or the backbone is
            not the one it was trained with; names what differs.
    """
    from .model import Model

    return Model(run, device=device, backbone=backbone)


def UniPT(streams: Sequence[StreamSpec], **options: Any) -> SideNetwork:  # noqa: N802 - a network
    """A freshly initialised UniPT network, for a training loop of your own.

    Args:
        streams: What it reads: `cache.manifest.streams`.
        **options: Fields of `trainer.UniPTConfig`: preset, reduction, layers ...

    Returns:
        A module: `network(cache.gather(ids)).rows` are its (N, E) outputs, one row per token.

    Raises:
        UserError: An option is unknown or does not fit the others, or these are no streams.
    """
    import trainer
    from cache_schema import StreamSpec, UserError

    from .choices import checked

    if not isinstance(streams, Sequence) or not all(isinstance(s, StreamSpec) for s in streams):
        raise UserError(
            f"UniPT: found a {type(streams).__name__!r}, needed the streams of a cache. "
            "Pass cache.manifest.streams."
        )
    return trainer.build_network(checked(trainer.UniPTConfig, options, "UniPT"), streams)
