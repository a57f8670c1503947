"""What a backbone reads of each row, from its config alone."""

from __future__ import annotations

from .backbones import BackboneConfig, BackboneError, modality_read
from .inputs import Role


def roles_read(config: BackboneConfig) -> tuple[Role, ...]:
    """The roles of the samples that a backbone takes; nothing is loaded.

    Raises:
        BackboneError: It is not known, not there, could read several things, or reads no frames
            although those were asked for.
    """
    modality = modality_read(config)
    if modality in ("text", "regions+text"):
        if config.frames is not None:
            raise BackboneError(
                f"{config.name}: --frames is {config.frames}, but it reads {modality}. Leave it "
                "out, or choose a backbone that reads images."
            )
        return ("text",) if modality == "text" else ("regions", "text")
    seen: Role = "image" if config.frames is None else "video"
    return (seen,) if modality == "image" else (seen, "text")
