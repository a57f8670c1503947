"""A user's settings -> a frozen pydantic model, with every problem and its path at once.

Settings come from `pipelines.yaml`, from flags and from `--set path=value`; all of them end here.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, RootModel, ValidationError
from yaml.composer import ComposerError

from cache_schema import UserError

Model = TypeVar("Model", bound=BaseModel)


class SettingsError(UserError):
    """A document or a setting is not what the model takes."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        if len(problems) == 1:
            super().__init__(f"{where}: {problems[0]}")
        else:
            listed = "".join(f"\n  {problem}" for problem in problems)
            super().__init__(f"{where}: {len(problems)} problems{listed}")


def parse(model: type[Model], data: object, where: str) -> Model:
    """Validate `data` as a whole.

    Raises:
        SettingsError: Names every problem with its path and, for an unknown key, the nearest one.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise SettingsError(where, problems(error, model)) from error


def problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Each problem as `path: what was found, what was needed`."""
    by_path: dict[str, list[str]] = {}
    for line in error.errors(include_url=False):
        path, problem = _problem(dict(line), model)
        by_path.setdefault(path, []).append(problem)
    # A value that fits no member of a union has one problem for each: they belong together.
    return [": ".join(filter(None, (p, " or ".join(found)))) for p, found in by_path.items()]


def nearest(word: str, known: Sequence[str]) -> str:
    """`did you mean 'lr'?`, or the known words where none is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"


def apply_settings(data: dict[str, Any], settings: Sequence[str], flag: str = "--set") -> None:
    """Write each `path.to.key=value` into nested `data`; values are read as YAML.

    Raises:
        SettingsError: A setting has no `=`, or its path goes through something that has no keys.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not all(path.split(".")):
            raise SettingsError(flag, [f"found {setting!r}, needed path=value"])
        inner: Any = data
        *parents, last = path.split(".")
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise SettingsError(flag, [f"{path}: {parent!r} is {inner!r}, it has no keys"])
        inner[last] = read_yaml(text, f"{flag} {setting}")


def read_yaml(text: str, where: str) -> Any:
    """One YAML document.

    Raises:
        SettingsError: It is not YAML, or names a key twice; names line and column.
    """
    try:
        return yaml.load(text, _UniqueKeysLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or str(error)
        raise SettingsError(where, [f"{place}not valid YAML, {reason}"]) from error


class _UniqueKeysLoader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which the library keeps the last one silently."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Before keys are merged (`<<`): those may be given again.
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, object], int] = {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in seen:
                raise ComposerError(
                    None,
                    None,
                    f"the key {key.value!r} is there twice, first in line {seen[name]}. Remove or "
                    "rename one",
                    key.start_mark,
                )
            seen[name] = line
        return node


def _problem(line: dict[str, Any], model: type[BaseModel]) -> tuple[str, str]:
    """The path as the user wrote it, and what is wrong there."""
    keys, parent = _follow(model, line["loc"])
    path = ".".join(str(key) for key in keys)
    if line["type"] == "extra_forbidden":
        return path, f"unknown key, {_nearest_key(str(keys[-1]), parent)}"
    if line["type"] == "missing":
        return path, "missing"
    if line["type"].startswith("union_tag"):
        return _tag_problem(path, line["ctx"])
    message = line["msg"][:1].lower() + line["msg"][1:]
    message = message.removeprefix("value error, ")
    found = "" if isinstance(line["input"], dict | list) else f"found {line['input']!r}, "
    return path, f"{found}{message}"


def _nearest_key(key: str, section: type[BaseModel]) -> str:
    from trainer import nearest_setting

    near = nearest_setting(key, section)
    return f"did you mean {near!r}?" if near else nearest(key, [*section.model_fields])


def _tag_problem(path: str, context: dict[str, str]) -> tuple[str, str]:
    path = f"{path}.{context['discriminator'].strip(chr(39))}"
    if "tag" not in context:
        return path, "missing"
    known = [tag.strip("' ") for tag in context["expected_tags"].split(",")]
    return path, f"found {context['tag']!r}, {nearest(context['tag'], known)}"


def _follow(model: type[BaseModel], path: Sequence[str | int]) -> tuple[list[str | int], Any]:
    """The keys of a pydantic error path as the user wrote them, and the type that holds the last.

    At a union pydantic adds a step that names the member it chose; the user wrote no such key.
    """
    keys: list[str | int] = []
    kind: Any = model
    holder: Any = model
    for part in path:
        kind = _bare(kind)
        if get_origin(kind) in (Union, types.UnionType):
            kind = next((m for m in map(_plain, get_args(kind)) if _is_named(m, str(part))), None)
            continue
        keys.append(part)
        holder = kind
        kind = _inside(kind, part)
    return keys, holder


def _plain(kind: Any) -> Any:
    """The type without `Annotated`."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind


def _bare(kind: Any) -> Any:
    """The type without `Annotated`, without `| None` and without a root model around it."""
    kind = _plain(kind)
    if isinstance(kind, type) and issubclass(kind, RootModel):
        return _bare(kind.model_fields["root"].annotation)
    if get_origin(kind) in (Union, types.UnionType):
        members = [member for member in get_args(kind) if member is not type(None)]
        return _bare(members[0]) if len(members) == 1 else kind
    return kind


def _inside(kind: Any, key: str | int) -> Any:
    """The type of what lies under `key` of a model, a mapping or a sequence."""
    if _is_model(kind):
        field = kind.model_fields.get(str(key))
        return field.annotation if field else None
    origin, arguments = get_origin(kind), get_args(kind)
    if not arguments or not isinstance(origin, type):
        return None
    return arguments[1] if issubclass(origin, Mapping) else arguments[0]


def _is_named(kind: Any, name: str) -> bool:
    """Whether pydantic calls this member of a union `name`: its tag, or its class."""
    if not _is_model(kind):
        return False
    tags = [
        tag
        for field in kind.model_fields.values()
        if get_origin(field.annotation) is Literal
        for tag in get_args(field.annotation)
    ]
    return name in tags or name == kind.__name__


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
