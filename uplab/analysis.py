"""What a run says: medians, paired differences, intervals, noise floor, verdicts. Pure functions.

The sign, once and for everything here: positive is worse. Under a closed loop `overhead_pct` is the
share of throughput that a mode loses against `none`, 100 * (1 - exp(mean of ln(rps(mode) /
rps(none)))): 83 means that 17 % of the requests per second are left, -2 means 2 % more than without
tracing. Under an open loop the load fixes the rate, so `overhead_pct` is how much more CPU a
request costs the server: 83 means that 1.83 times the CPU goes.

A pair is the two trials of one block, so what disturbs a whole block (a warm CPU, a neighbour)
cancels. A figure that cannot be had is None.
"""

from __future__ import annotations

import json
import statistics
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, log

from uplab.conservation import Balance, balances, placements
from uplab.estimates import (
    LOST,
    MORE,
    Estimate,
    Scale,
    Spread,
    difference,
    median,
    noise_floor_pct,
    overhead,
    spread,
    verdict,
)
from uplab.hostside.judge import LEAST_RATE, RATE
from uplab.measured import Cell, PlannedCell, Run, Sequential, Trial
from uplab.reconcile import Reconciliation, reconcile
from uplab.shortnames import of_runtimes

BASELINE = "none"
CONTROL = "none-again"
TRACER_ONLY = "tracer-only"
# The order in which a reader meets the modes; others follow by name.
MODE_ORDER = (BASELINE, CONTROL, TRACER_ONLY, "kernel-uprobe", "userspace-uprobe", "as-shipped")
#: How much the evidence of a trial says, from all to least (see uplab/hostside/attest.py).
GRADES = ("proven", "sites only", "links only", "not attested")

CLOSED, OPEN = "closed", "open"
#: Of an open loop also compared: what its requests waited.
LATENCIES = ("p50", "p90", "p99")


@dataclass(frozen=True, slots=True)
class CellSummary:
    """One cell over the trials that count; figures that could not be had are None.

    `trials` counts every trial ever made of the cell, `rejected` the invalid ones among them.
    `overhead_with_rejected_pct` is the same estimate from every pair, valid or not, of every
    attempt (averaged within a block first): how much the rejections move the result.
    `latency_extra_pct` compares percentiles and is of open loops alone; `short_of_rate` counts the
    trials in which such a load fell short of its rate. `placements` says where each site lay.
    `path_names` are the run's short names for paths among the options of a userspace runtime.
    """

    cell: Cell
    status: str
    unavailable_reason: str | None
    trials: int
    rejected: int
    counted: tuple[Trial, ...]
    requests_per_s: float | None
    spread: Spread | None
    overhead_pct: Estimate | None
    overhead_with_rejected_pct: Estimate | None
    verdict: str | None
    cpu_us_per_request: float | None
    cpu_spread: Spread | None
    cpu_extra_pct: Estimate | None
    cpu_extra_us: Estimate | None
    latency_extra_pct: Mapping[str, Estimate]
    short_of_rate: int
    hits_per_request: float | None
    hits_per_request_by_name: Mapping[str, float]
    events_lost: int | None
    placements: Mapping[str, str]
    balances: tuple[Balance, ...]
    reconciliation: Reconciliation | None
    path_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """How many trials count."""
        return len(self.counted)

    @property
    def grade(self) -> str | None:
        """The lowest grade of evidence of the trials that count; None where none has one."""
        grades = {trial.attestation_grade for trial in self.counted}
        known = [grade for grade in GRADES if grade in grades]
        return known[-1] if known else None

    @property
    def rejected_pct(self) -> float | None:
        """The share of the cell's trials that was rejected."""
        return 100 * self.rejected / self.trials if self.trials else None


