"""uplab/gates.py: the language, the decision on the interval, and the exit code."""

from __future__ import annotations

import math
import random
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.handmade import cell, run_of, trial
from tests.runs import make_run
from uplab import comparison, gates, results
from uplab.errors import EXIT_GATE, EXIT_INVALID, EXIT_OK, EXIT_UNDECIDED, UsageError
from uplab.estimates import LOST, Interval
from uplab.gates import (
    FAILED,
    NOT_MEASURED,
    PASSED,
    UNDECIDED,
    Gate,
    Judged,
    Term,
    judge,
    paired_difference,
    parse,
)
from uplab.measured import Cell, Run, Trial

ROOT = Path(__file__).resolve().parents[2]


def refusal(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(text)
    return caught.value.message


def built(name: str, mode: str = "kernel-uprobe") -> Cell:
    return replace(cell(mode), cell_id=f"https-{mode}-{name}-12B", tracer=name)


def run_with(*rates: tuple[Cell, Sequence[float | None]]) -> Run:
    """A run from the requests per second of each cell, block by block."""
    trials: list[Trial] = []
    for of, figures in rates:
        for block, rps in enumerate(figures, start=1):
            cpu_us = 1e6 / rps if rps else None
            trials.append(trial(len(trials) + 1, of, block, rps, cpu_us=cpu_us))
    return run_of(trials, cells=[of for of, _ in rates])


def outcomes(run: Run, *texts: str) -> list[str]:
    return [judged.outcome for judged in judge(run, map(parse, texts))]


NONE = cell("none")
PACE = (1.0, 1.2, 0.9, 1.05)


def pace(rate: float, wobble: float = 0.0) -> list[float]:
    """A rate that goes up and down with the block, and by a little of its own."""
    return [rate * p * (1 + wobble * at) for at, p in enumerate(PACE)]


# --- the language ---------------------------------------------------------------------------------


def test_a_gate_is_a_figure_a_relation_and_a_limit() -> None:
    gate = parse("overhead<=5%")
    assert gate == Gate("overhead<=5%", Term("overhead"), None, "<=", 5.0, "%")


def test_all_of_the_language_is_read() -> None:
    gate = parse(
        " cpu(pr) [server=https, mode=kernel-uprobe] - cpu(main)[server=https,mode=kernel-uprobe]"
        " > -1.5 us "
    )
    chosen = (("server", "https"), ("mode", "kernel-uprobe"))
    assert (gate.left, gate.right) == (Term("cpu", "pr", chosen), Term("cpu", "main", chosen))
    assert (gate.relation, gate.limit, gate.unit) == (">", -1.5, "us")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected FIGURE<=LIMIT"),
        ("overhead", "expected FIGURE<=LIMIT"),
        ("overhead=5%", "expected FIGURE<=LIMIT"),
        ("overhead<=5%; import os", "expected FIGURE<=LIMIT"),
        ("overhead<=1e3%", "expected FIGURE<=LIMIT"),
        ("overhead<=nan%", "expected FIGURE<=LIMIT"),
        ("overhead+overhead<=5pp", "expected FIGURE<=LIMIT"),
        ("overhead(a)-overhead(b)-overhead(c)<=5pp", "expected FIGURE<=LIMIT"),
        ("__import__('os')<=5%", "expected FIGURE<=LIMIT"),
        ("overhed<=5%", "no figure 'overhed'; did you mean overhead?"),
        ("latency<=5%", "no figure 'latency'. There are overhead, cpu"),
        ("overhead<=5", "overhead has the unit %"),
        ("overhead<=5pp", "overhead has the unit %, found pp"),
        ("overhead<=5us", "overhead has the unit %, found us"),
        ("cpu<=5pp", "cpu has the unit % or us, found pp"),
        ("overhead(a)-overhead(b)<=5%", "a difference has the unit pp, found %"),
        ("overhead(a)-cpu(b)<=5pp", "overhead and cpu have no difference"),
        ("overhead(a)-overhead(a)<=5pp", "both sides are the same"),
        ("overhead[size=12]<=5%", "[size=12]: expected KEY=VALUE. There are server, mode"),
        ("overhead[server]<=5%", "[server]: expected KEY=VALUE"),
        ("overhead[]<=5%", "[]: expected KEY=VALUE"),
        ("overhead[mode=none,mode=none]<=5%", "mode is given twice"),
        ("overhead(pr)[tracer=main]<=5%", "the tracer is given twice"),
    ],
)
def test_what_is_no_gate_is_refused_with_what_is_allowed(text: str, said: str) -> None:
    message = refusal(text)
    assert message.startswith(f"--gate {text!r}: {said}"), message
    assert message.endswith("docs/reference/gates.md")


