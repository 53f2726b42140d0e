"""Charts of lines with their names beside their ends: latency by percentile, overhead by size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

from uplab.analysis import BASELINE, CONTROL, CellSummary, Group
from uplab.report import text
from uplab.report.charts import style
from uplab.report.charts.overhead import Published
from uplab.report.latency import PERCENTILES, Latency

_LEFT, _RIGHT = 50, 134
_PLOT = style.WIDTH - _LEFT - _RIGHT
_HEIGHT = 250
# Of a name on one line or on two; labels keep so far from each other.
_LABEL_GAP = 26
_LINE_PX = 12
_PERCENTILES = {0.30103: "50", 1: "90", 2: "99", 3: "99.9", 4: "99.99"}
_TIMES = {1: "1 µs", 10: "10 µs", 100: "100 µs", 10**3: "1 ms", 10**4: "10 ms", 10**5: "100 ms"}
_TIMES |= {10**6: "1 s", 10**7: "10 s", 10**8: "100 s", 10**9: "1000 s", 10**10: "10000 s"}


@dataclass(frozen=True, slots=True)
class _Curve:
    """A line: its points as x, y and what is said of them (no mark where that is nothing).

    `bounds` are the ends of an interval at x.
    """

    name: str
    colour: str
    points: tuple[tuple[float, float, str], ...]
    bounds: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class _Plot:
    """The two axes and the pixels of a value."""

    x: Mapping[str, Any]
    y: Mapping[str, Any]
    low: float
    high: float
    logarithmic: bool
    height: int

    def y_px(self, value: float) -> float:
        """Where on the plot a value lies, from its top."""
        at, low, high = (
            (log10(v) if self.logarithmic else v) for v in (value, self.low, self.high)
        )
        return (high - at) / (high - low) * self.height


def latency(group: Group, pooled: Mapping[str, Latency]) -> Mapping[str, Any] | None:
    """Latency by percentile, both axes logarithmic; None where there is no histogram."""
    curves = []
    for cell in group.cells:
        found = pooled.get(cell.cell.cell_id)
        points = _percentiles(cell, found) if found else ()
        if len(points) > 1:
            name, colour = style.label_on_two_lines(cell), style.colour(cell.cell.mode)
            curves.append(_Curve(name, colour, points))
    if not curves:
        return None
    values = [y for curve in curves for _, y, _ in curve.points]
    low, high = 10.0 ** floor(log10(min(values))), 10.0 ** ceil(log10(max(values)))
    low, high = (low, high) if low < high else (low, high * 10)
    x = _labelled(style.axis("x", (0, 4), "% of the requests took at most"), _PERCENTILES)
    y = {
        "field": "y",
        "type": "quantitative",
        "scale": {"type": "log", "domain": [low, high]},
        "axis": {"title": None, "ticks": False, "domain": False},
    }
    y = _labelled(y, {value: name for value, name in _TIMES.items() if low <= value <= high})
    height = _height(len(curves))
    return _spec(curves, _Plot(x, y, low, high, logarithmic=True, height=height))


def _percentiles(cell: CellSummary, found: Latency) -> tuple[tuple[float, float, str], ...]:
    """The curve of a cell; only the percentiles that have a name are said, and get a point."""
    name = style.label(cell)
    said = dict(zip(PERCENTILES, found.percentiles_us, strict=True))
    points = {
        round(step / 10, 5): (max(value, 1), "")
        for step, value in enumerate(found.curve_us)
        if value is not None
    }
    for x, p in zip(_PERCENTILES, PERCENTILES, strict=True):
        value = said[p]
        if value is not None:
            shown = style.typeset(text.duration_us(value))
            points[x] = (max(value, 1), f"{name}, p{p:g}: {shown}")
    return tuple((x, *points[x]) for x in sorted(points))


def sizes(
    groups: Sequence[Group], published: Mapping[int, Sequence[Published]]
) -> Mapping[str, Any] | None:
    """Overhead by body size of one server's groups; None where there are not two sizes."""
    if len({group.body_bytes for group in groups}) < 2:
        return None
    by_name: dict[str, list[tuple[int, CellSummary]]] = defaultdict(list)
    for group in sorted(groups, key=lambda group: group.body_bytes):
        for cell in group.cells:
            if cell.overhead_pct and cell.cell.mode not in (BASELINE, CONTROL):
                by_name[style.label_on_two_lines(cell)].append((group.body_bytes, cell))
    curves = [_sized(name, cells) for name, cells in by_name.items()]
    if not curves:
        return None
    values = [y for curve in curves for _, y, _ in curve.points]
    values += [end for curve in curves for _, *ends in curve.bounds for end in ends]
    low = max(-100.0, floor(min([0.0, *values]) / 10) * 10.0)
    high = ceil(max([10.0, *values]) / 10) * 10.0
    named = sorted({group.body_bytes for group in groups})
    ticks = {_size_x(size): text.body(size) for size in _thinned(named)}
    ends = (_size_x(named[0]) - 0.15, _size_x(named[-1]) + 0.15)
    x = _labelled(style.axis("x", ends, "size of the answer"), ticks)
    y = {
        "field": "y",
        "type": "quantitative",
        "scale": {"domain": [low, high], "nice": False},
        "axis": {"title": "overhead, %", "ticks": False, "domain": False, "tickCount": 6},
    }
    plot = _Plot(x, y, low, high, logarithmic=False, height=_height(len(curves)))
    return _spec(curves, plot, _published(published, plot))


