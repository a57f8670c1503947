"""The sizes of a CLIP-ViL, as its config.json has them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ClipViLConfig(BaseModel):
    """The released model with CLIP's RN50x4, unless told otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_type: Literal["clip-vil"] = "clip-vil"
    vocab_size: int = Field(default=30522, ge=1, description="word pieces")
    hidden_size: int = Field(default=768, ge=1, description="of the joint transformer")
    num_layers: int = Field(default=12, ge=1, description="of the joint transformer")
    num_heads: int = Field(default=12, ge=1, description="of every attention")
    intermediate_size: int = Field(default=3072, ge=1, description="of the feed-forward parts")
    max_position_embeddings: int = Field(default=512, ge=1, description="of the words")
    type_vocab_size: int = Field(default=2, ge=1, description="kinds of text; the first is used")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="in training only")
    visual_layers: tuple[int, int, int, int] = Field(
        default=(4, 6, 10, 6), description="blocks of each stage of the image network"
    )
    visual_width: int = Field(default=80, ge=2, multiple_of=2, description="of its first stage")
    visual_positions: int = Field(default=25, ge=1, description="longest side of its map")
    image_size: tuple[int, int] = Field(
        default=(384, 640), description="pixels of the shorter and the longer side, multiples of 32"
    )
    image_mean: tuple[float, float, float] = Field(
        default=(0.48145466, 0.4578275, 0.40821073), description="of red, green and blue, 0 to 1"
    )
    image_std: tuple[float, float, float] = Field(
        default=(0.26862954, 0.26130258, 0.27577711), description="on the same scale"
    )
    max_length: int = Field(default=20, ge=3, description="tokens that a text is cut to")
