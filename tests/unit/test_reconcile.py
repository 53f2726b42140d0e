"""Hits times cost against measured CPU, from trials made by hand."""

from dataclasses import replace

import pytest

from tests.handmade import cell, hits_of, run_of, trial
from uplab.analysis import analyse
from uplab.estimates import Estimate
from uplab.measured import Cell, HitCost, Hits, Trial
from uplab.reconcile import (
    UNKNOWN_CLASS,
    UNKNOWN_SITES,
    USERSPACE,
    Reconciliation,
    expected_us,
    reconcile,
)

COSTS = (
    HitCost("gotrace", "emulated", "55", 600.0, 1, 1, None, None),
    HitCost("gotrace", "emulated", "90", 700.0, 1, 1, None, None),
    HitCost("gotrace", "return", "c3", 12_000.0, 1, 1, None, None),
    HitCost("gotrace", "nop5", "0f", 400.0, 1, 1, None, "refused"),
    HitCost("gotrace", None, None, None, None, None, None, "exit code 1"),
    HitCost("other", "single-stepped", "48", 5_000.0, 1, 1, None, None),
)
KERNEL = cell("kernel-uprobe")


def of(hits: Hits, traced: Cell = KERNEL) -> Trial:
    return trial(1, traced, 1, 1000, hits=hits)


def placed(hits: Hits, *places: str) -> Hits:
    """The same hits, their sites placed in this order."""
    pairs = zip(hits.sites, places, strict=True)
    return replace(hits, sites=tuple(replace(site, placement=place) for site, place in pairs))


def assert_costs(hits: Hits, costs: tuple[HitCost, ...], us: float, traced: Cell = KERNEL) -> None:
    """All of the hits have a cost, and this is their sum."""
    found = expected_us(of(hits, traced), costs)
    assert found is not None
    assert found[0] == pytest.approx(us)
    assert not found[1]


def test_expected_cost_is_hits_times_cost_per_hit() -> None:
    hits = hits_of(("a", "emulated", 10.0), ("b", "return", 1.0), ("c", None, 0.0))
    assert_costs(hits, COSTS, 6.5 + 12.0)


@pytest.mark.parametrize(
    ("site", "unknown"),
    [
        (("b", None, 1.0), UNKNOWN_CLASS),
        (("b", "single-stepped", 1.0), "single-stepped"),
        (("b", "nop5", 1.0), "nop5"),
        (("b", "emulated", None), "emulated"),
    ],
)
def test_a_part_of_the_sites_is_not_a_sum(
    site: tuple[str, str | None, float | None], unknown: str
) -> None:
    hits = hits_of(("a", "emulated", 10.0), site)
    found = reconcile([of(hits)], COSTS, Estimate(1, 20.0, None), "none")
    assert found is not None
    assert (found.calculated_us, found.unknown_costs, found.ratio) == (None, (unknown,), None)


def test_a_site_in_userspace_costs_what_userspace_costs() -> None:
    hits = placed(hits_of(("a", "emulated", 10.0), ("b", "return", 1.0)), "userspace", "kernel")
    found = expected_us(of(hits), COSTS)
    assert found is not None
    assert found[1] == {USERSPACE}
    runtime = HitCost(None, USERSPACE, None, 180.0, 1, 1, "bpftime", None)
    assert_costs(hits, (*COSTS, runtime), 1.8 + 12.0)
    own = HitCost("gotrace", USERSPACE, None, 100.0, 1, 1, "bpftime", None)
    assert_costs(hits, (*COSTS, runtime, own), 1.0 + 12.0)


def test_a_cost_in_userspace_is_of_the_cells_own_runtime() -> None:
    with_jit = HitCost(
        "gotrace", USERSPACE, None, 180.0, 1, 1, None, None, {"jit": True, "bpftime_prefix": ""}
    )
    without = replace(with_jit, ns_per_hit=1800.0, runtime={"jit": False, "bpftime_prefix": ""})
    hits = placed(hits_of(("a", "emulated", 10.0)), "userspace")
    for jit, us in ((True, 1.8), (False, 18.0)):
        traced = replace(KERNEL, runtime={"jit": jit, "bpftime_prefix": "", "shm_mb": 50})
        assert_costs(hits, (with_jit, without), us, traced)
    elsewhere = replace(KERNEL, runtime={"jit": True, "bpftime_prefix": "/srv/b"})
    found = expected_us(of(hits, elsewhere), (with_jit, without))
    assert found is not None
    assert found[1] == {USERSPACE}


def test_hits_at_no_known_site_have_no_cost() -> None:
    counted = Hits(None, (), {"all probes": 3.0}, None, None, None)
    found = reconcile([of(counted)], COSTS, None, None)
    assert found == Reconciliation(None, (UNKNOWN_SITES,), None, None)


def test_nothing_hit_is_nothing_to_reconcile() -> None:
    assert reconcile([of(hits_of(("a", "emulated", 0.0)))], COSTS, None, None) is None
    assert reconcile([trial(1, KERNEL, 1, 1000)], COSTS, None, None) is None


@pytest.mark.parametrize(("measured", "ratio"), [(13.0, 0.5), (0.0, None), (-2.0, None)])
def test_a_ratio_needs_something_measured(measured: float, ratio: float | None) -> None:
    hits = hits_of(("a", "emulated", 10.0))
    found = reconcile([of(hits)], COSTS, Estimate(1, measured, None), "none")
    assert found is not None
    assert found.ratio == (None if ratio is None else pytest.approx(ratio))


def reconciled(*trials: Trial) -> Reconciliation:
    cells = [c for g in analyse(run_of(list(trials), hit_costs=COSTS)).groups for c in g.cells]
    (found,) = [c.reconciliation for c in cells if c.cell.mode == "kernel-uprobe"]
    assert found is not None
    return found


def test_the_measured_cost_is_that_of_the_probes_where_the_tracer_also_ran_without() -> None:
    hits = hits_of(("a", "emulated", 10.0))
    none = trial(1, cell("none"), 1, 1000, cpu_us=20)
    alone = trial(2, cell("tracer-only"), 1, 1000, cpu_us=24)
    probed = trial(3, KERNEL, 1, 1000, cpu_us=34, hits=hits)
    found = reconciled(none, alone, probed)
    assert found.measured_us is not None
    assert (found.measured_us.value, found.against) == (10, "tracer-only")
    assert found.ratio == pytest.approx(0.65)
    found = reconciled(none, probed)
    assert found.measured_us is not None
    assert (found.measured_us.value, found.against) == (14, "none")
    assert reconciled(probed).against is None


def test_another_tracer_without_probes_is_not_held_against() -> None:
    none = trial(1, cell("none"), 1, 1000, cpu_us=20)
    other = replace(cell("tracer-only"), tracer="other")
    alone = trial(2, other, 1, 1000, cpu_us=24)
    probed = trial(3, KERNEL, 1, 1000, cpu_us=34, hits=hits_of(("a", "emulated", 10.0)))
    assert reconciled(none, alone, probed).against == "none"


def test_an_invalid_trial_without_probes_is_not_held_against() -> None:
    none = trial(1, cell("none"), 1, 1000, cpu_us=20)
    alone = trial(2, cell("tracer-only"), 1, 1000, cpu_us=24, valid=False)
    probed = trial(3, KERNEL, 1, 1000, cpu_us=34, hits=hits_of(("a", "emulated", 10.0)))
    assert reconciled(none, alone, probed).against == "none"
