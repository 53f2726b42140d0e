"""What a run says: medians, paired differences, intervals, noise floor, verdicts. Pure functions.

The sign, once and for everything here: `overhead_pct` is the share of throughput that a mode loses
against `none`, so positive is slower. 100 * (1 - exp(mean of ln(rps(mode) / rps(none)))): 83 means
that 17 % of the requests per second are left, -2 means 2 % more than without tracing. CPU goes the
other way by nature: `cpu_extra_pct` and `cpu_extra_us` are positive when a request costs more.

A pair is the two trials of one block, so what disturbs a whole block (a warm CPU, a neighbour)
cancels. A figure that cannot be had is None.
"""

from __future__ import annotations

import json
import statistics
import warnings
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import expm1, inf, isfinite, log, log1p, sqrt
from typing import TYPE_CHECKING

from uplab.results import Cell, HitCost, PlannedCell, Run, Trial

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BASELINE = "none"
CONTROL = "none-again"
# The order in which a reader meets the modes; others follow by name.
MODE_ORDER = (BASELINE, CONTROL, "tracer-only", "kernel-uprobe", "userspace-uprobe", "as-shipped")
#: How much the evidence of a trial says, from all to least (see uplab/hostside/attest.py).
GRADES = ("proven", "sites only", "links only")

CONFIDENCE = 0.95
# Two values have a standard error but an interval 12.7 of them wide: below three, no interval.
LEAST_FOR_INTERVAL = 3
LEAST_FOR_BOOTSTRAP = 10
RESAMPLES = 10_000

INSIDE = "inside the noise floor"
ABOVE = "above the noise floor"
UNCLEAR = "above the noise floor, but its interval includes 0"


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval; `low` is never above `high`."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A paired difference over `n` blocks: the estimate and, from n = 3, its t interval.

    From n = 10 also the median over the blocks and its BCa bootstrap interval.
    """

    n: int
    value: float
    interval: Interval | None
    median: float | None = None
    median_interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class Spread:
    """How far the trials of a cell lie apart; `cv_pct` from two trials."""

    cv_pct: float | None
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class CellSummary:
    """One cell over the trials that count; figures that could not be had are None.

    `trials` counts every trial ever made of the cell, `rejected` the invalid ones among them.
    `overhead_with_rejected_pct` is the same estimate from every pair, valid or not, of every
    attempt (averaged within a block first): how much the rejections move the result.
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
    cpu_extra_pct: Estimate | None
    cpu_extra_us: Estimate | None
    cpu_expected_us: float | None
    hits_per_request: float | None
    hits_per_request_by_name: Mapping[str, float]
    events_lost: int | None

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

    `noise_floor_pct` is the larger bound of the interval of none-again against none, as throughput
    lost (see noise_floor_pct()).
    """

    server: str
    body_bytes: int
    load: str
    load_parameters: Mapping[str, object]
    cells: tuple[CellSummary, ...]
    noise_floor_pct: float | None


@dataclass(frozen=True, slots=True)
class Analysis:
    """A whole run, group by group; `counted` are the names of all trials that count."""

    groups: tuple[Group, ...]
    counted: frozenset[str]


def analyse(run: Run) -> Analysis:
    """Everything the report says about a run's numbers. In: a run; out: its groups, in order."""
    chosen = {trial.name for trial in choose_attempts(run)}
    by_cell: dict[str, list[Trial]] = defaultdict(list)
    for trial in run.trials:
        by_cell[trial.cell.cell_id].append(trial)
    planned: dict[tuple[object, ...], list[PlannedCell]] = defaultdict(list)
    for cell in _all_cells(run):
        planned[_group_key(cell.cell)].append(cell)
    groups = tuple(
        # In the order of the matrix: the first cell of a group decides.
        _group(cells, by_cell, chosen, run)
        for cells in planned.values()
    )
    counted = (trial.name for group in groups for cell in group.cells for trial in cell.counted)
    return Analysis(groups=groups, counted=frozenset(counted))


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


