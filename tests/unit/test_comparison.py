"""uplab/comparison.py and why.py: two runs, cell by cell, and why they differ."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.runs import FINGERPRINT, edit_json, make_run, write_json
from uplab import comparison, results, why
from uplab.comparison import (
    BETTER,
    CANNOT_TELL,
    SAME,
    WORSE,
    CellComparison,
    Comparison,
    blocks_needed,
    compare,
    holm,
)
from uplab.errors import UsageError
from uplab.hostside import sums
from uplab.measured import LoadHost, Run
from uplab.report import comparing, markdown

KERNEL = "https-kernel-uprobe-gotrace-12B"


def run_of(folder: Path, name: str, **changes: Any) -> Run:
    seeds = {"a": 1, "b": 2}
    small = {"servers": ("https",), "histogram_buckets": 10, "logs": False}
    spec = {**small, "blocks": 8, "seed": seeds.get(name, 3), **changes}
    return results.load(make_run(folder / name, **spec))


def two(folder: Path, b: dict[str, Any] | None = None, **changes: Any) -> Comparison:
    return compare(run_of(folder, "a", **changes), run_of(folder, "b", **changes, **(b or {})))


def of(found: Comparison, cell_id: str) -> CellComparison:
    (cell,) = [cell for cell in found.cells if cell.cell_id == cell_id]
    return cell


# --- verdicts -------------------------------------------------------------------------------------


def test_what_costs_more_in_b_is_worse_and_the_rest_is_not(tmp_path: Path) -> None:
    found = two(tmp_path, {"kept": {"kernel-uprobe": 0.10}})
    cell = of(found, KERNEL)
    assert (cell.verdict, cell.unit, cell.figure) == (WORSE, "pp", "overhead")
    assert cell.shift is not None
    assert cell.shift.value == pytest.approx(6, abs=1)
    assert cell.shift.interval is not None
    assert cell.shift.interval.low < cell.shift.value < cell.shift.interval.high
    assert cell.shift.delta == 1
    assert cell.p is not None
    assert cell.p < 0.05
    others = {c.verdict for c in found.cells if c.cell_id != KERNEL}
    assert others <= {SAME, CANNOT_TELL}


def test_what_costs_less_in_b_is_better(tmp_path: Path) -> None:
    cell = of(two(tmp_path, {"kept": {"kernel-uprobe": 0.25}}), KERNEL)
    assert cell.verdict == BETTER
    assert cell.shift is not None
    assert cell.shift.value < 0
    assert cell.shift.delta == -1


def test_of_none_the_figure_itself_is_compared(tmp_path: Path) -> None:
    quiet = {"block_noise": 0.01, "noise": 0.01}
    slower = {"kept": {mode: 0.8 * kept for mode, kept in KEPT.items()}}
    found = two(tmp_path, slower, **quiet)
    none = of(found, "https-none-12B")
    assert (none.verdict, none.unit, none.figure) == (WORSE, "%", "requests per second")
    assert none.shift is not None
    assert none.shift.value == pytest.approx(20, abs=1.5)
    assert of(found, KERNEL).verdict != WORSE


KEPT = {"none": 1.0, "none-again": 1.0, "tracer-only": 0.85, "kernel-uprobe": 0.16}


def test_under_an_open_loop_cpu_is_compared(tmp_path: Path) -> None:
    found = two(tmp_path, {"kept": {"kernel-uprobe": 0.10}}, loop="open", noise=0.01)
    assert of(found, "https-none-12B").figure == "CPU per request"
    assert of(found, KERNEL).verdict == WORSE


def test_a_difference_inside_the_noise_floor_is_called_none(tmp_path: Path) -> None:
    """The control of A is wild, so that a clear shift of the kernel mode lies within its floor."""
    found = two(tmp_path, {"kept": {"kernel-uprobe": 0.157}}, noise=0.001)
    assert of(found, KERNEL).verdict == WORSE
    a, b = found.a, found.b
    noisy = tuple(
        replace(
            t, load=replace(t.load, requests_per_s=(t.load.requests_per_s or 0) * (1 + t.block / 9))
        )
        if t.cell.mode == "none-again" and t.load
        else t
        for t in a.trials
    )
    cell = of(compare(replace(a, trials=noisy), b), KERNEL)
    assert cell.p is not None
    assert cell.p < 0.05
    assert cell.verdict == SAME


def test_too_few_blocks_cannot_tell_and_say_how_many_would(tmp_path: Path) -> None:
    cell = of(two(tmp_path, {"kept": {"kernel-uprobe": 0.10}}, blocks=3), KERNEL)
    assert cell.verdict == CANNOT_TELL
    assert cell.blocks is not None
    assert 4 <= cell.blocks <= 10
    assert cell.said == f"cannot tell (n too small: needs about {cell.blocks} blocks)"


def test_what_only_one_run_measured_is_told(tmp_path: Path) -> None:
    unavailable = {"unavailable": {"tracer-only": "no gotrace here"}}
    found = compare(run_of(tmp_path, "a"), run_of(tmp_path, "b", **unavailable))
    assert found.only_a == ("https-tracer-only-gotrace-12B",)
    assert found.only_b == ()
    assert found.measured


def test_runs_without_a_trial_have_nothing_to_compare(tmp_path: Path) -> None:
    found = two(tmp_path, blocks=0)
    assert not found.measured
    assert {cell.said for cell in found.cells} == {"cannot tell (not measured in both)"}


def test_equal_runs_are_rarely_called_different(tmp_path: Path) -> None:
    """Three pairs of equal runs with four cells each: none of the 12 verdicts is a difference."""
    verdicts = []
    for at in range(3):
        a, b = (run_of(tmp_path, f"{n}{at}", seed=100 * at + n, blocks=6) for n in (1, 2))
        verdicts += [cell.verdict for cell in compare(a, b).cells]
    assert len(verdicts) == 12
    assert not {WORSE, BETTER} & set(verdicts)


# --- blocks needed --------------------------------------------------------------------------------


@given(st.floats(0.01, 0.5), st.floats(0.01, 0.3), st.integers(1, 20))
def test_so_many_blocks_are_just_enough_for_a_difference(
    value: float, deviation: float, cells: int
) -> None:
    n = blocks_needed(value, value / 2, deviation, cells)
    assert n is not None

    def enough(blocks: int) -> bool:
        half = stats.t.ppf(1 - 0.025 / cells, 2 * blocks - 2) * deviation * math.sqrt(2 / blocks)
        return bool(half <= value) and 2 / math.comb(2 * blocks, blocks) <= 0.05 / cells

    assert enough(n)
    assert n == 2 or not enough(n - 1)


def test_inside_the_floor_the_interval_has_to_fit_into_it() -> None:
    near, far = (blocks_needed(value, 0.05, 0.05, 1) for value in (0.045, 0.0))
    assert near is not None
    assert far is not None
    assert near > far
    assert blocks_needed(0.0, None, 0.05, 1) is None
    assert blocks_needed(0.1, 0.05, None, 1) is None


# --- Holm -----------------------------------------------------------------------------------------


def test_holm_s_example() -> None:
    """The adjusted p are those of R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_the_order_and_never_makes_smaller(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    pairs = sorted(zip(p_values, adjusted, strict=True))
    assert [later for _, later in pairs] == sorted(adjusted)
    assert all(before <= after <= 1 for before, after in pairs)


# --- what must not be compared --------------------------------------------------------------------


def refusal(a: Run, b: Run) -> str:
    with pytest.raises(UsageError) as caught:
        compare(a, b)
    return caught.value.message


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    run = run_of(tmp_path, "a", blocks=1)
    assert "is given twice" in refusal(run, run)


def test_another_matrix_is_refused_with_what_is_not_the_same(tmp_path: Path) -> None:
    a, b = run_of(tmp_path, "a", blocks=1), run_of(tmp_path, "b", blocks=1)
    assert "matrix seed in A and sizes in B" in refusal(a, replace(b, matrix_name="sizes"))
    longer = replace(b, matrix={"warm_up_s": 2, "load": {"name": "wrk", "duration_s": 30}})
    said = refusal(
        replace(a, matrix={**longer.matrix, "load": {"name": "wrk", "duration_s": 3}}), longer
    )
    assert "must not be compared" in said
    assert "load.duration_s is 3 in A and 30 in B" in said
    assert "warm_up_s is 2 in A and 7 in B" in refusal(a, replace(b, matrix={"warm_up_s": 7}))
    closed, opened = ({"wrk": loop} for loop in ("closed", "open"))
    said = refusal(replace(a, loops=closed), replace(b, loops=opened))
    assert "the load wrk is closed in A and open in B" in said


def test_how_often_and_how_strictly_it_was_measured_may_differ(tmp_path: Path) -> None:
    a, b = run_of(tmp_path, "a", blocks=1), run_of(tmp_path, "b", blocks=1)
    factors = {"server": ["https"], "mode": ["none"]}
    one = {"warm_up_s": 2, "blocks": 3, "seed": 1, "factors": factors}
    other: dict[str, Any] = {
        "warm_up_s": 2,
        "blocks": 9,
        "seed": None,
        "limits": {"steal_pct": 1.0},
        "servers": {},
        "factors": {**factors, "jit": [True], "bpftime_prefix": ["/opt/elsewhere"]},
        "tracers": {},
    }
    compare(replace(a, matrix=one), replace(b, matrix=other))
    ports = [{**one, "servers": {"https": {"port": port}}} for port in (446, 20446)]
    compare(replace(a, matrix=ports[0]), replace(b, matrix=ports[1]))
    builds = [{**one, "tracers": {"pr": {"adapter": "g", "path": path}}} for path in ("/a", "/b")]
    compare(replace(a, matrix=builds[0]), replace(b, matrix=builds[1]))
    several = {**one, "factors": {**factors, "bpftime_prefix": ["", "/opt/elsewhere"]}}
    assert "factors.bpftime_prefix" in refusal(replace(a, matrix=one), replace(b, matrix=several))


def test_another_schema_is_refused_when_it_is_read(tmp_path: Path) -> None:
    run_of(tmp_path, "a", blocks=1)
    edit_json(tmp_path / "a" / "run.json", schema=2)
    sums.write(tmp_path / "a")
    with pytest.raises(UsageError, match="schema"):
        results.load(tmp_path / "a")


# --- why they differ ------------------------------------------------------------------------------


def other_host(run: Run, **changes: Any) -> Run:
    return replace(run, fingerprint_before={**run.fingerprint_before, **changes})


def test_differences_are_ranked(tmp_path: Path) -> None:
    a, b = run_of(tmp_path, "a", blocks=1), run_of(tmp_path, "b", blocks=1)
    b = other_host(
        replace(b, pins={"go": "1.20"}, artifacts={"gotrace/bin/gotrace": "f" * 64}),
        kernel={**FINGERPRINT["kernel"], "release": "6.1.0"},
        mitigations={"meltdown": "Mitigation: PTI"},
        settings={**FINGERPRINT["settings"], "governor": "powersave"},
        cpu={**FINGERPRINT["cpu"], "microcode": "0x2"},
        uptime_s=1.0,
        load_average={"1_min": 9.0},
    )
    fields = [found.field for found in why.differences(a, b)]
    assert fields == [
        "kernel.release",
        "cpu.microcode",
        "mitigations.meltdown",
        "artifacts.gotrace/bin/gotrace",
        "artifacts.servers/bin/go-server",
        "settings.governor",
        "pins.go",
    ]
    (first, *_) = why.differences(a, b)
    assert (first.rank, first.a, first.b) == (1, "6.18.5", "6.1.0")
    assert "breakpoints" in first.why


def test_where_the_load_ran_is_one_of_them(tmp_path: Path) -> None:
    a, b = run_of(tmp_path, "a", blocks=1), run_of(tmp_path, "b", blocks=1)
    far = LoadHost("r730", "192.0.2.7", 90.0, 110.0, 0.0, 1e-5, 10_000, 1_000)
    found = {d.field: (d.a, d.b) for d in why.differences(a, replace(b, load_host=far))}
    assert found["load_from"] == ("the host itself", "r730")
    assert found["load_from.load_host_mbit_s"] == ("not recorded", "1000")


def test_what_was_not_recorded_says_so(tmp_path: Path) -> None:
    a, b = run_of(tmp_path, "a", blocks=1), run_of(tmp_path, "b", blocks=1)
    b = replace(b, fingerprint_before={})
    found = {d.field: d for d in why.differences(a, b)}
    assert found["kernel.release"].b == "not recorded"
    assert why.differences(a, replace(a, path=b.path)) == ()


def test_costs_of_both_hosts_stand_side_by_side(tmp_path: Path) -> None:
    a, b = run_of(tmp_path, "a", blocks=1), run_of(tmp_path, "b", blocks=1)
    twice = tuple(
        replace(cost, ns_per_hit=None if cost.ns_per_hit is None else 2 * cost.ns_per_hit)
        for cost in b.hit_costs
        if cost.instruction_class != "nop5"
    )
    costs = {c.instruction_class: c for c in why.hit_costs(a, replace(b, hit_costs=twice))}
    assert costs["emulated"].ratio == pytest.approx(2)
    assert (costs["nop5"].b_ns, costs["nop5"].ratio) == (None, None)


# --- what is shown --------------------------------------------------------------------------------


def test_the_report_says_all_of_it(tmp_path: Path) -> None:
    found = two(tmp_path, {"kept": {"kernel-uprobe": 0.10}})
    shown = markdown.sections(comparing.sections(found))
    assert f"worse (1): {KERNEL}" in shown
    assert "## Why different?" in shown
    assert "Nothing that was recorded of hosts, parts and pins differs" in shown
    assert "| gotrace | emulated | 640 | 640 | 1.00 |" in shown
    assert "A was not measured: its provenance is synthetic." in shown
    document = comparing.document(found)
    assert json.loads(json.dumps(document, allow_nan=False))["cells"][-1]["verdict"] == WORSE


def test_text_of_a_host_stays_text(tmp_path: Path) -> None:
    a, b = run_of(tmp_path, "a", blocks=1), run_of(tmp_path, "b", blocks=1)
    b = other_host(b, distribution="<script>alert(1)</script>\x1b[31m | x")
    shown = markdown.sections(comparing.sections(compare(a, b)))
    assert "<script>" not in shown.replace("\\<script>", "")
    assert "\x1b" not in shown


def test_the_whole_is_the_same_each_time(tmp_path: Path) -> None:
    one, other = (comparing.document(two(tmp_path / name, blocks=4)) for name in ("x", "y"))
    for document in (one, other):
        document["a"].pop("path")
        document["b"].pop("path")
    assert one == other


def test_a_sequential_run_is_told(tmp_path: Path) -> None:
    a, b = run_of(tmp_path, "a", blocks=3), run_of(tmp_path, "b", blocks=3)
    from uplab.measured import Sequential

    found = compare(a, replace(b, sequential=Sequential(2.0, (6,))))
    assert any("B has sequential intervals" in line for line in comparing.sections(found)[0].notes)


def test_verdicts_do_not_depend_on_the_order_of_the_cells(tmp_path: Path) -> None:
    found = two(tmp_path, {"kept": {"kernel-uprobe": 0.10}})
    cells = list(found.b.cells)
    random.Random(3).shuffle(cells)
    again = compare(found.a, replace(found.b, cells=tuple(cells)))
    assert {c.cell_id: c.verdict for c in again.cells} == {
        c.cell_id: c.verdict for c in found.cells
    }


def test_the_document_is_written_for_programs(tmp_path: Path) -> None:
    """What docs/how-to/compare-two-runs.md promises of --json."""
    write_json(tmp_path / "x.json", comparing.document(two(tmp_path, blocks=2)))
    keys = json.loads((tmp_path / "x.json").read_text()).keys()
    assert {"schema", "a", "b", "cells", "differences", "hit_costs", "gates"} <= keys


def test_a_forged_floor_breaks_nothing() -> None:
    assert comparison.blocks_needed(0.1, math.inf, 0.05, 3) is not None
