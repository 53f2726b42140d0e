"""The pins: what each component is built from, whether they are pins at all, what hangs on them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from uplab.errors import UsageError

FILE = Path("playbooks") / "group_vars" / "all" / "pins.yml"

#: Words that mean something else tomorrow.
_FLOATING = frozenset({"latest", "stable", "nightly", "main", "master", "head", "trunk", "current"})
_FORMS = {
    "commit": (re.compile(r"[0-9a-f]{40}"), "40 hex digits"),
    "sha256": (re.compile(r"[0-9a-f]{64}"), "64 hex digits"),
    "url": (re.compile(r"https://[^\s@]+"), "an https address without a user's name"),
}
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")


def read(project: Path) -> dict[str, Any]:
    """The pins of the checkout, by component.

    Raises:
        UsageError: the file cannot be read as such.
    """
    path = project / FILE
    try:
        document = yaml.safe_load(path.read_text())
        pins = document["uplab_pins"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"{path}: no pins can be read there ({said})") from error
    if not isinstance(pins, dict):
        raise UsageError(f"{path}: uplab_pins must be a mapping of components")
    return pins


def problems(pins: Mapping[str, Any]) -> list[str]:
    """Everything that keeps a pin from being one: ``component.field: what is wrong``."""
    found = []
    for name, pin in pins.items():
        if not isinstance(pin, dict) or not isinstance(pin.get("policy"), str):
            found.append(f"{name}: has no policy")
            continue
        for field, value in _leaves(pin, ()):
            wrong = _wrong(field[-1], value)
            if wrong:
                found.append(f"{'.'.join((name, *field))}: {wrong}")
    return found


def _leaves(value: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each plain value below a pin, with the names that lead to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*place, str(key)))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, place)
    else:
        yield place, value


def _wrong(field: str, value: Any) -> str | None:
    """What is wrong with a field's value; None where nothing is."""
    if not isinstance(value, str | int) or isinstance(value, bool):
        # YAML makes 1.20 the number 1.2.
        is_number = isinstance(value, float)
        return f"{value!r} is read as a number; put it in quotes" if is_number else None
    text = str(value)
    for end, (form, wanted) in _FORMS.items():
        if field == end or field.endswith(f"_{end}"):
            return None if form.fullmatch(text) else f"{text!r} is not {wanted}"
    if field in ("packages", "run_packages") and not _PACKAGE.fullmatch(text):
        return f"{text!r} is no name of a Debian package"
    floats = field in ("version", "tag", "toolchain", "branch") and text.lower() in _FLOATING
    return f"{text!r} is not a version: it means something else tomorrow" if floats else None


def dependents(project: Path, pins: Mapping[str, Any]) -> dict[str, list[str]]:
    """For each component, what is rebuilt when its pin changes: those that use it, and so on.

    A component uses another one where its role names the other one's place in the store or its pin.
    """
    uses = {
        name: (_used_by_role(project / "roles" / name, pins) | _needs(pin)) - {name}
        for name, pin in pins.items()
    }
    found = {}
    for name in pins:
        reached = {name}
        while more := {user for user, used in uses.items() if used & reached} - reached:
            reached |= more
        found[name] = sorted(reached - {name})
    return found


def _needs(pin: Any) -> set[str]:
    return set(pin.get("needs", [])) if isinstance(pin, dict) else set()


def _used_by_role(role: Path, names: Mapping[str, Any]) -> set[str]:
    texts = [path.read_text() for path in sorted(role.rglob("*.yml"))]
    forms = {name: re.compile(rf"current/{name}\b|uplab_pins\.{name}\b") for name in names}
    return {name for name, form in forms.items() if any(form.search(text) for text in texts)}


def as_text(project: Path) -> tuple[str, list[str]]:
    """The pins for a person, and what is wrong with them.

    Raises:
        UsageError: the file cannot be read.
    """
    pins = read(project)
    after = dependents(project, pins)
    lines = []
    for name, pin in pins.items():
        lines.append(name)
        for field, value in _leaves(pin, ()) if isinstance(pin, dict) else ():
            if field != ("packages",):
                lines.append(f"  {'.'.join(field)}: {value}")
        packages = pin.get("packages") if isinstance(pin, dict) else None
        if packages:
            lines.append(f"  packages: {', '.join(map(str, packages))}")
        rebuilt = ", ".join([name, *after[name]])
        lines.append(f"  a change rebuilds: {rebuilt}")
    return "\n".join(lines), problems(pins)
