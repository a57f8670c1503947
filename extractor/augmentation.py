"""How far augmented views may go from the sample as it is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, JsonValue

# Raised whenever the same settings begin to give other views.
VERSION = 1


class Augmentation(BaseModel):
    """What an augmented view changes.

    Source: UniPT's image-text recipe (VSE-infinity): the sides of a crop are 0.6 to 1 of the
    image's, half of the crops are mirrored, and every fifth word is changed: half of those
    masked, a tenth replaced, the others removed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop: float = Field(
        default=0.6, gt=0, le=1, description="shortest side of a crop, as a share of the image's"
    )
    flip: float = Field(
        default=0.5, ge=0, le=1, description="share of views whose left and right are swapped"
    )
    words: float = Field(
        default=0.2, ge=0, le=1, description="share of words masked, replaced or removed"
    )

    @property
    def identity(self) -> dict[str, JsonValue]:
        """For a cache's fingerprint."""
        return {**self.model_dump(), "version": VERSION}
