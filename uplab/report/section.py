"""A part of a report as data: a title, what is said, and a table, for any renderer."""

from __future__ import annotations

from dataclasses import dataclass

from uplab.report.table import Table


@dataclass(frozen=True, slots=True)
class Section:
    """Texts may come from a run or a file: a renderer makes them harmless."""

    title: str
    lines: tuple[str, ...] = ()
    table: Table | None = None
    notes: tuple[str, ...] = ()