@given(st.text(max_size=40))
def test_any_text_is_a_gate_or_refused(text: str) -> None:
    try:
        gate = parse(text)
    except UsageError:
        return
    assert gate.relation in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "overhead(prr)<=5%",
            "no tracer 'prr' in this matrix; did you mean pr? There are main, pr",
        ),
        ("overhead[server=ftp]<=5%", "no server 'ftp' in this matrix. There are https"),
        ("overhead[mode=none,tracer=pr]<=5%", "no traced cell of this matrix is all of that"),
        ("overhead(pr)-overhead(old)<=5pp", "no tracer 'old' in this matrix"),
    ],
)
def test_a_gate_that_means_no_cell_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        gates.check([parse(text)], [NONE, built("main"), built("pr")])
    assert said in caught.value.message


# --- the decision ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("relation", "limit", "outcome"),
    [
        ("<=", 3, PASSED),
        ("<", 3, UNDECIDED),
        ("<=", 2, UNDECIDED),
        ("<=", 0.5, FAILED),
        ("<=", 1, UNDECIDED),
        (">=", 1, PASSED),
        (">", 1, UNDECIDED),
        (">", 4, FAILED),
    ],
)
def test_the_whole_interval_decides(relation: str, limit: float, outcome: str) -> None:
    gate = parse(f"overhead{relation}{limit}%")
    assert gate.outcome(Interval(1, 3)) == outcome


def test_a_gate_is_on_every_traced_cell_that_it_means() -> None:
    run = run_with(
        (NONE, pace(1000)),
        (cell("none-again"), pace(1000)),
        (built("main"), pace(900, 0.001)),
        (built("idle", "tracer-only"), pace(990, 0.001)),
    )
    assert [j.cell for j in judge(run, [parse("overhead<=5%")])] == [
        "https-tracer-only-idle-12B",
        "https-kernel-uprobe-main-12B",
    ]
    assert outcomes(run, "overhead<=5%") == [PASSED, FAILED]
    assert outcomes(run, "overhead(main)<=15%") == [PASSED]
    assert outcomes(run, "overhead[mode=tracer-only]<=5%") == [PASSED]
    (judged,) = judge(run, [parse("overhead[mode=none-again]<=1%")])
    assert judged.cell == "https-none-again-12B"


def test_a_gate_on_cpu_is_in_percent_or_microseconds() -> None:
    run = run_with((NONE, pace(1000)), (built("main"), pace(500, 0.001)))
    assert outcomes(run, "cpu<=105%", "cpu<=90%", "cpu<=2000us", "cpu<=100us") == [
        PASSED,
        FAILED,
        PASSED,
        FAILED,
    ]


def test_a_limit_inside_the_interval_is_undecided_and_two_blocks_are_too_few() -> None:
    wide = run_with((NONE, [1000] * 3), (built("main"), [800.0, 900.0, 1000.0]))
    few = run_with((NONE, [1000] * 2), (built("main"), [900.0, 901.0]))
    (judged,) = judge(wide, [parse("overhead<=10%")])
    assert (judged.outcome, judged.why) == (UNDECIDED, "the limit lies inside the interval")
    (judged,) = judge(few, [parse("overhead<=50%")])
    assert (judged.outcome, judged.why) == (UNDECIDED, "n = 2, too few for an interval")


