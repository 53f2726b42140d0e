"""Simulated runs with a known truth: what the statistics hold, and what drift and outliers do.

Run: python -m tests.simulations    (prints the tables of docs/explanation/statistics.md)

Everything is drawn for all simulations at once and from a fixed seed, so the tables are the same
wherever they are made. A simulated block holds `none` and two tracers, in an order that is shuffled
as in a run; its trials follow each other in time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uplab import ranks
from uplab.comparison import holm
from uplab.estimates import half_width

Array = NDArray[np.float64]

SIMULATIONS = 2_000
BLOCKS = (3, 6, 10, 30)
#: Left of the throughput: a tracer that costs 83 %, and one that costs 15 %.
TRUTH = (math.log(0.17), math.log(0.85))
#: The standard deviation of the logarithm of a trial's req/s: between trials, and between blocks.
NOISE, BLOCK_NOISE = 0.03, 0.10


@dataclass(frozen=True)
class World:
    """What disturbs the trials of a simulated run; `name` stands in the table.

    `drift` is by how much ln(req/s) falls from the first trial to the last, `outliers` the share of
    trials that lose `outlier_loss` of ln(req/s), `heavy` draws the noise from Student's t with 3
    degrees of freedom, `shuffled` is how uplab orders cells; False is always the same order.
    """

    name: str
    drift: float = 0.0
    outliers: float = 0.0
    outlier_loss: float = 0.35
    heavy: bool = False
    shuffled: bool = True


WORLDS = (
    World("noise alone"),
    World("drift: the host loses 30 % from first to last trial", drift=0.36),
    World("the same drift, cells always in the same order", drift=0.36, shuffled=False),
    World("outliers: 5 % of the trials lose 30 %", outliers=0.05),
    World("heavy tails: Student's t with 3 degrees of freedom", heavy=True),
)


def log_rates(world: World, blocks: int, seed: int, simulations: int = SIMULATIONS) -> Array:
    """Simulated ln(req/s). Out: simulation x block x cell, the first cell is `none`."""
    chance = np.random.default_rng([seed, blocks])
    shape = (simulations, blocks, 1 + len(TRUTH))
    rates = np.zeros(shape) + np.array([0.0, *TRUTH])
    rates += chance.normal(0, BLOCK_NOISE, (*shape[:2], 1))
    noise = (
        chance.standard_t(3, shape) / math.sqrt(3) if world.heavy else chance.normal(0, 1, shape)
    )
    rates += NOISE * noise
    rates -= world.outlier_loss * (chance.random(shape) < world.outliers)
    order = np.broadcast_to(np.arange(shape[2], dtype=np.float64), shape)
    if world.shuffled:
        order = chance.permuted(order, axis=2)
    time = np.arange(blocks)[:, None] * shape[2] + order
    falling: Array = rates - world.drift * time / (blocks * shape[2] - 1)
    return falling


def paired(rates: Array, cell: int = 1) -> Array:
    """The log ratio of each block. Out: simulation x block."""
    ratios: Array = rates[:, :, cell] - rates[:, :, 0]
    return ratios


def t_intervals(samples: Array) -> tuple[Array, Array]:
    """The t interval of each row, by the half width that a report uses."""
    n = samples.shape[1]
    unit = half_width(n, 1.0)
    means, half = samples.mean(axis=1), unit * samples.std(axis=1, ddof=1)
    return means - half, means + half


def coverage(low: Array, high: Array, truth: float) -> float:
    """The share of intervals that hold the truth."""
    return float(np.mean((low <= truth) & (truth <= high)))


def t_coverage(world: World, blocks: int, seed: int = 1) -> tuple[float, float]:
    """Of the overhead's 95 % interval: how often it holds the truth, and half its width in pp.

    The width is the median, of the overhead in percentage points.
    """
    low, high = t_intervals(paired(log_rates(world, blocks, seed)))
    width_pp = 100 * np.median(np.exp(high) - np.exp(low)) / 2
    return coverage(low, high, TRUTH[0]), float(width_pp)


def unpaired_coverage(world: World, blocks: int, seed: int = 1) -> tuple[float, float]:
    """The same, had the cells not been paired: each cell's mean with a spread of its own."""
    rates = log_rates(world, blocks, seed)
    none, mode = rates[:, :, 0], rates[:, :, 1]
    difference = mode.mean(axis=1) - none.mean(axis=1)
    error = np.sqrt((mode.var(axis=1, ddof=1) + none.var(axis=1, ddof=1)) / blocks)
    # 2n - 2 degrees of freedom; half_width(n, s) is t(n - 1) * s / sqrt(n).
    half = half_width(2 * blocks - 1, 1.0) * math.sqrt(2 * blocks - 1) * error
    low, high = difference - half, difference + half
    width_pp = 100 * np.median(np.exp(high) - np.exp(low)) / 2
    return coverage(low, high, TRUTH[0]), float(width_pp)


