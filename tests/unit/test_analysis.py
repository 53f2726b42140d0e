"""What a run says: which trials count, pairs, groups, against hand-made and synthetic runs."""

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.handmade import blocks_of, cell, hits_of, run_of, trial
from tests.runs import Spec, cells_of, edit_json, make_run
from uplab import analysis, results
from uplab.analysis import CellSummary, Group, analyse, paired_log_ratios
from uplab.estimates import ABOVE, INSIDE, Estimate, overhead
from uplab.measured import Run, Trial


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


# ------------------------------------------------------------------------------ floor and verdict


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


# ------------------------------------------------------------ userspace


def test_loader_placement_and_options_are_cells_of_their_own() -> None:
    usual = cell("userspace-uprobe", loader="syscall-server", placement="hybrid")
    ways = [
        usual,
        replace(usual, cell_id="daemon", loader="daemon"),
        replace(usual, cell_id="entries", placement="entries"),
        replace(usual, cell_id="nojit", runtime={"jit": False}),
    ]
    rates = [500.0, 400.0, 250.0, 125.0]
    trials = [trial(block, cell("none"), block, 1000) for block in (1, 2, 3)]
    for way, rps in zip(ways, rates, strict=True):
        trials += [trial(len(trials) + block, way, block, rps) for block in (1, 2, 3)]
    found = [c for c in only_group(run_of(trials)).cells if c.cell.mode != "none"]
    assert {c.cell.cell_id: c.n for c in found} == {way.cell_id: 3 for way in ways}
    lost = {c.cell.cell_id: c.overhead_pct.value for c in found if c.overhead_pct}
    expected = [50.0, 60.0, 75.0, 87.5]
    assert [lost[way.cell_id] for way in ways] == pytest.approx(expected)


# ------------------------------------------------------------ open loops


RATE = {"rate_per_s": 1000}


def open_run(cpu_us: dict[str, list[float]], reached: float = 1000.0) -> Run:
    """A run at a fixed rate, from the CPU per request of each mode, block by block."""
    trials: list[Trial] = []
    for mode, figures in cpu_us.items():
        of = cell(mode, load_parameters=RATE)
        for block, us in enumerate(figures, start=1):
            waited: dict[str, float | None] = {"p50": us * 10, "p90": us * 20, "p99": us * 100}
            trials.append(trial(len(trials) + 1, of, block, reached, cpu_us=us, latency_us=waited))
    return run_of(trials, loops={"wrk": "open"})


def test_at_a_fixed_rate_the_cpu_is_the_figure() -> None:
    run = open_run({"none": [20, 22, 24], "kernel-uprobe": [60, 66, 72]})
    (group,) = analyse(run).groups
    assert (group.is_open, group.asked_per_s) == (True, 1000)
    kernel = summary(run, "kernel-uprobe")
    assert kernel.overhead_pct is not None
    # Three times the CPU at the same rate: 200 % more, not 0 % slower.
    assert kernel.overhead_pct.value == pytest.approx(200)
    assert kernel.overhead_pct.interval is not None
    assert {name: e.value for name, e in kernel.latency_extra_pct.items()} == pytest.approx(
        {"p50": 200, "p90": 200, "p99": 200}
    )


def test_the_noise_floor_at_a_fixed_rate_is_of_the_cpu() -> None:
    run = open_run(
        {
            "none": [20, 20, 20],
            "none-again": [20.2, 20, 19.8],
            "tracer-only": [20.1, 20.1, 20.1],
            "kernel-uprobe": [40, 41, 42],
        }
    )
    floor = only_group(run).noise_floor_pct
    assert floor is not None
    assert 1 < floor < 5
    assert summary(run, "tracer-only").verdict == INSIDE
    assert summary(run, "kernel-uprobe").verdict == ABOVE


def test_rejected_trials_at_a_fixed_rate_are_weighed_by_their_cpu() -> None:
    run = open_run({"none": [20, 20, 20], "kernel-uprobe": [60, 60, 60]})
    spoiled = [replace(t, valid=t.number != 6, cpu=t.cpu) for t in run.trials]
    found = summary(replace(run, trials=tuple(spoiled)), "kernel-uprobe")
    assert found.rejected == 1
    assert found.overhead_with_rejected_pct is not None
    assert found.overhead_with_rejected_pct.value == pytest.approx(200)


@pytest.mark.parametrize(("reached", "short"), [(1000.0, 0), (990.0, 0), (989.0, 3)])
def test_a_load_that_misses_its_rate_is_counted(reached: float, short: int) -> None:
    run = open_run({"none": [20, 20, 20]}, reached)
    assert summary(run, "none").short_of_rate == short


def test_a_closed_loop_has_no_rate_to_miss() -> None:
    run = blocks_of({"none": [10.0] * 3, "kernel-uprobe": [5.0] * 3})
    kernel = summary(run, "kernel-uprobe")
    assert (only_group(run).loop, only_group(run).asked_per_s) == ("closed", None)
    assert (kernel.short_of_rate, kernel.latency_extra_pct) == (0, {})


def test_an_open_loop_of_unknown_rate_is_open_all_the_same() -> None:
    run = replace(blocks_of({"none": [10.0] * 3}), loops={"wrk": "open"})
    assert (only_group(run).is_open, only_group(run).asked_per_s) == (True, None)
    assert summary(run, "none").short_of_rate == 0


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


@pytest.mark.parametrize("loop", ["closed", "open"])
def test_the_paired_log_ratios_are_what_the_overheads_are_made_of(
    tmp_path: Path, loop: str
) -> None:
    broken = "http-kernel-uprobe-gotrace-12B"
    invalid = {(broken, block, attempt): "died" for block in range(1, 7) for attempt in (1, 2, 3)}
    invalid |= {("https-none-12B", 2, 1): "died"}
    unavailable = {"tracer-only": "not on this host"}
    run_dir = make_run(
        tmp_path / "run", loop=loop, invalid=invalid, unavailable=unavailable, histogram_buckets=10
    )
    run = results.load(run_dir)
    groups = analyse(run).groups
    found = paired_log_ratios(run)
    assert found.pop(broken) == []
    cells = {c.cell.cell_id: (c, g) for g in groups for c in g.cells if c.overhead_pct is not None}
    assert set(found) == set(cells)
    for cell_id, ratios in found.items():
        summary, group = cells[cell_id]
        assert overhead(ratios, scale=group.scale) == summary.overhead_pct


def test_without_none_there_is_nothing_to_pair() -> None:
    run = run_of([trial(1, cell("kernel-uprobe"), 1, 500), trial(2, cell("none-again"), 1, 900)])
    assert paired_log_ratios(run) == {}
