"""The history as one page, self-contained and offline, in the style of a run's report."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from uplab.history import chart, shown
from uplab.history.rows import RunRow
from uplab.history.shown import History
from uplab.history.trends import Panel, Series
from uplab.hostside import sums
from uplab.report import text
from uplab.report.charts import draw
from uplab.report.charts.style import Chart
from uplab.report.html import figures, page
from uplab.report.html.figures import Figure
from uplab.report.table import Table

NAME = "history.html"
#: What of a run's report a reader opens, the best first.
_REPORTS = ("report.html", "report.md")


@dataclass(frozen=True, slots=True)
class HostPart:
    """A host's part of the page."""

    host: str
    newest: tuple[tuple[str, Table], ...]
    figures: tuple[Figure, ...]
    changes: Table


def render(history: History, folder: Path, beside: Path) -> bytes:
    """The page: HTML, the same bytes for the same history.

    In: the history; the folder of its runs; the folder that the page is to lie in, for its links.
    """
    return page.fill(
        "history.html",
        title=f"uplab: {len(history.runs)} runs on {_hosts(history)}",
        subtitle=_subtitle(history),
        notices=list(_notices(history)),
        explained=shown.EXPLAINED,
        hosts=[_host(history, host) for host in history.hosts],
        index=shown.index(history.runs),
        links=[_link(run, folder, beside) for run in reversed(history.runs)],
        left_out=shown.left_out(history.left_out),
    )


def _hosts(history: History) -> str:
    names = history.hosts
    return text.plain(names[0]) if len(names) == 1 else f"{len(names)} hosts"


def _subtitle(history: History) -> str:
    if not history.runs:
        return "no run"
    first, last = history.runs[0], history.runs[-1]
    return f"{chart.day(first.started_utc)} to {chart.day(last.started_utc)}"


def _notices(history: History) -> Iterator[str]:
    if history.left_out:
        many = len(history.left_out)
        named = "1 directory is" if many == 1 else f"{many} directories are"
        yield f"{named} left out; the reasons are below."
    others = sum(1 for run in history.runs if run.provenance != "measured")
    if others:
        yield f"{others} of {len(history.runs)} runs were not measured by uplab: see their outcome."


def _host(history: History, host: str) -> HostPart:
    mine = [panel for panel in history.panels if panel.host == host]
    return HostPart(
        host=host,
        newest=tuple((shown.title(panel), shown.newest(panel)) for panel in mine),
        figures=tuple(_figure(panel) for panel in mine),
        changes=shown.changed(change for change in history.changes if change.run.host == host),
    )


def _figure(panel: Panel) -> Figure:
    drawn = _newest_runs(panel)
    says = text.plain(chart.says(panel))
    title = shown.title(panel)
    if len(drawn.runs) < len(panel.runs):
        title += f" (the newest {len(drawn.runs)} of {len(panel.runs)} runs)"
    made = Chart("", title, says, chart.spec(drawn))
    picture = figures.inline(draw.svg(made.spec), says)
    return Figure(made, picture, "", ((f"Figures, {title}", shown.behind(drawn)),))


def _newest_runs(panel: Panel) -> Panel:
    """The panel with its newest runs alone, numbered from 1."""
    off = len(panel.runs) - shown.NEWEST
    if off <= 0:
        return panel
    return replace(
        panel,
        runs=panel.runs[off:],
        series=tuple(_later(series, off) for series in panel.series if series.points[-1].at > off),
        changes={at - off: change for at, change in panel.changes.items() if at > off + 1},
    )


def _later(series: Series, off: int) -> Series:
    points = [replace(point, at=point.at - off) for point in series.points if point.at > off]
    return replace(series, points=tuple(points))


def _link(run: RunRow, folder: Path, beside: Path) -> str | None:
    """Where the report of a run lies, as seen from the page; None where there is none."""
    for name in _REPORTS:
        path = folder / run.run / sums.DERIVED / name
        if path.is_file() and not path.is_symlink():
            return quote(os.path.relpath(path, beside))
    return None


def write(history: History, folder: Path, out: Path) -> Path:
    """Write the page; out: its path. Raises UsageError where it cannot be written."""
    from uplab.report.write import write_file

    return write_file(out.parent, out.name, render(history, folder, out.parent))
