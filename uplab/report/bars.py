"""A bar chart in characters: throughput lost per mode, from 0 to 100 %.

Solid up to the lower bound of the interval, shaded across the interval: told apart by form, not by
colour. A mode that is faster than `none` has no bar, only its figure.
"""

from __future__ import annotations

from dataclasses import dataclass

from uplab.analysis import CONTROL, CellSummary, Estimate, Group
from uplab.report import text


@dataclass(frozen=True, slots=True)
class Marks:
    """The characters of a chart."""

    solid: str
    shaded: str
    floor: str


BLOCKS = Marks(solid="█", shaded="▒", floor="·")
ASCII = Marks(solid="#", shaded="=", floor=".")


def chart(group: Group, width: int, marks: Marks = BLOCKS) -> list[str]:
    """The chart's lines for a group, at most `width` characters wide where that is possible.

    Out: no line without an estimate.
    """
    rows = [
        (_label(cell), text.estimate(cell.overhead_pct), cell.overhead_pct)
        for cell in group.cells
        if cell.overhead_pct and cell.cell.mode != CONTROL
    ]
    if not rows:
        return []
    label_width = max(len(_FLOOR), *(len(label) for label, _, _ in rows))
    figure_width = max(len(figure) for _, figure, _ in rows)
    bar_width = max(_LEAST, min(_MOST, width - label_width - figure_width - 4))
    lines = [
        _line(label, _bar(estimate, bar_width, marks), figure, bar_width, label_width)
        for label, figure, estimate in rows
    ]
    if group.noise_floor_pct is not None:
        dots = marks.floor * _columns(group.noise_floor_pct, bar_width)
        lines.append(
            _line(_FLOOR, dots, text.percent(group.noise_floor_pct), bar_width, label_width)
        )
    return [*lines, f"{'':{label_width}}  {_axis(bar_width)}"]


_FLOOR = "noise floor"
_LEAST, _MOST = 16, 50


def _bar(estimate: Estimate, width: int, marks: Marks) -> str:
    low = estimate.interval.low if estimate.interval else estimate.value
    high = estimate.interval.high if estimate.interval else estimate.value
    solid = _columns(low, width)
    return marks.solid * solid + marks.shaded * (_columns(high, width) - solid)


def _label(cell: CellSummary) -> str:
    # A backtick could end the block of code that Markdown shows a chart in.
    return text.plain(text.mode(cell.cell), 60).replace("`", "'")


def _line(label: str, bar: str, figure: str, width: int, label_width: int) -> str:
    return f"{label:{label_width}}  {bar:{width}}  {figure}"


def _axis(width: int) -> str:
    middle = "50 %".rjust(width // 2 + 2 - 1)
    return f"0{middle}{'100 %'.rjust(width - 1 - len(middle))}"


def _columns(value_pct: float, width: int) -> int:
    """How many characters a share takes, between none and all of them."""
    return max(0, min(width, round(value_pct / 100 * width)))