@dataclass(frozen=True, slots=True)
class Group:
    """All cells of one server, body size and load: what may be compared with each other.

    `noise_floor_pct` is the larger bound of the interval of none-again against none, as an overhead
    of the group's loop (see noise_floor_pct()). `sequential` is the run's: where it is not None,
    the figures decided how many blocks there are.
    """

    server: str
    body_bytes: int
    load: str
    load_parameters: Mapping[str, object]
    cells: tuple[CellSummary, ...]
    noise_floor_pct: float | None
    loop: str = CLOSED
    sequential: Sequential | None = None

    @property
    def is_open(self) -> bool:
        """Whether the load asks at a fixed rate, whether answers come or not."""
        return self.loop == OPEN

    @property
    def scale(self) -> Scale:
        """How an overhead of this group is to be read."""
        return _FIGURES[self.loop][1]

    @property
    def asked_per_s(self) -> float | None:
        """The rate that an open loop asks for; None where it is not known, or there is none."""
        return asked_per_s(self.load_parameters) if self.is_open else None


@dataclass(frozen=True, slots=True)
class Analysis:
    """A whole run, group by group; `counted` are the names of all trials that count."""

    groups: tuple[Group, ...]
    counted: frozenset[str]


def analyse(run: Run, *, bootstrap: bool = True) -> Analysis:
    """Everything the report says about a run's numbers.

    In: a run; `bootstrap` False leaves out the medians with their intervals, which take most of the
    time. Out: its groups, in order.
    """
    chosen = {trial.name for trial in choose_attempts(run)}
    by_cell: dict[str, list[Trial]] = defaultdict(list)
    for trial in run.trials:
        by_cell[trial.cell.cell_id].append(trial)
    names = of_runtimes(run.cells)
    groups = tuple(
        # In the order of the matrix: the first cell of a group decides.
        _group(cells, by_cell, chosen, run, names, bootstrap=bootstrap)
        for cells in _cells_by_group(run)
    )
    counted = (trial.name for group in groups for cell in group.cells for trial in cell.counted)
    return Analysis(groups=groups, counted=frozenset(counted))


def paired_log_ratios(run: Run) -> dict[str, list[float]]:
    """What each overhead is made of: ln(figure(mode) / figure(none)) of each pair, by cell id.

    In: a run; out: the cells that this host can run beside a `none`, also those without a pair.
    """
    return {cell_id: list(pairs.values()) for cell_id, pairs in log_ratios_by_block(run).items()}


def log_ratios_by_block(run: Run, figure: Figure | None = None) -> dict[str, dict[int, float]]:
    """paired_log_ratios() with the block of each pair.

    In: a run; the figure that is compared, None for the one that the loop's overhead is made of.
    """
    counted: dict[str, list[Trial]] = defaultdict(list)
    for trial in choose_attempts(run):
        if trial.valid:
            counted[trial.cell.cell_id].append(trial)
    ratios: dict[str, dict[int, float]] = {}
    for cells in _cells_by_group(run):
        compared = figure or _FIGURES[run.loops.get(cells[0].cell.load, CLOSED)][0]
        there = [planned.cell for planned in cells if planned.status == "available"]
        for none in [cell for cell in there if cell.mode == BASELINE][:1]:
            of_none = _by_block(counted[none.cell_id], compared)
            for cell in there:
                if cell.mode != BASELINE:
                    ratios[cell.cell_id] = {
                        block: log(value) - log(of_none[block])
                        for block, value in _by_block(counted[cell.cell_id], compared).items()
                        if block in of_none
                    }
    return ratios


def _by_block(trials: Iterable[Trial], figure: Figure) -> dict[int, float]:
    """A figure of each block that has it; only one attempt of a block counts."""
    found = ((trial.block, figure(trial)) for trial in trials)
    return {block: value for block, value in found if value is not None}


# ------------------------------------------------------------------------------ which trials count


