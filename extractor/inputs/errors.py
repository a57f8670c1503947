"""Errors about the data that a user names."""

from __future__ import annotations

from cache_schema import UserError


class DataError(UserError):
    """The data cannot be used as asked."""


class DataNotFoundError(DataError, FileNotFoundError):
    """There is no such file, folder or hub data set."""


class MissingColumnError(DataError):
    """A column that is needed is not there, or cannot be told from others."""


class BadRowError(DataError):
    """A row has no usable text."""
