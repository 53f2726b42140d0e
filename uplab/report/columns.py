"""The tables of figures, latency and exceptions of a report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from uplab.analysis import CLOSED, OPEN, CellSummary, Group
from uplab.measured import PlannedCell, Sequential, Trial
from uplab.report import sentences, text
from uplab.report.latency import PERCENTILES
from uplab.report.model import Report
from uplab.report.table import Table


@dataclass(frozen=True, slots=True)
class _Column:
    heading: str
    show: Callable[[CellSummary], str]
    figure: bool = True


_MODE = _Column("mode", lambda cell: text.label(cell), figure=False)
_N = _Column("n", lambda cell: str(cell.n))
_HITS = _Column("hits/req", lambda cell: text.decimal(cell.hits_per_request))
_CPU = _Column("CPU us/req", lambda cell: text.decimal(cell.cpu_us_per_request))
_EVIDENCE = _Column("evidence", lambda cell: cell.grade or text.MISSING, figure=False)
_EVENTS_LOST = _Column("events lost", lambda cell: text.whole(cell.events_lost))
_VERDICT = _Column("verdict", lambda cell: cell.verdict or text.MISSING, figure=False)
_EXTRA_US = _Column("extra CPU us/req", lambda cell: text.estimate(cell.cpu_extra_us, unit=""))
# Of groups with a cell that is traced in userspace.
_USERSPACE = (
    _Column("placement", lambda cell: text.places(cell.placements), figure=False),
    _Column("loader", lambda cell: cell.cell.loader or text.MISSING, figure=False),
    _Column(
        "runtime options",
        lambda cell: text.runtime(cell.cell.runtime, cell.path_names) or text.MISSING,
        figure=False,
    ),
)

# By the loop of the load: under an open one the rate is given, and the CPU is the figure.
_MAIN = {
    CLOSED: (
        _MODE,
        _Column("req/s", lambda cell: text.whole(cell.requests_per_s)),
        _Column("spread", lambda cell: text.spread(cell.spread)),
        _N,
        _Column("throughput lost", lambda cell: text.estimate(cell.overhead_pct)),
        _HITS,
        _CPU,
        _EVIDENCE,
        _EVENTS_LOST,
    ),
    OPEN: (
        _MODE,
        _Column("fixed rate, req/s", lambda cell: text.rate(cell)),
        _CPU,
        _Column("CPU spread", lambda cell: text.spread(cell.cpu_spread)),
        _N,
        _Column("extra CPU", lambda cell: text.estimate(cell.overhead_pct)),
        _HITS,
        _EVIDENCE,
        _EVENTS_LOST,
    ),
}

_DETAIL = {
    CLOSED: (
        _MODE,
        _VERDICT,
        _Column("median lost (BCa)", lambda cell: sentences.bootstrap(cell) or text.MISSING),
        _EXTRA_US,
        _Column("extra CPU", lambda cell: text.estimate(cell.cpu_extra_pct, digits=0)),
    ),
    OPEN: (
        _MODE,
        _VERDICT,
        _Column("median extra CPU (BCa)", lambda cell: sentences.bootstrap(cell) or text.MISSING),
        _EXTRA_US,
        _Column("p50 longer", lambda cell: text.estimate(cell.latency_extra_pct.get("p50"))),
        _Column("p90 longer", lambda cell: text.estimate(cell.latency_extra_pct.get("p90"))),
        _Column("p99 longer", lambda cell: text.estimate(cell.latency_extra_pct.get("p99"))),
    ),
}

_LEGEND = (
    ("req/s", "median requests per second over the trials that count"),
    (
        "fixed rate, req/s",
        (
            "requests per second that the load reached (median) of those that it asks for, however "
            "slow the answers are: no figure of the server, which is why CPU is compared"
        ),
    ),
    ("spread", "coefficient of variation (standard deviation / mean), least and most req/s"),
    ("CPU spread", "the same of the CPU time per request, in microseconds"),
    ("n", "trials that count (one per block)"),
    (
        "throughput lost",
        (
            "against none, paired within each block: 100 x (1 - exp(mean of ln(rps / rps of "
            "none))), with its 95 % Student-t interval from n = 3; positive is slower"
        ),
    ),
    (
        "hits/req",
        (
            "probe hits per request, counted by the tracer; by the kernel in the warm-up where a "
            "tracer does not count"
        ),
    ),
    ("CPU us/req", "CPU time of the server per request, median, in microseconds"),
    (
        "extra CPU",
        (
            "of the server per request, against none, paired within each block, 100 x (exp(mean of "
            "ln(CPU / CPU of none)) - 1), with its 95 % Student-t interval from n = 3"
        ),
    ),
    (
        "median lost",
        "throughput lost as the median over the blocks, with its 95 % BCa bootstrap interval",
    ),
    (
        "median extra CPU",
        "extra CPU as the median over the blocks, with its 95 % BCa bootstrap interval",
    ),
    ("p50 longer", "how much longer half of the requests took at least, likewise paired"),
    ("p90 longer", "the same of the slowest tenth of the requests"),
    ("p99 longer", "the same of the slowest hundredth of the requests"),
    (
        "known to",
        (
            "half the width of the interval of the overhead, in percentage points, and whether it "
            "was narrow enough when blocks were no longer added"
        ),
    ),
    (
        "evidence",
        (
            "proven: the server's bytes at every probe site and the hits agree with the mode; "
            "sites only: altered sites were found, and not counted; links only: the tracer holds "
            "BPF programs, and altered nothing in the server. What is not proven is also named "
            "beside the mode, wherever its figures are"
        ),
    ),
    ("events lost", "events that the tracer lost, all trials together"),
    ("placement", "where the probe sites lay: in userspace, in the kernel (all below: Placement)"),
    ("loader", "how the probes came into userspace"),
    ("runtime options", "of the userspace runtime, where they are not the usual ones"),
    ("-", "not measured or not applicable; a missing figure is never 0"),
)


def legend(report: Report) -> list[tuple[str, str]]:
    """What the columns mean that occur in a report's tables, and the sign for a missing figure."""
    shown = {
        heading
        for group in report.analysis.groups
        for table in (main(group), detail(group))
        for heading in table.headings
    }
    return [
        (name, meaning)
        for name, meaning in _LEGEND
        if name == text.MISSING or any(_is_for(name, heading) for heading in shown)
    ]


