"""Names for long paths: as short as they can be and still be told apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from uplab.measured import PlannedCell


def tails(paths: Iterable[str]) -> dict[str, str]:
    """For each absolute path its shortest end that no other one of them has.

    `/a/x/tool` and `/a/y/tool` become `x/tool` and `y/tool`. What is no absolute path is left out.
    """
    parts = {path: PurePosixPath(path).parts for path in paths if path.startswith("/")}
    return {path: _tail(path, parts) for path in parts}


def _tail(path: str, parts: Mapping[str, tuple[str, ...]]) -> str:
    mine = parts[path]
    others = [theirs for theirs in parts.values() if theirs != mine]
    for length in range(1, len(mine)):
        if not any(theirs[-length:] == mine[-length:] for theirs in others):
            return "/".join(mine[-length:])
    return path


def of_runtimes(cells: Iterable[PlannedCell]) -> dict[str, str]:
    """The names of the paths among the options of the cells' userspace runtimes."""
    return tails(path for planned in cells for path in _texts(planned.cell.runtime))


def _texts(options: Mapping[str, Any]) -> Iterable[str]:
    return (value for value in options.values() if isinstance(value, str))
