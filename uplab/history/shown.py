"""The history as tables: for the page, the terminal and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from uplab.history import chart
from uplab.history.rows import CellRow, RunRow
from uplab.history.scan import LeftOut, Scanned
from uplab.history.store import Store
from uplab.history.trends import Change, Panel, Series, changes, in_time, panels
from uplab.report import text
from uplab.report.section import Section
from uplab.report.table import Table

EXPLAINED = (
    "Figures are overheads against none, as in each run's own report: under a closed loop the "
    "throughput lost, under an open loop the extra CPU per request; of none itself requests per "
    "second (or CPU per request). Brackets hold 95 % intervals.",
    "moved: the newest interval has nothing in common with the one before it. Runs of the same "
    "thing differ by more than their trials do (another day, another boot), so this is a reason to "
    "look, not a verdict; and what changed on the host at the same time need not be the cause. "
    "report.compare tells two runs apart.",
)
#: Of longer histories, charts and their tables show the newest; the index has every run.
NEWEST = 200
_RUNS_IN_TERMINAL = 15
_CHANGES_IN_TERMINAL = 10
_FIELDS_NAMED = 4
_LONGEST_VALUE = 60


@dataclass(frozen=True, slots=True)
class History:
    """All that is shown. `runs` oldest first; panels of the hosts one after the other."""

    runs: tuple[RunRow, ...]
    panels: tuple[Panel, ...]
    changes: tuple[Change, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def hosts(self) -> list[str]:
        """Their names."""
        return sorted({run.host for run in self.runs})


def build(scanned: Scanned, store: Store, host: str | None = None) -> History:
    """The history of the runs in a store.

    In: what the folder holds; the store; one host's name, None for all hosts.
    """
    runs, cells = _query(store, host) if scanned.keys else ([], [])
    known = [run for run in runs if run.key in scanned.keys]
    return History(
        runs=tuple(sorted(known, key=in_time)),
        panels=panels(known, cells),
        changes=changes(known),
        left_out=scanned.left_out,
    )


def _query(store: Store, host: str | None) -> tuple[list[RunRow], list[CellRow]]:
    of_host = "($host IS NULL OR host = $host)"
    with store.connected() as connection:
        runs = connection.execute(f"SELECT * FROM runs WHERE {of_host}", {"host": host}).fetchall()
        cells = connection.execute(
            f"SELECT cells.* FROM cells JOIN runs USING (key) WHERE {of_host}", {"host": host}
        ).fetchall()
    return [RunRow(*row) for row in runs], [CellRow(*row) for row in cells]


# ------------------------------------------------------------------------------------------ tables


def title(panel: Panel) -> str:
    """The server, the size and the load with its parameters."""
    parameters = panel.load_parameters.strip("{}").replace('"', "").replace(": ", " ")
    return text.plain(f"{panel.server}, {text.body(panel.body_bytes)}, {panel.load} {parameters}")


def newest(panel: Panel) -> Table:
    """A row for each cell: its newest figure, and how it was before."""
    rows = [
        (
            series.label,
            chart.figure(series.points[-1]),
            series.moved or text.MISSING,
            _usual(series),
            str(len(series.points)),
            chart.day(series.points[-1].run.started_utc),
        )
        for series in panel.series
    ]
    return Table(
        ("mode", "newest", "moved", "median (least to most)", "runs", "of"),
        (False, True, False, True, True, False),
        tuple(rows),
    )


def _usual(series: Series) -> str:
    values = series.values
    if series.is_baseline:
        ends = [text.whole(value) for value in (series.median, min(values), max(values))]
    else:
        ends = [text.decimal(value) for value in (series.median, min(values), max(values))]
    return f"{ends[0]} ({ends[1]} to {ends[2]})" if len(values) > 1 else text.MISSING


def behind(panel: Panel) -> Table:
    """The figures behind a panel's chart, newest first."""
    labels = tuple(series.label for series in panel.series)
    rows = tuple(tuple(row) for row in chart.rows_of(panel)[:NEWEST])
    return Table(("number", "run", *labels), (True, False, *[True] * len(labels)), rows)


