"""The tables of a report as data: a heading and what stands below it, for any renderer.

Cells are plain text from trusted formatting and from the run; a renderer escapes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from uplab.analysis import CellSummary, Group
from uplab.report import sentences, text
from uplab.report.latency import PERCENTILES
from uplab.report.model import Report
from uplab.results import HitCost, PlannedCell, Trial


@dataclass(frozen=True, slots=True)
class Table:
    """Headings, which of them stand over figures (aligned right), and rows of the same length."""

    headings: tuple[str, ...]
    figures: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]

    def without_empty_columns(self) -> Table:
        """The table without columns that hold no figure at all (the first column stays)."""
        kept = [
            index
            for index in range(len(self.headings))
            if index == 0 or any(row[index] != text.MISSING for row in self.rows)
        ]
        return self.only(kept)

    def only(self, kept: Sequence[int]) -> Table:
        """The table with the columns of these indices."""
        return Table(
            tuple(self.headings[index] for index in kept),
            tuple(self.figures[index] for index in kept),
            tuple(tuple(row[index] for index in kept) for row in self.rows),
        )


@dataclass(frozen=True, slots=True)
class _Column:
    heading: str
    show: Callable[[CellSummary], str]
    figure: bool = True


_MAIN = (
    _Column("mode", lambda cell: text.mode(cell.cell), figure=False),
    _Column("req/s", lambda cell: text.whole(cell.requests_per_s)),
    _Column("spread", lambda cell: text.spread(cell.spread)),
    _Column("n", lambda cell: str(cell.n)),
    _Column("throughput lost", lambda cell: text.estimate(cell.overhead_pct)),
    _Column("hits/req", lambda cell: text.decimal(cell.hits_per_request)),
    _Column("CPU us/req", lambda cell: text.decimal(cell.cpu_us_per_request)),
    _Column("evidence", lambda cell: cell.grade or text.MISSING, figure=False),
    _Column("events lost", lambda cell: text.whole(cell.events_lost)),
)

_DETAIL = (
    _Column("mode", lambda cell: text.mode(cell.cell), figure=False),
    _Column("verdict", lambda cell: cell.verdict or text.MISSING, figure=False),
    _Column("median lost (BCa)", lambda cell: sentences.bootstrap(cell) or text.MISSING),
    _Column("extra CPU us/req", lambda cell: text.estimate(cell.cpu_extra_us, unit="")),
    _Column("extra CPU", lambda cell: text.estimate(cell.cpu_extra_pct, digits=0)),
    _Column("hits x cost, us/req", lambda cell: text.decimal(cell.cpu_expected_us)),
)

_LEGEND = (
    ("req/s", "median requests per second over the trials that count"),
    ("spread", "coefficient of variation (standard deviation / mean), least and most req/s"),
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
        "of the server, against none, paired within each block, with its interval",
    ),
    (
        "hits x cost",
        (
            "what the hits of a request should cost the server: hits per request times this "
            "host's cost per hit; beside it the extra CPU also holds what else the tracer does"
        ),
    ),
    (
        "median lost",
        "throughput lost as the median over the blocks, with its 95 % BCa bootstrap interval",
    ),
    (
        "evidence",
        (
            "proven: the server's bytes at every probe site and the hits agree with the mode; "
            "sites only: altered sites were found, and not counted; links only: the tracer holds "
            "BPF programs, and altered nothing in the server"
        ),
    ),
    ("events lost", "events that the tracer lost, all trials together"),
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
    return _table(_MAIN, [cell for cell in group.cells if cell.trials or cell.n])


def detail(group: Group) -> Table:
    """Per mode: verdict, bootstrap, extra CPU and its check."""
    rows = [cell for cell in group.cells if cell.overhead_pct is not None]
    return _table(_DETAIL, rows).without_empty_columns()


def latency(group: Group, report: Report) -> Table:
    """Per mode: pooled latency percentiles and what they are pooled from."""
    rows = []
    for cell in group.cells:
        pooled = report.latency.get(cell.cell.cell_id)
        if pooled is not None:
            values = [text.duration_us(value) for value in pooled.percentiles_us]
            requests = sum(t.load.requests or 0 for t in cell.counted if t.load)
            counts = (text.whole(pooled.samples), text.whole(requests), str(pooled.trials))
            rows.append((text.mode(cell.cell), *values, *counts))
    names = tuple(f"p{p:g}" for p in PERCENTILES)
    headings = ("mode", *names, "samples", "requests", "trials pooled")
    return Table(headings, (False, *[True] * (len(headings) - 1)), tuple(rows))


def hit_costs(costs: Sequence[HitCost]) -> Table:
    """What a probe hit costs on this host, per class of instruction."""
    return Table(
        ("tracer", "class of instruction", "bytes", "ns per hit", "hits", "attached by", "error"),
        (False, False, False, True, True, False, False),
        tuple(
            (
                cost.tracer or text.MISSING,
                cost.instruction_class,
                cost.instruction or text.MISSING,
                text.whole(cost.ns_per_hit),
                text.whole(cost.hits),
                cost.attach or text.MISSING,
                cost.error or text.MISSING,
            )
            for cost in costs
        ),
    ).without_empty_columns()


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
    """Every cell of the matrix that could not be run here, with the reason."""
    return Table(
        ("cell", "status", "reason"),
        (False, False, False),
        tuple((cell.cell.cell_id, cell.status, cell.reason or text.MISSING) for cell in cells),
    )


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