def choose_attempts(run: Run) -> list[Trial]:
    """The trials of the attempt with which each block counts.

    That is the attempt with the fewest trials that are invalid or absent, the earliest on ties.
    Choosing whole attempts keeps a pair inside one pass over the cells.
    """
    expected = sum(1 for cell in run.cells if cell.status == "available")
    blocks: dict[int, dict[int, dict[str, Trial]]] = defaultdict(lambda: defaultdict(dict))
    for trial in run.trials:
        # A trial that was somehow made twice in one attempt counts with its first, never its best.
        blocks[trial.block][trial.attempt].setdefault(trial.cell.cell_id, trial)

    def wanting(attempt: int, cells: dict[str, Trial]) -> tuple[int, int]:
        usable = sum(1 for trial in cells.values() if trial.valid)
        return max(expected, len(cells)) - usable, attempt

    chosen: list[Trial] = []
    for _, attempts in sorted(blocks.items()):
        best = min(attempts, key=lambda attempt: wanting(attempt, attempts[attempt]))
        chosen.extend(attempts[best].values())
    return chosen


def rps_of(trial: Trial) -> float | None:
    """Requests per second of a trial; None where there were none: a ratio of 0 has no logarithm."""
    return _positive(trial.load.requests_per_s if trial.load else None)


def cpu_us_of(trial: Trial) -> float | None:
    """CPU microseconds of the server per request; None where it was not measured."""
    return _positive(trial.cpu.server_us_per_request if trial.cpu else None)


def latency_us_of(name: str) -> Figure:
    """One percentile of a trial's latency, in microseconds."""
    return lambda trial: _positive(trial.load.latency_us.get(name) if trial.load else None)


def asked_per_s(load_parameters: Mapping[str, object]) -> float | None:
    """The rate among a load's parameters; None where it has none."""
    rate = load_parameters.get(RATE)
    known = isinstance(rate, int | float) and not isinstance(rate, bool)
    return _positive(float(rate)) if known and isinstance(rate, int | float) else None


def fell_short(trial: Trial) -> bool:
    """Whether an open loop reached less of its rate than it must."""
    asked, reached = asked_per_s(trial.cell.load_parameters), rps_of(trial)
    return asked is not None and (reached or 0) < LEAST_RATE * asked


def _positive(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) and value > 0 else None


Figure = Callable[[Trial], float | None]
#: The figure that an overhead is made of, by the load's loop, and how it is shown.
_FIGURES: dict[str, tuple[Figure, Scale]] = {CLOSED: (rps_of, LOST), OPEN: (cpu_us_of, MORE)}


# ------------------------------------------------------------------------------------------- cells


def _all_cells(run: Run) -> list[PlannedCell]:
    """The plan's cells, and any cell that only a trial names: what was measured is never hidden."""
    cells = {cell.cell.cell_id: cell for cell in run.cells}
    for trial in run.trials:
        cells.setdefault(trial.cell.cell_id, PlannedCell(trial.cell, "available", None))
    return list(cells.values())


def _cells_by_group(run: Run) -> list[list[PlannedCell]]:
    """The cells that may be compared with each other, in the order of the matrix."""
    planned: dict[tuple[object, ...], list[PlannedCell]] = defaultdict(list)
    for cell in _all_cells(run):
        planned[_group_key(cell.cell)].append(cell)
    return list(planned.values())


def _group_key(cell: Cell) -> tuple[object, ...]:
    parameters = json.dumps(cell.load_parameters, sort_keys=True)
    return (cell.server, cell.body_bytes, cell.load, parameters)


def _mode_rank(planned: PlannedCell) -> tuple[int, str]:
    mode = planned.cell.mode
    known = MODE_ORDER.index(mode) if mode in MODE_ORDER else len(MODE_ORDER)
    return known, planned.cell.cell_id


