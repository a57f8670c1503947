"""Errors about choosing, finding and loading a backbone."""

from __future__ import annotations

from cache_schema import UserError


class BackboneError(UserError):
    """A backbone cannot be used as asked."""


class UnknownBackboneError(BackboneError):
    """The name is no alias, no hub id and no folder."""


class BackboneNotFoundError(BackboneError, FileNotFoundError):
    """The folder, hub repository or revision is not there, or the hub cannot be reached."""


class UnsupportedBackboneError(BackboneError):
    """The files are there, but their kind is not one that can be run."""
