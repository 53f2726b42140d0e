"""Figures and foreign text as a reader gets them. A missing figure is `-`, never 0."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from uplab.analysis import GRADES, CellSummary, asked_per_s
from uplab.estimates import Estimate, Interval, Spread
from uplab.hostside.spec import HitsRule, RuntimeOptions
from uplab.measured import Cell, Sequential

MISSING = "-"
MAX_TEXT = 400
USUAL_LOADER = "syscall-server"

# Escape sequences as a terminal reads them: CSI, OSC and friends up to their end, then any other.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x9b[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]*[0-~]?"
)
# Control characters, and those that change the direction or the width of what follows.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff"
    "\ufff9-\ufffb\U000e0000-\U000e007f]+"
)
# What GitHub's Markdown could read as markup, HTML, a link, a mention, mathematics or an emoji. An
# underscore inside a word is none of that, so names stay readable in the source too.
_MARKDOWN = re.compile(
    r"[\\`*\[\]<|~$]|(?<!\w)_|_(?!\w)|&(?=[#\w])|@(?=\w)|:(?=//)|(?<=www)\.|:(?=[a-z][+\w-]*:)"
)
# At the start of a line: a heading, a quotation, a list, or a line under a heading.
_MARKDOWN_START = re.compile(r"^(?=[#>]|[+-](?:\s|$)|=+$|-{2,})|(?<=^\d)(?=[.)]\s)")


def plain(text: str, max_length: int = MAX_TEXT) -> str:
    """Text from a host as one harmless line: no escape sequence, control or bidi character."""
    line = " ".join(_UNSEEN.sub(" ", _ESCAPES.sub("", text)).split())
    return line if len(line) <= max_length else f"{line[: max_length - 3]}..."


def markdown(text: str, max_length: int = MAX_TEXT) -> str:
    """plain() for Markdown: every character that could become markup, HTML or a link is escaped."""
    escaped = _MARKDOWN.sub(r"\\\g<0>", plain(text, max_length))
    return _MARKDOWN_START.sub(r"\\", escaped)


def whole(value: float | None) -> str:
    """A rate or a count: `43,105`, and below 100 with one decimal."""
    if value is None:
        return MISSING
    return f"{value:,.1f}" if abs(value) < 100 and value != int(value) else f"{value:,.0f}"


def decimal(value: float | None, digits: int = 1) -> str:
    """A figure with so many decimals; a rounded `-0.0` loses its sign."""
    if value is None:
        return MISSING
    shown = f"{value:,.{digits}f}"
    return shown[1:] if shown.startswith("-") and not shown.strip("-0.,") else shown


def percent(value: float | None, digits: int = 1) -> str:
    """`83.4 %`."""
    return MISSING if value is None else f"{decimal(value, digits)} %"


def bounds(interval: Interval | None, digits: int = 1) -> str:
    """`82.1 to 84.6`."""
    if interval is None:
        return MISSING
    return f"{decimal(interval.low, digits)} to {decimal(interval.high, digits)}"


def estimate(value: Estimate | None, unit: str = " %", digits: int = 1) -> str:
    """`83.4 % (82.1 to 84.6)`; without an interval the figure alone."""
    if value is None:
        return MISSING
    figure = f"{decimal(value.value, digits)}{unit}"
    return figure if value.interval is None else f"{figure} ({bounds(value.interval, digits)})"


def middle(median: float | None, least: float | None, most: float | None) -> str:
    """`13.02 (12.91 to 13.40)`; the figure alone where there is one."""
    if median is None or least is None or most is None:
        return MISSING
    shown = decimal(median, 2)
    return shown if least == most else f"{shown} ({decimal(least, 2)} to {decimal(most, 2)})"


def rate(summary: CellSummary) -> str:
    """`998 of 1,000`: what an open loop reached of what it asks for; alone where nobody knows."""
    asked = asked_per_s(summary.cell.load_parameters)
    reached = whole(summary.requests_per_s)
    return reached if asked is None else f"{reached} of {whole(asked)}"


def spread(value: Spread | None) -> str:
    """`CV 3.1 %, 40,112 to 44,870`."""
    if value is None:
        return MISSING
    ends = f"{whole(value.least)} to {whole(value.most)}"
    return ends if value.cv_pct is None else f"CV {percent(value.cv_pct)}, {ends}"


def duration_us(value_us: float | None) -> str:
    """A time with the unit that fits: `850 us`, `2.13 ms`, `1.04 s`."""
    if value_us is None:
        return MISSING
    if value_us < 1000:
        return f"{value_us:.0f} us"
    return f"{value_us / 1000:.2f} ms" if value_us < 1_000_000 else f"{value_us / 1e6:.2f} s"


def body(body_bytes: int) -> str:
    """`12 B`, `4 KiB`."""
    if body_bytes >= 1024 and body_bytes % 1024 == 0:
        return f"{body_bytes // 1024:,} KiB"
    return f"{body_bytes:,} B"


def utc(stamp: str | None) -> str:
    """`2026-11-22 13:17:51 UTC` from what the host wrote; anything else as it stands."""
    if stamp is None:
        return MISSING
    match = re.fullmatch(r"(\d{4}-\d{2}-\d{2})T(\d{2}:\d{2}:\d{2})(?:\.\d+)?(?:Z|\+00:00)", stamp)
    return f"{match[1]} {match[2]} UTC" if match else plain(stamp, 40)


def mode(cell: Cell) -> str:
    """`userspace-uprobe (NAME, hybrid, daemon)`: what tells the cell from its neighbours.

    The usual loader and options of the runtime are not named; columns of their own hold them.
    """
    return _detailed(cell, None, {})


def label(summary: CellSummary) -> str:
    """mode(), with the grade of its evidence wherever that is not the full one.

    So no figure of such a cell stands anywhere without it.
    """
    return _detailed(summary.cell, summary.grade, summary.path_names)


def _detailed(cell: Cell, grade: str | None, path_names: Mapping[str, str]) -> str:
    loader = cell.loader if cell.loader != USUAL_LOADER else None
    options = runtime(cell.runtime, path_names)
    parts = [cell.tracer, placement(cell.placement), loader, options]
    parts.append(grade if grade != GRADES[0] else None)
    detail = ", ".join(part for part in parts if part)
    return f"{cell.mode} ({detail})" if detail else cell.mode


def placement(value: Any) -> str:
    """A placement in words: its name, or `site=place` for each site."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return " ".join(f"{site}={place}" for site, place in sorted(value.items()))
    return str(value)


