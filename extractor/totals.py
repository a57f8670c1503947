"""How much there is to extract, known once everything was read."""

from __future__ import annotations

from pydantic import BaseModel, Field

from cache_schema import EncodingName, Manifest


class Totals(BaseModel):
    """Of a whole cache; recorded in its manifest, so that who joins need not read it all again."""

    num_tokens: int = Field(description="rows of all streams and samples")
    num_truncated: int = Field(description="samples longer than the backbone takes")
    num_unreadable: int = Field(description="samples, as far as is known without decoding them")
    encodings: dict[EncodingName, int] = Field(
        description="bytes of all arrays with their checksums in each encoding, exact"
    )

    @classmethod
    def of(cls, manifest: Manifest) -> Totals | None:
        """Those of a cache; None if an older version began it."""
        found = manifest.execution.get("totals")
        return None if found is None else cls.model_validate(found)
