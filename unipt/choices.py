"""What callers may leave out, and what their words mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from cache_schema import CacheError, FeatureCache, UserError
from trainer import ConfigError, FitConfig, explain, with_overrides

if TYPE_CHECKING:
    from cache_schema import Progress

SettingsT = TypeVar("SettingsT", bound=BaseModel)
CacheLike: TypeAlias = str | Path | FeatureCache
DeviceName = Literal["auto", "cpu", "cuda", "mps"]


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
    return with_overrides(checked(FitConfig, data, "fit"), overrides)


def checked(model: type[SettingsT], settings: Mapping[str, Any], where: str) -> SettingsT:
    """The settings as a document, or every problem of them in words."""
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(where, explain(error, model)) from error


def data_paths(data: str | Path | Sequence[str | Path]) -> list[str]:
    """What names the data, as text.

    Raises:
        UserError: It is something else, such as the rows themselves.
    """
    several = [data] if isinstance(data, str | Path) or not isinstance(data, Sequence) else data
    for entry in several:
        if not isinstance(entry, str | Path):
            raise UserError(
                f"data: found a {type(entry).__name__!r}, needed the path of a file or folder. "
                "Save rows as a csv, jsonl or parquet file first."
            )
    return [str(entry) for entry in several]


def opened(cache: CacheLike | Sequence[CacheLike]) -> list[FeatureCache]:
    """Caches, those given by their paths opened.

    Raises:
        CacheError: It is something else, or there is no complete cache at a path.
    """
    several = [cache] if isinstance(cache, str) or not isinstance(cache, Sequence) else cache
    for each in several:
        if not isinstance(each, str | Path | FeatureCache):
            raise CacheError(
                f"cache: found a {type(each).__name__!r}, needed a cache or its path. "
                "Open one with unipt.open_cache."
            )
    return [FeatureCache.open(each) if isinstance(each, str | Path) else each for each in several]


def _only_target(cache: FeatureCache) -> str:
    # Strings are keys that join caches, nothing to learn.
    names = [spec.name for spec in cache.manifest.targets if spec.kind != "string"]
    if len(names) != 1:
        found = f"there are {names!r}, say which" if names else "it has none; extract with --target"
        raise CacheError(f"{cache.path}: which target to learn? In this cache {found}.")
    return names[0]


def _task_of(cache: FeatureCache, target: str) -> str:
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
