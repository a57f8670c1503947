"""`RUN/config.json`: what a run is, enough to use its weights or to go on training them."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Literal

import numpy as np
import torch
from pydantic import Field, JsonValue

from cache_schema import BackboneSpec, EncodingName, FeatureCache, Identity, StreamSpec

from .checkpoint import flatten
from .config import RESUMABLE_DIFFERENCES, FitConfig
from .data import FitData
from .settings import Settings
from .tasks import LearnedTask


class CacheExcerpt(Settings):
    """The part of a cache's manifest that its weights depend on."""

    path: str = Field(description="where the cache lay; it is not needed for prediction")
    backbone: BackboneSpec
    identity: Identity
    streams: tuple[StreamSpec, ...]
    encoding: EncodingName
    roles: tuple[str, ...] = Field((), description="what was read of a row; () if not recorded")

    @classmethod
    def of(cls, cache: FeatureCache) -> CacheExcerpt:
        """Excerpt of an opened cache."""
        manifest = cache.manifest
        return cls(
            path=str(cache.path),
            backbone=manifest.backbone,
            identity=manifest.identity,
            streams=manifest.streams,
            encoding=manifest.encoding,
            roles=manifest.roles,
        )

    @property
    def example(self) -> tuple[str, ...]:
        """What a sample to predict looks like: texts, the name of a file, or a file and a text."""
        parts = []
        if "media" in self.identity.data:
            if "regions" in self.identity.features:
                parts.append("regions.npz")
            else:
                parts.append("clip.mp4" if self.backbone.options.get("frames") else "photo.jpg")
        if "texts" in self.identity.data or not parts:
            parts.append("a text of yours")
        if "text_pair" in self.roles:
            parts.append("its second text")
        return tuple(parts)


class RunRecord(Settings):
    """What `config.json` holds."""

    format_version: Literal[1] = 1
    unipt_version: str
    created: str = Field(description="UTC, ISO 8601")
    config: FitConfig
    task: LearnedTask = Field(description="the task with what it learned from its targets")
    cache: CacheExcerpt = Field(description="what it reads; of pairs, the items")
    text_cache: CacheExcerpt | None = Field(None, description="the texts of pairs")
    num_train: int = Field(description="training samples")
    num_validation: int = Field(description="validation samples")
    validation_name: str = Field(description="split, or what was held out")
    origin: dict[str, JsonValue] = Field(
        description="flat facts that decide what the weights become; a resumed run shares them"
    )

    @property
    def caches(self) -> tuple[CacheExcerpt, ...]:
        """What it reads: one cache, or items and texts."""
        return (self.cache,) if self.text_cache is None else (self.cache, self.text_cache)

    @classmethod
    def of(
        cls,
        config: FitConfig,
        data: FitData,
        *,
        dtype: torch.dtype,
        world_size: int,
    ) -> RunRecord:
        """Record a run that is about to start."""
        settings = flatten(config.model_dump(mode="json", exclude=set(RESUMABLE_DIFFERENCES)))
        # Left as asked for it would say `auto`, which is not the same on every machine.
        settings["precision"] = str(dtype).removeprefix("torch.")
        sides = [CacheExcerpt.of(cache) for cache in data.source.sides]
        return cls(
            unipt_version=version("unipt"),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            config=config,
            task=data.task,
            cache=sides[0],
            text_cache=sides[1] if len(sides) > 1 else None,
            num_train=len(data.train),
            num_validation=len(data.validation),
            validation_name=data.validation_name,
            origin={
                **settings,
                "world_size": world_size,
                "cache.fingerprint": data.source.fingerprint,
                # A cache that is still being written holds other samples each time.
                "cache.train_samples": _checksum(data.train),
                "cache.validation_samples": _checksum(data.validation),
            },
        )


def _checksum(samples: np.ndarray) -> str:
    return f"{len(samples)} with CRC32 {zlib.crc32(samples.astype('<i8').tobytes()):08x}"
