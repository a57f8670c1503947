"""Frozen settings with unknown keys forbidden, and `path=value` changes to them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import ConfigError

SettingsT = TypeVar("SettingsT", bound=BaseModel)


# Keys that decide what the rest of their section means, so they are set first and reset the rest.
_DECIDING = ("name", "preset")
# A flag of the command that is not called as its setting, and nothing like it.
_SETTING_OF_FLAG = {"lr": "learning_rates"}


class Settings(BaseModel):
    """A frozen document of settings: unknown keys are errors, values are checked once."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def with_overrides(config: SettingsT, overrides: Sequence[str]) -> SettingsT:
    """The same settings with some changed.

    Args:
        config: Any settings document.
        overrides: `path=value` each, such as `optimizer.weight_decay=0.1`. A value is JSON where
            it is JSON, else text. `network.name=probe` and `network.preset=paper` replace the
            whole section by its defaults under that name; other paths apply to the new section.

    Raises:
        ConfigError: Names every unknown key with the nearest known one, and every wrong value.
    """
    pairs = [_split(override) for override in overrides]
    pairs.sort(key=lambda pair: _DECIDING.index(pair[0][-1]) if pair[0][-1] in _DECIDING else 9)
    data = config.model_dump(mode="json")
    problems: list[str] = []
    for path, value in pairs:
        problem = _unknown_key(type(config), data, path)
        if problem is None:
            _assign(data, path, value)
        else:
            problems.append(problem)
    try:
        changed = type(config).model_validate(data)
    except ValidationError as error:
        raise ConfigError("--set", [*problems, *explain(error, type(config))]) from error
    if problems:
        raise ConfigError("--set", problems)
    return changed


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Each problem of a document as `path: what is wrong`, unknown keys with the nearest one."""
    details = error.errors()
    # A list without its wrong entries may be too short: the entries are what is wrong.
    inner = {detail["loc"][:end] for detail in details for end in range(len(detail["loc"]))}
    return [_explain_one(dict(d), model) for d in details if d["loc"] not in inner]


def _explain_one(detail: Mapping[str, Any], model: type[BaseModel]) -> str:
    path, section = _readable_path(detail["loc"], model)
    if detail["type"] == "extra_forbidden" and section is not None:
        return f"{path}: {_nearest(path.rsplit('.', 1)[-1], section)}"
    if detail["type"] in ("union_tag_invalid", "literal_error"):
        expected = detail["ctx"].get("expected_tags") or detail["ctx"].get("expected")
        found = detail["ctx"].get("tag", detail["input"])
        return f"{path}: {found!r} is unknown, there are {expected}"
    if detail["type"] == "missing":
        return f"{path}: is needed"
    message = detail["msg"].lower().removeprefix("value error, ")
    return f"{path}: {message}, found {detail['input']!r}"


def _readable_path(
    location: Sequence[int | str], model: type[BaseModel]
) -> tuple[str, type[BaseModel] | None]:
    """A location without union tags, and the section that its last key lies in."""
    section: type[BaseModel] | None = model
    members: Sequence[type[BaseModel]] = ()
    names = []
    for part in location:
        tagged = [member for member in members if _tag(member) == part]
        if tagged:
            section, members = tagged[0], ()
            continue
        names.append(str(part))
        field = section.model_fields.get(str(part)) if section is not None else None
        if field is not None and part != location[-1]:
            members = _sections(field.annotation)
            section = members[0] if len(members) == 1 else None
    return ".".join(names) or "settings", section


def _split(override: str) -> tuple[list[str], object]:
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise ConfigError("--set", [f"{override!r}: needed path=value, such as epochs=3"])
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    return path.strip().split("."), value


def _assign(data: dict[str, Any], path: Sequence[str], value: object) -> None:
    *parents, key = path
    for parent in parents:
        data = data[parent]
    if isinstance(data.get(key), str) and not isinstance(value, str) and value is not None:
        value = str(value)
    if key in _DECIDING and data.get(key) != value:
        kept = {name: data[name] for name in _DECIDING[: _DECIDING.index(key)] if name in data}
        data.clear()
        data.update(kept)
    data[key] = value


def _unknown_key(
    model: type[BaseModel], data: Mapping[str, Any], path: Sequence[str]
) -> str | None:
    """What is wrong with a path, following each union to the member that is in use."""
    section: type[BaseModel] | None = model
    for depth, key in enumerate(path):
        here = ".".join(path[: depth + 1])
        if section is None:
            return f"{here}: {'.'.join(path[:depth])} is a value, not a section"
        if key not in section.model_fields:
            return f"{here}: {_nearest(key, section)}"
        members = _sections(section.model_fields[key].annotation)
        data = data[key] if isinstance(data.get(key), dict) else {}
        if len(members) > 1:
            members = [member for member in members if _tag(member) == data.get("name")]
        section = members[0] if members else None
    return None


def nearest_setting(key: str, section: type[BaseModel]) -> str | None:
    """The path of the known key that was meant, of a section or of those right below it."""
    fields = section.model_fields
    below = {
        inner: f"{name}.{inner}"
        for name, field in fields.items()
        for part in _sections(field.annotation)
        for inner in part.model_fields
    }
    paths = {**below, **dict(zip(fields, fields, strict=True))}
    near = difflib.get_close_matches(_SETTING_OF_FLAG.get(key, key), paths, n=1, cutoff=0.5)
    return paths[near[0]] if near else None


def _nearest(key: str, section: type[BaseModel]) -> str:
    found = nearest_setting(key, section)
    if found is None:
        return f"unknown key, there are {sorted(section.model_fields)!r}"
    how = f" Set it with overrides or --set: {found}=VALUE" if "." in found else ""
    return f"unknown key, did you mean {found!r}?{how}"


def _sections(annotation: object) -> list[type[BaseModel]]:
    """The documents that a field may hold: one, several for a union, none for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is Literal:
        return []
    return [section for part in get_args(annotation) for section in _sections(part)]


def _tag(section: type[BaseModel]) -> object:
    """The name that selects a member of a union; None for a document without one."""
    field = section.model_fields.get("name")
    return get_args(field.annotation)[0] if field and get_args(field.annotation) else None
