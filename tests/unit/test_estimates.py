"""The statistics, against scipy's and against simulations with a known truth."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from uplab import estimates
from uplab.estimates import (
    ABOVE,
    INSIDE,
    LOST,
    MORE,
    UNCLEAR,
    Estimate,
    Interval,
    Scale,
    better_pct,
    noise_floor_pct,
    overhead,
    verdict,
)

SIMULATIONS = 2_000


def test_the_bootstrap_is_scipys_and_repeats_with_the_seed() -> None:
    values = [math.log(0.2 + 0.01 * i) for i in range(12)]
    expected = stats.bootstrap(
        (values,), np.median, n_resamples=10_000, method="BCa", rng=np.random.default_rng([7, 8])
    ).confidence_interval
    found = estimates.bca_of_median(values, (7, 8))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found == estimates.bca_of_median(values, (7, 8))


def test_values_all_alike_have_no_bootstrap_interval() -> None:
    estimate = overhead([-1.0] * 12, seed=(1,))
    assert estimate is not None
    assert estimate.median == pytest.approx(100 * (1 - math.exp(-1)))
    assert estimate.median_interval is None


def test_no_block_has_no_estimate() -> None:
    assert overhead([]) is None


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=30))
def test_an_interval_holds_its_estimate(values: list[float]) -> None:
    estimate = overhead(values)
    assert estimate is not None
    assert estimate.interval is not None
    slack = 1e-9 * (1 + abs(estimate.value))
    assert estimate.interval.low - slack <= estimate.value <= estimate.interval.high + slack


# ------------------------------------------------------------ simulated truth


def intervals(samples: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[Any, Any]:
    """The t intervals of each row, by the function under test's own half width."""
    n = samples.shape[1]
    means, deviations = samples.mean(axis=1), samples.std(axis=1, ddof=1)
    half = np.array([estimates.half_width(n, float(deviation)) for deviation in deviations])
    return means - half, means + half


@pytest.mark.parametrize("n", [3, 6, 10, 30])
def test_95_percent_intervals_cover_the_truth(n: int) -> None:
    truth = math.log(0.17)
    chance = np.random.default_rng(n)
    low, high = intervals(chance.normal(truth, 0.15, size=(SIMULATIONS, n)))
    covered = float(np.mean((low <= truth) & (truth <= high)))
    assert 0.93 <= covered <= 0.97


def test_a_wrong_quantile_would_not_cover() -> None:
    # The check above can fail: with the normal quantile, n = 3 covers far less.
    chance = np.random.default_rng(3)
    samples = chance.normal(0.0, 0.15, size=(SIMULATIONS, 3))
    half = 1.96 * samples.std(axis=1, ddof=1) / math.sqrt(3)
    covered = float(np.mean(np.abs(samples.mean(axis=1)) <= half))
    assert covered < 0.93


@pytest.mark.parametrize("n", [3, 6, 10])
def test_an_untraced_server_is_rarely_called_different(n: int) -> None:
    chance = np.random.default_rng(100 + n)
    none, again, mode = chance.normal(0.0, 0.1, size=(3, SIMULATIONS, n))
    alarms = 0
    for control, mine in zip(again - none, mode - none, strict=True):
        floor = noise_floor_pct(overhead(control.tolist()))
        alarms += verdict(overhead(mine.tolist()), floor) == ABOVE
    assert alarms / SIMULATIONS <= 0.05


def test_a_real_difference_is_seen() -> None:
    chance = np.random.default_rng(5)
    none, again, mode = chance.normal(0.0, 0.05, size=(3, 6))
    floor = noise_floor_pct(overhead((again - none).tolist()))
    assert verdict(overhead((mode - none + math.log(0.17)).tolist()), floor) == ABOVE


# ------------------------------------------------------------------------------ floor and verdict


