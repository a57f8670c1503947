"""The options of UniPT, and the presets that name how each released system sets them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from .base import NetworkOptions

InitialisationName = Literal["torch", "bert", "xavier"]
PresetName = Literal["paper", "vse-text", "vse-image", "clip4clip", "clip-vil", "mdetr"]

# Each row says how a system differs from `vse-text`, whose values are the defaults below.
# Sources: the paper's section 3 and the authors' five modules; docs/networks.md has the table.
PRESETS: dict[str, dict[str, Any]] = {
    "vse-text": {},
    # No normalisation, no biases and no eps in the equations: 1e-12 only keeps 0 / 0 at 0.
    "paper": {
        "norm": "none",
        "bias": False,
        "feed_forward": "mlp",
        "activate_output": False,
        "eps": 1e-12,
        "eps_rule": "clamp",
    },
    "vse-image": {"structure": "maps", "norm": "batch"},
    # The authors train it at full width (reduction 1), which gives the paper's 9.6M parameters.
    "clip4clip": {
        "structure": "embedding",
        "reduction": 1,
        "norm": "none",
        "activate_input": True,
        # The token that the embedding was projected from: the first of images, the last of texts.
        "shortcut": "first",
        "feed_forward": "none",
        "residual": "anchor",
        "eps": 1e-6,
        "eps_rule": "clamp",
    },
    "clip-vil": {
        "feed_forward": "mlp",
        "activate_output": False,
        "eps": 1e-6,
        "initialisation": "bert",
    },
    "mdetr": {
        "structure": "encoder-decoder",
        "layers": (1, 3, 5),
        "feed_forward": "mlp",
        "output_norm": True,
        "eps": 1e-7,
        "initialisation": "xavier",
    },
}


class UniPTConfig(NetworkOptions):
    """Universal parallel tuning: a preset, and any option set otherwise than the preset does."""

    name: Literal["unipt"] = Field(default="unipt", description="UniPT")
    preset: PresetName = Field(
        default="vse-text", description="released system (or the paper) whose options are meant"
    )
    streams: tuple[str, ...] = Field(
        default=(),
        description="streams to read, in order; the last holds the anchor. Empty: all",
    )
    structure: Literal["tokens", "maps", "embedding", "encoder-decoder"] = Field(
        default="tokens",
        description="tokens: streams share positions; maps: maps of different sizes, brought to "
        "the last one's; embedding: the last stream is a projected embedding that is the query, "
        "or its class token where it is the only one; "
        "encoder-decoder: the last stream reads the one before it",
    )
    layers: tuple[int, ...] = Field(
        default=(), description="backbone indices of the guided layers. Empty: all but the anchor"
    )
    reduction: int = Field(default=2, gt=0, description="output width / reduced width")
    width: int | None = Field(
        default=None, gt=0, description="output width; null: the anchor's width"
    )
    norm: Literal["layer", "batch", "none"] = Field(
        default="layer", description="normalisation after each projection to the reduced width"
    )
    bias: bool = Field(default=True, description="whether linear maps have biases")
    activate_input: bool = Field(
        default=False, description="ReLU on the hidden states before they are reduced"
    )
    interaction: Literal["guided", "self", "none", "multi-head"] = Field(
        default="guided",
        description="guided: the anchor reads each layer; self: each layer reads itself "
        "(unguided); none: bottleneck; multi-head: softmax attention with learned projections",
    )
    heads: int = Field(default=1, gt=0, description="attention heads; only with multi-head")
    shortcut: Literal["identity", "first", "last", "none"] = Field(
        default="identity",
        description="what each layer adds to what was read from it: the same token, its first "
        "or its last token, or nothing",
    )
    eps: float = Field(default=1e-8, gt=0, description="guards the L1 norm of the scores")
    eps_rule: Literal["add", "clamp"] = Field(
        default="add", description="norm + eps, or max(norm, eps)"
    )
    confidence: Literal["dynamic", "static", "mean"] = Field(
        default="dynamic",
        description="weights of the layers: per sample from their agreement with the anchor; "
        "learned, one per layer; all equal",
    )
    feed_forward: Literal["linear", "mlp", "none"] = Field(
        default="linear",
        description="after the layers are mixed: one linear map, two with a ReLU and the output "
        "width between them, or nothing",
    )
    residual: Literal["reduced", "anchor"] = Field(
        default="reduced",
        description="what is added: the reduced anchor before the last projection, or the "
        "anchor itself after it",
    )
    activate_output: bool = Field(default=True, description="ReLU before the last projection")
    output_norm: bool = Field(default=False, description="LayerNorm after the last projection")
    regions: Literal["learned", "mean"] = Field(
        default="learned",
        description="how a region of a larger map becomes one position: read under learned "
        "guidance of the last map, or averaged; only with maps",
    )
    initialisation: InitialisationName = Field(
        default="torch",
        description="torch's defaults; normal(0, 0.02) and zero biases; Xavier-uniform weights",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        """Every option that is not given takes the preset's value, so a saved config is whole."""
        if not isinstance(given, dict):
            return given
        preset = given.get("preset", "vse-text")
        return PRESETS.get(preset if isinstance(preset, str) else "", {}) | given

    @model_validator(mode="after")
    def _check_combinations(self) -> UniPTConfig:
        """A setting that cannot take effect, or cannot work, is an error."""
        embedding = self.structure == "embedding"
        full_residual = self.residual == "anchor"
        mistakes = {
            "heads above 1 need interaction: multi-head": self.heads > 1
            and self.interaction != "multi-head",
            "regions: mean needs structure: maps": self.regions == "mean"
            and self.structure != "maps",
            "structure: embedding has one query, which interaction: self does not read": embedding
            and self.interaction == "self",
            "structure: embedding needs a shortcut of first (images), last (texts) or none, "
            "since the query is no token": embedding and self.shortcut == "identity",
            "interaction: none needs a shortcut, otherwise no layer is read": self.shortcut
            == "none"
            and self.interaction == "none",
            "residual: anchor does not work with structure: encoder-decoder": full_residual
            and self.structure == "encoder-decoder",
        }
        if found := [mistake for mistake, made in mistakes.items() if made]:
            raise ValueError("; ".join(found))
        return self
