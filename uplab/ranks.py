"""Two samples that are not paired: Mann-Whitney, Cliff's delta, the Hodges-Lehmann shift.

All three look at the same thing, which of two values is the larger in every pair of one from each
sample, so they agree: the interval of the shift excludes 0 exactly where the test finds a
difference (but for ties). None of them needs the values to be normal, and a few outliers move them
little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import comb, sqrt

from uplab.estimates import CONFIDENCE, Interval

#: Up to so many values in both samples the null distribution is counted, beyond it is normal.
EXACT_TO = 20


@dataclass(frozen=True, slots=True)
class Shift:
    """By how much `b` is larger than `a`, in the unit of the values.

    `value` is the Hodges-Lehmann estimate: the median of all differences of one value of b and one
    of a. `interval` is None where so few values have none. `p` is of the two-sided Mann-Whitney
    test, `delta` Cliff's delta (the rank-biserial correlation is the same number): the share of
    pairs in which b is larger less the share in which a is, from -1 to 1.
    """

    n_a: int
    n_b: int
    value: float
    interval: Interval | None
    p: float
    delta: float


def shift(a: Sequence[float], b: Sequence[float]) -> Shift | None:
    """The shift from a to b; None where one of them is empty."""
    if not a or not b:
        return None
    import numpy as np

    differences = np.sort(np.subtract.outer(np.asarray(b), np.asarray(a)), axis=None)
    share = (np.count_nonzero(differences > 0) - np.count_nonzero(differences < 0)) / len(
        differences
    )
    outside = outside_of(len(a), len(b))
    interval = None
    if outside:
        low, high = float(differences[outside - 1]), float(differences[-outside])
        interval = Interval(low, high)
    return Shift(
        n_a=len(a),
        n_b=len(b),
        value=float(np.median(differences)),
        interval=interval,
        p=_p_value(a, b),
        delta=float(share),
    )


def _p_value(a: Sequence[float], b: Sequence[float]) -> float:
    from scipy.stats import mannwhitneyu

    # Of tied values the exact distribution is another one; the normal one is corrected for them.
    tied = len({*a, *b}) < len(a) + len(b)
    exact = max(len(a), len(b)) <= EXACT_TO and not tied
    return float(mannwhitneyu(b, a, method="exact" if exact else "asymptotic").pvalue)


def least_p(n_a: int, n_b: int) -> float:
    """The smallest p that so many values can have: where all of one sample are the larger ones."""
    return min(2 / comb(n_a + n_b, n_a), 1.0)


@cache
def outside_of(n_a: int, n_b: int, confidence: float = CONFIDENCE) -> int:
    """Which of the sorted differences, counted from either end, bounds the shift's interval.

    The c-th smallest and the c-th largest hold the shift between them with at least `confidence`
    where U, the number of pairs in which b is the larger, is below c with a probability of at most
    half of the rest (Hollander, Wolfe, Chicken: Nonparametric Statistical Methods, 4.3). Out: c; 0
    where there is no such interval.
    """
    tail = (1 - confidence) / 2
    if max(n_a, n_b) > EXACT_TO:
        from scipy.special import ndtri

        deviation = sqrt(n_a * n_b * (n_a + n_b + 1) / 12)
        # The same correction by a half as in the test.
        return max(int(n_a * n_b / 2 + 0.5 + float(ndtri(tail)) * deviation), 0)
    below, all_orders, c = 0, comb(n_a + n_b, n_a), 0
    for count in _orders(n_a, n_b):
        below += count
        if below > tail * all_orders:
            return c
        c += 1
    return c


@cache
def _orders(n_a: int, n_b: int) -> tuple[int, ...]:
    """In how many orders of n_a + n_b values U is 0, 1, 2 ...: Mann's and Whitney's recurrence."""
    if n_a == 0 or n_b == 0:
        return (1,)
    # The largest value is one of b, above all of a; or it is one of a, and adds nothing.
    above, nothing = _orders(n_a, n_b - 1), _orders(n_a - 1, n_b)
    counts = [0] * (n_a * n_b + 1)
    for u, count in enumerate(above):
        counts[u + n_a] += count
    for u, count in enumerate(nothing):
        counts[u] += count
    return tuple(counts)
