"""A table as data: a heading and what stands below it, for any renderer.

Cells are plain text from trusted formatting and from the run; a renderer escapes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from uplab.report import text


@dataclass(frozen=True, slots=True)
class Table:
    """Headings, which of them stand over figures (aligned right), and rows of the same length."""

    headings: tuple[str, ...]
    figures: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]

    def without_empty_columns(self) -> Table:
        """The table without columns that hold no figure at all (the first column stays)."""
        kept = [
            index
            for index in range(len(self.headings))
            if index == 0 or any(row[index] != text.MISSING for row in self.rows)
        ]
        return self.only(kept)

    def beside(self, other: Table) -> Table:
        """This table with the columns of another on its right, which has the same rows."""
        return Table(
            self.headings + other.headings,
            self.figures + other.figures,
            tuple(mine + theirs for mine, theirs in zip(self.rows, other.rows, strict=True)),
        )

    def only(self, kept: Sequence[int]) -> Table:
        """The table with the columns of these indices."""
        return Table(
            tuple(self.headings[index] for index in kept),
            tuple(self.figures[index] for index in kept),
            tuple(tuple(row[index] for index in kept) for row in self.rows),
        )
