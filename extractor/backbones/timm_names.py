"""Names of timm's models on the hub."""

from __future__ import annotations

import difflib

from .errors import UnknownBackboneError

_OWNER = "timm/"


def with_tag(hub_id: str) -> str:
    """`timm/NAME` as `timm/NAME.TAG`, with the weights that timm takes if none are named.

    Other ids come back as they are. Only a name without a tag makes this import timm.

    Raises:
        UnknownBackboneError: timm knows no such architecture, or has no weights for it.
    """
    architecture = hub_id.removeprefix(_OWNER)
    if not hub_id.startswith(_OWNER) or "." in architecture:
        return hub_id
    import timm

    settings = timm.get_pretrained_cfg(architecture) if timm.is_model(architecture) else None
    if settings is None or not settings.tag:
        names = {name.partition(".")[0] for name in timm.list_models(pretrained=True)}
        close = difflib.get_close_matches(architecture, sorted(names), n=1)
        meant = f"Did you mean {_OWNER + close[0]!r}?" if close else "See `timm.list_models()`."
        raise UnknownBackboneError(
            f"{hub_id}: timm {timm.__version__} has no pretrained model of this name. {meant}"
        )
    return f"{hub_id}.{settings.tag}"