def _positive(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) and value > 0 else None


# -------------------------------------------------------------------------------------- estimates


def overhead(log_ratios: Sequence[float], seed: Sequence[int] | None = None) -> Estimate | None:
    """The throughput lost, in percent, from ln(rps(mode) / rps(none)) of each block.

    In: one log ratio per block; a seed where median and bootstrap are wanted too (from n = 10).
    Out: the estimate, in which positive is slower; None without a block.
    """
    return _estimate(log_ratios, lambda mean: 100 * -_expm1(mean), seed)


def extra(log_ratios: Sequence[float]) -> Estimate | None:
    """How much more, in percent, from ln(cost(mode) / cost(none)) of each block."""
    return _estimate(log_ratios, lambda mean: 100 * _expm1(mean), None)


def difference(differences: Sequence[float]) -> Estimate | None:
    """The mean of paired differences, in their own unit."""
    return _estimate(differences, lambda mean: mean, None)


def _expm1(value: float) -> float:
    # e**700 is near the largest number there is; beyond it only a forged run can lie.
    return expm1(min(value, 700.0))


def _estimate(
    values: Sequence[float], back: Callable[[float], float], seed: Sequence[int] | None
) -> Estimate | None:
    n = len(values)
    if n == 0:
        return None
    mean = statistics.fmean(values)
    interval = median = median_interval = None
    if n >= LEAST_FOR_INTERVAL:
        half = half_width(n, statistics.stdev(values, mean))
        interval = _ordered(back(mean - half), back(mean + half))
    if n >= LEAST_FOR_BOOTSTRAP and seed is not None:
        median = back(statistics.median(values))
        bounds = bca_of_median(values, seed)
        median_interval = _ordered(back(bounds.low), back(bounds.high)) if bounds else None
    return Estimate(n, back(mean), interval, median, median_interval)


def half_width(n: int, standard_deviation: float) -> float:
    """Half the width of the 95 % Student-t interval of a mean of n values, in their unit."""
    return _t_quantile(n - 1) * standard_deviation / sqrt(n)


@cache
def _t_quantile(degrees: int) -> float:
    # scipy.stats.t.ppf computes exactly this; importing scipy.stats takes ten times as long.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))


