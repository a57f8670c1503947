"""What a user may choose about a backbone."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from cache_schema import BackboneSpec

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Modality = Literal["text", "image", "image+text", "regions+text"]
Quantize = Literal["none", "8bit", "4bit"]


def _all_or_numbers(given: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """One problem, where the union has one for each of its members."""
    try:
        return check(given)
    except ValidationError:
        raise ValueError("needed all, or numbers of layers such as 0,6,12") from None


Layers = Annotated[Literal["all"] | tuple[int, ...], WrapValidator(_all_or_numbers)]


class BackboneConfig(BaseModel):
    """The frozen network to run, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        min_length=1, description="alias (bert-base), hub id (owner/name) or local folder"
    )
    revision: str | None = Field(
        default=None, description="branch, tag or commit on the hub; null for its main branch"
    )
    layers: Layers = Field(
        default="all",
        description="layers to store, 0 is the embedding output; the last layer is always included",
    )
    modality: Literal["auto"] | Modality = Field(
        default="auto",
        description="what to read, where the backbone could read several things",
    )
    frames: int | None = Field(
        default=None, ge=1, description="read videos, this many frames of each; null: images"
    )
    image_size: int | tuple[int, int] | None = Field(
        default=None,
        description="pixels: a side cut out of the centre (of a detector: the shorter side), or "
        "a height and a width that the whole image is brought to; null for the model's own",
    )
    max_length: int | None = Field(
        default=None, ge=1, description="tokens a sample is cut to; null for the model's maximum"
    )
    precision: Precision = Field(
        default="auto",
        description="of the forward pass; auto is bfloat16 on a GPU that has it, else float32",
    )
    align: Literal["none", "words"] = Field(
        default="none",
        description="words: also store where each word between spaces begins among the tokens, "
        "for tasks that label words",
    )
    quantize: Quantize = Field(
        default="none",
        description="weights of linear layers rounded while they load, by bitsandbytes",
    )
    trust_remote_code: bool = Field(
        default=False, description="run Python code that comes with the model's files"
    )

    @classmethod
    def from_spec(cls, spec: BackboneSpec) -> BackboneConfig:
        """The settings that load the backbone of a manifest again, with nothing left to choose."""
        options: dict[str, Any] = dict(spec.options)
        return cls(
            name=options["load_name"],
            revision=spec.revision,
            layers=options["layers"],
            modality=options.get("modality", "auto"),
            frames=options.get("frames"),
            image_size=options.get("image_size"),
            max_length=options.get("max_length"),
            precision=options["precision"],
            align=options.get("align", "none"),
            quantize=options.get("quantize", "none"),
            trust_remote_code=options["trust_remote_code"],
        )
