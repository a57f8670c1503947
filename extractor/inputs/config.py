"""What a user may choose about the data."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

OnError = Literal["fail", "skip"]


class DataConfig(BaseModel):
    """Which rows to read, and which of their columns are texts and targets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: tuple[str, ...] = Field(
        min_length=1,
        description="csv, tsv, jsonl, json or parquet files, folders of them, arrow folders, hub "
        "data sets (owner/name or owner/name:config) or python-docstrings; SPLIT=PATH names one's "
        "split",
    )
    splits: tuple[str, ...] = Field(default=(), description="splits to read; empty for all")
    text_column: str | None = Field(default=None, description="null to guess by name")
    text_pair_column: str | None = Field(
        default=None, description="second text of a pair; null for none, or to guess with the first"
    )
    targets: tuple[str, ...] = Field(
        default=(), description="columns to keep beside the hidden states; empty to guess by name"
    )
    guess_targets: bool = Field(
        default=True, description="false: without named targets there are none, as for predictions"
    )
    on_error: OnError = Field(
        default="fail", description="what a row without a usable text does: stop, or be left out"
    )