def test_a_cell_without_a_pair_is_not_measured() -> None:
    run = run_with((NONE, pace(1000)), (built("main"), [None] * 4), (built("pr"), pace(900)))
    judged = judge(run, [parse("overhead<=50%")])
    assert [j.outcome for j in judged] == [NOT_MEASURED, PASSED]
    assert gates.exit_code(judged) == EXIT_INVALID


def test_no_limit_applies_to_what_the_host_cannot_run(tmp_path: Path) -> None:
    run_dir = make_run(
        tmp_path / "run",
        servers=("https",),
        modes=("none", "kernel-uprobe", "userspace-uprobe"),
        unavailable={"userspace-uprobe": "no bpftime on this host"},
        blocks=3,
    )
    run = results.load(run_dir)
    assert outcomes(run, "overhead<=99%") == [PASSED]
    (judged,) = judge(run, [parse("overhead[mode=userspace-uprobe]<=99%")])
    assert (judged.outcome, judged.why) == (
        NOT_MEASURED,
        "none of its cells can run on this host",
    )


# --- a difference ---------------------------------------------------------------------------------


def test_two_builds_are_paired_within_their_blocks() -> None:
    """Each block has a pace of its own for both builds, which cancels."""
    wild = [1.0, 0.5, 0.8, 0.6]
    main = [800 * w for w in wild]
    slower = [0.99 * rate for rate in main]
    run = run_with((NONE, [1000.0] * 4), (built("main"), main), (built("pr"), slower))
    (judged,) = judge(run, [parse("overhead(pr)-overhead(main)<=1pp")])
    assert judged.cell == "https-kernel-uprobe-pr-12B - https-kernel-uprobe-main-12B"
    assert judged.estimate is not None
    kept = 0.8 * math.exp(statistics.fmean(map(math.log, wild)))
    assert judged.estimate.value == pytest.approx(100 * 0.01 * kept)
    assert judged.outcome == PASSED
    assert outcomes(run, "overhead(pr)<=60%") == [UNDECIDED]
    assert outcomes(run, "overhead(pr)-overhead(main)<=0.1pp") == [FAILED]
    assert outcomes(run, "cpu(pr)-cpu(main)<=10us") == [UNDECIDED]


@pytest.mark.parametrize("n", [3, 4, 10, 30])
def test_the_difference_s_interval_is_student_s_on_the_linear_parts(n: int) -> None:
    chance = random.Random(n)
    x = {b: chance.gauss(-1, 0.1) for b in range(n)}
    y = {b: chance.gauss(-1.5, 0.1) for b in range(n + 2)}
    found = paired_difference(x, y, LOST)
    assert found is not None
    assert found.interval is not None
    mine = math.exp(statistics.fmean(x.values()))
    other = math.exp(statistics.fmean(y[b] for b in x))
    parts = [100 * (mine * x[b] - other * y[b]) for b in x]
    expected = stats.ttest_1samp(parts, 0).confidence_interval(0.95)
    width = expected.high - expected.low
    assert found.interval.high - found.interval.low == pytest.approx(width)
    assert found.value == pytest.approx(100 * (other - mine))


def test_cells_are_held_against_those_that_differ_in_nothing_else() -> None:
    modes = ("tracer-only", "kernel-uprobe")
    rates = [(built(name, mode), pace(900)) for name in ("main", "pr") for mode in modes]
    gate = parse("overhead(pr)-overhead(main)<=1pp")
    judged = judge(run_with((NONE, pace(1000)), *rates), [gate])
    assert [j.cell for j in judged] == [
        f"https-{mode}-pr-12B - https-{mode}-main-12B" for mode in modes
    ]
    idle = built("main", "tracer-only")
    one = run_with((NONE, pace(1000)), (idle, pace(9)), (built("pr"), pace(9)))
    (alone,) = judge(one, [gate])
    assert (alone.outcome, alone.why) == (NOT_MEASURED, "no cell to hold it against")


def test_modes_of_one_tracer_have_a_difference_too() -> None:
    idle = built("g", "tracer-only")
    run = run_with((NONE, pace(1000)), (built("g"), pace(200)), (idle, pace(900)))
    gate = "overhead[mode=kernel-uprobe]-overhead[mode=tracer-only]<=75pp"
    (judged,) = judge(run, [parse(gate)])
    assert judged.outcome == PASSED
    assert judged.estimate is not None
    assert judged.estimate.value == pytest.approx(70)


