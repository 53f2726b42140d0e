"""Tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a bar or a line break in a cell would end it."""
    lines = [headings, ["---"] * len(headings), *([cell(value) for value in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(value: str) -> str:
    """A text for one cell."""
    return " ".join(value.split()).replace("|", "\\|")


def code(value: str) -> str:
    """A text as code; nothing for an empty one."""
    return f"`{value}`" if value else ""


def words(value: str) -> str:
    """A text of the code: what could be HTML, or stands in two backticks as in docstrings."""
    return re.sub(r"<(?=\w)", "&lt;", re.sub(r"``(.+?)``", r"`\1`", value))
