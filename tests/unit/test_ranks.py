"""uplab/ranks.py: against scipy's test and against definitions."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from uplab.ranks import least_p, outside_of, shift

VALUES = st.lists(st.floats(-10, 10).map(lambda v: round(v, 6)), min_size=1, max_size=14)


@given(VALUES, VALUES)
def test_the_shift_is_the_median_of_all_differences(a: list[float], b: list[float]) -> None:
    found = shift(a, b)
    assert found is not None
    expected = statistics.median(y - x for x in a for y in b)
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert (found.n_a, found.n_b) == (len(a), len(b))


@given(VALUES, VALUES)
def test_delta_is_cliff_s_and_the_rank_biserial_correlation(a: list[float], b: list[float]) -> None:
    found = shift(a, b)
    assert found is not None
    above = sum(y > x for x in a for y in b) - sum(y < x for x in a for y in b)
    assert found.delta == pytest.approx(above / (len(a) * len(b)))
    u = stats.mannwhitneyu(b, a).statistic
    assert found.delta == pytest.approx(2 * u / (len(a) * len(b)) - 1)


@pytest.mark.parametrize("sizes", [(2, 3), (3, 3), (4, 4), (3, 5), (6, 6), (10, 7), (20, 20)])
def test_the_interval_excludes_0_where_scipy_s_test_finds_a_difference(
    sizes: tuple[int, int],
) -> None:
    chance = random.Random(7)
    decided = set()
    for at in range(60):
        a = [chance.gauss(0, 1) for _ in range(sizes[0])]
        b = [chance.gauss(at / 20, 1) for _ in range(sizes[1])]
        found = shift(a, b)
        assert found is not None
        expected = stats.mannwhitneyu(b, a, method="exact").pvalue
        assert found.p == pytest.approx(expected)
        excluded = found.interval is not None and not (
            found.interval.low <= 0 <= found.interval.high
        )
        assert excluded is bool(expected <= 0.05)
        decided.add(excluded)
    assert decided == ({False} if least_p(*sizes) > 0.05 else {True, False})


def test_many_values_go_by_the_normal_distribution() -> None:
    chance = random.Random(7)
    a, b = ([chance.gauss(mean, 1) for _ in range(60)] for mean in (0, 0.3))
    found = shift(a, b)
    assert found is not None
    assert found.p == pytest.approx(stats.mannwhitneyu(b, a, method="asymptotic").pvalue)
    # At the border the two ways of counting differ by at most one rank.
    assert abs(outside_of(20, 20) - _normal(20)) <= 1


def _normal(n: int) -> int:
    deviation = (n * n * (2 * n + 1) / 12) ** 0.5
    return int(n * n / 2 + 0.5 + stats.norm.ppf(0.025) * deviation)


def test_ties_are_no_exact_test_s() -> None:
    a, b = [1.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 3.0]
    found = shift(a, b)
    assert found is not None
    assert found.p == pytest.approx(stats.mannwhitneyu(b, a, method="asymptotic").pvalue)


def test_the_smallest_p_is_that_of_samples_that_do_not_overlap() -> None:
    for n in range(1, 8):
        a, b = list(range(n)), list(range(100, 100 + n))
        assert least_p(n, n) == pytest.approx(stats.mannwhitneyu(a, b, method="exact").pvalue)


def test_three_blocks_have_no_interval_and_four_have_one() -> None:
    three, four = shift([1.0, 2.0, 3.0], [7.0, 8.0, 9.0]), shift([1, 2, 3, 4.0], [6, 7, 8, 9.5])
    assert three is not None
    assert four is not None
    assert three.interval is None
    assert four.interval is not None
    assert (four.interval.low, four.interval.high) == (2.0, 8.5)


def test_nothing_has_no_shift() -> None:
    assert shift([], [1.0]) is None
    assert shift([1.0], []) is None
