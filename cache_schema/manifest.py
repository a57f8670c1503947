"""The document that describes a cache: streams, layers, dtypes, splits, targets and identity.

It is stored as the attributes of the cache's root group, under the key `unipt`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from .fingerprint import Identity

FORMAT_VERSION: Final = 1

EncodingName = Literal["float16", "bfloat16", "float32", "int8", "int4"]
TargetKind = Literal["category", "categories", "integer", "number", "numbers", "string"]


class Document(BaseModel):
    """A frozen document: unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LayerSpec(Document):
    """One stored layer of a backbone."""

    index: int = Field(ge=0, description="0 is the embedding output, i the output of block i")
    module: str = Field(description="dotted path of the module whose output this is")
    final_norm: bool | None = Field(
        description="whether the model's final norm is applied; null if the model has none"
    )


class StreamSpec(Document):
    """Layers that share token positions and width."""

    name: str
    width: int = Field(gt=0, description="numbers per token and layer")
    layers: tuple[LayerSpec, ...] = Field(min_length=1, description="last one is the anchor")
    axes: tuple[str, ...] = Field(
        default=(), description="names of the grid's axes where positions have a shape"
    )


class BackboneSpec(Document):
    """The frozen pretrained network that made the hidden states."""

    name: str = Field(description="as the user asked for it: alias, hub id or folder")
    source: Literal["huggingface", "timm", "unipt"]
    model: str = Field(description="hub id or folder that the name resolved to")
    revision: str | None = Field(description="resolved commit on the hub; null for a folder")
    architecture: str = Field(description="class that was run")
    num_parameters: int
    options: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="everything needed to load and run it the same way again (max_length, ...)",
    )


class SplitSpec(Document):
    """A named run of samples: start, start + 1, ..., stop - 1."""

    name: str
    start: int = Field(ge=0)
    stop: int = Field(ge=0)
    views: int = Field(
        default=1,
        ge=1,
        description="samples of each source row, one after the other: the row as it is, then "
        "augmented views of it",
    )


class TargetSpec(Document):
    """One stored target column.

    `category`: int64 codes into `classes`; `categories`: ragged codes; `integer`: int64;
    `number`: float64; `numbers`: ragged float64; `string`: ragged bytes in UTF-8. -1 is a missing
    category, a list of one -1 a missing list of categories, NaN a missing number.
    """

    name: str
    kind: TargetKind
    classes: tuple[str, ...] | None = None


class Manifest(Document):
    """What a cache holds, independent of how much of it is finished."""

    format_version: Literal[1] = FORMAT_VERSION
    unipt_version: str
    created: str = Field(description="UTC, ISO 8601")
    backbone: BackboneSpec
    identity: Identity
    streams: tuple[StreamSpec, ...] = Field(min_length=1)
    encoding: EncodingName
    splits: tuple[SplitSpec, ...] = Field(min_length=1)
    targets: tuple[TargetSpec, ...] = ()
    roles: tuple[str, ...] = Field(
        default=(), description="what was read of a row: text, text_pair, image, video, regions"
    )
    inputs: tuple[str, ...] = Field(default=(), description="stored model inputs, e.g. token_ids")
    shard_starts: tuple[int, ...] = Field(
        min_length=1, description="first sample of each shard; shards are consecutive"
    )
    num_samples: int = Field(gt=0)
    num_skipped: int = Field(default=0, description="source rows left out by --on-error skip")
    execution: dict[str, JsonValue] = Field(
        default_factory=dict, description="how it was run (device, batch size): not identity"
    )

    @field_validator("shard_starts")
    @classmethod
    def _hold_every_sample(cls, starts: tuple[int, ...]) -> tuple[int, ...]:
        """Samples before the first shard would shift the targets of all others."""
        if starts[0] != 0 or any(a >= b for a, b in pairwise(starts)):
            raise ValueError(f"found {starts[:3]!r} ..., needed numbers that rise from 0")
        return starts

    @property
    def num_shards(self) -> int:
        """How many shards the cache has when it is finished."""
        return len(self.shard_starts)

    def shard_samples(self, shard: int) -> range:
        """The samples of one shard."""
        bounds = (*self.shard_starts, self.num_samples)
        return range(bounds[shard], bounds[shard + 1])

    def split(self, name: str) -> SplitSpec:
        """The split of this name.

        Raises:
            KeyError: There is none; names those there are.
        """
        for split in self.splits:
            if split.name == name:
                return split
        raise KeyError(f"split {name!r}: not in this cache, there are {self.split_names!r}")

    @property
    def split_names(self) -> list[str]:
        """Names of the splits, in stored order."""
        return [split.name for split in self.splits]

    def stream(self, name: str) -> StreamSpec:
        """The stream of this name; KeyError names those there are."""
        for stream in self.streams:
            if stream.name == name:
                return stream
        raise KeyError(f"stream {name!r}: there are {[s.name for s in self.streams]!r}")

    def target(self, name: str) -> TargetSpec:
        """The target of this name; KeyError names those there are."""
        for target in self.targets:
            if target.name == name:
                return target
        raise KeyError(f"target {name!r}: there are {[t.name for t in self.targets]!r}")
