"""What all charts have in common: sizes, colours, words, and the frame of a specification.

A chart is as wide as a phone, so that it can be read there without zooming; wider screens show
several side by side. Every row, line or bar has its name and figure beside it: no legend to look
up, no colour that must be told from another. The colours are Okabe and Ito's, which colour-blind
readers can tell apart, darkened until text in them has a contrast of 4.5 to 1 on white.

A page may show other colours for dark screens: it finds each by its value here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from statistics import fmean
from typing import Any

from uplab.analysis import CellSummary
from uplab.report import text

WIDTH = 400
#: Left and right of a plot without labels beside it, in pixels.
SIDE = 12
PLOT = WIDTH - 2 * SIDE
LABEL_SIZE = 12
SMALL_SIZE = 11
_MOST_NUMBERS = 8
# As wide as the wider letters of the font, in pixels for each of its size.
_LETTER = 0.56
# vl-convert brings Liberation Sans with it, so texts are as wide on every machine; Arial and
# Helvetica have the same widths.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"

PAPER = "#ffffff"
INK = "#1b1e22"
MUTED = "#565d66"
GRID = "#dde1e6"
BAND = "#e9edf1"
GREY = "#6a7079"
GREEN = "#00735a"
VERMILION = "#b5420b"
BLUE = "#0a62a9"
PURPLE = "#75409a"
#: Every colour that a chart can have.
COLOURS = (PAPER, INK, MUTED, GRID, BAND, GREY, GREEN, VERMILION, BLUE, PURPLE)

_OF_MODE = {
    "none": GREY,
    "none-again": GREY,
    "tracer-only": GREEN,
    "kernel-uprobe": VERMILION,
    "userspace-uprobe": BLUE,
}
DASHES: tuple[list[int], ...] = ([1, 0], [6, 3], [2, 2], [9, 3, 2, 3])

Layer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart before it is drawn. `name` is that of its files, `says` what it shows, in words."""

    name: str
    title: str
    says: str
    spec: Mapping[str, Any]


def colour(mode: str) -> str:
    """The colour of a mode; all that are not ours share one."""
    return _OF_MODE.get(mode, PURPLE)


def label(summary: CellSummary) -> str:
    """A cell's name beside its mark; a runtime that all cells of a run share is left out."""
    named = summary if len(summary.path_names) > 1 else _unnamed(summary)
    # Of other letters the font has none, and what would stand in differs between machines.
    return text.plain(text.label(named)).encode("latin-1", "replace").decode("latin-1")


def _unnamed(summary: CellSummary) -> CellSummary:
    kept = {
        name: value
        for name, value in summary.cell.runtime.items()
        if value not in summary.path_names
    }
    return replace(summary, cell=replace(summary.cell, runtime=kept))


def label_on_two_lines(summary: CellSummary) -> str:
    """label() with what stands in brackets on a line of its own."""
    mode, bracket, rest = label(summary).partition(" (")
    return f"{mode}\n{rest.removesuffix(')')}" if bracket else mode


def text_px(shown: str, size: int = LABEL_SIZE) -> float:
    """About how wide a text is, rather too much than too little."""
    return len(shown) * size * _LETTER


def clamp(value: float, low: float, high: float) -> float:
    """A value, or the nearer end of a range that it lies outside of."""
    return max(low, min(high, value))


def finite(values: Iterable[float | None]) -> list[float]:
    """The values that can be drawn."""
    return [value for value in values if value is not None and isfinite(value)]


