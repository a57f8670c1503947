"""What a pipeline takes from another one, and what follows from its name and its data.

All of it happens on the mappings of the file, before they are checked as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .documents import SettingsError, nearest

ONE_STAGE = "features"
"""Name of the only extraction of a pipeline."""


def expand(name: str, documents: Mapping[str, Any], where: str) -> Any:
    """The mapping of a pipeline with everything but the folder of what it `extends`, unshared.

    Its own keys come first. Mappings are joined key by key; but where `name` differs, as that of
    a network does, the whole mapping is replaced, since the other keys belong to the other thing.

    Raises:
        SettingsError: It extends something that is not there, or in the end itself.
    """
    chain = [name]
    document = documents[name]
    while isinstance(document, Mapping) and "extends" in document:
        parent = document["extends"]
        if parent not in documents or not isinstance(parent, str):
            problem = f"found {parent!r}, {nearest(str(parent), [*documents])}"
            raise SettingsError(where, [f"{chain[-1]}.extends: {problem}"])
        if parent in chain:
            raise SettingsError(where, [f"{name}.extends: {' -> '.join([*chain, parent])}"])
        own = {key: value for key, value in document.items() if key != "extends"}
        chain.append(parent)
        document = documents[parent]
        if isinstance(document, Mapping):
            # The parent's runs lie in its folder, which no other pipeline shares.
            rest = {key: value for key, value in document.items() if key != "runs"}
            document = _joined(rest, own)
    return _unshared(document)


def complete(name: str, document: Any) -> Any:
    """The same mapping with what may be left out: folders, and the stages' data.

    `runs` is `runs/NAME`; a stage's `cache` lies there under the stage's name; its `data` is
    `FORMAT:ROOT`, or `ROOT` where no format is given.
    """
    if not isinstance(document, dict):
        return document
    runs = document.setdefault("runs", f"runs/{name}")
    stages = document.get("extract")
    if not isinstance(stages, dict):
        return document
    data = document.get("data")
    root = data.get("root") if isinstance(data, dict) else None
    for stage, settings in _named_stages(stages).items():
        if isinstance(settings, dict):
            settings.setdefault("cache", f"{runs}/{stage}.zarr")
            if root is not None:
                form = data.get("format") if isinstance(data, dict) else None
                settings.setdefault("data", root if form is None else f"{form}:{root}")
    return document


def is_one_stage(extract: Any) -> bool:
    """Whether `extract` holds the settings of one stage, not stages by name."""
    return not (
        isinstance(extract, Mapping)
        and extract
        and all(isinstance(stage, Mapping) for stage in extract.values())
    )


def _named_stages(extract: Mapping[str, Any]) -> dict[str, Any]:
    """Stages by name; a single one is called `features`."""
    return {ONE_STAGE: extract} if is_one_stage(extract) else dict(extract)


def _joined(base: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
    if own.get("name", base.get("name")) != base.get("name"):
        return own
    both = {
        key: _joined(base[key], value)
        for key, value in own.items()
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
    }
    return {**base, **own, **both}


def _unshared(value: Any) -> Any:
    """A copy in which anchors of YAML and other pipelines stand for themselves."""
    if isinstance(value, Mapping):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value