def changed(found: Iterable[Change]) -> Table:
    """What changed, newest first: a row for each field."""
    newest_first = sorted(found, key=lambda change: in_time(change.run), reverse=True)[:NEWEST]
    rows = [
        (change.run.run, name, _short(old), _short(new))
        for change in newest_first
        for name, old, new in change.fields
    ]
    return Table(("came with run", "what", "from", "to"), (False, False, False, False), tuple(rows))


def _short(value: str) -> str:
    return text.plain(value, 200) or "(empty)"


def index(runs: Sequence[RunRow]) -> Table:
    """Every run, newest first."""
    rows = [
        (
            run.run,
            run.host,
            run.matrix,
            f"{run.cells_measured} of {run.cells}",
            str(run.blocks),
            f"{run.invalid} of {run.trials}",
            run.outcome if run.provenance == "measured" else f"{run.outcome}, {run.provenance}",
            run.kernel or text.MISSING,
            run.uplab_version,
        )
        for run in reversed(runs)
    ]
    plain = tuple(tuple(text.plain(value) for value in row) for row in rows)
    return Table(
        (
            *("run", "host", "matrix", "cells", "blocks", "invalid", "outcome"),
            *("kernel", "uplab"),
        ),
        (False, False, False, True, True, True, False, False, False),
        plain,
    )


def left_out(found: Iterable[LeftOut]) -> Table:
    """What is no run to be trusted, and why."""
    rows = tuple((one.run, text.plain(one.reason)) for one in found)
    return Table(("directory", "why"), (False, False), rows)


# ---------------------------------------------------------------------------------------- terminal


def sections(history: History) -> Iterator[Section]:
    """The history for a terminal: figures, then what changed, the newest runs, what is left out."""
    for host in history.hosts:
        runs = [run for run in history.runs if run.host == host]
        changed_there = tuple(_said(change) for change in _last(history, host))
        yield Section(f"{host}: {len(runs)} runs, {_span(runs)}", (), None, changed_there)
        for panel in history.panels:
            if panel.host == host:
                yield Section(f"{host}: {title(panel)}", (), newest(panel))
    shown = history.runs[-_RUNS_IN_TERMINAL:]
    more = len(history.runs) - len(shown)
    yield Section(
        f"Runs ({len(history.runs)})",
        () if history.runs else ("None. Run: invoke bench.all",),
        index(shown),
        (f"and {more} older ones: see the page",) if more > 0 else (),
    )
    if history.left_out:
        yield Section(f"Left out ({len(history.left_out)})", (), left_out(history.left_out))
    yield Section("What the columns mean", EXPLAINED)


def _span(runs: Sequence[RunRow]) -> str:
    first, last = chart.day(runs[0].started_utc), chart.day(runs[-1].started_utc)
    return first if first == last else f"{first} to {last}"


def _last(history: History, host: str) -> list[Change]:
    return [change for change in history.changes if change.run.host == host][-_CHANGES_IN_TERMINAL:]


def _said(change: Change) -> str:
    fields = "; ".join(
        f"{name} from {text.plain(old, _LONGEST_VALUE)} to {text.plain(new, _LONGEST_VALUE)}"
        for name, old, new in change.fields[:_FIELDS_NAMED]
    )
    more = len(change.fields) - _FIELDS_NAMED
    return f"changed with {change.run.run}: {fields}" + (f"; and {more} more" if more > 0 else "")


# -------------------------------------------------------------------------------------------- JSON


def document(history: History) -> dict[str, Any]:
    """The whole history as JSON: nothing is left out or rounded."""
    return {
        "runs": [{**asdict(run), "facts": dict(run.known)} for run in history.runs],
        "cells": [
            {"run": point.run.run, "host": panel.host, "number": point.at, **asdict(point.cell)}
            for panel in history.panels
            for series in panel.series
            for point in series.points
        ],
        "changes": [
            {
                "run": change.run.run,
                "before": change.before.run,
                "host": change.run.host,
                "fields": [{"what": name, "from": a, "to": b} for name, a, b in change.fields],
            }
            for change in history.changes
        ],
        "left_out": [asdict(one) for one in history.left_out],
    }
