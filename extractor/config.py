"""What a user may choose about an extraction; the names are those of the flags."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cache_schema import EncodingName

from .backbones import BackboneConfig, Modality, Precision
from .inputs import DataConfig

SHARD_BYTES = 128 * 2**20  # large enough for full disk bandwidth, small enough to redo in seconds


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
    text_column: str | None = Field(default=None, description="guessed where unambiguous")
    text_pair_column: str | None = Field(default=None, description="second text of a pair")
    targets: tuple[str, ...] = Field(default=(), description="columns to store as targets")
    cache: str | None = Field(default=None, description="where to; null for a speaking name")
    layers: Literal["all"] | tuple[int, ...] = Field(
        default="all", description="layers to store; the last one is always included"
    )
    precision: Precision = Field(default="auto", description="of the forward pass")
    encoding: EncodingName = Field(default="float16", description="of the stored hidden states")
    max_length: int | None = Field(default=None, ge=1, description="tokens per sample at most")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, mps")
    batch_size: int | None = Field(
        default=None, ge=1, description="samples per forward pass; null fits the device"
    )
    on_error: Literal["fail", "skip"] = Field(
        default="fail", description="what to do with samples that cannot be used"
    )
    trust_remote_code: bool = Field(default=False, description="run code of the model's files")
    shard_bytes: int = Field(
        default=SHARD_BYTES, ge=1024, description="hidden states per shard, in bytes"
    )

    @property
    def backbone_config(self) -> BackboneConfig:
        """The backbone's share."""
        return BackboneConfig(
            name=self.backbone,
            revision=self.revision,
            layers=self.layers,
            modality=self.modality,
            frames=self.frames,
            max_length=self.max_length,
            precision=self.precision,
            trust_remote_code=self.trust_remote_code,
        )

    @property
    def data_config(self) -> DataConfig:
        """The data's share."""
        return DataConfig(
            data=self.data,
            splits=self.splits,
            text_column=self.text_column,
            text_pair_column=self.text_pair_column,
            targets=self.targets,
            on_error=self.on_error,
        )
