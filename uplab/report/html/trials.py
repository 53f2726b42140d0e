"""Every trial of a run as a row: the first ones as HTML, the rest as data for the page's script."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote

from markupsafe import Markup

from uplab.analysis import CONTROL, Group, cpu_us_of, hits_per_request, rps_of
from uplab.measured import Run, Trial
from uplab.report import columns, text
from uplab.report.charts import style
from uplab.report.model import Report
from uplab.report.table import Table
from uplab.results import trial_directory

#: How many rows stand in the page itself; all others are made from data when they are asked for.
IN_PAGE = 1000
HEADINGS = (
    *("trial", "block", "state", "req/s", "p50", "p99", "CPU µs/req", "hits/req", "remarks"),
)
FIGURES = (False, True, False, True, True, True, True, True, False)


@dataclass(frozen=True, slots=True)
class Row:
    """One trial: its texts in the order of HEADINGS, and its raw files by name."""

    shown: tuple[str, ...]
    files: tuple[str, ...]
    folder: str

    def links(self) -> Iterator[tuple[str, str]]:
        """Each file with where it lies, seen from the report."""
        for name in self.files:
            yield name, f"{self.folder}/{quote(name)}"


@dataclass(frozen=True, slots=True)
class Listed:
    """The rows of the page, and the rest as JSON that may stand in a script element."""

    rows: tuple[Row, ...]
    rest: Markup
    in_all: int


def listed(report: Report) -> Listed:
    """Every trial of a report, in the order of their numbers."""
    counted = report.analysis.counted
    rows = [_row(trial, trial.name in counted, report.run) for trial in report.run.trials]
    return Listed(tuple(rows[:IN_PAGE]), _as_json(rows[IN_PAGE:]), len(rows))


def _row(trial: Trial, counts: bool, run: Run) -> Row:
    latency = trial.load.latency_us if trial.load else {}
    show = partial(text.plain, max_length=300)
    remarks = [columns.reasons(trial)] if trial.reasons else []
    remarks += trial.flags
    shown = (
        trial.name,
        f"{trial.block}" if trial.attempt == 1 else f"{trial.block}, attempt {trial.attempt}",
        "counts" if counts else "valid, not chosen" if trial.valid else "invalid",
        text.whole(rps_of(trial)),
        style.typeset(text.duration_us(latency.get("p50"))),
        style.typeset(text.duration_us(latency.get("p99"))),
        text.decimal(cpu_us_of(trial)),
        text.decimal(hits_per_request(trial), 2),
        show("; ".join(remarks)),
    )
    return Row(shown, _files(run, trial), f"../trials/{quote(trial.name)}")


def _files(run: Run, trial: Trial) -> tuple[str, ...]:
    with os.scandir(trial_directory(run, trial)) as entries:
        return tuple(sorted(entry.name for entry in entries if not entry.name.startswith(".")))


def _as_json(rows: list[Row]) -> Markup:
    """Rows as JSON; lists of files, of which there are few, stand in it once."""
    sets: dict[tuple[str, ...], int] = {}
    packed = [[*row.shown, sets.setdefault(row.files, len(sets))] for row in rows]
    data = {"files": [list(names) for names in sets], "rows": packed}
    return json_for_script(data)


def json_for_script(data: object) -> Markup:
    """JSON that may stand in a script element: no text in it can end the element or begin one."""
    shown = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        shown = shown.replace(character, f"\\u{ord(character):04x}")
    return Markup(shown)


# ------------------------------------------------------------------------ the tables behind charts


def by_block(group: Group) -> Table:
    """Per cell: the trials that count, a column for each of the first blocks."""
    figure = cpu_us_of if group.is_open else rps_of
    found = {
        text.label(cell): {trial.block: figure(trial) for trial in cell.counted}
        for cell in group.cells
        if cell.counted
    }
    blocks = sorted({block for values in found.values() for block in values})[:_BLOCKS_SHOWN]
    unit = "us/req" if group.is_open else "req/s"
    rows = (
        (name, *(text.whole(values.get(block)) for block in blocks))
        for name, values in found.items()
    )
    headings = ("mode", *(f"block {block}, {unit}" for block in blocks))
    return Table(headings, (False, *[True] * len(blocks)), tuple(rows))


_BLOCKS_SHOWN = 30


def by_size(report: Report, server: str) -> Table:
    """Per cell of a server: its overhead at each size."""
    groups = [group for group in report.analysis.groups if group.server == server]
    sizes = sorted({group.body_bytes for group in groups})
    found: dict[str, dict[int, str]] = {}
    for group in groups:
        for cell in group.cells:
            if cell.overhead_pct and cell.cell.mode != CONTROL:
                of: Mapping[int, str] = found.setdefault(text.label(cell), {})
                found[text.label(cell)] = {
                    **of,
                    group.body_bytes: text.estimate(cell.overhead_pct),
                }
    rows = ((name, *(of.get(size, text.MISSING) for size in sizes)) for name, of in found.items())
    headings = ("mode", *map(text.body, sizes))
    return Table(headings, (False, *[True] * len(sizes)), tuple(rows))