def _sized(name: str, cells: Sequence[tuple[int, CellSummary]]) -> _Curve:
    points, bounds = [], []
    for size, cell in cells:
        estimate = cell.overhead_pct
        if estimate is None:
            continue
        value = style.clamp(estimate.value, -100.0, 1e6)
        figure = style.typeset(text.estimate(estimate))
        said = f"{style.label(cell)}, {text.body(size)}: {figure}"
        points.append((_size_x(size), value, said))
        if estimate.interval is not None:
            ends = (estimate.interval.low, estimate.interval.high)
            low, high = (style.clamp(end, -100.0, 1e6) for end in ends)
            bounds.append((_size_x(size), low, high))
    return _Curve(name, style.colour(cells[0][1].cell.mode), tuple(points), tuple(bounds))


def _published(
    published: Mapping[int, Sequence[Published]], plot: _Plot
) -> list[Mapping[str, Any]]:
    return [
        {
            "x": _size_x(size),
            "y": style.clamp(one.overhead_pct, plot.low, plot.high),
            "colour": style.colour(one.mode),
            "say": f"{one.mode}, {text.body(size)}, published ({text.plain(one.source, 40)}): "
            f"{text.percent(one.overhead_pct)}",
        }
        for size, several in published.items()
        for one in several
    ]


def _size_x(size: int) -> float:
    return round(log10(max(size, 1)), 4)


def _thinned(named: Sequence[int]) -> list[int]:
    """Sizes whose labels do not touch."""
    kept: list[int] = []
    span = max(_size_x(named[-1]) - _size_x(named[0]), 1e-9)
    for size in named:
        if not kept or (_size_x(size) - _size_x(kept[-1])) / span * _PLOT >= 46:
            kept.append(size)
    return kept


def _labelled(channel: Mapping[str, Any], names: Mapping[float, str]) -> dict[str, Any]:
    """A channel with ticks at these values only, by these names."""
    cases = "".join(
        f"abs(datum.value - {value}) < {abs(value) / 1e3 + 1e-3} ? '{name}' : "
        for value, name in names.items()
    )
    named = {"values": list(names), "labelExpr": f"{cases}''", "labelOverlap": False}
    axis = {**channel["axis"], **named}
    return {**channel, "axis": axis}


def _height(curves: int) -> int:
    return max(_HEIGHT, curves * _LABEL_GAP + 10)


def _spec(
    curves: Sequence[_Curve], plot: _Plot, published: Sequence[Mapping[str, Any]] = ()
) -> Mapping[str, Any]:
    lines, points, bounds = [], [], []
    for index, curve in enumerate(curves):
        same = [other.colour for other in curves[:index]].count(curve.colour)
        dash = style.DASHES[same % len(style.DASHES)]
        shared = {"curve": index, "colour": curve.colour, "dash": dash}
        lines += [{"x": x, "y": y, **shared} for x, y, _ in curve.points]
        points += [{"x": x, "y": y, "say": say, **shared} for x, y, say in curve.points if say]
        bounds += [{"x": x, "y": low, "y2": high, **shared} for x, low, high in curve.bounds]
    layers = [
        style.layer(
            {"type": "line", "strokeWidth": 1.8},
            lines,
            x=dict(plot.x),
            y=dict(plot.y),
            color=style.colours(),
            strokeDash={"field": "dash", "type": "nominal", "scale": None},
            detail={"field": "curve", "type": "nominal"},
        ),
        style.layer(
            {"type": "rule", "strokeWidth": 2},
            bounds,
            x=dict(plot.x),
            y=dict(plot.y),
            y2={"field": "y2"},
            color=style.colours(),
        ),
        style.layer(
            {"type": "point", "filled": True, "size": 22, "opacity": 1},
            points,
            x=dict(plot.x),
            y=dict(plot.y),
            color=style.colours(),
        ),
        style.layer(
            {"type": "point", "shape": "diamond", "size": 70, "opacity": 1, "fill": style.PAPER},
            published,
            x=dict(plot.x),
            y=dict(plot.y),
            stroke=style.colours(),
        ),
        *_names(curves, plot),
    ]
    return style.spec(layers, plot.height, left=_LEFT, right=_RIGHT)


def _names(curves: Sequence[_Curve], plot: _Plot) -> list[style.Layer]:
    """The name of each line at its end, moved where two would touch, with a thread to the end."""
    ends = [curve.points[-1] for curve in curves]
    wanted = [plot.y_px(y) for _, y, _ in ends]
    places = style.apart(wanted, _LABEL_GAP, 8, plot.height - 8)
    domain = plot.x["scale"]["domain"]
    threads, names = [], []
    for curve, (x, _, _), at, y in zip(curves, ends, wanted, places, strict=True):
        x_px = (x - domain[0]) / (domain[1] - domain[0]) * _PLOT
        threads.append({"x": x_px + 3, "x2": _PLOT + 9, "y": at, "y2": y, "colour": curve.colour})
        first, _, second = curve.name.partition("\n")
        up = _LINE_PX / 2 if second else 0
        names.append({"x": _PLOT + 12, "y": y - up, "text": first, "colour": curve.colour})
        if second:
            below = {"x": _PLOT + 12, "y": y + up, "text": second, "colour": style.MUTED}
            names.append(below)
    return [
        style.layer(
            {"type": "rule", "strokeWidth": 0.8, "opacity": 1},
            threads,
            x=style.pixels("x"),
            x2={"field": "x2"},
            y=style.pixels("y"),
            y2={"field": "y2"},
            color=style.colours(),
        ),
        style.texts(names, align="left", fontSize=style.SMALL_SIZE, limit=_RIGHT - 12),
    ]
