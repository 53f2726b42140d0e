"""The first chart: what each way of tracing costs, with intervals, and what was published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

from uplab.analysis import CONTROL, Group
from uplab.estimates import better_pct
from uplab.report import text
from uplab.report.charts import style
from uplab.report.words import WORDS

_ROW = 40
_LABEL_Y, _MARK_Y = 12, 28
_HALF_LINE = 8
# Above the rows, where the band of the noise floor has its name.
_TOP = 16
# Further below, a figure says so in text alone; its mark stands at the edge.
_LOWEST_PCT, _HIGHEST_PCT = -100.0, 100.0
_GAP = 9


@dataclass(frozen=True, slots=True)
class Published:
    """A published overhead of one mode, in percent, and the name of its source."""

    source: str
    mode: str
    overhead_pct: float


@dataclass(frozen=True, slots=True)
class _Row:
    label: str
    figure: str
    value: float | None
    low: float | None
    high: float | None
    colour: str
    published: bool = False


def spec(group: Group, published: Sequence[Published]) -> Mapping[str, Any] | None:
    """The chart of a group; None where nothing was measured."""
    rows = list(_rows(group, published))
    if not any(row.value is not None and not row.published for row in rows):
        return None
    domain = _domain(rows, group)
    top = _TOP if group.noise_floor_pct is not None else 0
    height = top + _ROW * len(rows)
    words = WORDS[group.loop]
    x = style.axis("at", domain, f"{words.figure} against none, %")
    placed = [(row, top + index * _ROW) for index, row in enumerate(rows)]
    back = [*_floor(group, domain, height, x), _zero([y for _, y in placed], x)]
    return style.spec([*back, *_marks(placed, domain, x)], height)


def _rows(group: Group, published: Sequence[Published]) -> Iterator[_Row]:
    cells = [cell for cell in group.cells if cell.overhead_pct and cell.cell.mode != CONTROL]
    modes = dict.fromkeys(cell.cell.mode for cell in cells)
    for mode in modes:
        for cell in cells:
            estimate = cell.overhead_pct
            if cell.cell.mode == mode and estimate is not None:
                interval = estimate.interval
                yield _Row(
                    style.label(cell),
                    style.typeset(text.estimate(estimate)),
                    estimate.value,
                    interval.low if interval else None,
                    interval.high if interval else None,
                    style.colour(mode),
                )
        for one in published:
            if one.mode == mode:
                name = f"{mode}, published ({text.plain(one.source, 40)})"
                figure = style.typeset(text.percent(one.overhead_pct))
                yield _Row(name, figure, one.overhead_pct, None, None, style.INK, published=True)


def _domain(rows: Sequence[_Row], group: Group) -> tuple[float, float]:
    """From 0 or below to 100, or as far as an overhead of an open loop goes; in whole tens."""
    values = style.finite(
        [value for row in rows for value in (row.value, row.low, row.high)]
        + [group.noise_floor_pct]
    )
    if group.noise_floor_pct is not None:
        values += style.finite([better_pct(group.noise_floor_pct, group.scale) * -1])
    low = max(_LOWEST_PCT, min([0.0, *values]))
    most = max(values, default=0.0)
    high = min(most, 1e6) if group.is_open else _HIGHEST_PCT
    step = 10 if high - low <= 200 else 10 ** (len(str(int(high - low))) - 1) / 2
    return floor(low / step) * step, max(ceil(high / step) * step, step)


def _floor(
    group: Group, domain: tuple[float, float], height: int, x: Mapping[str, Any]
) -> Iterator[style.Layer]:
    """A band of what noise alone does."""
    if group.noise_floor_pct is not None:
        ends = (-better_pct(group.noise_floor_pct, group.scale), group.noise_floor_pct)
        low, high = (style.clamp(end, *domain) for end in ends)
        yield style.layer(
            {"type": "rect", "color": style.BAND},
            [{"at": low, "to": high, "y": 0, "y2": height}],
            x=dict(x),
            x2={"field": "to"},
            y=style.pixels("y"),
            y2={"field": "y2"},
        )
        # On the right of the line of no overhead.
        name = {"x": _px(0, domain) + 5, "y": 8, "text": "noise floor", "colour": style.MUTED}
        yield style.texts([name], align="left", fontSize=style.SMALL_SIZE)


def _zero(rows: Sequence[int], x: Mapping[str, Any]) -> style.Layer:
    """The line of no overhead, beside the marks alone: the names are left free of it."""
    return style.layer(
        {"type": "rule", "color": style.MUTED, "strokeWidth": 1},
        [{"at": 0, "y": y + _LABEL_Y + _HALF_LINE, "y2": y + _ROW} for y in rows],
        x=dict(x),
        y=style.pixels("y"),
        y2={"field": "y2"},
    )


def _marks(
    placed: Sequence[tuple[_Row, int]], domain: tuple[float, float], x: Mapping[str, Any]
) -> Iterator[style.Layer]:
    labels = [
        {"x": 0, "y": y + _LABEL_Y, "text": row.label, "colour": _of_text(row)} for row, y in placed
    ]
    yield style.texts(labels, align="left", limit=style.PLOT)
    ours = [(row, y) for row, y in placed if not row.published]
    intervals = [
        {
            "at": style.clamp(row.low, *domain),
            "to": style.clamp(row.high, *domain),
            "y": y + _MARK_Y,
            "colour": row.colour,
            "say": f"{row.label}: {row.figure}",
        }
        for row, y in ours
        if row.low is not None and row.high is not None
    ]
    yield style.layer(
        {"type": "rule", "strokeWidth": 5, "strokeCap": "round"},
        intervals,
        x=dict(x),
        x2={"field": "to"},
        y=style.pixels("y"),
        color=style.colours(),
    )
    yield _points(ours, domain, x, {"shape": "circle", "size": 80, "stroke": style.PAPER})
    theirs = [(row, y) for row, y in placed if row.published]
    yield _points(theirs, domain, x, {"shape": "diamond", "size": 95, "stroke": style.INK})
    yield from _figures(placed, domain)


def _points(
    placed: Sequence[tuple[_Row, int]],
    domain: tuple[float, float],
    x: Mapping[str, Any],
    mark: Mapping[str, Any],
) -> style.Layer:
    return style.layer(
        {"type": "point", "opacity": 1, "strokeWidth": 1.5, **mark},
        [
            {
                "at": style.clamp(row.value, *domain),
                "y": y + _MARK_Y,
                "colour": style.PAPER if row.published else row.colour,
                "say": f"{row.label}: {row.figure}",
            }
            for row, y in placed
            if row.value is not None
        ],
        x=dict(x),
        y=style.pixels("y"),
        fill=style.colours(),
    )


def _figures(
    placed: Sequence[tuple[_Row, int]], domain: tuple[float, float]
) -> Iterator[style.Layer]:
    """The figure beside each mark, where there is room for it."""
    on_the_right, on_the_left = [], []
    for row, y in placed:
        if row.value is None:
            continue
        ends = [row.value if end is None else end for end in (row.low, row.high)]
        left, right = (_px(style.clamp(end, *domain), domain) for end in ends)
        entry = {"y": y + _MARK_Y, "text": row.figure, "colour": _of_text(row)}
        wide = style.text_px(row.figure) + _GAP
        if right + wide <= style.PLOT:
            on_the_right.append({**entry, "x": right + _GAP})
        elif left >= wide:
            on_the_left.append({**entry, "x": left - _GAP})
        else:
            # Above the mark, at the edge, where its label seldom reaches.
            on_the_left.append({**entry, "x": style.PLOT, "y": y + _LABEL_Y})
    yield style.texts(on_the_right, align="left")
    # Only of a forged run is a figure wider than the plot.
    yield style.texts(on_the_left, align="right", limit=style.PLOT)


def _px(value: float, domain: tuple[float, float]) -> float:
    low, high = domain
    return (value - low) / (high - low) * style.PLOT


def _of_text(row: _Row) -> str:
    return style.MUTED if row.published else style.INK
