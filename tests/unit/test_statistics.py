"""The intervals and tests, all of them, against simulations with a known truth."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from tests import simulations
from tests.simulations import BLOCKS, TRUTH, WORLDS, log_rates, paired
from uplab import ranks
from uplab.estimates import LOST, overhead
from uplab.gates import paired_difference

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "statistics.md"
QUIET, DRIFT, SAME_ORDER, OUTLIERS, HEAVY = WORLDS
LEAST, MOST = 0.93, 0.97


@functools.cache
def tables() -> tuple[str, ...]:
    return tuple(simulations.tables())


def row(name: str) -> list[float]:
    """The first percentage of each cell of a row; -1 where there is none."""
    (found,) = [line for line in tables() if line.startswith(f"| {name} |")]
    cells = [cell.strip().partition(" ")[0] for cell in found.split("|")[2:-1]]
    return [-1.0 if cell == "-" else float(cell) for cell in cells]


# --- what is simulated is what a report computes --------------------------------------------------


@pytest.mark.parametrize("blocks", BLOCKS)
def test_the_simulated_intervals_are_those_of_a_report(blocks: int) -> None:
    rates = log_rates(QUIET, blocks, seed=9, simulations=5)
    x, y = paired(rates), paired(rates, 2)
    low, high = simulations.t_intervals(x)
    for at in range(5):
        estimate = overhead(list(x[at]))
        assert estimate is not None
        assert estimate.interval is not None
        assert estimate.interval.low == pytest.approx(LOST.pct(high[at]))
        assert estimate.interval.high == pytest.approx(LOST.pct(low[at]))
        by_block = [dict(enumerate(map(float, values[at]))) for values in (x, y)]
        gate = paired_difference(by_block[1], by_block[0], LOST)
        mine, other = overhead(list(y[at])), overhead(list(x[at]))
        assert gate is not None
        assert mine is not None
        assert other is not None
        assert gate.value == pytest.approx(mine.value - other.value)


def test_the_simulated_shift_is_that_of_a_comparison() -> None:
    a, b = simulations.two_runs(QUIET, 6, seed=9)
    low, high = simulations.shift_intervals(a, b)
    assert low is not None
    assert high is not None
    for at in range(5):
        found = ranks.shift(list(a[at]), list(b[at]))
        assert found is not None
        assert found.interval is not None
        assert (found.interval.low, found.interval.high) == pytest.approx((low[at], high[at]))


# --- what they hold -------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("seed", [1, 2])
def test_an_overhead_s_interval_holds_the_truth(blocks: int, seed: int) -> None:
    share, _ = simulations.t_coverage(QUIET, blocks, seed)
    assert LEAST <= share <= MOST


@pytest.mark.parametrize("blocks", BLOCKS)
def test_a_gate_s_interval_holds_the_truth(blocks: int) -> None:
    assert LEAST <= simulations.gate_coverage(QUIET, blocks) <= MOST


@pytest.mark.parametrize("blocks", BLOCKS)
def test_the_interval_between_two_runs_holds_the_truth(blocks: int) -> None:
    share = simulations.shift_coverage(QUIET, blocks)
    if blocks == 3:
        # Three and three values have twenty orders: the widest interval holds 90 %.
        assert share is None
    else:
        assert share is not None
        assert LEAST <= share <= MOST


def test_the_median_s_bootstrap_holds_the_truth() -> None:
    assert all(100 * LEAST <= share <= 100 * MOST for share in row(MEDIAN)[2:])


MEDIAN = "the median overhead (BCa bootstrap)"


@pytest.mark.parametrize("blocks", BLOCKS)
def test_two_equal_runs_are_rarely_called_different(blocks: int) -> None:
    """Eight cells; without the correction it is three times in ten."""
    without, with_holm = simulations.false_alarms(QUIET, blocks, 8)
    assert with_holm <= 0.05
    assert without > 0.2 or blocks == 3


# --- drift and outliers ---------------------------------------------------------------------------


def test_drift_costs_little_where_the_order_is_shuffled() -> None:
    assert min(row(DRIFT.name)) >= 93


def test_drift_would_cost_much_where_the_order_is_not() -> None:
    """Why blocks are shuffled."""
    assert max(row(SAME_ORDER.name)[:3]) < 90


def test_outliers_and_heavy_tails_make_intervals_wider_and_not_wrong() -> None:
    assert min(row(OUTLIERS.name) + row(HEAVY.name)) >= 93


def test_what_is_not_paired_is_far_wider() -> None:
    (_, width), (_, unpaired) = (
        of(DRIFT, 10) for of in (simulations.t_coverage, simulations.unpaired_coverage)
    )
    assert unpaired > 3 * width


def test_the_truth_is_in_the_middle_of_what_is_drawn() -> None:
    rates = log_rates(QUIET, 30, seed=1)
    for cell, truth in enumerate(TRUTH, start=1):
        assert float(np.mean(paired(rates, cell))) == pytest.approx(truth, abs=1e-3)


# --- the page -------------------------------------------------------------------------------------


def test_the_page_shows_what_the_simulations_print() -> None:
    text = PAGE.read_text(encoding="utf-8")
    missing = [line for line in tables() if line not in text.splitlines()]
    assert not missing, f"run: python -m tests.simulations, and put this into {PAGE}: {missing}"
