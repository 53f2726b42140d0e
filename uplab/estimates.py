"""Paired estimates: intervals, medians, the noise floor, and what may be called a difference.

All of them start from the logarithms of paired ratios, ln(figure(mode) / figure(none)), one of each
block; a :class:`Scale` says how their mean is shown in percent. Positive is always worse.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import expm1, inf, isfinite, log1p, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
class Scale:
    """How the logarithm of a ratio is shown in percent: as what was lost, or as what came on top.

    `worse` is the sign of a logarithm that is worse: -1 for a rate, +1 for a cost.
    """

    worse: int

    def pct(self, log_ratio: float) -> float:
        """Percent of a log ratio; positive is worse."""
        # e**700 is near the largest number there is; beyond it only a forged run can lie.
        return self.worse * 100 * expm1(min(log_ratio, 700.0))

    def log_ratio(self, pct: float) -> float:
        """The log ratio of a percentage; below any number where all of the figure is gone."""
        left = self.worse * pct / 100
        return log1p(left) if left > -1 else -inf


#: 50: half of it is left. For figures of which more is better.
LOST = Scale(worse=-1)
#: 50: half as much again. For figures of which less is better.
MORE = Scale(worse=1)


def overhead(
    log_ratios: Sequence[float], seed: Sequence[int] | None = None, scale: Scale = LOST
) -> Estimate | None:
    """How much worse, in percent, from ln(figure(mode) / figure(none)) of each block.

    In: one log ratio per block; a seed where median and bootstrap are wanted too (from n = 10).
    Out: the estimate, in which positive is worse; None without a block.
    """
    return _estimate(log_ratios, scale.pct, seed)


def difference(differences: Sequence[float]) -> Estimate | None:
    """The mean of paired differences, in their own unit."""
    return _estimate(differences, lambda mean: mean, None)


def _estimate(
    values: Sequence[float], back: Callable[[float], float], seed: Sequence[int] | None
) -> Estimate | None:
    n = len(values)
    if n == 0:
        return None
    mean = statistics.fmean(values)
    interval = middle = middle_interval = None
    if n >= LEAST_FOR_INTERVAL:
        half = half_width(n, statistics.stdev(values, mean))
        interval = _ordered(back(mean - half), back(mean + half))
    if n >= LEAST_FOR_BOOTSTRAP and seed is not None:
        middle = back(statistics.median(values))
        bounds = bca_of_median(values, seed)
        middle_interval = _ordered(back(bounds.low), back(bounds.high)) if bounds else None
    return Estimate(n, back(mean), interval, middle, middle_interval)


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

    def median_of(samples: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
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
            median_of,
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


def noise_floor_pct(control: Estimate | None, scale: Scale = LOST) -> float | None:
    """What none-again's interval against none just reaches, as worse; None without one.

    The larger bound is taken on the scale of the logarithms, where half as fast and twice as fast
    lie equally far from equal. In percent lost they would be 50 and -100, and a floor of 100 would
    be one that no loss can rise above.
    """
    if control is None or control.interval is None:
        return None
    bounds = (scale.log_ratio(control.interval.low), scale.log_ratio(control.interval.high))
    return scale.pct(scale.worse * max(map(abs, bounds)))


def better_pct(worse_pct: float, scale: Scale = LOST) -> float:
    """How much better is as far from equal as `worse_pct` worse: 50 % slower, 100 % faster."""
    return -scale.pct(-scale.log_ratio(worse_pct))


def verdict(estimate: Estimate | None, floor_pct: float | None, scale: Scale = LOST) -> str | None:
    """Whether an overhead is a difference; None where there is no interval or no noise floor."""
    if estimate is None or estimate.interval is None or floor_pct is None:
        return None
    if abs(scale.log_ratio(estimate.value)) <= abs(scale.log_ratio(floor_pct)):
        return INSIDE
    return UNCLEAR if estimate.interval.low <= 0 <= estimate.interval.high else ABOVE


def median(values: Sequence[float]) -> float | None:
    """The median; None of nothing."""
    return statistics.median(values) if values else None


def spread(values: Sequence[float]) -> Spread | None:
    """How far values lie apart; None of nothing."""
    if not values:
        return None
    several = len(values) > 1
    cv_pct = 100 * statistics.stdev(values) / statistics.fmean(values) if several else None
    return Spread(cv_pct=cv_pct, least=min(values), most=max(values))