def bca_of_median(values: Sequence[float], seed: Sequence[int]) -> Interval | None:
    """The BCa bootstrap interval of the median; None where the values are too alike for one."""
    import numpy as np
    from scipy.stats import bootstrap

    def median(samples: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        # np.median by its definition; sorting is twice as fast as its partitioning.
        ordered = np.sort(samples, axis=axis)
        last = samples.shape[axis] - 1
        low, high = (np.take(ordered, at, axis=axis) for at in (last // 2, last - last // 2))
        middle: NDArray[np.float64] = (low + high) / 2
        return middle

    with warnings.catch_warnings():
        # Values too alike make scipy warn and return nan: to us that is "no interval".
        warnings.simplefilter("ignore")
        result = bootstrap(
            (np.asarray(values, dtype=np.float64),),
            median,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="BCa",
            vectorized=True,
            rng=np.random.default_rng(list(seed)),
        )
    low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
    return Interval(low, high) if isfinite(low) and isfinite(high) else None


def _ordered(one: float, other: float) -> Interval:
    return Interval(min(one, other), max(one, other))


def noise_floor_pct(control: Estimate | None) -> float | None:
    """The throughput lost that none-again's interval against none just reaches; None without one.

    The larger bound is taken on the scale of the logarithms, where half as fast and twice as fast
    lie equally far from equal. In percent lost they would be 50 and -100, and a floor of 100 would
    be one that no loss can rise above.
    """
    if control is None or control.interval is None:
        return None
    bounds = (_log_ratio(control.interval.low), _log_ratio(control.interval.high))
    return 100 * -_expm1(-max(map(abs, bounds)))


def faster_pct(lost_pct: float) -> float:
    """How much faster is as far from equal as `lost_pct` slower: 50 % slower, 100 % faster."""
    return 100 * _expm1(abs(_log_ratio(lost_pct)))


def verdict(estimate: Estimate | None, floor_pct: float | None) -> str | None:
    """Whether an overhead is a difference; None where there is no interval or no noise floor."""
    if estimate is None or estimate.interval is None or floor_pct is None:
        return None
    if abs(_log_ratio(estimate.value)) <= abs(_log_ratio(floor_pct)):
        return INSIDE
    return UNCLEAR if estimate.interval.low <= 0 <= estimate.interval.high else ABOVE


def _log_ratio(lost_pct: float) -> float:
    """ln(rps(mode) / rps(none)) of a share of throughput lost; below any number for all of it."""
    return log1p(-lost_pct / 100) if lost_pct < 100 else -inf


# ------------------------------------------------------------------------------------------- cells


def _all_cells(run: Run) -> list[PlannedCell]:
    """The plan's cells, and any cell that only a trial names: what was measured is never hidden."""
    cells = {cell.cell.cell_id: cell for cell in run.cells}
    for trial in run.trials:
        cells.setdefault(trial.cell.cell_id, PlannedCell(trial.cell, "available", None))
    return list(cells.values())


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
) -> Group:
    ordered = sorted(planned, key=_mode_rank)
    trials = {cell.cell.cell_id: by_cell.get(cell.cell.cell_id, ()) for cell in ordered}
    baseline = _first_of_mode(ordered, trials, BASELINE)
    control = _first_of_mode(ordered, trials, CONTROL)
    floor = noise_floor_pct(
        overhead(list(_log_ratios(_counted(control, chosen), _counted(baseline, chosen), rps_of)))
    )
    first = ordered[0].cell
    return Group(
        server=first.server,
        body_bytes=first.body_bytes,
        load=first.load,
        load_parameters=first.load_parameters,
        cells=tuple(
            _summary(cell, trials[cell.cell.cell_id], baseline, chosen, floor, run)
            for cell in ordered
        ),
        noise_floor_pct=floor,
    )


def _first_of_mode(
    ordered: Iterable[PlannedCell], trials: Mapping[str, Sequence[Trial]], mode: str
) -> Sequence[Trial]:
    for planned in ordered:
        if planned.cell.mode == mode:
            return trials[planned.cell.cell_id]
    return ()


def _counted(trials: Iterable[Trial], chosen: set[str]) -> list[Trial]:
    return [trial for trial in trials if trial.valid and trial.name in chosen]


def _summary(
    planned: PlannedCell,
    trials: Sequence[Trial],
    all_baseline: Sequence[Trial],
    chosen: set[str],
    floor_pct: float | None,
    run: Run,
) -> CellSummary:
    counted = _counted(trials, chosen)
    baseline = _counted(all_baseline, chosen)
    compared = planned.cell.mode != BASELINE
    seed = (run.seed, zlib.crc32(planned.cell.cell_id.encode("utf-8", "replace")))
    rates = _figures(counted, rps_of)
    estimate = overhead(list(_log_ratios(counted, baseline, rps_of)), seed) if compared else None
    return CellSummary(
        cell=planned.cell,
        status=planned.status,
        unavailable_reason=planned.reason,
        trials=len(trials),
        rejected=sum(1 for trial in trials if not trial.valid),
        counted=tuple(counted),
        requests_per_s=_median(rates),
        spread=_spread(rates),
        overhead_pct=estimate,
        overhead_with_rejected_pct=_with_rejected(trials, all_baseline) if compared else None,
        verdict=verdict(estimate, floor_pct) if planned.cell.mode != CONTROL else None,
        cpu_us_per_request=_median(_figures(counted, cpu_us_of)),
        cpu_extra_pct=extra(list(_log_ratios(counted, baseline, cpu_us_of))) if compared else None,
        cpu_extra_us=difference(_differences(counted, baseline)) if compared else None,
        cpu_expected_us=_median(_figures(counted, lambda trial: expected_us(trial, run.hit_costs))),
        hits_per_request=_median(_figures(counted, hits_per_request)),
        hits_per_request_by_name=_hits_by_name(counted),
        events_lost=_events_lost(counted),
    )


def _figures(trials: Iterable[Trial], figure: Callable[[Trial], float | None]) -> list[float]:
    return [value for value in map(figure, trials) if value is not None]


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    several = len(values) > 1
    cv_pct = 100 * statistics.stdev(values) / statistics.fmean(values) if several else None
    return Spread(cv_pct=cv_pct, least=min(values), most=max(values))


def _log_ratios(
    trials: Iterable[Trial],
    baseline: Iterable[Trial],
    figure: Callable[[Trial], float | None],
) -> Iterable[float]:
    """ln(figure(mode) / figure(none)) of every block that has both."""
    return (log(mine) - log(none) for mine, none in _pairs(trials, baseline, figure))


def _differences(trials: Iterable[Trial], baseline: Iterable[Trial]) -> list[float]:
    return [mine - none for mine, none in _pairs(trials, baseline, cpu_us_of)]


def _pairs(
    trials: Iterable[Trial],
    baseline: Iterable[Trial],
    figure: Callable[[Trial], float | None],
) -> Iterable[tuple[float, float]]:
    """The two figures of each block and attempt that has both."""
    none_by_pass = {(trial.block, trial.attempt): figure(trial) for trial in baseline}
    for trial in trials:
        mine, none = figure(trial), none_by_pass.get((trial.block, trial.attempt))
        if mine is not None and none is not None:
            yield mine, none


def _with_rejected(trials: Iterable[Trial], baseline: Iterable[Trial]) -> Estimate | None:
    """The overhead from every attempt, valid or not; the attempts of a block are one value."""
    none_by_block: dict[int, list[Trial]] = defaultdict(list)
    for trial in baseline:
        none_by_block[trial.block].append(trial)
    by_block: dict[int, list[Trial]] = defaultdict(list)
    for trial in trials:
        by_block[trial.block].append(trial)
    means = []
    for block, mine in sorted(by_block.items()):
        ratios = list(_log_ratios(mine, none_by_block[block], rps_of))
        if ratios:
            means.append(statistics.fmean(ratios))
    return overhead(means)


# -------------------------------------------------------------------------------------------- hits


def hits_per_request(trial: Trial) -> float | None:
    """Probe hits per request over all sites; None where a site's figure is missing."""
    if trial.hits is None or not trial.hits.per_request_by_name:
        return None
    figures = list(trial.hits.per_request_by_name.values())
    known = [value for value in figures if value is not None]
    return sum(known) if len(known) == len(figures) else None


def expected_us(trial: Trial, costs: Iterable[HitCost]) -> float | None:
    """What the hits of a request should cost: hits per request times this host's cost per hit.

    In microseconds. None where no site was hit, and unless every site that was hit names its class
    of instruction and that class was measured: a sum over some sites would look like a saving.
    """
    if trial.hits is None or not trial.hits.sites:
        return None
    ns_by_class = _ns_by_class(costs, trial.cell.tracer)
    if not any(site.hits_per_request for site in trial.hits.sites):
        return None
    total_ns = 0.0
    for site in trial.hits.sites:
        if site.hits_per_request == 0:
            continue
        ns_per_hit = ns_by_class.get(site.instruction_class or "")
        if site.hits_per_request is None or ns_per_hit is None:
            return None
        total_ns += site.hits_per_request * ns_per_hit
    return total_ns / 1000


def _ns_by_class(costs: Iterable[HitCost], tracer: str | None) -> dict[str, float]:
    """Nanoseconds per hit of each class; several instructions of one class count as their mean."""
    measured: dict[str, list[float]] = defaultdict(list)
    for cost in costs:
        if cost.tracer == tracer and cost.ns_per_hit is not None and cost.error is None:
            measured[cost.instruction_class].append(cost.ns_per_hit)
    return {name: statistics.fmean(values) for name, values in measured.items()}


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