def test_the_noise_floor_is_the_larger_bound() -> None:
    assert noise_floor_pct(Estimate(6, 1.0, Interval(-2.0, 4.5))) == pytest.approx(4.5)
    # 4 % faster is a factor of 1.04, and 1 / 1.04 is 3.85 % slower.
    floor = noise_floor_pct(Estimate(6, -1.0, Interval(-4.0, 2.0)))
    assert floor == pytest.approx(100 * (1 - 1 / 1.04))
    assert better_pct(floor or 0) == pytest.approx(4.0)
    assert noise_floor_pct(Estimate(2, 1.0, None)) is None
    assert noise_floor_pct(None) is None


@pytest.mark.parametrize(
    ("value", "interval", "floor", "expected"),
    [
        (4.9, Interval(4.0, 5.8), 5.0, INSIDE),
        (-5.2, Interval(-5.8, -4.0), 5.0, INSIDE),
        (5.1, Interval(4.0, 6.0), 5.0, ABOVE),
        (-5.3, Interval(-6.0, -4.0), 5.0, ABOVE),
        (8.0, Interval(-3.0, 18.0), 5.0, UNCLEAR),
        # 100 % faster is a factor of 2, as 50 % slower is.
        (-99.0, Interval(-110.0, -90.0), 50.0, INSIDE),
        (-101.0, Interval(-110.0, -90.0), 50.0, ABOVE),
        (100.0, Interval(99.0, 100.0), 50.0, ABOVE),
        (83.0, None, 5.0, None),
        (83.0, Interval(82.0, 84.0), None, None),
    ],
)
def test_a_verdict_claims_no_more_than_the_figures(
    value: float, interval: Interval | None, floor: float | None, expected: str | None
) -> None:
    assert verdict(Estimate(6, value, interval), floor) == expected


def test_a_very_noisy_control_does_not_hide_a_larger_loss() -> None:
    # Of a real run beside heavy work: in percent lost, the larger bound would be 324.
    floor = noise_floor_pct(Estimate(3, -61.3, Interval(-323.8, 38.6)))
    assert floor == pytest.approx(76.4, abs=0.05)
    assert verdict(Estimate(3, 79.7, Interval(73.6, 84.4)), floor) == ABOVE
    assert verdict(Estimate(3, 60.0, Interval(50.0, 68.0)), floor) == INSIDE


# ------------------------------------------------------------------------------------- both scales


@given(st.floats(-5, 5), st.sampled_from([LOST, MORE]))
def test_percent_and_logarithm_are_one_figure(log_ratio: float, scale: Scale) -> None:
    assert scale.log_ratio(scale.pct(log_ratio)) == pytest.approx(log_ratio, abs=1e-9)


def test_positive_is_worse_on_both_scales() -> None:
    half, twice = math.log(0.5), math.log(2)
    assert (LOST.pct(half), LOST.pct(twice)) == pytest.approx((50, -100))
    assert (MORE.pct(half), MORE.pct(twice)) == pytest.approx((-50, 100))


def test_the_noise_floor_of_a_cost_is_what_comes_on_top() -> None:
    # 4 % less is a factor of 0.96, and 1 / 0.96 is 4.17 % more.
    floor = noise_floor_pct(Estimate(6, -1.0, Interval(-4.0, 2.0)), MORE)
    assert floor == pytest.approx(100 * (1 / 0.96 - 1))
    assert better_pct(floor or 0, MORE) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("value", "interval", "expected"),
    [
        (99.0, Interval(90.0, 110.0), INSIDE),
        (101.0, Interval(90.0, 110.0), ABOVE),
        # Half of it is as far from equal as twice of it.
        (-49.0, Interval(-51.0, -47.0), INSIDE),
        (-51.0, Interval(-55.0, -47.0), ABOVE),
        (150.0, Interval(-10.0, 300.0), UNCLEAR),
    ],
)
def test_a_cost_has_verdicts_on_its_own_scale(
    value: float, interval: Interval, expected: str
) -> None:
    assert verdict(Estimate(6, value, interval), 100.0, MORE) == expected
