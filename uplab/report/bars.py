"""A bar chart in characters: the overhead of each mode, from 0 to 100 % or as far as it goes.

Solid up to the lower bound of the interval, shaded across the interval: told apart by form, not by
colour. A mode that is better than `none` has no bar, only its figure.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from uplab.analysis import CONTROL, Group
from uplab.estimates import Estimate
from uplab.report import text
from uplab.report.words import WORDS


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

    Out: what it shows, then a line for each mode; no line without an estimate.
    """
    rows = [
        (text.label(cell), text.estimate(cell.overhead_pct), cell.overhead_pct)
        for cell in group.cells
        if cell.overhead_pct and cell.cell.mode != CONTROL
    ]
    if not rows:
        return []
    floor_pct = group.noise_floor_pct
    figure_width = max(len(figure) for _, figure, _ in rows)
    most = max(_LEAST_LABEL, min(_MOST_LABEL, width - _LEAST - figure_width - 4))
    labels = [_label(label, most) for label, _, _ in rows]
    label_width = max(len(line) for lines in [*labels, [_FLOOR]] for line in lines)
    bar_width = max(_LEAST, min(_MOST, width - label_width - figure_width - 4))
    axis = _Axis(bar_width, _end([estimate for _, _, estimate in rows], floor_pct))
    lines = []
    for (*above, label), (_, figure, estimate) in zip(labels, rows, strict=True):
        bar = _bar(estimate, axis, marks)
        lines += [*above, _line(label, bar, figure, bar_width, label_width)]
    if floor_pct is not None:
        dots = marks.floor * axis.columns(floor_pct)
        lines.append(_line(_FLOOR, dots, text.percent(floor_pct), bar_width, label_width))
    return [WORDS[group.loop].figure, *lines, f"{'':{label_width}}  {axis.line()}"]


_FLOOR = "noise floor"
_LEAST, _MOST = 16, 50
_LEAST_LABEL, _MOST_LABEL = 16, 40


@dataclass(frozen=True, slots=True)
class _Axis:
    """From 0 to `end_pct` on so many characters."""

    width: int
    end_pct: int

    def columns(self, value_pct: float) -> int:
        """How many characters a share takes, between none and all of them."""
        return max(0, min(self.width, round(value_pct / self.end_pct * self.width)))

    def line(self) -> str:
        """`0      50 %     100 %`."""
        middle = f"{self.end_pct // 2} %".rjust(self.width // 2 + 2 - 1)
        return f"0{middle}{f'{self.end_pct} %'.rjust(self.width - 1 - len(middle))}"


def _end(estimates: list[Estimate], floor_pct: float | None) -> int:
    """Where the axis ends: a throughput can be lost once, but CPU has no such end."""
    values = [
        estimate.interval.high if estimate.interval else estimate.value for estimate in estimates
    ]
    most = max([*values, floor_pct or 0])
    end = 100
    while end < most and end < _FURTHEST_PCT:
        end *= 2
    return end


_FURTHEST_PCT = 100 * 2**20


def _bar(estimate: Estimate, axis: _Axis, marks: Marks) -> str:
    low = estimate.interval.low if estimate.interval else estimate.value
    high = estimate.interval.high if estimate.interval else estimate.value
    solid = axis.columns(low)
    return marks.solid * solid + marks.shaded * (axis.columns(high) - solid)


def _label(label: str, width: int) -> list[str]:
    """A label on as many lines as it takes; the bar stands beside the last one."""
    # A backtick could end the block of code that Markdown shows a chart in.
    return textwrap.wrap(text.plain(label).replace("`", "'"), width) or [text.MISSING]


def _line(label: str, bar: str, figure: str, width: int, label_width: int) -> str:
    return f"{label:{label_width}}  {bar:{width}}  {figure}"