def _group(
    planned: Iterable[PlannedCell],
    by_cell: Mapping[str, Sequence[Trial]],
    chosen: set[str],
    run: Run,
    names: Mapping[str, str],
    *,
    bootstrap: bool,
) -> Group:
    ordered = sorted(planned, key=_mode_rank)
    first = ordered[0].cell
    loop = run.loops.get(first.load, CLOSED)
    figure, scale = _FIGURES[loop]
    trials = {cell.cell.cell_id: by_cell.get(cell.cell.cell_id, ()) for cell in ordered}
    baseline = _first_of_mode(ordered, trials, BASELINE)
    control = _first_of_mode(ordered, trials, CONTROL)
    ratios = _log_ratios(_counted(control, chosen), _counted(baseline, chosen), figure)
    floor = noise_floor_pct(overhead(list(ratios), scale=scale), scale)
    tracer_only = {
        cell.cell.tracer: _counted(trials[cell.cell.cell_id], chosen)
        for cell in reversed(ordered)
        if cell.cell.mode == TRACER_ONLY
    }
    comparison = _Comparison(loop, baseline, tracer_only, chosen, floor, run, names, bootstrap)
    return Group(
        server=first.server,
        body_bytes=first.body_bytes,
        load=first.load,
        load_parameters=first.load_parameters,
        cells=tuple(_summary(cell, trials[cell.cell.cell_id], comparison) for cell in ordered),
        noise_floor_pct=floor,
        loop=loop,
        sequential=run.sequential,
    )


@dataclass(frozen=True, slots=True)
class _Comparison:
    """What the cells of a group are held against.

    `baseline` holds all trials of `none`, `tracer_only` those that count, by tracer; `chosen` names
    the trials of the attempts that count.
    """

    loop: str
    baseline: Sequence[Trial]
    tracer_only: Mapping[str | None, Sequence[Trial]]
    chosen: set[str]
    floor_pct: float | None
    run: Run
    path_names: Mapping[str, str]
    bootstrap: bool


def _first_of_mode(
    ordered: Iterable[PlannedCell], trials: Mapping[str, Sequence[Trial]], mode: str
) -> Sequence[Trial]:
    for planned in ordered:
        if planned.cell.mode == mode:
            return trials[planned.cell.cell_id]
    return ()


def _counted(trials: Iterable[Trial], chosen: set[str]) -> list[Trial]:
    return [trial for trial in trials if trial.valid and trial.name in chosen]


def _summary(planned: PlannedCell, trials: Sequence[Trial], comparison: _Comparison) -> CellSummary:
    cell, run = planned.cell, comparison.run
    figure, scale = _FIGURES[comparison.loop]
    counted = _counted(trials, comparison.chosen)
    baseline = _counted(comparison.baseline, comparison.chosen)
    compared = cell.mode != BASELINE
    drawn = (run.seed, zlib.crc32(cell.cell_id.encode("utf-8", "replace")))
    seed = drawn if comparison.bootstrap else None
    rates, cpu_us = _figures(counted, rps_of), _figures(counted, cpu_us_of)
    cpu_ratios = list(_log_ratios(counted, baseline, cpu_us_of))
    estimate = (
        overhead(list(_log_ratios(counted, baseline, figure)), seed, scale) if compared else None
    )
    is_open = comparison.loop == OPEN
    declared = run.declared.get(cell.cell_id)
    return CellSummary(
        cell=cell,
        status=planned.status,
        unavailable_reason=planned.reason,
        trials=len(trials),
        rejected=sum(1 for trial in trials if not trial.valid),
        counted=tuple(counted),
        requests_per_s=median(rates),
        spread=spread(rates),
        overhead_pct=estimate,
        overhead_with_rejected_pct=_with_rejected(trials, comparison) if compared else None,
        verdict=(verdict(estimate, comparison.floor_pct, scale) if cell.mode != CONTROL else None),
        cpu_us_per_request=median(cpu_us),
        cpu_spread=spread(cpu_us),
        cpu_extra_pct=overhead(cpu_ratios, scale=MORE) if compared else None,
        cpu_extra_us=difference(_differences(counted, baseline)) if compared else None,
        latency_extra_pct=_latency_extra(counted, baseline) if compared and is_open else {},
        short_of_rate=sum(map(fell_short, counted)) if is_open else 0,
        hits_per_request=median(_figures(counted, hits_per_request)),
        hits_per_request_by_name=_hits_by_name(counted),
        events_lost=_events_lost(counted),
        placements=placements(counted, declared),
        balances=balances(trials, counted, declared),
        reconciliation=_reconciliation(counted, baseline, comparison),
        path_names=comparison.path_names,
    )


