"""The sizes of an MDETR, as its config.json has them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class MDETRConfig(BaseModel):
    """The released ResNet-101 model, unless told otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_type: Literal["mdetr"] = "mdetr"
    backbone: str = Field(
        default="resnet101",
        description="a torchvision ResNet, or timm_NAME for a convolutional network of timm",
    )
    backbone_options: dict[str, Any] = Field(
        default_factory=dict, description="how timm makes its network (pad_type, ...)"
    )
    hidden_size: int = Field(default=256, ge=4, multiple_of=4, description="of the transformer")
    num_heads: int = Field(default=8, ge=1, description="of every attention")
    num_encoder_layers: int = Field(default=6, ge=1, description="over image and text")
    num_decoder_layers: int = Field(default=6, ge=1, description="over the queries")
    intermediate_size: int = Field(default=2048, ge=1, description="of the feed-forward parts")
    num_queries: int = Field(default=100, ge=1, description="boxes that can be found")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="in training only")
    image_size: int = Field(default=800, ge=32, description="pixels of an image's shorter side")
    max_image_size: int = Field(default=1333, ge=32, description="pixels of its longer side")
    image_mean: tuple[float, float, float] = Field(
        default=(0.485, 0.456, 0.406), description="of red, green and blue, 0 to 1"
    )
    image_std: tuple[float, float, float] = Field(
        default=(0.229, 0.224, 0.225), description="on the same scale"
    )
    text_config: dict[str, Any] = Field(description="of the text encoder, as transformers has it")
