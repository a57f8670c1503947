"""Which kind of backbone a folder holds and what it reads, from its config.json alone.

A new kind is a module here with a function `load(resolved, config, device) -> Backbone`, and an
entry in `KINDS`. Nothing here imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from .config import BackboneConfig, Modality
from .errors import BackboneError, UnsupportedBackboneError
from .resolve import ResolvedBackbone


@dataclass(frozen=True)
class Kind:
    """Backbones that one module loads.

    Attributes:
        name: In words.
        module: Of this package; it has `load`.
        modalities: What they can read; several where the user chooses, as of CLIP's two towers.
        model_types: `model_type` of their config.json; `timm` stands for timm's own format.
    """

    name: str
    module: str
    modalities: tuple[Modality, ...]
    model_types: tuple[str, ...]


KINDS: tuple[Kind, ...] = (
    Kind("timm model", "timm_model", ("image",), ("timm",)),
    Kind("grounding model", "mdetr", ("image+text",), ("mdetr",)),
    Kind("question answering model", "clip_vil", ("image+text",), ("clip-vil",)),
    Kind(
        "text encoder",
        "text",
        ("text",),
        (
            "bert", "roberta", "xlm-roberta", "distilbert", "electra", "mpnet", "deberta-v2",
            "modernbert",
        ),
    ),
    Kind(
        "text decoder",
        "text",
        ("text",),
        (
            "gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "bloom", "falcon", "llama", "mistral",
            "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "olmo2",
            "smollm3", "stablelm", "starcoder2", "granite",
        ),
    ),
    Kind("encoder-decoder", "encoder_decoder", ("text",), ("t5", "mt5", "umt5", "bart", "mbart")),
    Kind(
        "vision model",
        "vision",
        ("image",),
        (
            "vit", "deit", "beit", "dinov2", "dinov2_with_registers", "dinov3_vit",
            "dinov3_convnext", "clip_vision_model", "siglip_vision_model", "swin", "swinv2",
            "convnext", "convnextv2", "resnet", "regnet",
        ),
    ),
    Kind("dual encoder", "dual", ("text", "image"), ("clip", "siglip")),
    Kind("joint encoder", "joint", ("image+text",), ("vilt",)),
    Kind("region encoder", "regions", ("regions+text",), ("visual_bert", "lxmert")),
)  # fmt: skip


_ALIGNED = ("text", "encoder_decoder")
_QUANTISED = ("text", "encoder_decoder", "vision", "dual", "joint")  # models of transformers


def kind_of(resolved: ResolvedBackbone) -> Kind:
    """The kind of a backbone whose files are here.

    Raises:
        UnsupportedBackboneError: Its config cannot be read, or no kind here knows its type.
    """
    model_type = model_type_of(resolved)
    for kind in KINDS:
        if model_type in kind.model_types:
            return kind
    kind_name = None if model_type is None else _kind_in_library(model_type)
    if kind_name is not None:
        return next(kind for kind in KINDS if kind.name == kind_name)
    known = sorted(name for kind in KINDS for name in kind.model_types)
    raise UnsupportedBackboneError(
        f"{resolved.name}: its kind is {model_type!r}, needed one of {', '.join(known)}, or "
        "another that transformers lists as a text, translation or image model. Choose one of them."
    )


def is_tested(resolved: ResolvedBackbone) -> bool:
    """Whether its family is among those above; others are checked while they load."""
    model_type = model_type_of(resolved)
    return any(model_type in kind.model_types for kind in KINDS)


def _kind_in_library(model_type: str) -> str | None:
    """The kind of a family that is not listed here, by the tasks that transformers lists it for."""
    from transformers.models.auto import modeling_auto as tasks

    kinds: dict[str, Container[str]] = {
        "encoder-decoder": tasks.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        "text encoder": tasks.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "text decoder": tasks.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "vision model": tasks.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    }
    if model_type not in tasks.MODEL_MAPPING_NAMES:
        return None
    return next((kind for kind, families in kinds.items() if model_type in families), None)


def modality_of(kind: Kind, config: BackboneConfig) -> Modality:
    """What the backbone will read.

    Raises:
        BackboneError: It can read several things and none was chosen, or the chosen one is not
            among them.
    """
    choices = " or ".join(f"--modality {name}" for name in kind.modalities)
    if config.modality == "auto":
        if len(kind.modalities) > 1:
            raise BackboneError(
                f"{config.name}: a {kind.name} reads one thing at a time. Choose {choices}."
            )
        return kind.modalities[0]
    if config.modality not in kind.modalities:
        raise BackboneError(
            f"{config.name}: --modality is {config.modality!r}, a {kind.name} reads "
            f"{' or '.join(kind.modalities)}. Choose {choices}, or another backbone."
        )
    return config.modality


def check_settings(kind: Kind, config: BackboneConfig, modality: Modality) -> None:
    """Refuse settings that this kind or modality gives nothing to do.

    Raises:
        BackboneError: Names them.
    """
    of_modality: dict[Modality, dict[str, object]] = {
        "text": {"frames": config.frames, "image size": config.image_size},
        "image": {"max length": config.max_length},
        "image+text": {"frames": config.frames},
        "regions+text": {"frames": config.frames, "image size": config.image_size},
    }
    if config.quantize != "none" and kind.module not in _QUANTISED:
        raise BackboneError(
            f"{config.name}: quantize is {config.quantize!r}, which a {kind.name} cannot be. "
            "Leave it out."
        )
    if config.align != "none" and kind.module not in _ALIGNED:
        raise BackboneError(
            f"{config.name}: align is {config.align!r}, which needs a text encoder, a text decoder "
            f"or an encoder-decoder, and this is a {kind.name}. Leave it out."
        )
    for setting, value in of_modality[modality].items():
        if value is not None:
            raise BackboneError(
                f"{config.name}: {setting} is {value!r}, but with --modality {modality} there is "
                "nothing for it to change. Leave it out."
            )


def model_type_of(resolved: ResolvedBackbone) -> str | None:
    """`model_type` of its config.json; `timm` for a model saved by timm."""
    document = read_config(resolved)
    if "model_type" not in document and "architecture" in document:
        return "timm"
    found = document.get("model_type")
    return str(found) if found is not None else None


def read_config(resolved: ResolvedBackbone) -> dict[str, Any]:
    """Its config.json.

    Raises:
        UnsupportedBackboneError: It is not a JSON object.
    """
    try:
        document = json.loads(resolved.config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnsupportedBackboneError(
            f"{resolved.config}: is not JSON ({error}). Copy or download the model again."
        ) from error
    if not isinstance(document, dict):
        raise UnsupportedBackboneError(
            f"{resolved.config}: holds a {type(document).__name__}, needed a JSON object. "
            "Copy or download the model again."
        )
    return document