def _latency_extra(counted: Sequence[Trial], baseline: Sequence[Trial]) -> dict[str, Estimate]:
    """How much longer requests took than with none, in percent, by percentile."""
    found = {}
    for name in LATENCIES:
        ratios = list(_log_ratios(counted, baseline, latency_us_of(name)))
        estimate = overhead(ratios, scale=MORE)
        if estimate is not None:
            found[name] = estimate
    return found


def _reconciliation(
    counted: Sequence[Trial], baseline: Sequence[Trial], comparison: _Comparison
) -> Reconciliation | None:
    """Against the same tracer without its probes where a block holds both, else against none."""
    tracer = counted[0].cell.tracer if counted else None
    beside = {
        TRACER_ONLY: comparison.tracer_only.get(tracer, ()),
        BASELINE: baseline,
    }
    for against, others in beside.items():
        extra_us = difference(_differences(counted, others))
        if extra_us is not None:
            return reconcile(counted, comparison.run.hit_costs, extra_us, against)
    return reconcile(counted, comparison.run.hit_costs, None, None)


def _figures(trials: Iterable[Trial], figure: Figure) -> list[float]:
    return [value for value in map(figure, trials) if value is not None]


def _log_ratios(
    trials: Iterable[Trial],
    baseline: Iterable[Trial],
    figure: Figure,
) -> Iterable[float]:
    """ln(figure(mode) / figure(none)) of every block that has both."""
    return (log(mine) - log(none) for mine, none in _pairs(trials, baseline, figure))


def _differences(trials: Iterable[Trial], baseline: Iterable[Trial]) -> list[float]:
    return [mine - none for mine, none in _pairs(trials, baseline, cpu_us_of)]


def _pairs(
    trials: Iterable[Trial],
    baseline: Iterable[Trial],
    figure: Figure,
) -> Iterable[tuple[float, float]]:
    """The two figures of each block and attempt that has both."""
    none_by_pass = {(trial.block, trial.attempt): figure(trial) for trial in baseline}
    for trial in trials:
        mine, none = figure(trial), none_by_pass.get((trial.block, trial.attempt))
        if mine is not None and none is not None:
            yield mine, none


def _with_rejected(trials: Iterable[Trial], comparison: _Comparison) -> Estimate | None:
    """The overhead from every attempt, valid or not; the attempts of a block are one value."""
    figure, scale = _FIGURES[comparison.loop]
    none_by_block: dict[int, list[Trial]] = defaultdict(list)
    for trial in comparison.baseline:
        none_by_block[trial.block].append(trial)
    by_block: dict[int, list[Trial]] = defaultdict(list)
    for trial in trials:
        by_block[trial.block].append(trial)
    means = []
    for block, mine in sorted(by_block.items()):
        ratios = list(_log_ratios(mine, none_by_block[block], figure))
        if ratios:
            means.append(statistics.fmean(ratios))
    return overhead(means, scale=scale)


# -------------------------------------------------------------------------------------------- hits


def hits_per_request(trial: Trial) -> float | None:
    """Probe hits per request over all sites; None where a site's figure is missing."""
    if trial.hits is None or not trial.hits.per_request_by_name:
        return None
    figures = list(trial.hits.per_request_by_name.values())
    known = [value for value in figures if value is not None]
    return sum(known) if len(known) == len(figures) else None


def _hits_by_name(trials: Sequence[Trial]) -> dict[str, float]:
    names = sorted(
        {name for trial in trials if trial.hits for name in trial.hits.per_request_by_name}
    )
    medians = {}
    for name in names:
        figures = [
            value
            for trial in trials
            if trial.hits
            if (value := trial.hits.per_request_by_name.get(name)) is not None
        ]
        if figures:
            medians[name] = statistics.median(figures)
    return medians


def _events_lost(trials: Sequence[Trial]) -> int | None:
    """Events lost over all trials; None if one of them does not say: a part is not the sum."""
    lost = [trial.hits.events_lost for trial in trials if trial.hits]
    known = [value for value in lost if value is not None]
    return sum(known) if lost and len(known) == len(lost) else None
