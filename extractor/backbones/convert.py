"""Released checkpoints of MDETR and CLIP-ViL as folders that can be used as backbones.

A folder holds config.json with the sizes, model.safetensors with the frozen network under its
released names, heads.safetensors with what is trained on it, and the tokenizer's files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .aliases import ALIASES
from .errors import BackboneNotFoundError, UnsupportedBackboneError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import Tensor, nn

CheckpointKind = Literal["mdetr", "clip-vil"]
# The text encoders that the authors used.
TOKENIZERS: dict[CheckpointKind, str] = {"mdetr": "roberta-base", "clip-vil": "bert-base"}


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        folder: Where to; a backbone's name.
        num_parameters: Of the frozen network.
        heads: Names of the tensors in heads.safetensors.
        left_out: Names of tensors that nothing here needs.
    """

    folder: Path
    num_parameters: int
    heads: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Parts:
    """A checkpoint taken apart.

    Attributes:
        sizes: For config.json.
        network: Of the frozen network, by its released names.
        heads: Of what is trained.
        left_out: Names of the rest.
        make: Builds the network that the sizes describe.
    """

    sizes: BaseModel
    network: Mapping[str, Tensor]
    heads: Mapping[str, Tensor]
    left_out: tuple[str, ...]
    make: Callable[[Any], nn.Module]


def convert_checkpoint(
    kind: CheckpointKind, checkpoint: Path | str, folder: Path | str, *, tokenizer: str | None
) -> Conversion:
    """Write a released checkpoint as a folder for `--backbone`.

    Args:
        kind: Of the checkpoint.
        checkpoint: The authors' file. Only tensors and plain settings are read, no code is run.
        folder: Where to; it must not exist, or be empty.
        tokenizer: Alias, hub id or folder of the text encoder that it was trained with; None for
            the authors' choice.

    Raises:
        BackboneNotFoundError: There is no such checkpoint, or no such tokenizer.
        UnsupportedBackboneError: It holds something else, or the folder is not empty.
    """
    source, target = Path(checkpoint), Path(folder)
    if not source.is_file():
        raise BackboneNotFoundError(f"{source}: there is no such file. Check the path.")
    if target.exists() and any(target.iterdir()):
        raise UnsupportedBackboneError(
            f"{target}: is not empty, and nothing is overwritten. Name a new folder."
        )
    document = _read(source)
    text_settings, saved_tokenizer = _text_encoder(tokenizer or TOKENIZERS[kind])
    from .released import save_network

    if kind == "mdetr":
        from .mdetr.released import take_apart
    else:
        from .clip_vil.released import take_apart
    parts = take_apart(source, document, text_settings)
    _check(source, parts)
    save_network(target, parts.sizes, parts.network, parts.heads, saved_tokenizer)
    return Conversion(
        folder=target,
        num_parameters=sum(value.numel() for value in parts.network.values()),
        heads=tuple(sorted(parts.heads)),
        left_out=parts.left_out,
    )


def _read(source: Path) -> dict[str, Any]:
    """The file's dictionary, by torch's loader that runs no code."""
    from argparse import Namespace
    from pickle import UnpicklingError

    import torch

    try:
        # MDETR's checkpoints hold their command line, which is a plain record.
        with torch.serialization.safe_globals([Namespace]):
            document = torch.load(source, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UnsupportedBackboneError(
            f"{source}: cannot be read without running code from it ({said}), needed a checkpoint "
            "of tensors. Download it again, or save its state_dict with torch.save."
        ) from error
    if not isinstance(document, dict):
        raise UnsupportedBackboneError(
            f"{source}: holds a {type(document).__name__}, needed a dictionary of tensors. "
            "Save the model's state_dict with torch.save."
        )
    return document


def tensors_of(document: Mapping[str, Any], *prefixes: str) -> dict[str, Tensor]:
    """The tensors of a state_dict, without the prefixes that training put before every name."""
    import torch

    tensors = {}
    for name, value in document.items():
        short = name
        for prefix in prefixes:
            short = short.removeprefix(prefix)
        if isinstance(value, torch.Tensor):
            tensors[short] = value
    return tensors


def count(names: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered parts follow a prefix: of `layers.`, one more than the highest number."""
    numbers = {name[len(prefix) :].partition(".")[0] for name in names if name.startswith(prefix)}
    return max((int(number) + 1 for number in numbers if number.isdigit()), default=0)


def size_of(source: Path, tensors: Mapping[str, Tensor], name: str, axis: int) -> int:
    """The length of a tensor that every checkpoint of this kind has.

    Raises:
        UnsupportedBackboneError: It is not there.
    """
    if name not in tensors:
        raise UnsupportedBackboneError(
            f"{source}: has no tensor {name!r}, there are {sorted(tensors)[:3]!r} and "
            f"{max(0, len(tensors) - 3)} more. Check the kind and the file."
        )
    return int(tensors[name].shape[axis])


def _check(source: Path, parts: Parts) -> None:
    import torch

    with torch.device("meta"):
        own = parts.make(parts.sizes).state_dict()
    wanted = {name for name in own if not name.endswith("num_batches_tracked")}
    missing = sorted(wanted - parts.network.keys())
    wrong = sorted(
        name for name in wanted & parts.network.keys()
        if parts.network[name].shape != own[name].shape
    )  # fmt: skip
    if missing or wrong:
        raise UnsupportedBackboneError(
            f"{source}: {len(missing)} tensors are missing and {len(wrong)} have another size, "
            f"such as {[*missing, *wrong][0]!r}. Name the tokenizer of its text encoder with "
            "--tokenizer, or check the file."
        )


def _text_encoder(name: str) -> tuple[dict[str, Any], Any]:
    """Settings and tokenizer of a text encoder, without its weights."""
    from transformers import AutoConfig, AutoTokenizer

    place = ALIASES[name].hub_id if name in ALIASES else name
    load: Any = AutoTokenizer.from_pretrained
    try:
        settings = AutoConfig.from_pretrained(place).to_dict()
        tokenizer = load(place)
    except (OSError, ValueError) as error:
        raise BackboneNotFoundError(
            f"{name}: no tokenizer can be loaded from there "
            f"({str(error).splitlines()[0].rstrip('.')}). Name an alias, a hub id or a folder with "
            "--tokenizer."
        ) from error
    return settings, tokenizer
