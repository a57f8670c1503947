"""Errors of an extraction."""

from __future__ import annotations

from cache_schema import UserError


class HiddenStateError(UserError):
    """A hidden state cannot be stored as asked: not finite, or too large for the encoding."""
