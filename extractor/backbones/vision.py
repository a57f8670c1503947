"""Vision models of transformers: ViTs as a sequence of tokens, the others as maps.

I images, T tokens, D width, H height, W width of the image or of a map.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cache_schema import BackboneSpec, StreamSpec

from .config import BackboneConfig
from .device import pick_device, resolve_precision
from .errors import BackboneError, UnsupportedBackboneError
from .identity import file_identity
from .image_model import ImageForward, ImageModel, Shape, States, keep_layers
from .images import ImageReader
from .loading import load_model
from .packing import rows_of_map
from .processor import load_recipe
from .resolve import ResolvedBackbone
from .text import chosen_layers, image_size_option
from .watching import describe_layers, watch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..media import ImageRecipe

TOKENS = "tokens"


@dataclass(frozen=True)
class VisionForward:
    """Runs a vision model: all its hidden states, or the last one of every map size.

    Attributes:
        model: As transformers has it.
        options: Of its forward pass.
    """

    model: PreTrainedModel
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, pixels_I3HW: Tensor) -> States:
        """`tokens`, or `stage1`, `stage2`, ... from the finest map to the coarsest."""
        states, sizes = self.states(pixels_I3HW)
        if not sizes:
            return {TOKENS: states}
        rows = [rows_of_map(s) if s.dim() == 4 else s for s in states]
        # A pooled token in front of the last map has no place in it.
        rows[-1] = rows[-1][:, -math.prod(sizes[-1]) :]
        return {f"stage{stage}": [state] for stage, state in enumerate(rows, 1)}

    def states(self, pixels_I3HW: Tensor) -> tuple[list[Tensor], list[tuple[int, int]]]:
        """All states (I, T, D) of a ViT; or the last map (I, D, H, W) of each size, and the sizes.

        The last one is the model's real last state, (I, T, D) where that is no map any more.
        """
        outputs = self.model(pixel_values=pixels_I3HW, output_hidden_states=True, **self.options)
        maps = getattr(outputs, "reshaped_hidden_states", None) or outputs.hidden_states
        if maps[0].dim() == 3:
            # Some families have a norm after the last block that hidden_states leaves out.
            return [*maps[:-1], outputs.last_hidden_state], []
        # The first map is what enters the first stage; stages give one map each, or several.
        last_of_size = {(m.shape[2], m.shape[3]): m for m in maps[1:]}
        states = [*list(last_of_size.values())[:-1], outputs.last_hidden_state]
        return states, list(last_of_size)


def load(
    resolved: ResolvedBackbone, config: BackboneConfig, device: torch.device | str
) -> ImageModel:
    """Load a vision model that `resolve_backbone` found.

    Raises:
        UnsupportedBackboneError: Its files do not make a whole model, or its processor does
            something that is not supported.
        BackboneError: A setting does not fit the model.
    """
    place = pick_device(device)
    precision = resolve_precision(config.precision, place)
    recipe = load_recipe(resolved, config.image_size)
    model = load_model(resolved, config, precision, place, with_pooler=True)
    keep_maps_of_stages(model)
    options = size_options(resolved.name, model, recipe, model.config)
    forward = VisionForward(model, options)
    streams, shapes = describe(resolved.name, model, forward, recipe)
    return assemble(resolved, config, model, forward, recipe, streams, shapes, precision)


def describe(
    name: str, model: PreTrainedModel, forward: VisionForward, recipe: ImageRecipe
) -> tuple[list[StreamSpec], dict[str, Shape]]:
    """Streams and layers of a vision model, found out by running one image.

    Raises:
        BackboneError: The model does not take images of this size.
        UnsupportedBackboneError: Its states do not make streams.
    """
    sample = probe_pixels(model, recipe)
    try:
        (states, sizes), calls = watch(model, lambda: forward.states(sample))
    except (ValueError, RuntimeError) as error:
        raise wrong_size(name, model, recipe, error) from error
    if sizes:
        layers = describe_layers(calls, states, first_index=1)
        names = [f"stage{layer.index}" for layer in layers]
        widths = [state.shape[1 if state.dim() == 4 else 2] for state in states]
        streams = [
            StreamSpec(name=stage, width=width, layers=(layer,))
            for stage, width, layer in zip(names, widths, layers, strict=True)
        ]
        places = [Shape(("height", "width"), size) for size in sizes]
        return streams, dict(zip(names, places, strict=True))
    if len({state.shape for state in states}) > 1:
        found = sorted({tuple(state.shape[1:]) for state in states})
        raise UnsupportedBackboneError(
            f"{name}: its hidden states are of shapes {found}, needed the same tokens and width in "
            "every layer. Choose another backbone."
        )
    _, num_tokens, width = states[0].shape
    stream = StreamSpec(name=TOKENS, width=width, layers=describe_layers(calls, states))
    return [stream], {TOKENS: Shape(("tokens",), (num_tokens,))}


def assemble(
    resolved: ResolvedBackbone,
    config: BackboneConfig,
    model: PreTrainedModel,
    forward: ImageForward,
    recipe: ImageRecipe,
    streams: Sequence[StreamSpec],
    shapes: dict[str, Shape],
    precision: str,
) -> ImageModel:
    """The backbone of a model whose streams are known."""
    kept = keep_layers(resolved.name, streams, shapes, config.layers)
    return ImageModel(
        forward,
        ImageReader(recipe, config.frames),
        spec=BackboneSpec(
            name=resolved.name,
            source="huggingface",
            model=resolved.model,
            revision=resolved.revision,
            architecture=type(model).__name__,
            num_parameters=sum(p.numel() for p in model.parameters()),
            options={
                "load_name": resolved.load_name,
                "layers": chosen_layers(config),
                "modality": config.modality,
                "frames": config.frames,
                "image_size": image_size_option(config),
                "precision": precision,
                "quantize": config.quantize,
                "trust_remote_code": config.trust_remote_code,
            },
        ),
        streams=kept,
        identity={
            **file_identity(resolved, config),
            "architecture": type(model).__name__,
            "modality": config.modality,
            "image": recipe.identity,
            "frames": config.frames,
            "layers": {s.name: [layer.index for layer in s.spec.layers] for s in kept},
            "final_norms": {s.name: [layer.final_norm for layer in s.spec.layers] for s in kept},
            "precision": precision,
            "quantize": config.quantize,
            "attention": str(model.config._attn_implementation),
        },
        device=model.device,
        dtype=getattr(torch, precision),
    )


def size_options(
    name: str, model: PreTrainedModel, recipe: ImageRecipe, vision_config: Any
) -> dict[str, Any]:
    """What the forward pass needs to read images of the recipe's size.

    Raises:
        BackboneError: Patches would not cover the image.
    """
    patch = getattr(vision_config, "patch_size", None)
    is_flat = not hasattr(vision_config, "depths")
    if isinstance(patch, int) and is_flat and any(side % patch for side in recipe.size):
        raise BackboneError(
            f"{name}: the image size is {recipe.size[0]} x {recipe.size[1]}, needed multiples of "
            f"its patches of {patch} pixels. Choose another --image-size."
        )
    own = getattr(vision_config, "image_size", None)
    own_size = (own, own) if isinstance(own, int) else None if own is None else tuple(own)
    if "interpolate_pos_encoding" in inspect.signature(model.forward).parameters:
        return {"interpolate_pos_encoding": own_size != recipe.size}
    return {}


def keep_maps_of_stages(model: PreTrainedModel) -> None:
    """Make Swin give each stage's own map: it gives that of the next one's size unless asked."""
    before = "output_hidden_states_before_downsampling"
    encoder = getattr(model, "encoder", None)
    if encoder is not None and before in inspect.signature(encoder.forward).parameters:

        def ask(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            return args, {**kwargs, before: True}

        encoder.register_forward_pre_hook(ask, with_kwargs=True)


def probe_pixels(model: PreTrainedModel, recipe: ImageRecipe) -> Tensor:
    """One image in which no two patches are alike."""
    height, width = recipe.size
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((1, 3, height, width), generator=generator)
    return noise.to(model.device, next(model.parameters()).dtype)


def wrong_size(
    name: str, model: PreTrainedModel, recipe: ImageRecipe, error: Exception
) -> BackboneError:
    """The error for a model that does not take images of the recipe's size."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return BackboneError(
        f"{name}: {type(model).__name__} does not run on images of {recipe.size[0]} x "
        f"{recipe.size[1]} ({said}). Choose another --image-size."
    )
