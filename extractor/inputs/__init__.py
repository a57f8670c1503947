"""Samples: find the data, open it, check it, and hand out texts and targets.

data_stamp(DataConfig(data=("reviews.csv",)))       files only, no pandas, no datasets
source = open_data(DataConfig(data=("reviews.csv",)))
source.samples("train", 0, 32)                       [{"id": 0, "text": ...}, ...]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .config import DataConfig, OnError, Role
from .errors import BadRowError, DataError, DataNotFoundError, MissingColumnError
from .formats import FORMATS
from .locate import BUILTIN, data_stamp

if TYPE_CHECKING:
    from .source import SampleSource

__all__ = [
    "BUILTIN",
    "FORMATS",
    "BadRowError",
    "DataConfig",
    "DataError",
    "DataNotFoundError",
    "MissingColumnError",
    "OnError",
    "Role",
    "data_stamp",
    "open_data",
]


def open_data(config: DataConfig) -> SampleSource:
    """Open a data set: choose its columns, check every row, read targets, fingerprint the rows.

    Raises:
        DataError: The data is not there, cannot be read, lacks a column or a split, or has a row
            without a usable input while `on_error` is `fail`.
    """
    from .opening import open_data as open_now

    return open_now(config)
