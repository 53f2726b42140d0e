"""Texts that a load generator printed, read by the parser of its adapter.

Which adapter that is, its folder says; this module knows none by name.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uplab.errors import UsageError

STDIN = "-"
MAX_TEXT_BYTES = 256_000_000

Parse = Callable[[str, str], list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a file held: every run that was read, and the error where reading stopped."""

    runs: tuple[Mapping[str, Any], ...]
    error: str | None


def parse_files(files: Sequence[str], loads_dir: Path, load: str | None = None) -> Iterator[Parsed]:
    """Read each file (`-` is stdin) with the parser of a load adapter, in order.

    In: `loads_dir` the folder of the load adapters; `load` the name of one, or None for the first
    that recognises a text. Out: one result per file, in which errors name file and line.
    Raises UsageError for no file at all, and for an adapter that is not there.
    """
    if not files:
        raise UsageError("no file given. Run: invoke report.parse FILE...")
    parsers = load_parsers(loads_dir, load)
    for name in files:
        yield parse_file(name, parsers)


def load_parsers(loads_dir: Path, load: str | None) -> list[Parse]:
    """The parsers of all load adapters, or of the one named, in the order of their names."""
    found = {path.parent.name: path for path in sorted(loads_dir.glob("*/adapter.py"))}
    if load is not None:
        if load not in found:
            known = ", ".join(found) or "none"
            raise UsageError(
                f"no load adapter {load} with a parser in {loads_dir} (known: {known})"
            )
        found = {load: found[load]}
    parsers = [parser for name, path in found.items() if (parser := _parser(name, path))]
    if not parsers:
        raise UsageError(f"no load adapter with a parser in {loads_dir}")
    return parsers


def parse_file(name: str, parsers: Sequence[Parse]) -> Parsed:
    """One file, by the first parser that recognises it; else the first one's error."""
    try:
        text = _text(name)
    except UsageError as error:
        return Parsed((), error.message)
    source = "stdin" if name == STDIN else name
    attempts: list[Parsed] = []
    for parse in parsers:
        attempt = _attempt(parse, text, source)
        if attempt.runs or attempt.error is None:
            return attempt
        attempts.append(attempt)
    return attempts[0]


def _attempt(parse: Parse, text: str, source: str) -> Parsed:
    try:
        return Parsed(tuple(parse(text, source)), None)
    except ValueError as error:
        # An adapter's ParseError holds the runs before the line that it quotes.
        return Parsed(tuple(getattr(error, "parsed", ())), str(error))


def _parser(name: str, path: Path) -> Parse | None:
    """The `parse` of an adapter's file, which travels alone and so is loaded by its path."""
    module_name = f"uplab_load_{name}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and typing look a class's module up by its name.
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    parse: Parse | None = getattr(module, "parse", None)
    return parse


def _text(name: str) -> str:
    """The text of a file or of stdin. Raises UsageError that names the file."""
    data = _bytes(name)
    shown = "stdin" if name == STDIN else name
    if len(data) > MAX_TEXT_BYTES:
        raise UsageError(f"{shown}: larger than {MAX_TEXT_BYTES} bytes")
    if b"\0" in data:
        raise UsageError(f"{shown}: a binary file, not a text (a zero byte at {data.index(0)})")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(f"{shown}:{line}: not UTF-8 (byte {data[error.start]:#04x})") from error


def _bytes(name: str) -> bytes:
    if name == STDIN:
        return sys.stdin.buffer.read(MAX_TEXT_BYTES + 1)
    try:
        with Path(name).open("rb") as stream:
            return stream.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{name}: cannot be read: {error.strerror}") from error
