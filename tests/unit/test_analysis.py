"""The statistics, against hand-made runs and against simulations with a known truth."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.runs import Spec, cells_of, edit_json, make_run
from uplab import analysis, results
from uplab.analysis import (
    ABOVE,
    INSIDE,
    UNCLEAR,
    CellSummary,
    Estimate,
    Group,
    Interval,
    analyse,
    noise_floor_pct,
    overhead,
    verdict,
)
from uplab.results import Cell, Cpu, HitCost, Hits, Load, PlannedCell, Run, Site, Trial

SIMULATIONS = 2_000


# ------------------------------------------------------------------------------- runs made by hand


def cell(mode: str, server: str = "https", **changes: Any) -> Cell:
    tracer = None if mode in ("none", "none-again") else "gotrace"
    return Cell(
        cell_id=f"{server}-{mode}-{changes.get('body_bytes', 12)}B",
        server=server,
        mode=mode,
        tracer=tracer,
        body_bytes=changes.get("body_bytes", 12),
        load="wrk",
        load_parameters=changes.get("load_parameters", {"threads": 10}),
        loader=None,
        placement=None,
    )


def trial(
    number: int,
    of: Cell,
    block: int,
    rps: float | None,
    *,
    attempt: int = 1,
    valid: bool = True,
    cpu_us: float | None = None,
    hits: Hits | None = None,
) -> Trial:
    return Trial(
        name=f"{number:04d}",
        number=number,
        block=block,
        attempt=attempt,
        position=None,
        cell=of,
        started_utc=None,
        started_monotonic_ns=None,
        wall_s=None,
        load_elapsed_s=None,
        load=Load(None, None, rps, None, None, {}, {}, None, None, ()),
        cpu=Cpu(None, None, None, cpu_us, *[None] * 8),
        hits=hits,
        attestation_grade=None,
        valid=valid,
        reasons=(),
        flags=(),
    )


def run_of(trials: list[Trial], cells: list[Cell] | None = None, **changes: Any) -> Run:
    if cells is None:
        cells = list({t.cell.cell_id: t.cell for t in trials}.values())
    fields: dict[str, Any] = {
        "path": Path("run"),
        "verified": True,
        "not_verified_because": (),
        "run_id": "r",
        "host": "local",
        "matrix_name": "m",
        "matrix_source": None,
        "matrix_sha256": None,
        "matrix": {},
        "seed": 7,
        "blocks": 1,
        "plan_sha256": "",
        "uplab_version": "0",
        "pins": {},
        "artifacts": {},
        "cells": tuple(PlannedCell(c, "available", None) for c in cells),
        "hit_costs": (),
        "started_utc": "",
        "ended_utc": None,
        "outcome": "complete",
        "error": None,
        "trials_planned": None,
        "provenance": "measured",
        "trials": tuple(trials),
    }
    return Run(**(fields | changes))


def blocks_of(rates: Mapping[str, Sequence[float | None]], **more: Any) -> Run:
    """A run from the requests per second of each mode, block by block."""
    trials: list[Trial] = []
    for mode, figures in rates.items():
        for block, rps in enumerate(figures, start=1):
            trials.append(trial(len(trials) + 1, cell(mode), block, rps))
    return run_of(trials, **more)


def only_group(run: Run) -> Group:
    (group,) = analyse(run).groups
    return group


def summary(run: Run, mode: str) -> CellSummary:
    (found,) = [c for g in analyse(run).groups for c in g.cells if c.cell.mode == mode]
    return found


# ------------------------------------------------------------ the estimate


def test_positive_is_slower() -> None:
    run = blocks_of({"none": [1000] * 3, "kernel-uprobe": [170] * 3, "tracer-only": [1020] * 3})
    slow, fast = summary(run, "kernel-uprobe"), summary(run, "tracer-only")
    assert slow.overhead_pct is not None
    assert slow.overhead_pct.value == pytest.approx(83)
    assert fast.overhead_pct is not None
    assert fast.overhead_pct.value == pytest.approx(-2)


def test_a_disturbance_of_a_whole_block_cancels() -> None:
    pace = [1.0, 0.4, 2.5, 0.9]
    run = blocks_of({"none": [1000 * p for p in pace], "kernel-uprobe": [250 * p for p in pace]})
    estimate = summary(run, "kernel-uprobe").overhead_pct
    assert estimate is not None
    assert estimate.value == pytest.approx(75)
    assert estimate.interval is not None
    assert estimate.interval.high - estimate.interval.low < 1e-9


def test_the_interval_is_that_of_scipy_on_the_logarithms() -> None:
    mine, none = [200.0, 250.0, 180.0, 220.0], [1000.0, 1100.0, 950.0, 1010.0]
    logs = np.log(np.array(mine) / np.array(none))
    expected = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    estimate = summary(
        blocks_of({"none": none, "kernel-uprobe": mine}), "kernel-uprobe"
    ).overhead_pct
    assert estimate is not None
    assert estimate.interval is not None
    assert estimate.value == pytest.approx(100 * (1 - math.exp(logs.mean())))
    assert estimate.interval.low == pytest.approx(100 * (1 - math.exp(expected.high)))
    assert estimate.interval.high == pytest.approx(100 * (1 - math.exp(expected.low)))


@pytest.mark.parametrize(
    ("n", "interval", "median"), [(1, 0, 0), (2, 0, 0), (3, 1, 0), (9, 1, 0), (10, 1, 1)]
)
def test_what_is_claimed_grows_with_n(n: int, interval: bool, median: bool) -> None:
    figures: list[float | None] = [200 + 7.0 * (i % 4) for i in range(n)]
    run = blocks_of({"none": [1000.0] * n, "kernel-uprobe": figures})
    estimate = summary(run, "kernel-uprobe").overhead_pct
    assert estimate is not None
    assert estimate.n == n
    assert (estimate.interval is not None) == bool(interval)
    assert (estimate.median is not None) == bool(median)
    assert (estimate.median_interval is not None) == bool(median)


def test_the_bootstrap_is_scipys_and_repeats_with_the_seed() -> None:
    values = [math.log(0.2 + 0.01 * i) for i in range(12)]
    expected = stats.bootstrap(
        (values,), np.median, n_resamples=10_000, method="BCa", rng=np.random.default_rng([7, 8])
    ).confidence_interval
    found = analysis.bca_of_median(values, (7, 8))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found == analysis.bca_of_median(values, (7, 8))


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
    half = np.array([analysis.half_width(n, float(deviation)) for deviation in deviations])
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
    assert analysis.faster_pct(floor or 0) == pytest.approx(4.0)
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


def test_the_floor_comes_from_the_groups_own_control() -> None:
    noisy = [
        trial(i, cell("none-again", "http"), i, rps) for i, rps in ((1, 900), (2, 1100), (3, 1000))
    ]
    quiet = [trial(10 + i, cell("none-again"), i, 1000.0 + i) for i in (1, 2, 3)]
    base = [
        trial(100 + 10 * index + i, cell("none", server), i, 1000)
        for index, server in enumerate(("https", "http"))
        for i in (1, 2, 3)
    ]
    floors = {g.server: g.noise_floor_pct for g in analyse(run_of(noisy + quiet + base)).groups}
    assert floors["http"] is not None
    assert floors["https"] is not None
    assert floors["http"] > 10 > 1 > floors["https"]


# ---------------------------------------------------------------------------- which trials count


def block_with(attempts: list[dict[str, bool]]) -> list[Trial]:
    """One block; each attempt maps a mode to whether its trial is valid."""
    trials: list[Trial] = []
    for attempt, modes in enumerate(attempts, start=1):
        for mode, valid in modes.items():
            rps = 1000.0 * attempt if mode == "none" else 500.0
            trials.append(trial(len(trials) + 1, cell(mode), 1, rps, attempt=attempt, valid=valid))
    return trials


BOTH = [cell("none"), cell("kernel-uprobe")]


@pytest.mark.parametrize(
    ("attempts", "chosen"),
    [
        ([{"none": True, "kernel-uprobe": True}], 1),
        ([{"none": True, "kernel-uprobe": False}, {"none": True, "kernel-uprobe": True}], 2),
        ([{"none": True, "kernel-uprobe": False}, {"none": False, "kernel-uprobe": True}], 1),
        ([{"none": False, "kernel-uprobe": False}, {"none": False, "kernel-uprobe": True}], 2),
        # An attempt that was cut off after one valid trial does not beat a whole one.
        ([{"none": True, "kernel-uprobe": False}, {"none": True}], 1),
    ],
)
def test_a_block_counts_with_its_best_attempt(attempts: list[dict[str, bool]], chosen: int) -> None:
    counted = analysis.choose_attempts(run_of(block_with(attempts), BOTH))
    assert {t.attempt for t in counted} == {chosen}


def test_a_pair_never_spans_two_attempts() -> None:
    attempts = [{"none": False, "kernel-uprobe": True}, {"none": True, "kernel-uprobe": False}]
    kernel = summary(run_of(block_with(attempts), BOTH), "kernel-uprobe")
    assert kernel.n == 1
    assert kernel.overhead_pct is None


def test_a_trial_made_twice_counts_once_with_the_first() -> None:
    twice = [trial(1, cell("none"), 1, 1000), trial(2, cell("none"), 1, 5000)]
    assert summary(run_of(twice), "none").requests_per_s == 1000


def test_rejections_are_counted_and_their_weight_is_shown() -> None:
    rejected = [
        trial(1, cell("none"), 1, 1000),
        trial(2, cell("kernel-uprobe"), 1, 500, valid=False),
    ]
    again = [
        trial(3, cell("none"), 1, 1000, attempt=2),
        trial(4, cell("kernel-uprobe"), 1, 200, attempt=2),
    ]
    kernel = summary(run_of(rejected + again), "kernel-uprobe")
    assert (kernel.trials, kernel.rejected, kernel.rejected_pct) == (2, 1, 50)
    assert kernel.overhead_pct is not None
    assert kernel.overhead_pct.value == pytest.approx(80)
    assert kernel.overhead_with_rejected_pct is not None
    assert kernel.overhead_with_rejected_pct.n == 1
    assert kernel.overhead_with_rejected_pct.value == pytest.approx(100 * (1 - math.sqrt(0.1)))


# ------------------------------------------------------------ what is missing


def test_without_a_baseline_there_is_no_overhead() -> None:
    run = blocks_of({"kernel-uprobe": [500, 510, 490]})
    kernel = summary(run, "kernel-uprobe")
    assert (kernel.overhead_pct, kernel.verdict, kernel.cpu_extra_us) == (None, None, None)
    assert kernel.requests_per_s == 500
    assert only_group(run).noise_floor_pct is None


@pytest.mark.parametrize("rps", [None, 0.0, -1.0, float("nan"), float("inf")])
def test_a_trial_without_requests_has_no_ratio(rps: float | None) -> None:
    run = blocks_of({"none": [1000, 1000], "kernel-uprobe": [rps, 500]})
    kernel = summary(run, "kernel-uprobe")
    assert kernel.overhead_pct is not None
    assert kernel.overhead_pct.n == 1
    assert kernel.requests_per_s == 500


def test_a_cell_of_invalid_trials_has_no_figures() -> None:
    bad = [trial(i, cell("kernel-uprobe"), i, 500, valid=False) for i in (1, 2, 3)]
    good = [trial(10 + i, cell("none"), i, 1000) for i in (1, 2, 3)]
    kernel = summary(run_of(bad + good), "kernel-uprobe")
    assert (kernel.n, kernel.rejected, kernel.rejected_pct) == (0, 3, 100)
    assert (kernel.requests_per_s, kernel.spread, kernel.overhead_pct) == (None, None, None)
    assert kernel.overhead_with_rejected_pct is not None


def test_a_run_without_trials_has_cells_without_figures() -> None:
    group = only_group(run_of([], BOTH))
    assert [c.n for c in group.cells] == [0, 0]
    assert [c.rejected_pct for c in group.cells] == [None, None]
    assert all(c.requests_per_s is None for c in group.cells)


def test_a_run_without_cells_has_no_groups() -> None:
    assert analyse(run_of([], [])).groups == ()


def test_one_trial_has_a_figure_but_no_spread() -> None:
    none = summary(blocks_of({"none": [1000]}), "none")
    assert none.requests_per_s == 1000
    assert none.spread is not None
    assert none.spread.cv_pct is None
    assert (none.spread.least, none.spread.most) == (1000, 1000)


def test_spread_is_the_coefficient_of_variation_and_the_ends() -> None:
    figures: list[float] = [900, 1000, 1250]
    spread = summary(blocks_of({"none": [*figures]}), "none").spread
    assert spread is not None
    assert spread.cv_pct == pytest.approx(100 * statistics.stdev(figures) / 1050)
    assert (spread.least, spread.most) == (900, 1250)


# ------------------------------------------------------------ CPU and hits


def with_cpu(mode: str, figures: list[float | None], first: int) -> list[Trial]:
    return [
        trial(first + block, cell(mode), block, 1000, cpu_us=us)
        for block, us in enumerate(figures, start=1)
    ]


def test_cpu_is_compared_within_the_block_too() -> None:
    run = run_of(
        with_cpu("none", [20.0, 22.0, 24.0, None], 0)
        + with_cpu("kernel-uprobe", [100.0, 110.0, 120.0, 130.0], 10)
    )
    kernel = summary(run, "kernel-uprobe")
    assert kernel.cpu_us_per_request == 115
    assert kernel.cpu_extra_pct is not None
    assert kernel.cpu_extra_pct.n == 3
    assert kernel.cpu_extra_pct.value == pytest.approx(400)
    assert kernel.cpu_extra_us is not None
    assert kernel.cpu_extra_us.value == pytest.approx(88)
    assert kernel.cpu_extra_us.interval is not None


def hits_of(*sites: tuple[str, str | None, float | None], lost: int | None = 0) -> Hits:
    rows = tuple(Site(name, "entry", kind, None, per_request) for name, kind, per_request in sites)
    return Hits("uprobe_multi", rows, {row.name: row.hits_per_request for row in rows}, 1, 1, lost)


COSTS = (
    HitCost("gotrace", "emulated", "55", 600.0, 1, 1, None, None),
    HitCost("gotrace", "emulated", "90", 700.0, 1, 1, None, None),
    HitCost("gotrace", "return", "c3", 12_000.0, 1, 1, None, None),
    HitCost("gotrace", "nop5", "0f", 400.0, 1, 1, None, "refused"),
    HitCost("other", "single-stepped", "48", 5_000.0, 1, 1, None, None),
)


def test_expected_cost_is_hits_times_cost_per_hit() -> None:
    hits = hits_of(("a", "emulated", 10.0), ("b", "return", 1.0), ("c", None, 0.0))
    run = run_of([trial(1, cell("kernel-uprobe"), 1, 1000, hits=hits)], hit_costs=COSTS)
    assert summary(run, "kernel-uprobe").cpu_expected_us == pytest.approx(6.5 + 12.0)


@pytest.mark.parametrize(
    "site",
    [("b", None, 1.0), ("b", "single-stepped", 1.0), ("b", "nop5", 1.0), ("b", "emulated", None)],
)
def test_a_part_of_the_sites_is_not_a_sum(site: tuple[str, str | None, float | None]) -> None:
    hits = hits_of(("a", "emulated", 10.0), site)
    run = run_of([trial(1, cell("kernel-uprobe"), 1, 1000, hits=hits)], hit_costs=COSTS)
    assert summary(run, "kernel-uprobe").cpu_expected_us is None


def test_hits_are_medians_by_site_and_a_missing_one_is_not_zero() -> None:
    trials = [
        trial(1, cell("kernel-uprobe"), 1, 1, hits=hits_of(("a", None, 12.0), ("b", None, 1.0))),
        trial(2, cell("kernel-uprobe"), 2, 1, hits=hits_of(("a", None, 14.0), ("b", None, None))),
    ]
    kernel = summary(run_of(trials), "kernel-uprobe")
    assert kernel.hits_per_request_by_name == {"a": 13, "b": 1}
    assert kernel.hits_per_request == 13
    assert summary(blocks_of({"none": [1]}), "none").hits_per_request is None


def test_lost_events_are_summed_unless_a_trial_does_not_say() -> None:
    def lost(*figures: int | None) -> int | None:
        trials = [
            trial(i, cell("kernel-uprobe"), i, 1, hits=hits_of(("a", None, 1.0), lost=figure))
            for i, figure in enumerate(figures, start=1)
        ]
        return summary(run_of(trials), "kernel-uprobe").events_lost

    assert lost(2, 3) == 5
    assert lost(0, 0) == 0
    assert lost(2, None) is None
    assert summary(blocks_of({"none": [1]}), "none").events_lost is None


# ------------------------------------------------------------ groups


def test_sizes_and_loads_are_never_mixed() -> None:
    fast = {"threads": 20}
    trials = [
        trial(1, cell("none"), 1, 1000),
        trial(2, cell("none", body_bytes=1024), 1, 700),
        trial(3, replace(cell("none", load_parameters=fast), cell_id="https-none-t20"), 1, 900),
        trial(4, cell("none", "http"), 1, 1500),
        trial(5, cell("kernel-uprobe"), 1, 500),
    ]
    groups = analyse(run_of(trials)).groups
    assert [(g.server, g.body_bytes, g.load_parameters["threads"]) for g in groups] == [
        ("https", 12, 10),
        ("https", 1024, 10),
        ("https", 12, 20),
        ("http", 12, 10),
    ]
    assert [c.cell.mode for c in groups[0].cells] == ["none", "kernel-uprobe"]


def test_a_cell_that_only_a_trial_names_is_shown() -> None:
    run = run_of([trial(1, cell("kernel-uprobe"), 1, 500)], [cell("none")])
    assert [c.cell.mode for c in only_group(run).cells] == ["none", "kernel-uprobe"]


def test_a_synthetic_run_gives_back_its_effects(tmp_path: Path) -> None:
    spec = Spec(
        blocks=30, noise=0.05, kept={"kernel-uprobe": 0.2}, histogram_buckets=10, logs=False
    )
    run = results.load(make_run(tmp_path / "run", spec))
    kernel = [c for g in analyse(run).groups for c in g.cells if c.cell.mode == "kernel-uprobe"]
    assert len(kernel) == 2
    for found in kernel:
        assert found.overhead_pct is not None
        assert found.overhead_pct.interval is not None
        assert found.overhead_pct.value == pytest.approx(80, abs=1.5)
        assert found.verdict == ABOVE


def test_the_analysis_of_a_run_repeats(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", blocks=10, histogram_buckets=10)
    assert analyse(results.load(run_dir)) == analyse(results.load(run_dir))


def test_other_cells_do_not_move_a_cells_bootstrap(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", blocks=10, histogram_buckets=10, sums=False)
    kernel = summary_of(results.load(run_dir, strict=False), "https")
    document = json.loads((run_dir / "run.json").read_text())
    edit_json(run_dir / "run.json", cells=list(reversed(document["cells"])))
    assert summary_of(results.load(run_dir, strict=False), "https") == kernel
    assert len(cells_of(Spec())) == len(document["cells"])


def summary_of(run: Run, server: str) -> Estimate | None:
    (group,) = [g for g in analyse(run).groups if g.server == server]
    return next(c.overhead_pct for c in group.cells if c.cell.mode == "kernel-uprobe")
