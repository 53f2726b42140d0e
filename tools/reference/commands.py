"""Every task with its flags, from what the command line itself is made of."""

from __future__ import annotations

import inspect
import re
from typing import Any

import tasks
from tools.reference.markdown import code, table, words
from uplab.cli.common import UplabTask

_HEAD = """# Command line

`./invoke TASK --help` says the same. A value follows its flag after a blank or `=`. Every task ends
with one of the [exit codes](exit-codes.md).
"""
_WORDS = {"lab": "Hosts", "build": "This checkout", "bench": "Measuring", "report": "Runs"}


def page() -> str:
    """The page: a section for each task."""
    collection = tasks.wire()
    contexts = {context.name: context for context in collection.to_contexts()}
    parts, namespace = [_HEAD], None
    for name in sorted(collection.task_names, key=lambda name: ("." in name, name)):
        first = name.partition(".")[0]
        if first != namespace:
            namespace = first
            parts.append(f"## {_WORDS.get(first, 'All checks')}: `{first}`\n")
        parts.append(_section(name, collection[name], contexts[name]))
    return "\n".join(parts)


def _section(name: str, task: UplabTask, context: Any) -> str:
    said = words(inspect.cleandoc(task.__doc__ or ""))
    # Under each of its names Invoke holds the same flag again.
    flags = sorted({id(flag): flag for flag in context.args.values()}.values(), key=_name)
    rows = [(code(_shown(argument)), words(str(argument.help))) for argument in flags]
    usage = " ".join(["./invoke", name, *_bare(flags, task)])
    shown = f"### {name}\n\n{said}\n\n```text\n{usage}\n```\n"
    return f"{shown}\n{table(('flag', 'what it does'), rows)}" if rows else shown


def _bare(flags: list[Any], task: UplabTask) -> list[str]:
    """The words that need no flag."""
    named = [_name(flag).upper() for flag in flags if flag.positional]
    return [*named, f"[{task.rest.upper()}...]"] if task.rest else named


def _name(argument: Any) -> str:
    """Its flag without dashes; one that Python has a word for ends with an underscore there."""
    return str(argument.name).replace("_", "-").strip("-")


def _shown(argument: Any) -> str:
    name = _name(argument)
    flag = f"--{name}" if len(name) > 1 else f"-{name}"
    if argument.kind is bool:
        return f"--no-{name}" if argument.default is True else flag
    kind = {int: "NUMBER", float: "NUMBER"}.get(argument.kind, "TEXT")
    return f"{flag} {kind}"


def flags_of(text: str) -> dict[str, list[str]]:
    """The flags that a page of this form names, by task."""
    found: dict[str, list[str]] = {}
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        name = section.partition("\n")[0]
        found[name] = re.findall(r"^\| `(--?[a-z0-9-]+)", section, re.MULTILINE)
    return found
