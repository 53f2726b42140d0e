"""What the rows say over time: each cell of a host from run to run, and what changed in between."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from uplab.analysis import BASELINE, CONTROL, OPEN
from uplab.history.rows import CellRow, RunRow
from uplab.why import rank

UP, DOWN = "up", "down"


def figure(cell: CellRow) -> float | None:
    """What is followed of a cell: the overhead; of `none` requests per second, or CPU (open loop).

    None where the run has no such figure.
    """
    if cell.mode == BASELINE:
        return cell.cpu_us_per_request if cell.loop == OPEN else cell.requests_per_s
    return cell.overhead_pct


@dataclass(frozen=True, slots=True)
class Point:
    """A cell in one run. `at` is the run's number among those of its panel, from 1."""

    at: int
    run: RunRow
    cell: CellRow

    @property
    def value(self) -> float | None:
        """What is followed."""
        return figure(self.cell)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The overhead's 95 % interval."""
        low, high = self.cell.overhead_low_pct, self.cell.overhead_high_pct
        return None if low is None or high is None else (low, high)


@dataclass(frozen=True, slots=True)
class Series:
    """One cell over time, oldest first: the runs that have a figure of it, of which there is one at
    least.
    """

    label: str
    mode: str
    loop: str
    points: tuple[Point, ...]

    @property
    def is_baseline(self) -> bool:
        """Whether a rate is followed, and no overhead."""
        return self.mode == BASELINE

    @property
    def values(self) -> list[float]:
        """The figures, oldest first."""
        return [point.value for point in self.points if point.value is not None]

    @property
    def median(self) -> float:
        """The middle of the figures."""
        return statistics.median(self.values)

    @property
    def moved(self) -> str | None:
        """`up` or `down` where the newest interval has nothing in common with the one before."""
        intervals = [point.interval for point in self.points if point.interval]
        if len(intervals) < 2:
            return None
        (low_before, high_before), (low, high) = intervals[-2:]
        if low > high_before:
            return UP
        return DOWN if high < low_before else None


@dataclass(frozen=True, slots=True)
class Change:
    """What was not the same as in the run before on the same host."""

    run: RunRow
    before: RunRow
    fields: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """What may be compared: one host, server, body size and load. `runs` are those with a figure.

    `changes` are between one of them and the next, by the number of the later one.
    """

    host: str
    server: str
    body_bytes: int
    load: str
    load_parameters: str
    runs: tuple[RunRow, ...]
    series: tuple[Series, ...]
    changes: Mapping[int, Change]


def panels(runs: Iterable[RunRow], cells: Iterable[CellRow]) -> tuple[Panel, ...]:
    """The rows, ordered: by host, what was measured last first, cells as in the newest run."""
    by_key = {run.key: run for run in runs}
    found: dict[tuple[str, str, int, str, str], list[tuple[RunRow, CellRow]]] = defaultdict(list)
    for cell in cells:
        run = by_key.get(cell.key)
        if run is not None and cell.mode != CONTROL and figure(cell) is not None:
            group = (run.host, cell.server, cell.body_bytes, cell.load, cell.load_parameters)
            found[group].append((run, cell))
    made = [_panel(group, members) for group, members in found.items()]
    # Sorting is stable: of a host, the newest first.
    made.sort(key=lambda panel: (panel.server, panel.body_bytes, panel.load_parameters))
    made.sort(key=lambda panel: panel.runs[-1].started_utc, reverse=True)
    return tuple(sorted(made, key=lambda panel: panel.host))


def _panel(
    group: tuple[str, str, int, str, str], measured: Sequence[tuple[RunRow, CellRow]]
) -> Panel:
    runs = sorted({run.key: run for run, _ in measured}.values(), key=in_time)
    number = {run.key: at for at, run in enumerate(runs, start=1)}
    points: dict[str, list[Point]] = defaultdict(list)
    for run, cell in sorted(measured, key=lambda row: (in_time(row[0]), row[1].place)):
        points[cell.label].append(Point(number[run.key], run, cell))
    series = [
        Series(label, of[-1].cell.mode, of[-1].cell.loop, tuple(of)) for label, of in points.items()
    ]
    series.sort(key=lambda one: (one.points[-1].cell.place, one.label))
    between = {number[change.run.key]: change for change in changes(runs)}
    return Panel(*group, runs=tuple(runs), series=tuple(series), changes=between)


def in_time(run: RunRow) -> tuple[str, str]:
    """The order of runs, oldest first."""
    return run.started_utc, run.run


# ----------------------------------------------------------------------------------------- changes


def changes(runs: Iterable[RunRow]) -> tuple[Change, ...]:
    """What changed on each host from one run to the next, oldest first.

    What only one of both runs recorded is no change: an earlier uplab may not have looked.
    """
    by_host: dict[str, list[RunRow]] = defaultdict(list)
    for run in sorted(runs, key=in_time):
        by_host[run.host].append(run)
    found = [
        Change(run, before, fields)
        for of_host in by_host.values()
        for before, run in pairwise(of_host)
        if run.facts != before.facts and (fields := tuple(_differences(before, run)))
    ]
    return tuple(sorted(found, key=lambda change: in_time(change.run)))


def _differences(before: RunRow, after: RunRow) -> Iterator[tuple[str, str, str]]:
    old, new = before.known, after.known
    names = [name for name in old.keys() & new.keys() if old[name] != new[name]]
    for name in sorted(names, key=lambda name: (rank(name), name)):
        yield name, old[name], new[name]