def _is_for(name: str, heading: str) -> bool:
    return heading == name or (name != "n" and heading.startswith((f"{name} ", f"{name},")))


def main(group: Group) -> Table:
    """Per mode: rate, spread, n, overhead, hits, CPU, lost events. What was measured only."""
    cells = [cell for cell in group.cells if cell.trials or cell.n]
    table = _table(_MAIN[group.loop], cells)
    if not any(cell.cell.loader for cell in cells):
        return table
    return table.beside(_table(_USERSPACE, cells).without_empty_columns())


def detail(group: Group) -> Table:
    """Per mode: verdict, bootstrap, extra CPU, and the latency under an open loop."""
    rows = [cell for cell in group.cells if cell.overhead_pct is not None]
    table = _table(_DETAIL[group.loop], rows).without_empty_columns()
    if group.sequential is None:
        return table
    return table.beside(_table((_known_to(group.sequential),), rows))


def _known_to(sequential: Sequential) -> _Column:
    heading = f"known to {sequential.half_width_pp:g} pp (sequential)"
    return _Column(heading, lambda cell: text.known_to(cell, sequential), figure=False)


def latency(group: Group, report: Report) -> Table:
    """Per mode: pooled latency percentiles and what they are pooled from."""
    rows = []
    for cell in group.cells:
        pooled = report.latency.get(cell.cell.cell_id)
        if pooled is not None:
            values = [text.duration_us(value) for value in pooled.percentiles_us]
            requests = sum(t.load.requests or 0 for t in cell.counted if t.load)
            counts = (text.whole(pooled.samples), text.whole(requests), str(pooled.trials))
            rows.append((text.label(cell), *values, *counts))
    names = tuple(f"p{p:g}" for p in PERCENTILES)
    headings = ("mode", *names, "samples", "requests", "trials pooled")
    return Table(headings, (False, *[True] * (len(headings) - 1)), tuple(rows))


def invalid(trials: Sequence[Trial]) -> Table:
    """Every invalid trial with all its reasons."""
    return Table(
        ("trial", "block", "attempt", "reason"),
        (False, True, True, False),
        tuple(
            (trial.name, str(trial.block), str(trial.attempt), reasons(trial)) for trial in trials
        ),
    )


def unavailable(cells: Sequence[PlannedCell]) -> Table:
    """Every cell of the matrix that could not be run here: one row for each reason.

    What could be had (`not available here`) comes before what makes no sense (`not applicable`).
    """
    by_reason: dict[tuple[str, str], list[str]] = defaultdict(list)
    for cell in cells:
        by_reason[cell.status, cell.reason or text.MISSING].append(cell.cell.cell_id)
    rows = []
    for (status, reason), ids in sorted(by_reason.items(), key=_last_if_senseless):
        first, *more = _on_lines(ids)
        rows.append((status, reason, str(len(ids)), first))
        rows += [("", "", "", line) for line in more]
    return Table(("status", "reason", "number", "cells"), (False, False, True, False), tuple(rows))


def _last_if_senseless(row: tuple[tuple[str, str], list[str]]) -> bool:
    (status, _), _ = row
    return status == sentences.NOT_APPLICABLE


def _on_lines(names: Sequence[str]) -> list[str]:
    """Names with commas between, on lines that no renderer has to cut."""
    lines = [""]
    for name in names:
        longer = f"{lines[-1]}, {name}" if lines[-1] else name
        if len(longer) > text.MAX_TEXT and lines[-1]:
            lines.append(name)
        else:
            lines[-1] = longer
    return lines


def flagged(trials: Sequence[Trial]) -> Table:
    """Every trial with a flag, which says what disturbed it."""
    return Table(
        ("trial", "flags"),
        (False, False),
        tuple((trial.name, "; ".join(trial.flags)) for trial in trials),
    )


def reasons(trial: Trial) -> str:
    """Why a trial is invalid, as one line."""
    return "; ".join(f"{reason.code}: {reason.text}" for reason in trial.reasons) or text.MISSING


def _table(columns: Sequence[_Column], cells: Sequence[CellSummary]) -> Table:
    return Table(
        tuple(column.heading for column in columns),
        tuple(column.figure for column in columns),
        tuple(tuple(column.show(cell) for column in columns) for cell in cells),
    )
