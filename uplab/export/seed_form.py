"""A run in the form of the published experiment: host, server, way of tracing, the load's own text.

A table per server holds what the load prints for each way, as medians over the trials that count;
below it stands, for each way, the text of the trial with the median requests per second.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator

from uplab.analysis import CellSummary, Group, rps_of
from uplab.errors import UsageError
from uplab.fields import text_of
from uplab.measured import Run, Trial
from uplab.report import markdown, sentences, text
from uplab.report.model import Report
from uplab.report.table import Table
from uplab.results import trial_directory

#: The published headings.
_HEADINGS = {
    "none": "Without trace",
    "none-again": "Without trace, again",
    "tracer-only": "With the tracer, its uprobes off",
    "kernel-uprobe": "With kernel uprobe",
    "userspace-uprobe": "With userspace uprobe",
    "as-shipped": "With the tracer as it is shipped",
}
_TEXT_FILE = "load.txt"
_MOST_TEXT_BYTES = 64_000
_MOST_LINES = 60
# Of the published texts: the next unit begins at 0.85 of it.
_STEP = 0.85
_TIMES = ((1.0, 1e3, "us"), (1e3, 1e6, "ms"), (1e6, 60e6, "s"), (60e6, 0, "m"))
_BYTES = ((1, 2**10, "B"), (2**10, 2**20, "KB"), (2**20, 2**30, "MB"), (2**30, 0, "GB"))
_COLUMNS: tuple[tuple[str, Callable[[CellSummary], str]], ...] = (
    ("Latency Avg", lambda cell: _time(_latency(cell, "avg"))),
    ("Stdev", lambda cell: _time(_latency(cell, "stdev"))),
    ("Max", lambda cell: _time(_latency(cell, "max"))),
    ("Requests/sec", lambda cell: _rate(cell.requests_per_s)),
    ("Transfer/sec", lambda cell: _bytes(_median(cell, _transfer))),
    ("n", lambda cell: str(cell.n)),
    ("throughput lost", lambda cell: text.estimate(cell.overhead_pct)),
)


def render(report: Report) -> bytes:
    """The document. In: a report; out: Markdown in UTF-8 that ends in a newline."""
    blocks = [
        f"# {text.markdown(sentences.title(report.run))}",
        *(f"> **{text.markdown(notice)}**" for notice in report.notices),
        *_elsewhere(report),
        "## Test examples",
        *_host(report),
        *(block for group in report.analysis.groups for block in _group(group, report)),
    ]
    return ("\n\n".join(blocks) + "\n").encode()


def _elsewhere(report: Report) -> Iterator[str]:
    """What the notices promise below is not repeated here."""
    if report.invalid or report.flagged:
        yield "The trials that are invalid or flagged are listed in report.md of the same run."


def _host(report: Report) -> Iterator[str]:
    if report.machine:
        lines = [f"{label}: {value}" for label, value in report.machine]
        yield f"On this host ({text.markdown(report.run.host)}):"
        yield _console(lines)
    else:
        yield "The host was not recorded."


def _group(group: Group, report: Report) -> Iterator[str]:
    yield f"### {text.markdown(sentences.heading(group, report)).upper()}"
    measured = [cell for cell in group.cells if cell.n]
    if not measured:
        yield "Nothing was measured."
        return
    yield text.markdown(
        f"Load: {group.load} {sentences.parameters(group)}. Medians over the trials that count; "
        "each text below is that of the trial with the median requests per second.",
        2000,
    )
    yield markdown.render_table(
        Table(
            ("", *(heading for heading, _ in _COLUMNS)),
            (False, *(True for _ in _COLUMNS)),
            tuple(
                (_heading(cell), *(show(cell) for _, show in _columns(group))) for cell in measured
            ),
        )
    )
    for cell in measured:
        yield f"#### {text.markdown(_heading(cell))}"
        yield _own_text(report.run, cell)


def _columns(group: Group) -> Iterator[tuple[str, Callable[[CellSummary], str]]]:
    """Under an open loop an overhead is no throughput."""
    for heading, show in _COLUMNS:
        lost = heading == "throughput lost" and group.is_open
        yield heading, (lambda _: text.MISSING) if lost else show


def _heading(cell: CellSummary) -> str:
    detail = text.label(cell).removeprefix(cell.cell.mode).strip()
    return f"{_HEADINGS.get(cell.cell.mode, cell.cell.mode)} {detail}".strip()


def _own_text(run: Run, cell: CellSummary) -> str:
    """What the load printed in the trial in the middle; a sentence where it is not there."""
    ranked = sorted(
        (trial for trial in cell.counted if rps_of(trial) is not None),
        key=lambda trial: (rps_of(trial) or 0, trial.name),
    )
    if not ranked:
        return "No trial has a rate."
    middle = ranked[(len(ranked) - 1) // 2]
    path = trial_directory(run, middle) / _TEXT_FILE
    if not path.is_file():
        return f"{text.markdown(middle.name)} holds no {_TEXT_FILE}."
    try:
        lines = text_of(path, _MOST_TEXT_BYTES).splitlines()
    except UsageError:
        return f"{_TEXT_FILE} of {text.markdown(middle.name)} cannot be shown."
    return _console([f"$ # {middle.name}", *lines[:_MOST_LINES]])


def _console(lines: list[str]) -> str:
    """Lines as a block of code, which nothing in them can end."""
    shown = [_harmless(line) for line in lines]
    ticks = max((len(run) for line in shown for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, ticks + 1)
    return "\n".join([f"{fence}console", *shown, fence])


def _harmless(line: str) -> str:
    """A line with its columns as they are, and nothing that moves a cursor or turns a direction."""
    clean = "".join(c if c.isprintable() else " " for c in line.expandtabs())
    return clean.rstrip()[: text.MAX_TEXT]


def _median(cell: CellSummary, figure: Callable[[Trial], float | None]) -> float | None:
    known = [value for trial in cell.counted if (value := figure(trial)) is not None]
    return statistics.median(known) if known else None


def _latency(cell: CellSummary, name: str) -> float | None:
    return _median(cell, lambda trial: trial.load.latency_us.get(name) if trial.load else None)


def _transfer(trial: Trial) -> float | None:
    return trial.load.transfer_bytes_per_s if trial.load else None


def _rate(value: float | None) -> str:
    return text.MISSING if value is None else f"{value:.2f}"


def _time(value_us: float | None) -> str:
    return _scaled(value_us, _TIMES)


def _bytes(value: float | None) -> str:
    return _scaled(value, _BYTES)


def _scaled(value: float | None, units: tuple[tuple[float, float, str], ...]) -> str:
    """A figure with two decimals and the unit that the published texts would have."""
    if value is None:
        return text.MISSING
    for size, following, name in units:
        if not following or value < _STEP * following:
            return f"{value / size:.2f}{name}"
    return text.MISSING