def gate_coverage(world: World, blocks: int, seed: int = 2) -> float:
    """How often the interval of a difference of two overheads, in pp, holds the true one."""
    rates = log_rates(world, blocks, seed)
    x, y = paired(rates, 2), paired(rates, 1)
    slopes = [100 * np.exp(values.mean(axis=1, keepdims=True)) for values in (x, y)]
    value = (slopes[1] - slopes[0])[:, 0]
    parts = slopes[0] * x - slopes[1] * y
    half = half_width(blocks, 1.0) * parts.std(axis=1, ddof=1)
    truth = 100 * (math.exp(TRUTH[0]) - math.exp(TRUTH[1]))
    return coverage(value - half, value + half, truth)


def shift_coverage(world: World, blocks: int, seed: int = 3) -> float | None:
    """How often the Hodges-Lehmann interval of two equal runs holds 0; None where there is none."""
    low, high = shift_intervals(*two_runs(world, blocks, seed))
    return None if low is None or high is None else coverage(low, high, 0.0)


def two_runs(world: World, blocks: int, seed: int) -> tuple[Array, Array]:
    """The log ratios of two runs of the same."""
    first, second = (paired(log_rates(world, blocks, seed + 100 * run)) for run in (0, 1))
    return first, second


def shift_intervals(a: Array, b: Array) -> tuple[Array | None, Array | None]:
    """The interval of the shift from each row of a to that of b, by the rank of ranks.py."""
    outside = ranks.outside_of(a.shape[1], b.shape[1])
    if not outside:
        return None, None
    differences = np.sort((b[:, :, None] - a[:, None, :]).reshape(len(a), -1), axis=1)
    return differences[:, outside - 1], differences[:, -outside]


def false_alarms(world: World, blocks: int, cells: int, seed: int = 4) -> tuple[float, float]:
    """Two equal runs of so many cells: how often any is called different, without and with Holm."""
    from scipy.stats import mannwhitneyu

    p_values = []
    for cell in range(cells):
        a, b = two_runs(world, blocks, seed + 1000 * cell)
        p_values.append(mannwhitneyu(b, a, axis=1, method="asymptotic" if blocks > 20 else "exact"))
    each = np.stack([found.pvalue for found in p_values], axis=1)
    adjusted = np.array([min(holm(row)) for row in each.tolist()])
    return float(np.mean(each.min(axis=1) <= 0.05)), float(np.mean(adjusted <= 0.05))


def bootstrap_coverage(
    world: World, blocks: int, simulations: int = SIMULATIONS, resamples: int = 999
) -> float:
    """How often the BCa interval of the median holds the truth; scipy's, all rows at once."""
    from scipy.stats import bootstrap

    rows = paired(log_rates(world, blocks, seed=5, simulations=simulations))
    held = 0
    for part in np.array_split(rows, max(simulations // 100, 1)):
        interval = bootstrap(
            (part,),
            np.median,
            axis=1,
            n_resamples=resamples,
            confidence_level=0.95,
            method="BCa",
            vectorized=True,
            rng=np.random.default_rng(5),
        ).confidence_interval
        held += int(np.sum((interval.low <= TRUTH[0]) & (TRUTH[0] <= interval.high)))
    return held / simulations


# --------------------------------------------------------------------------------- the tables


def percent(share: float | None) -> str:
    """`94.8 %`."""
    return "-" if share is None else f"{100 * share:.1f} %"


def tables() -> Iterator[str]:
    """The tables of the page, as Markdown, line by line."""
    yield "| 95 % interval of | " + " | ".join(f"n = {n}" for n in BLOCKS) + " |"
    yield "|:---|" + "---:|" * len(BLOCKS)
    quiet = WORLDS[0]
    rows: list[tuple[str, Callable[[int], float | None]]] = [
        ("an overhead (Student's t)", lambda n: t_coverage(quiet, n)[0]),
        ("a difference of two overheads of one run (gate)", lambda n: gate_coverage(quiet, n)),
        ("the shift between two runs (Hodges-Lehmann)", lambda n: shift_coverage(quiet, n)),
    ]
    for name, measured in rows:
        yield _row(name, [percent(measured(n)) for n in BLOCKS])
    of_median = [bootstrap_coverage(quiet, n) if n >= 10 else None for n in BLOCKS]
    yield _row("the median overhead (BCa bootstrap)", [percent(share) for share in of_median])
    yield ""
    yield "| in this world | " + " | ".join(f"n = {n}" for n in BLOCKS) + " |"
    yield "|:---|" + "---:|" * len(BLOCKS)
    for world in WORLDS:
        yield _row(world.name, [_with_width(*t_coverage(world, n)) for n in BLOCKS])
    drift = WORLDS[1]
    yield _row("the drift, not paired", [_with_width(*unpaired_coverage(drift, n)) for n in BLOCKS])
    yield ""
    yield "| two equal runs | " + " | ".join(f"n = {n}" for n in BLOCKS) + " |"
    yield "|:---|" + "---:|" * len(BLOCKS)
    alarms = [false_alarms(quiet, n, 8) for n in BLOCKS]
    yield _row("any of 8 cells called different", [percent(with_holm) for _, with_holm in alarms])
    yield _row("the same without Holm's correction", [percent(without) for without, _ in alarms])


def _with_width(share: float, width_pp: float) -> str:
    return f"{percent(share)}, {width_pp:.1f} pp"


def _row(name: str, cells: list[Any]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print("\n".join(tables()))
