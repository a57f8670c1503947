"""From a backbone's name to files on this machine, without loading anything.

This is all that a second run on a finished cache needs, so nothing here imports torch or
transformers.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from .aliases import ALIASES, nearest_alias
from .config import BackboneConfig
from .errors import BackboneNotFoundError, UnknownBackboneError, UnsupportedBackboneError
from .hub import download_model
from .timm_names import with_tag

_CONVERT = (
    'python -c "import sys; from transformers import AutoModel, AutoProcessor; s, d = sys.argv[1:];'
    " AutoModel.from_pretrained(s).save_pretrained(d);"
    ' AutoProcessor.from_pretrained(s).save_pretrained(d)"'
)
_SAVE_TIMM = "timm.models.save_for_hf(MODEL, FOLDER, safe_serialization=True)"
_SAVE = f"MODEL.save_pretrained(FOLDER), of timm {_SAVE_TIMM}"
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt",
)  # fmt: skip
# The second is what transformers 5 saves for models of several inputs.
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class ResolvedBackbone:
    """Where a backbone's files are.

    Attributes:
        name: As the user asked for it.
        load_name: The name that finds it again from any working directory.
        model: Hub id, or absolute folder.
        revision: Commit on the hub; None for a folder.
        folder: Where its files lie.
        weights: Its safetensors files, sorted.
        tokenizer: Its tokenizer files, sorted; none where it reads no text.
        processor: Files that say how its images are made; none where it reads no images.
        code: Python files that come with it, sorted; they run only if the user says so.
    """

    name: str
    load_name: str
    model: str
    revision: str | None
    folder: Path
    weights: tuple[Path, ...]
    tokenizer: tuple[Path, ...]
    processor: tuple[Path, ...]
    code: tuple[Path, ...]

    @property
    def config(self) -> Path:
        """Its config.json."""
        return self.folder / "config.json"

    def stamp(self) -> dict[str, JsonValue]:
        """Path, size and time of change of every file: equal stamps mean nothing was touched."""
        files = (self.config, *self.weights, *self.tokenizer, *self.processor, *self.code)
        stats = {path.name: path.stat() for path in files}
        return {
            "model": self.model,
            "revision": self.revision,
            "folder": str(self.folder),
            "files": {name: [s.st_size, s.st_mtime_ns] for name, s in stats.items()},
        }


def resolve_backbone(config: BackboneConfig) -> ResolvedBackbone:
    """Find a backbone's files, downloading them from the hub where they are not here yet.

    Raises:
        UnknownBackboneError: The name is no alias, no hub id and no folder.
        BackboneNotFoundError: No such folder or repository, or the hub cannot be reached.
        UnsupportedBackboneError: There are files, but no safetensors weights or no config.
    """
    alias = ALIASES.get(config.name)
    if alias is not None:
        packaged = _package_folder(alias.package) if config.revision is None else None
        if packaged is not None:
            return _inspect(config.name, config.name, alias.hub_id, None, packaged)
        return _from_hub(config, alias.hub_id)
    path = Path(config.name).expanduser()
    if path.is_file():
        raise UnsupportedBackboneError(
            f"{config.name}: is a file, needed a folder with config.json and its weights. Save the "
            f"model as one, {_SAVE}, and name the folder."
        )
    if path.is_dir():
        if config.revision is not None:
            raise UnknownBackboneError(
                f"{config.name}: a folder has no revision, but {config.revision!r} was asked for. "
                "Leave --revision out, or name a hub repository."
            )
        folder = path.resolve()
        return _inspect(config.name, str(folder), str(folder), None, folder)
    if config.name.count("/") == 1 and config.name[0] not in "./~":
        return _from_hub(config, config.name)
    raise _unknown(config.name)


def _unknown(name: str) -> Exception:
    if "/" in name or name.startswith((".", "~")):
        return BackboneNotFoundError(
            f"{name}: there is no such folder. Check the path, or use an alias or a hub id."
        )
    nearest = nearest_alias(name)
    meant = f"Did you mean {nearest!r}?" if nearest else f"Aliases: {', '.join(ALIASES)}."
    return UnknownBackboneError(
        f"{name}: no backbone of this name; needed an alias, a hub id (owner/name) or a folder. "
        + meant
    )


def _package_folder(package: str | None) -> Path | None:
    # find_spec looks the package up without running it: it would import sentence-transformers.
    spec = importlib.util.find_spec(package) if package else None
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return folder if folder.is_dir() else None


def _from_hub(config: BackboneConfig, name: str) -> ResolvedBackbone:
    hub_id = with_tag(name)
    folder, commit = download_model(hub_id, config.revision, with_code=config.trust_remote_code)
    return _inspect(config.name, hub_id, hub_id, commit, folder)


def _inspect(
    name: str, load_name: str, model: str, revision: str | None, folder: Path
) -> ResolvedBackbone:
    if not (folder / "config.json").is_file():
        raise UnsupportedBackboneError(
            f"{name}: no config.json in {folder}, needed a model saved by transformers or timm. "
            f"There are {sorted(p.name for p in folder.iterdir())!r}. Save one: {_SAVE}."
        )
    tokenizer = [folder / file for file in _TOKENIZER_FILES if (folder / file).is_file()]
    processor = [folder / file for file in _PROCESSOR_FILES if (folder / file).is_file()]
    return ResolvedBackbone(
        name=name,
        load_name=load_name,
        model=model,
        revision=revision,
        folder=folder,
        weights=_weights(name, model, folder),
        tokenizer=tuple(sorted([*tokenizer, *folder.glob("*.model")])),
        processor=tuple(processor),
        code=tuple(sorted(folder.glob("*.py"))),
    )


def _weights(name: str, model: str, folder: Path) -> tuple[Path, ...]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return (single,)
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing:
            raise UnsupportedBackboneError(
                f"{name}: {index.name} names {missing!r}, which {folder} lacks. "
                "Copy or download the model again."
            )
        return tuple(folder / shard for shard in shards)
    if "architecture" in json.loads((folder / "config.json").read_text(encoding="utf-8")):
        raise UnsupportedBackboneError(
            f"{name}: {folder} has the config.json of a timm model and no model.safetensors. "
            f"Save both: {_SAVE_TIMM}."
        )
    pickled = "only pytorch_model*.bin" if any(folder.glob("pytorch_model*.bin")) else "none"
    raise UnsupportedBackboneError(
        f"{name}: weights in safetensors are needed, {model} has {pickled}; pickled weights can "
        f"run code and are not loaded. Convert a copy you trust: {_CONVERT} {model} CONVERTED, "
        "then --backbone CONVERTED."
    )
