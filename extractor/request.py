"""What an extraction was asked for, so that the same request is recognised and can be repeated."""

from __future__ import annotations

from pathlib import Path

from pydantic import JsonValue

from .backbones import resolve_backbone
from .config import ExtractConfig
from .inputs import FORMATS, data_stamp


def default_cache_path(config: ExtractConfig) -> str:
    """A speaking name in the current folder: `reviews-bert-base.zarr`."""
    data = config.data[0].rpartition("=")[2].rstrip("/")
    parts = [Path(data).stem or "data", Path(config.backbone).name]
    if config.modality != "auto":
        # Both towers of a dual encoder often read the same file.
        parts.append(config.modality)
    return f"{'-'.join(parts)}.zarr"


def request_of(config: ExtractConfig) -> dict[str, JsonValue]:
    """What was asked for, with the size and time of change of every file it depends on."""
    # `unipt repair` has to find everything from any folder.
    settings = with_absolute_paths(config).model_dump(
        mode="json", exclude={"cache", "device", "batch_size", "workers", "dask"}
    )
    return {
        "config": settings,
        "backbone": resolve_backbone(config.backbone_config).stamp(),
        "data": data_stamp(config.data_config),
    }


def with_absolute_paths(config: ExtractConfig) -> ExtractConfig:
    """The same extraction, whatever the current folder is."""
    found = {
        "backbone": resolve_backbone(config.backbone_config).load_name,
        "data": tuple(_absolute(entry) for entry in config.data),
        "media_root": None if config.media_root is None else _absolute(config.media_root),
        "cache": config.cache if config.cache is None else _absolute_cache(config.cache),
    }
    return config.model_copy(update=found)


def _absolute_cache(cache: str) -> str:
    return cache if "://" in cache else str(Path(cache).expanduser().absolute())


def _absolute(entry: str) -> str:
    """A data entry (PATH, SPLIT=PATH, FORMAT:PATH) with an absolute path, where there is one."""
    split, equals, source = entry.rpartition("=")
    kind, colon, path = source.partition(":")
    if kind not in FORMATS:
        kind, colon, path = "", "", source
    local = Path(path).expanduser()
    return f"{split}{equals}{kind}{colon}{local.resolve()}" if local.exists() else entry