# --- two runs -------------------------------------------------------------------------------------


def two(tmp_path: Path, blocks: int = 6, kept: float = 0.12) -> comparison.Comparison:
    a = make_run(tmp_path / "a", servers=("https",), blocks=blocks, seed=1)
    changed = {"kernel-uprobe": kept}
    b = make_run(tmp_path / "b", servers=("https",), blocks=blocks, seed=2, kept=changed)
    return comparison.compare(results.load(a), results.load(b))


def test_a_gate_on_two_runs_means_b_or_the_run_that_it_names(tmp_path: Path) -> None:
    found = two(tmp_path)
    kernel = "[mode=kernel-uprobe]"

    def outcome(text: str) -> str:
        (judged,) = gates.judge_comparison(found, [parse(text)])
        return judged.outcome

    assert outcome(f"overhead{kernel}<=86%") == FAILED
    assert outcome(f"overhead(B){kernel}<=86%") == FAILED
    assert outcome(f"overhead(A){kernel}<=86%") == PASSED
    assert outcome(f"overhead(B){kernel}-overhead(A){kernel}<=1pp") == FAILED
    assert outcome(f"overhead(B){kernel}-overhead(A){kernel}<=10pp") == PASSED
    assert outcome(f"overhead(A){kernel}-overhead(B){kernel}<=1pp") == PASSED


def test_three_blocks_of_two_runs_decide_nothing(tmp_path: Path) -> None:
    judged = gates.judge_comparison(
        two(tmp_path, blocks=3), [parse("overhead(B)-overhead(A)<=50pp")]
    )
    assert {j.outcome for j in judged} == {UNDECIDED}


@pytest.mark.parametrize(
    "text",
    [
        "overhead(B)-overhead(gotrace)<=1pp",
        "cpu(B)-cpu(A)<=1pp",
        "overhead(B)[mode=kernel-uprobe]-overhead(A)<=1pp",
    ],
)
def test_a_difference_that_two_runs_do_not_have_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="two runs"):
        gates.judge_comparison(two(tmp_path, blocks=3), [parse(text)])


# --- exit codes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "undecided", "code"),
    [
        ([PASSED], None, EXIT_OK),
        ([PASSED, FAILED, UNDECIDED, NOT_MEASURED], None, EXIT_GATE),
        ([PASSED, UNDECIDED, NOT_MEASURED], None, EXIT_INVALID),
        ([PASSED, UNDECIDED], None, EXIT_UNDECIDED),
        ([PASSED, UNDECIDED], "pass", EXIT_OK),
        ([PASSED, UNDECIDED], "fail", EXIT_GATE),
        ([NOT_MEASURED], "pass", EXIT_INVALID),
        ([], None, EXIT_INVALID),
    ],
)
def test_the_exit_code_says_the_worst(found: list[str], undecided: str | None, code: int) -> None:
    gate = parse("overhead<=5%")
    judged = [Judged(gate, "c", outcome, None, "") for outcome in found]
    assert gates.exit_code(judged, undecided) == code


def test_undecided_is_fail_or_pass() -> None:
    with pytest.raises(UsageError, match="--undecided maybe: expected fail or pass"):
        gates.check_undecided("maybe")


def test_the_reference_names_every_word_of_the_language() -> None:
    text = (ROOT / "docs" / "reference" / "gates.md").read_text(encoding="utf-8")
    words = (*gates.SELECTORS, "overhead", "cpu", "pp", "us", "<=", "<", ">=", ">", *gates.RUNS)
    assert all(f"`{word}`" in text for word in words)
    for quoted in gates_in(text):
        parse(quoted)


def gates_in(text: str) -> list[str]:
    """The gates in a document's tables and commands."""
    rows = re.findall(r"^\| `([^`]*[<>][^`]*\d[^`]*)` \|", text, re.MULTILINE)
    found = rows + re.findall(r"--gate '([^']+)'", text)
    assert len(found) > 2
    return found
