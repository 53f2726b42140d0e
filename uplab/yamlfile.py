"""YAML files with places: read, changed by ``--set``, validated, every error with its line."""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from uplab.errors import UsageError

T = TypeVar("T")
Place = tuple[str | int, ...]

_MAX_BYTES = 1 << 20


@dataclass
class Document:
    """A YAML mapping, the line of each of its fields, and what ``--set`` changed in it."""

    path: Path
    data: dict[str, Any]
    lines: dict[Place, int]
    overrides: dict[Place, str] = field(default_factory=dict)

    def where(self, place: Place) -> str:
        """The file and line of a field (or of what is around it), or the ``--set`` that made it."""
        for changed, text in self.overrides.items():
            if changed == place[: len(changed)]:
                return f"--set {text}"
        for length in range(len(place), -1, -1):
            if place[:length] in self.lines:
                return f"{self.path}:{self.lines[place[:length]]}"
        return str(self.path)


def read(path: Path) -> Document:
    """Read a YAML file that holds one mapping.

    Raises:
        UsageError: unreadable, not YAML, not a mapping, or a key given twice; with file and line.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{path}: larger than {_MAX_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"{path}: {reason}") from error
    node, data = _parse(path, text)
    if not isinstance(node, yaml.MappingNode) or not isinstance(data, dict):
        raise UsageError(f"{path}:1: expected a mapping of fields")
    lines: dict[Place, int] = {(): 1}
    _note_lines(path, node, (), lines)
    return Document(path, data, lines)


def _parse(path: Path, text: str) -> tuple[yaml.Node | None, Any]:
    """The nodes (for their lines) and the data of a YAML text without aliases."""
    try:
        if "*" in text:
            _refuse_aliases(path, text)
        # Read once for both: that is most of what a command takes before it does anything.
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return node, None if node is None else yaml.SafeLoader("").construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}:{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {str(error).splitlines()[0]}") from error
    except (ValueError, RecursionError) as error:
        # A date of month 13, or a tag that does not fit: PyYAML lets these through as they are.
        raise UsageError(f"{path}:1: not YAML: {error}") from error


def _refuse_aliases(path: Path, text: str) -> None:
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1 if event.start_mark else 1
            # Ten lines of them can name a billion fields, and one can contain itself.
            raise UsageError(f"{path}:{line}: not YAML: aliases (*{event.anchor}) are not read")


def _note_lines(path: Path, node: yaml.Node, place: Place, lines: dict[Place, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, key.value)
            if inner in lines:
                raise UsageError(
                    f"{path}:{key.start_mark.line + 1}: {dotted(inner)} is given twice "
                    f"(first in line {lines[inner]})"
                )
            lines[inner] = key.start_mark.line + 1
            _note_lines(path, value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*place, index)] = value.start_mark.line + 1
            _note_lines(path, value, (*place, index), lines)


def dotted(place: Iterable[str | int]) -> str:
    """A field's name as ``--set`` takes it: ``load.duration_s``."""
    return ".".join(str(part) for part in place)


def override(document: Document, settings: Iterable[str]) -> None:
    """Apply ``field.name=value`` settings; a value is read as YAML.

    Raises:
        UsageError: no ``=``, a value that is not YAML, or a way through something that is no
            mapping. Whether the field exists is for :func:`validate` to say, as for the file.
    """
    for setting in settings:
        name, equals, text = setting.partition("=")
        names = name.split(".")
        if not equals or not all(names):
            raise UsageError(f"--set {setting}: expected FIELD=VALUE, such as load.duration_s=30")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:
            raise UsageError(f"--set {setting}: the value is not YAML") from error
        target = document.data
        for depth, part in enumerate(names[:-1], start=1):
            if part not in target:
                # Made by this setting, so an error about it is this setting's.
                document.overrides.setdefault(tuple(names[:depth]), setting)
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise UsageError(f"--set {setting}: {part} holds no fields")
        target[names[-1]] = value
        document.overrides[tuple(names)] = setting


def validate(document: Document, model: type[T]) -> T:
    """Check a document against a dataclass or pydantic model.

    Returns:
        the model's instance.

    Raises:
        UsageError: one line per field that is wrong: file, line, field, what is allowed.
    """
    from pydantic import TypeAdapter, ValidationError

    # As JSON, because there pydantic can be strict (no text or boolean for a number) and still
    # take a list for a tuple.
    text = json.dumps(document.data, default=str)
    try:
        return TypeAdapter(model).validate_json(text, strict=True)
    except ValidationError as error:
        problems = [_problem(document, model, dict(entry)) for entry in error.errors()]
        raise UsageError("\n".join(problems)) from error


def _problem(document: Document, model: Any, entry: dict[str, Any]) -> str:
    place: Place = tuple(entry["loc"])
    message = str(entry["msg"]).removeprefix("Value error, ")
    own = (
        re.fullmatch(r"([a-z_]+(?:\.[\w-]+)*): (.*)", message) if "error" in entry["type"] else None
    )
    if own is not None:
        # A model's own check of more than one field says first which field is meant.
        inner = tuple(int(part) if part.isdigit() else part for part in own[1].split("."))
        place, message = (*place, *inner), own[2]
    if entry["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        allowed = ", ".join(_fields_at(model, place[:-1]))
        message = f"no such field; allowed are {allowed}" if allowed else "no such field"
    elif entry["type"] in ("missing", "missing_argument"):
        message = "this field is missing"
    elif not isinstance(entry["input"], dict | list):
        message = f"{message[0].lower()}{message[1:]}, found {entry['input']!r}"
    return f"{document.where(place)}: {dotted(place) or 'file'}: {message}"


def _fields_at(model: Any, place: Place) -> list[str]:
    """The names that a model allows at a place."""
    for part in place:
        hint: Any
        if dataclasses.is_dataclass(model) or hasattr(model, "model_fields"):
            hints = typing.get_type_hints(model)
            hint = hints.get(str(part))
        else:
            arguments = typing.get_args(model)
            hint = arguments[-1] if typing.get_origin(model) is dict else arguments[:1][0]
        if typing.get_origin(hint) in (types.UnionType, typing.Union):
            hint = typing.get_args(hint)[0]
        model = hint
    if hasattr(model, "model_fields"):
        return sorted(entry.alias or name for name, entry in model.model_fields.items())
    if dataclasses.is_dataclass(model):
        return sorted(entry.name for entry in dataclasses.fields(model))
    return []
