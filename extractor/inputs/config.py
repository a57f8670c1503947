"""What a user may choose about the data."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

OnError = Literal["fail", "skip"]
Role = Literal["text", "image", "video", "regions"]


class DataConfig(BaseModel):
    """Which rows to read, and which of their columns are inputs and targets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: tuple[str, ...] = Field(
        min_length=1,
        description="csv, tsv, jsonl, json or parquet files, folders of them or of images or "
        "videos, arrow folders, hub data sets (owner/name or owner/name:config), FORMAT:ROOT or "
        "python-docstrings; SPLIT=PATH names one's split",
    )
    reads: tuple[Role, ...] = Field(
        default=("text",), min_length=1, description="what the backbone reads of each row"
    )
    splits: tuple[str, ...] = Field(default=(), description="splits to read; empty for all")
    text_column: str | None = Field(default=None, description="null to guess by name")
    text_pair_column: str | None = Field(
        default=None, description="second text of a pair; null for none, or to guess with the first"
    )
    image_column: str | None = Field(
        default=None, description="paths or encoded images; null to guess by name"
    )
    video_column: str | None = Field(
        default=None, description="paths of videos, or lists of frames; null to guess by name"
    )
    regions_column: str | None = Field(
        default=None, description="paths of .npz files of regions; null to guess by name"
    )
    lists_hold_words: bool = Field(
        default=False,
        description="a list in the text column is one text, word by word; false: one text for "
        "each entry",
    )
    targets: tuple[str, ...] = Field(
        default=(), description="columns to keep beside the hidden states; empty to guess by name"
    )
    keys: tuple[str, ...] = Field(
        default=(), description="columns of names, kept as they are, that join one cache to another"
    )
    media_root: str | None = Field(
        default=None,
        description="folder of relative paths in the data; null for the folder of its file",
    )
    unique: bool = Field(
        default=True,
        description="where only images or videos are read, rows of the same one are one sample "
        "unless that would lose a target; false: every row is a sample",
    )
    guess_targets: bool = Field(
        default=True, description="false: without named targets there are none, as for predictions"
    )
    on_error: OnError = Field(
        default="fail", description="what a row without a usable input does: stop, or be left out"
    )
