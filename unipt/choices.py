"""What callers may leave out, and what their words mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from cache_schema import CacheError, FeatureCache, SilentProgress, UserError
from trainer import FIRST_TOKENS, ConfigError, FitConfig, explain, with_overrides

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
    """The settings of `fit`, with target, task and network's structure guessed if not given."""
    reports = progress or SilentProgress()
    chosen: dict[str, Any]
    if task == "retrieval" or (task is None and len(caches) > 1):
        chosen = {"name": "retrieval", "key": target}
    elif target is None and task in ("vqa", "grounding"):
        chosen = {"name": task}  # their columns have usual names
    else:
        if target is None:
            target = _only_target(caches[0])
            reports.say(f"target: {target!r}, the only one in the cache")
        chosen = {"name": task or _task_of(caches[0], target, reports), "target": target}
    read = _what_to_read(caches, chosen["name"], network, overrides, reports)
    data = {"task": chosen, "network": {"name": network, **read}, **settings}
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


def _task_of(cache: FeatureCache, target: str, reports: Progress) -> str:
    kind = cache.target(target).spec.kind
    if kind in ("categories", "numbers") and FIRST_TOKENS in cache.manifest.inputs:
        reports.say(
            f"task: token-classification of {target!r}, because the cache knows where words begin "
            "(--task classification for labels of whole texts)"
        )
        return "token-classification"
    if kind in ("category", "categories"):
        return "classification"
    if kind == "number":
        return "regression"
    raise CacheError(
        f"{cache.path}: target {target!r} holds {kind!r}, which may be classes or amounts. "
        "Say --task: classification and regression read one value of each sample, vqa lists of "
        "answers, grounding boxes."
    )


def _what_to_read(
    caches: Sequence[FeatureCache],
    task: str,
    network: str,
    overrides: Sequence[str],
    reports: Progress,
) -> dict[str, Any]:
    """Settings by which a network reads an encoder-decoder, where none of them is given."""
    given = {override.partition("=")[0].strip() for override in overrides}
    told = {f"network.{name}" for name in ("preset", "structure", "streams", "stream")}
    if len(caches) != 1 or given & told:
        return {}
    if [stream.name for stream in caches[0].manifest.streams] != ["encoder", "decoder"]:
        return {}
    if task == "token-classification":
        reports.say("network: reads the encoder, whose tokens are those of the words")
        is_probe = network not in ("unipt", "lst")
        return {"stream": "encoder"} if is_probe else {"streams": ["encoder"]}
    if network == "unipt":
        reports.say("network.structure: encoder-decoder, as the backbone is")
        return {"structure": "encoder-decoder"}
    return {}