def places(placements: Mapping[str, str]) -> str:
    """`userspace: casgstatus; kernel: 4 sites`: few sites by their names, many by their number."""
    by_place: dict[str, list[str]] = {}
    for name, place in placements.items():
        by_place.setdefault(place, []).append(name)
    order = sorted(by_place, key=lambda place: _PLACES.index(place) if place in _PLACES else -1)
    shown = (f"{place}: {_named(by_place[place])}" for place in order if place != "untouched")
    return "; ".join(shown) or ("no site" if placements else MISSING)


_PLACES = ("userspace", "kernel", "untouched")
_NAMED_AT_MOST = 3


def _named(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= _NAMED_AT_MOST else f"{len(names)} sites"


def runtime(options: Mapping[str, Any], path_names: Mapping[str, str] | None = None) -> str:
    """The options of the userspace runtime that are not the usual ones: `no JIT, 100 MB`.

    Paths by the names that they are given, else as they stand.
    """
    usual, names = asdict(RuntimeOptions()), path_names or {}
    unusual = {
        name: names.get(value, value) if isinstance(value, str) else value
        for name, value in options.items()
        if usual.get(name, value) != value
    }
    return ", ".join(_OPTION_WORDS.get(name, "{}").format(value) for name, value in unusual.items())


# One that is on or off says which of both is unusual.
_OPTION_WORDS = {"jit": "no JIT", "shm_mb": "{} MB", "map_kind": "{} maps"}


def declared(rule: HitsRule | None) -> str:
    """`1 to 2.1, +10/connection`; one figure where both ends are the same."""
    if rule is None:
        return MISSING
    ends = {f"{rule.minimum:g}": None, f"{rule.maximum:g}": None}
    extra = f", +{rule.per_connection:g}/connection" if rule.per_connection else ""
    return " to ".join(ends) + extra


def looks(sequential: Sequential) -> str:
    """How the number of blocks came about: the figures were looked at, and when."""
    at = [str(blocks) for blocks in sequential.looks[-_LOOKS_NAMED:]]
    earlier = "..., " if len(sequential.looks) > len(at) else ""
    looked = f"looked at {earlier}{', '.join(at)} blocks" if at else "not looked at yet"
    stopped = f"; stopped: {sequential.stopped}" if sequential.stopped else ""
    return (
        "sequential: blocks were added to know every overhead to "
        f"{sequential.half_width_pp:g} percentage points (half of its 95 % interval); "
        f"{looked}{stopped}"
    )


_LOOKS_NAMED = 20


def known_to(summary: CellSummary, sequential: Sequential) -> str:
    """`2.3 pp, not reached`: half the width of a cell's interval, and whether that was enough."""
    estimate = summary.overhead_pct
    interval = estimate.interval if estimate else None
    half = MISSING if interval is None else f"{(interval.high - interval.low) / 2:.2g} pp"
    return f"{half}, {state(summary.cell.cell_id, sequential)}"


def state(cell_id: str, sequential: Sequential) -> str:
    """Whether a cell's overhead was known well enough at the last look."""
    if cell_id in sequential.reached:
        return "reached"
    return "not reached" if cell_id in sequential.not_reached else "not looked at"
