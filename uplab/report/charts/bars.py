"""Charts of bars: the server's CPU per request, and what it is made of, as a waterfall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from uplab.analysis import BASELINE, CONTROL, TRACER_ONLY, CellSummary, Group, cpu_us_of
from uplab.report import text
from uplab.report.charts import style

_UNIT = "µs"
_AXIS = "CPU of the server per request, µs"
_ROW, _LABEL_Y, _TOP, _BOTTOM = 40, 12, 21, 34
_FIGURE_PX = 74
# Of a waterfall: the name of the cell, then a step for each part.
_HEAD, _STEP, _THICK, _FOOT = 20, 16, 11, 8
_STEP_TEXT_PX = 172


def cpu(group: Group) -> Mapping[str, Any] | None:
    """Median CPU of the server per request of each cell, with its trials; None without any."""
    cells = [(cell, cell.cpu_us_per_request) for cell in group.cells]
    rows = [(cell, us) for cell, us in cells if us is not None]
    if not rows:
        return None
    trials = [
        {"at": value, "y": index * _ROW + _TOP - 2, "y2": index * _ROW + _BOTTOM + 2}
        for index, (cell, _) in enumerate(rows)
        for value in style.finite(map(cpu_us_of, cell.counted))
    ]
    most = max([us for _, us in rows] + [value["at"] for value in trials])
    x = _axis(most, _FIGURE_PX)
    bars, names, figures = [], [], []
    for index, (cell, us) in enumerate(rows):
        y = index * _ROW
        most_here = max([us, *style.finite(map(cpu_us_of, cell.counted))])
        figure = f"{text.decimal(us)} {_UNIT}"
        names.append({"x": 0, "y": y + _LABEL_Y, "text": style.label(cell), "colour": style.INK})
        bars.append(
            {
                "at": 0,
                "to": us,
                "y": y + _TOP,
                "y2": y + _BOTTOM,
                "colour": style.colour(cell.cell.mode),
                "say": f"{style.label(cell)}: {figure} per request, n = {cell.n}",
            }
        )
        figures.append(_beside(most_here, y + (_TOP + _BOTTOM) / 2, figure, x))
    ticks = style.layer(
        {"type": "rule", "color": style.INK, "strokeWidth": 1},
        trials,
        x=dict(x),
        y=style.pixels("y"),
        y2={"field": "y2"},
    )
    layers = [
        _bars(bars, x),
        ticks,
        style.texts(names, align="left", limit=style.PLOT),
        style.texts(figures, align="left"),
    ]
    return style.spec(layers, _ROW * len(rows))


@dataclass(frozen=True, slots=True)
class _Step:
    """A part of a request's cost, from one sum to the next, in microseconds."""

    name: str
    begin: float
    end: float
    colour: str
    figure: str
    check: bool = False


def budget(group: Group) -> Mapping[str, Any] | None:
    """What a request costs in each probed cell, step by step; None where that is not known.

    The steps are the median of `none`, what the tracer adds without its probes, what its probes
    add, and, as a check, hits times cost per hit.
    """
    falls = [(cell, steps) for cell in group.cells if (steps := _steps(cell, group))]
    if not falls:
        return None
    most = max(max(step.begin, step.end) for _, steps in falls for step in steps)
    least = min(0.0, *(min(step.begin, step.end) for _, steps in falls for step in steps))
    x = _axis(most, _STEP_TEXT_PX, least)
    names, figures = [], []
    bars: list[dict[str, Any]] = []
    checks: list[dict[str, Any]] = []
    y = 0
    for cell, steps in falls:
        paint = style.colour(cell.cell.mode)
        names.append({"x": 0, "y": y + 10, "text": style.label(cell), "colour": paint})
        for number, step in enumerate(steps):
            top = y + _HEAD + number * _STEP
            right = max(step.begin, step.end)
            bar = {
                "at": min(step.begin, step.end),
                "to": right,
                "y": top,
                "y2": top + _THICK,
                "colour": step.colour,
                "say": f"{style.label(cell)}: {step.name} {step.figure}",
            }
            (checks if step.check else bars).append(bar)
            entry = _beside(right, top + _THICK / 2, f"{step.name} {step.figure}", x)
            figures.append({**entry, "colour": style.MUTED if step.check else style.INK})
        y += _HEAD + len(steps) * _STEP + _FOOT
    layers = [
        _bars(bars, x),
        _bars(checks, x, hollow=True),
        style.texts(names, align="left", limit=style.PLOT),
        style.texts(figures, align="left", fontSize=style.SMALL_SIZE),
    ]
    return style.spec(layers, y)


