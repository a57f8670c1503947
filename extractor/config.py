"""What a user may choose about an extraction; the names are those of the flags."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from cache_schema import EncodingName

from .augmentation import Augmentation
from .backbones import BackboneConfig, Modality, Precision
from .backbones.config import Layers, Quantize
from .inputs import DataConfig
from .roles import roles_read

SHARD_BYTES = 128 * 2**20  # large enough for full disk bandwidth, small enough to redo in seconds
DEFAULT_ENCODING: EncodingName = "float16"

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]?)(i?)b", re.IGNORECASE)


def _bytes_of(found: object) -> object:
    """`40GB` or `1.5 TiB` as a number of bytes; powers of 1000, and of 1024 with an `i`."""
    if not isinstance(found, str):
        return found
    parts = _SIZE.fullmatch(found.strip())
    if parts is None:
        raise ValueError("needed a size such as 40GB, 500MB or 1.5TiB")
    number, prefix, binary = parts.groups()
    power = " kmgt".index(prefix.lower() or " ")
    return int(float(number) * (1024 if binary else 1000) ** power)


NumBytes = Annotated[int, BeforeValidator(_bytes_of), Field(gt=0)]


class ExtractConfig(BaseModel):
    """One extraction: which backbone over which data, stored where and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str = Field(min_length=1, description="alias, hub id or local folder")
    revision: str | None = Field(default=None, description="branch, tag or commit on the hub")
    data: tuple[str, ...] = Field(
        min_length=1, description="files, folders, hub data sets, or split=path"
    )
    splits: tuple[str, ...] = Field(default=(), description="splits to extract; all if empty")
    modality: Literal["auto"] | Modality = Field(
        default="auto", description="what to read, where the backbone could read several things"
    )
    frames: int | None = Field(
        default=None, ge=1, description="read videos, this many frames of each; null: images"
    )
    views: int = Field(
        default=1,
        ge=1,
        description="samples of each training row: as it is, and augmented views of it",
    )
    augmentation: Augmentation = Field(
        default=Augmentation(), description="what augmented views change"
    )
    image_size: int | tuple[int, int] | None = Field(
        default=None, description="pixels, or height and width; null for the model's own"
    )
    text_column: str | None = Field(default=None, description="guessed where unambiguous")
    text_pair_column: str | None = Field(default=None, description="second text of a pair")
    image_column: str | None = Field(default=None, description="guessed where unambiguous")
    video_column: str | None = Field(default=None, description="guessed where unambiguous")
    regions_column: str | None = Field(
        default=None, description=".npz files of regions; guessed where unambiguous"
    )
    media_root: str | None = Field(
        default=None, description="folder of relative paths; null for that of the data file"
    )
    targets: tuple[str, ...] = Field(default=(), description="columns to store as targets")
    keys: tuple[str, ...] = Field(
        default=(), description="columns of names to store, which join one cache to another"
    )
    cache: str | None = Field(default=None, description="where to; null for a speaking name")
    layers: Layers = Field(
        default="all", description="layers to store; the last one is always included"
    )
    precision: Precision = Field(default="auto", description="of the forward pass")
    quantize: Quantize = Field(
        default="none", description="round the weights of linear layers (needs bitsandbytes)"
    )
    encoding: EncodingName | None = Field(
        default=None, description="of the stored hidden states; null: float16, or what fit_in finds"
    )
    fit_in: NumBytes | None = Field(
        default=None,
        description="store in float16, int8 or int4, the first in which the cache takes at most "
        "so many bytes, such as 40GB",
    )
    max_length: int | None = Field(default=None, ge=1, description="tokens per sample at most")
    align: Literal["none", "words"] = Field(
        default="none",
        description="words: also store which token each word begins with; a list in the text "
        "column is then one text, word by word",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, mps")
    batch_size: int | None = Field(
        default=None, ge=1, description="samples per forward pass; null fits the device"
    )
    workers: int = Field(
        default=1, ge=1, description="processes on this machine, each with its GPU or its cores"
    )
    dask: str | None = Field(
        default=None,
        description="address or file of a Dask scheduler, whose workers all take part",
    )
    on_error: Literal["fail", "skip"] = Field(
        default="fail", description="what to do with samples that cannot be used"
    )
    trust_remote_code: bool = Field(default=False, description="run code of the model's files")
    shard_bytes: int = Field(
        default=SHARD_BYTES, ge=1024, description="hidden states per shard, in bytes"
    )

    @model_validator(mode="after")
    def _only_one_chooses_the_encoding(self) -> ExtractConfig:
        if self.fit_in is not None and self.encoding is not None:
            raise ValueError(
                f"--fit-in chooses the encoding itself, found also {self.encoding!r}. "
                "Leave out --fit-in or --encoding"
            )
        return self

    @model_validator(mode="after")
    def _has_one_crew(self) -> ExtractConfig:
        if self.dask is not None and self.workers > 1:
            raise ValueError("workers and dask: needed one of them; Dask has workers of its own")
        is_several = self.dask is not None or self.workers > 1
        if is_several and self.cache is not None and self.cache.startswith("memory:"):
            raise ValueError(
                f"cache: found {self.cache!r}, which one process alone can see; several need a "
                "place that all of them reach"
            )
        return self

    @property
    def backbone_config(self) -> BackboneConfig:
        """The backbone's share."""
        return BackboneConfig(
            name=self.backbone,
            revision=self.revision,
            layers=self.layers,
            modality=self.modality,
            frames=self.frames,
            image_size=self.image_size,
            max_length=self.max_length,
            align=self.align,
            precision=self.precision,
            quantize=self.quantize,
            trust_remote_code=self.trust_remote_code,
        )

    @property
    def data_config(self) -> DataConfig:
        """The data's share; what is read of it is told by the backbone's config.json.

        Raises:
            BackboneError: There is no such backbone, or it could read several things.
        """
        return DataConfig(
            data=self.data,
            reads=roles_read(self.backbone_config),
            splits=self.splits,
            text_column=self.text_column,
            text_pair_column=self.text_pair_column,
            lists_hold_words=self.align == "words",
            image_column=self.image_column,
            video_column=self.video_column,
            regions_column=self.regions_column,
            media_root=self.media_root,
            targets=self.targets,
            keys=self.keys,
            on_error=self.on_error,
        )
