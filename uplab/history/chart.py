"""A panel as a chart: a strip for each cell, from the oldest run on the left to the newest.

Runs stand at equal distances, whatever time lies between them; a vertical line is where something
changed on the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any

from uplab.history.trends import Change, Panel, Point, Series
from uplab.report import text
from uplab.report.charts import style

_ROW, _LABEL_Y, _MIDDLE_Y, _HALF, _NOTE_Y = 78, 11, 41, 19, 71
_FIGURE_PX = 160
# With more runs than this, points and bars would hide the line.
_MOST_POINTS = 60
#: Beyond, marks of changes would hide everything; the table has them all.
MOST_MARKS = 40
_SHORTEST = 2
_STEPS = (2, 5, 10, 20, 50, 100)


def spec(panel: Panel) -> Mapping[str, Any]:
    """The chart of a panel."""
    height = _ROW * len(panel.series)
    runs = len(panel.runs)
    title = f"run, 1 is of {day(panel.runs[0].started_utc)}, " + (
        f"{runs} of {day(panel.runs[-1].started_utc)}" if runs > 1 else "the only one"
    )
    x = style.numbers_axis("at", (0.5, runs + 0.5), 1, runs, title)
    layers = [*_frame(panel), *_changes(panel, x)]
    for index, series in enumerate(panel.series):
        layers += _strip(series, index, x, with_points=runs <= _MOST_POINTS)
    return style.spec(layers, height)


def day(started_utc: str) -> str:
    """The day of a time, without what a run may say instead of one."""
    return text.plain(started_utc, 40).encode("latin-1", "replace").decode("latin-1")[:10]


def figure(point: Point) -> str:
    """What a point says: `83.4 % (82.1 to 84.6)`, or a rate."""
    if point.value is None:
        return text.MISSING
    if point.cell.mode == "none":
        return f"{text.whole(point.value)} {_unit(point)}"
    shown = text.percent(point.value)
    interval = point.interval
    if interval is None:
        return shown
    return f"{shown} ({text.decimal(interval[0])} to {text.decimal(interval[1])})"


def _unit(point: Point) -> str:
    return "us/req" if point.cell.loop == "open" else "req/s"


def _deviation(series: Series, value: float) -> float:
    """From the median of the cell: in percentage points, of a rate in percent."""
    middle = series.median
    return 100 * (value / middle - 1) if series.is_baseline and middle else value - middle


def _reach(series: Series) -> int:
    """How far a strip goes up and down: what the furthest value asks for, in round steps."""
    furthest = max(
        (abs(_deviation(series, value)) for value in style.finite(series.values)),
        default=0.0,
    )
    wanted = max(_SHORTEST, ceil(furthest * 1.1))
    return next((step for step in _STEPS if step >= wanted), 100 * ceil(wanted / 100))


def _y(series: Series, value: float, index: int, reach: int) -> float:
    off = style.clamp(_deviation(series, value) / reach, -1.0, 1.0)
    return round(index * _ROW + _MIDDLE_Y - off * _HALF, 1)


def _frame(panel: Panel) -> Iterator[style.Layer]:
    names, figures, notes, bands = [], [], [], []
    for index, series in enumerate(panel.series):
        y = index * _ROW
        names.append({"x": 0, "y": y + _LABEL_Y, "text": _latin(series.label), "colour": style.INK})
        figures.append(
            {
                "x": style.PLOT,
                "y": y + _LABEL_Y,
                "text": style.typeset(figure(series.points[-1])),
                "colour": style.INK,
            }
        )
        notes.append(
            {"x": 0, "y": y + _NOTE_Y, "text": _note(series), "colour": style.MUTED},
        )
        bands.append(
            {"y": y + _MIDDLE_Y - _HALF, "y2": y + _MIDDLE_Y + _HALF, "mid": y + _MIDDLE_Y}
        )
    yield style.layer(
        {"type": "rect", "color": style.BAND, "x": 0, "x2": style.PLOT},
        bands,
        y=style.pixels("y"),
        y2={"field": "y2"},
    )
    yield style.layer(
        {"type": "rule", "color": style.PAPER, "strokeWidth": 1.5, "x": 0, "x2": style.PLOT},
        bands,
        y=style.pixels("mid"),
    )
    yield style.texts(names, align="left", limit=style.PLOT - _FIGURE_PX)
    yield style.texts(figures, align="right")
    yield style.texts(notes, align="left", fontSize=style.SMALL_SIZE)


def _note(series: Series) -> str:
    reach, median = _reach(series), series.median
    if series.is_baseline:
        around = f"{text.whole(median)} {_unit(series.points[-1])}"
        return style.typeset(f"\u00b1{reach} % around {around}")
    return style.typeset(f"\u00b1{reach} percentage points around {text.percent(median)}")


def _changes(panel: Panel, x: Mapping[str, Any]) -> Iterator[style.Layer]:
    """A line between two runs, before the one that something came with, across each strip.

    That of the first strip says what changed: once is enough for who steps through the marks.
    """
    marked = sorted(panel.changes.items())[-MOST_MARKS:]
    for index in range(len(panel.series)):
        middle = index * _ROW + _MIDDLE_Y
        ends = {"y": middle - _HALF - 2, "y2": middle + _HALF + 2}
        said = [{"say": _said(at, change)} if index == 0 else {} for at, change in marked]
        yield style.layer(
            {"type": "rule", "color": style.PURPLE, "strokeWidth": 1.5, "strokeDash": [4, 3]},
            [{"at": at - 0.5, **ends, **say} for (at, _), say in zip(marked, said, strict=True)],
            x=dict(x),
            y=style.pixels("y"),
            y2={"field": "y2"},
        )


def _said(at: int, change: Change) -> str:
    fields = "; ".join(f"{name} from {old} to {new}" for name, old, new in change.fields[:3])
    return text.plain(f"before run {at}: {fields}", 200)


def _strip(
    series: Series, index: int, x: Mapping[str, Any], *, with_points: bool
) -> Iterator[style.Layer]:
    reach, colour = _reach(series), style.colour(series.mode)
    intervals = [
        {
            "at": point.at,
            "y": _y(series, point.interval[0], index, reach),
            "y2": _y(series, point.interval[1], index, reach),
        }
        for point in series.points
        if point.interval
    ]
    bar = (
        {"type": "rule", "strokeWidth": 4, "strokeCap": "round", "opacity": 0.35}
        if with_points
        else {"type": "area", "opacity": 0.25}
    )
    yield style.layer(
        {**bar, "color": colour}, intervals, x=dict(x), y=style.pixels("y"), y2={"field": "y2"}
    )
    points = [
        {
            "at": point.at,
            "y": _y(series, point.value, index, reach),
            "colour": colour,
            "say": text.plain(
                f"{_latin(series.label)}, run {point.at} ({day(point.run.started_utc)}): "
                f"{style.typeset(figure(point))}"
            ),
        }
        for point in series.points
        if point.value is not None
    ]
    yield style.layer(
        {"type": "line", "strokeWidth": 1.6, "color": colour},
        [{"at": point["at"], "y": point["y"]} for point in points],
        x=dict(x),
        y=style.pixels("y"),
    )
    yield style.layer(
        {"type": "point", "filled": True, "opacity": 1, "size": 36},
        points if with_points else points[-1:],
        x=dict(x),
        y=style.pixels("y"),
        color=style.colours(),
    )


def _latin(shown: str) -> str:
    """Of other letters the font has none, and what would stand in differs between machines."""
    return shown.encode("latin-1", "replace").decode("latin-1")


def says(panel: Panel) -> str:
    """What the chart shows, in words, for who does not see it."""
    return (
        f"Chart: what each way of tracing the {panel.server} server cost on {panel.host} in "
        f"{len(panel.runs)} runs, with {len(panel.changes)} changes of the host between them"
    )


def rows_of(panel: Panel) -> Sequence[Sequence[str]]:
    """The table behind the chart: a row for each run, newest first, a column for each cell."""
    by_run: dict[str, dict[str, str]] = {}
    for series in panel.series:
        for point in series.points:
            by_run.setdefault(point.run.key, {})[series.label] = figure(point)
    numbered = list(enumerate(panel.runs, start=1))
    return [
        (
            str(at),
            run.run,
            *(by_run[run.key].get(series.label, text.MISSING) for series in panel.series),
        )
        for at, run in reversed(numbered)
    ]
