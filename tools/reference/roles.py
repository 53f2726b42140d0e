"""The variables of the roles, from what the roles check them against."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tools.reference.markdown import code, table, words

_HEAD = """# Role variables

A host's variables stand in the inventory. Ansible holds them against these descriptions before a
role does anything. Versions are in `playbooks/group_vars/all/pins.yml` and nowhere else.
"""
#: What follows in the file is made of what stands before it: nobody sets it.
_DERIVED = "# From here on derived"
_COMMENTED = re.compile(r"((?:^#.*\n)+)((?:^\w+:.*\n)+)", re.MULTILINE)


def page(root: Path) -> str:
    """The page: what all roles share, then a section for each role."""
    shared = root / "playbooks" / "group_vars" / "all" / "main.yml"
    rows = [
        (code(name), code(default) or "empty", words(why))
        for name, default, why in _commented(shared)
    ]
    parts = [_HEAD, "## All hosts\n", table(("variable", "default", "what it is"), rows)]
    for role in sorted(path for path in (root / "roles").iterdir() if path.is_dir()):
        parts.append(_section(role))
    return "\n".join(parts)


def _section(role: Path) -> str:
    spec = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    main = spec["argument_specs"]["main"]
    defaults = _read(role / "defaults" / "main.yml")
    rows = [
        (
            code(name),
            option["type"] + (f" of {option['elements']}" if "elements" in option else ""),
            _default(name, defaults),
            _meaning(option),
        )
        for name, option in sorted(main["options"].items())
    ]
    title = f"## {role.name}\n\n{words(main['short_description'])}.\n"
    return f"{title}\n{table(('variable', 'type', 'default', 'what it is'), rows)}"


def _meaning(option: dict[str, Any]) -> str:
    said = option.get("description", "")
    text = words(" ".join(said) if isinstance(said, list) else said)
    choices = ", ".join(code(str(choice)) for choice in option.get("choices", []))
    return f"{text} One of {choices}." if choices else text


def _default(name: str, defaults: dict[str, Any]) -> str:
    if name not in defaults:
        return "required"
    return code(_plain(defaults[name])) or "empty"


def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {} if path.is_file() else {}


def _commented(path: Path) -> Iterator[tuple[str, str, str]]:
    """Each variable with its default and the comment above it, which may be that of several."""
    text, values = path.read_text(encoding="utf-8").partition(_DERIVED)[0], _read(path)
    for comment, names in _COMMENTED.findall(text):
        why = " ".join(line.lstrip("# ") for line in comment.splitlines())
        for name in re.findall(r"^(\w+):", names, re.MULTILINE):
            yield name, _plain(values[name]), why


def _plain(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=1000).partition("\n")[0]