def _steps(cell: CellSummary, group: Group) -> list[_Step]:
    """The steps of one probed cell; none where `none` or its own extra cost is not known."""
    found, none_us = cell.reconciliation, _median_of_none(group)
    if found is None or found.measured_us is None or none_us is None:
        return []
    if cell.cell.mode in (BASELINE, CONTROL, TRACER_ONLY):
        return []
    steps = [_Step("none", 0.0, none_us, style.GREY, f"{text.decimal(none_us)} {_UNIT}")]
    if found.against == TRACER_ONLY:
        without = _tracer_only(cell, group)
        if without is not None and without.cpu_extra_us is not None:
            steps.append(_added("tracer", without.cpu_extra_us.value, steps[-1].end, style.GREEN))
    before = steps[-1].end
    what = "probes" if found.against == TRACER_ONLY else "tracer and probes"
    steps.append(_added(what, found.measured_us.value, before, style.colour(cell.cell.mode)))
    if found.calculated_us is not None:
        steps.append(
            _Step(
                "hits \u00d7 cost",
                before,
                before + found.calculated_us,
                style.INK,
                f"{text.decimal(found.calculated_us)} {_UNIT}",
                check=True,
            )
        )
    return steps


def _added(what: str, us: float, before: float, colour: str) -> _Step:
    sign = "+" if us >= 0 else ""
    figure = style.typeset(f"{sign}{text.decimal(us)} {_UNIT}")
    return _Step(what, before, before + us, colour, figure)


def _median_of_none(group: Group) -> float | None:
    return next(
        (cell.cpu_us_per_request for cell in group.cells if cell.cell.mode == BASELINE), None
    )


def _tracer_only(cell: CellSummary, group: Group) -> CellSummary | None:
    """The first cell of the same tracer without its probes."""
    return next(
        (
            other
            for other in group.cells
            if other.cell.mode == TRACER_ONLY and other.cell.tracer == cell.cell.tracer
        ),
        None,
    )


def _axis(most: float, room_px: float, least: float = 0.0) -> dict[str, Any]:
    """From 0 (or below) so far that a figure of `room_px` fits on the right of the longest bar."""
    high = least + (max(most, 1e-6) - least) * style.PLOT / (style.PLOT - room_px)
    return style.axis("at", (least, high), _AXIS)


def _beside(value: float, y: float, figure: str, x: Mapping[str, Any]) -> dict[str, Any]:
    low, high = x["scale"]["domain"]
    at = (value - low) / (high - low) * style.PLOT
    return {"x": at + 6, "y": y, "text": figure, "colour": style.INK}


def _bars(
    values: Sequence[Mapping[str, Any]], x: Mapping[str, Any], hollow: bool = False
) -> style.Layer:
    mark: dict[str, Any] = {"type": "rect"}
    if hollow:
        mark |= {"fill": style.PAPER, "stroke": style.INK, "strokeWidth": 1, "strokeDash": [3, 2]}
    painted = {} if hollow else {"color": style.colours()}
    return style.layer(
        mark,
        values,
        x=dict(x),
        x2={"field": "to"},
        y=style.pixels("y"),
        y2={"field": "y2"},
        **painted,
    )