def typeset(figure: str) -> str:
    """A figure as it is printed: with a minus and a micro sign, which terminals may lack."""
    return re.sub(r"(?<!\w)-(?=\d)", "\u2212", figure).replace(" us", " µs")


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places for labels, as near to those wanted as can be with `gap` between neighbours.

    In: where each label would like to be, and the ends of the room. Out: a place for each, in the
    order of `wanted`. Where the room is too small for all, they reach beyond its end.
    """
    order = sorted(range(len(wanted)), key=lambda index: (wanted[index], index))
    # Without the gaps it is an isotonic regression (pool adjacent violators). scipy has one, in a
    # module that takes longer to import than all the charts of a run take to draw.
    pools: list[list[float]] = []
    for at, index in enumerate(order):
        pools.append([wanted[index] - at * gap])
        while len(pools) > 1 and fmean(pools[-2]) >= fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    fitted = [fmean(pool) for pool in pools for _ in pool]
    last = high - (len(order) - 1) * gap
    found = [0.0] * len(wanted)
    for at, index in enumerate(order):
        found[index] = round(max(low, min(fitted[at], last)) + at * gap, 1)
    return found


# ------------------------------------------------------------------------------- specifications


def spec(
    layers: Sequence[Layer],
    height: int,
    *,
    left: int = SIDE,
    right: int = SIDE,
    bottom: int = 40,
) -> dict[str, Any]:
    """A whole specification: layers on a plot of `height` pixels, with an axis below."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": WIDTH - left - right,
        "height": height,
        "padding": {"left": left, "right": right, "top": 6, "bottom": bottom},
        "autosize": "none",
        "background": PAPER,
        "config": {
            "font": FONT,
            "view": {"stroke": None},
            "text": {"fontSize": LABEL_SIZE, "color": INK, "baseline": "middle"},
            "axis": {
                "aria": False,
                "labelColor": MUTED,
                "labelFontSize": SMALL_SIZE,
                "titleColor": MUTED,
                "titleFontSize": SMALL_SIZE,
                "titleFontWeight": "normal",
                "gridColor": GRID,
                "domainColor": GRID,
                "tickColor": GRID,
                "labelPadding": 4,
                "titlePadding": 6,
            },
        },
        "layer": list(layers),
    }


def layer(mark: Mapping[str, Any], values: Sequence[Mapping[str, Any]], **encoding: Any) -> Layer:
    """Marks for values. What has no `say` among its fields is passed over by screen readers."""
    said = bool(values) and "say" in values[0]
    encoded = {"description": {"field": "say", "type": "nominal"}} if said else {}
    return {
        "mark": {**mark, "aria": said},
        "data": {"values": list(values)},
        "encoding": {**encoding, **encoded},
    }


def pixels(name: str) -> dict[str, Any]:
    """A channel whose field holds pixels of the plot."""
    return {"field": name, "type": "quantitative", "scale": None, "axis": None}


def colours(name: str = "colour") -> dict[str, Any]:
    """A channel whose field holds a colour."""
    return {"field": name, "type": "nominal", "scale": None}


def shown(name: str = "text") -> dict[str, Any]:
    """A channel whose field holds a text."""
    return {"field": name, "type": "nominal"}


def axis(
    name: str, domain: Sequence[float], title: str | None = None, **options: Any
) -> dict[str, Any]:
    """The horizontal channel with the axis below the plot."""
    return {
        "field": name,
        "type": "quantitative",
        "scale": {"domain": list(domain), "nice": False, "zero": False},
        "axis": {"title": title, "tickCount": 6, "ticks": False, "domain": False, **options},
    }


def numbers_axis(
    name: str, domain: tuple[float, float], first: int, last: int, title: str
) -> dict[str, Any]:
    """The horizontal channel of things that are counted, from the first to the last one."""
    # Asked for whole numbers, it puts halves between a few all the same, and prints them rounded.
    few = {"values": list(range(first, last + 1))} if last - first < _MOST_NUMBERS else {}
    return axis(name, domain, title, tickMinStep=1, format="d", grid=False, **few)


def texts(values: Sequence[Mapping[str, Any]], **mark: Any) -> Layer:
    """Texts at pixels `x` and `y`, in the colour `colour`."""
    return layer(
        {"type": "text", **mark},
        values,
        x=pixels("x"),
        y=pixels("y"),
        text=shown(),
        color=colours(),
    )
