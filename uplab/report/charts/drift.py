"""Throughput of every trial by block, a strip for each cell: drift and outliers are seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from uplab.analysis import CellSummary, Group, cpu_us_of, rps_of
from uplab.measured import Trial
from uplab.report import text
from uplab.report.charts import style

_ROW, _LABEL_Y, _MIDDLE_Y, _HALF = 60, 11, 37, 18
_VALUE_PX = 96
# With more blocks than this, points would hide the line.
_MOST_POINTS = 80
_SHORTEST_AXIS = 5


def spec(group: Group, trials: Mapping[str, Sequence[Trial]]) -> Mapping[str, Any] | None:
    """The chart of a group; `trials` by cell id, also the invalid ones. None without a trial."""
    of = cpu_us_of if group.is_open else rps_of
    cells = [(cell, _middle(cell, group)) for cell in group.cells]
    strips = [(cell, middle) for cell, middle in cells if middle]
    if not strips:
        return None
    counted = {trial.name for cell in group.cells for trial in cell.counted}
    points = [
        _Point(
            strip=index,
            block=trial.block,
            pct=100 * (figure / middle - 1),
            colour=style.colour(cell.cell.mode),
            counts=trial.name in counted,
            say=f"{style.label(cell)}, block {trial.block}: {text.whole(figure)} {_unit(group)}"
            f"{_fate(trial, counted)}",
        )
        for index, (cell, middle) in enumerate(strips)
        for trial in trials.get(cell.cell.cell_id, ())
        if (figure := of(trial)) is not None
    ]
    if not points:
        return None
    reach = _reach([point.pct for point in points])
    blocks = [point.block for point in points]
    first, last = min(blocks), max(blocks)
    title = f"block (height of a strip: {reach} % above and below the cell's median)"
    x = style.numbers_axis("block", _ends(first, last), first, last, title)
    drawn = _drawn(points, reach, x, with_points=last - first <= _MOST_POINTS)
    return style.spec([*_frame(strips, group), *drawn], _ROW * len(strips))


@dataclass(frozen=True, slots=True)
class _Point:
    """A trial: the strip that it is on, and how far it is from the cell's median, in percent."""

    strip: int
    block: int
    pct: float
    colour: str
    counts: bool
    say: str

    def mark(self, reach: int) -> dict[str, Any]:
        """The point as a value of a chart whose strips go so many percent up and down."""
        off = style.clamp(self.pct / reach, -1.0, 1.0)
        y = round(self.strip * _ROW + _MIDDLE_Y - off * _HALF, 1)
        return {"block": self.block, "y": y, "colour": self.colour}


def _fate(trial: Trial, counted: set[str]) -> str:
    if trial.name in counted:
        return ""
    return ", valid but not chosen" if trial.valid else ", invalid"


def _unit(group: Group) -> str:
    return "µs/req" if group.is_open else "req/s"


def _middle(cell: CellSummary, group: Group) -> float | None:
    return cell.cpu_us_per_request if group.is_open else cell.requests_per_s


def _reach(deviations: Sequence[float]) -> int:
    """How far a strip goes, in percent: what the furthest trial asks for, in steps of five."""
    furthest = max((abs(value) for value in style.finite(deviations)), default=0.0)
    return int(style.clamp(ceil(furthest / 5) * 5, _SHORTEST_AXIS, 100))


def _ends(first: int, last: int) -> tuple[float, float]:
    room = max(0.5, (last - first) * 0.03)
    return first - room, last + room


def _frame(strips: Sequence[tuple[CellSummary, float]], group: Group) -> list[style.Layer]:
    unit = _unit(group)
    names, figures, middles = [], [], []
    for index, (cell, middle) in enumerate(strips):
        y = index * _ROW
        names.append({"x": 0, "y": y + _LABEL_Y, "text": style.label(cell), "colour": style.INK})
        figures.append(
            {
                "x": style.PLOT,
                "y": y + _LABEL_Y,
                "text": f"{text.whole(middle)} {unit}",
                "colour": style.INK,
            }
        )
        middles.append(
            {"y": y + _MIDDLE_Y - _HALF, "y2": y + _MIDDLE_Y + _HALF, "mid": y + _MIDDLE_Y}
        )
    return [
        style.layer(
            {"type": "rect", "color": style.BAND, "x": 0, "x2": style.PLOT},
            middles,
            y=style.pixels("y"),
            y2={"field": "y2"},
        ),
        style.layer(
            {"type": "rule", "color": style.PAPER, "strokeWidth": 1.5, "x": 0, "x2": style.PLOT},
            middles,
            y=style.pixels("mid"),
        ),
        style.texts(names, align="left", limit=style.PLOT - _VALUE_PX),
        style.texts(figures, align="right"),
    ]


def _drawn(
    points: Sequence[_Point], reach: int, x: Mapping[str, Any], *, with_points: bool
) -> list[style.Layer]:
    kept = [point for point in points if point.counts]
    layers = [
        style.layer(
            {"type": "line", "strokeWidth": 1.8},
            [{**point.mark(reach), "strip": point.strip} for point in kept],
            x=dict(x),
            y=style.pixels("y"),
            color=style.colours(),
            detail={"field": "strip", "type": "nominal"},
        )
    ]
    if with_points:
        layers.append(_marks(kept, reach, x, {"shape": "circle", "size": 36}))
    dropped = [point for point in points if not point.counts]
    layers.append(_marks(dropped, reach, x, {"shape": "cross", "size": 60, "angle": 45}))
    return layers


def _marks(
    points: Sequence[_Point], reach: int, x: Mapping[str, Any], mark: Mapping[str, Any]
) -> style.Layer:
    return style.layer(
        {"type": "point", "filled": True, "opacity": 1, **mark},
        [{**point.mark(reach), "say": point.say} for point in points],
        x=dict(x),
        y=style.pixels("y"),
        color=style.colours(),
    )
