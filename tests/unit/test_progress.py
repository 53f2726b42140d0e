"""uplab/progress.py: plain lines when stdout is no terminal, one live line when it is."""

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from uplab import plan as planning
from uplab.hostside.spec import Adapters, Cell, Limits, Plan, Repeat
from uplab.progress import Estimate, Progress, planning_duration

ROOT = Path(__file__).parents[2]
NONE = Cell("s-none-12B", "s", "none", None, 12, "l", {"duration_s": 10})
TRACED = Cell("s-tracer-only-t-12B", "s", "tracer-only", "t", 12, "l", {"duration_s": 30})
PLAN = Plan(
    schema=1,
    run_id="r",
    seed=1,
    blocks=3,
    warm_up_s=2,
    plan_sha256="",
    cells=(NONE, TRACED),
    limits=Limits(),
    repeat=Repeat(),
    adapters=Adapters({}, {}, {}),
    artifacts={},
)
VALID = {"valid": True, "reasons": [], "flags": []}


def start(cell: Cell = NONE, number: int = 1) -> dict[str, Any]:
    return {"event": "trial-start", "number": number, "block": 1, "cell": cell.id}


def end(cell: Cell = NONE, number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "event": "trial-end",
        "trial": f"{number:04d}-{cell.id}-b01",
        "cell": cell.id,
        "wall_s": 12.4,
        "requests_per_s": 31688.27,
        "verdict": VALID,
        **changes,
    }


def shown(capsys: pytest.CaptureFixture[str], *events: dict[str, Any]) -> list[str]:
    with Progress(PLAN) as progress:
        for event in events:
            progress.show(event)
    return capsys.readouterr().out.splitlines()


def test_each_trial_is_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = shown(capsys, start(), end())
    assert line.startswith("   1/6  s-none-12B ")
    assert "31,688 req/s" in line
    assert line.endswith(" left]")
    assert "\x1b" not in line
    assert "INVALID" not in line


def test_a_trial_without_a_figure_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = shown(capsys, end(requests_per_s=None))
    assert "no figure" in line
    assert "0 req/s" not in line


def test_an_invalid_trial_is_told_with_all_its_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    reasons = [{"code": "load", "text": "3 read errors"}, {"code": "hits", "text": "too few"}]
    (line,) = shown(capsys, end(verdict={"valid": False, "reasons": reasons, "flags": []}))
    assert "31,688 req/s  INVALID: 3 read errors; too few" in line


def test_a_noisy_trial_is_flagged(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = {**VALID, "flags": ["steal 6.1 % > 5.0 %", "foreign 11 % > 10 %"]}
    (line,) = shown(capsys, end(verdict=verdict))
    assert "(noisy: steal 6.1 % > 5.0 %; foreign 11 % > 10 %)" in line


def test_a_block_that_is_measured_again_adds_its_trials(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, {"event": "block-again", "block": 2, "attempt": 2}, end(number=7))
    assert lines[0] == "block 2 is measured again: it has an invalid trial"
    assert lines[1].startswith("   7/8  ")


def test_leftovers_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    event = {"event": "leftovers-ended", "processes": ["server (pid 1)", "tracer (pid 2)"]}
    assert shown(capsys, event) == [
        "ended what an earlier run left: server (pid 1), tracer (pid 2)"
    ]


def test_other_events_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, {"event": "step", "step": "fence"}, {"event": "of the future"}, {}) == []


def test_what_a_program_wrote_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    reasons = [{"code": "server-died", "text": "last line: \x1b[2J\r\nowned [bold]x[/bold]"}]
    (line,) = shown(capsys, end(verdict={"valid": False, "reasons": reasons, "flags": []}))
    assert "last line: ?[2J??owned [bold]x[/bold]" in line


def test_lines_are_there_at_once() -> None:
    """Also in a pipe, where Python would keep them until the buffer is full."""
    program = (
        "import os, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.unit.test_progress import PLAN, end\n"
        "from uplab.progress import Progress\n"
        "with Progress(PLAN) as progress:\n"
        "    progress.show(end())\n"
        "    os._exit(0)\n"
    )
    argv = [sys.executable, "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "31,688 req/s" in done.stdout


def test_a_terminal_gets_a_live_line_and_keeps_the_plain_ones() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.unit.test_progress import PLAN, TRACED, end, start\n"
        "from uplab.progress import Progress\n"
        "with Progress(PLAN) as progress:\n"
        "    progress.show(end()); progress.show(start(TRACED, 2))\n"
        "    progress._status._live.refresh()\n"
    )
    main, other = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160"}
    argv = [sys.executable, "-c", program]
    subprocess.run(argv, stdout=other, check=True, cwd=ROOT, env=environment)
    os.close(other)
    text = b""
    try:
        while part := os.read(main, 65536):
            text += part
    except OSError:
        # A terminal whose other side is closed ends like this.
        pass
    os.close(main)
    assert b"31,688 req/s" in text
    assert b"trial 2/6, block 1/3: s-tracer-only-t-12B, last 31,688 req/s, ends about" in text
    # The cursor is shown again.
    assert text.rindex(b"\x1b[?25h") > text.rindex(b"\x1b[?25l")


# --- the estimate ---------------------------------------------------------------------------------


def test_at_first_the_plan_is_the_estimate() -> None:
    assert Estimate(PLAN).left_s == pytest.approx(planning.duration_s(PLAN))


def test_what_trials_really_take_scales_the_rest() -> None:
    estimate = Estimate(PLAN)
    planned_s = planning.trial_s(PLAN, NONE)
    estimate.add_trial(NONE.id, 2 * planned_s)
    rest_s = planning.duration_s(PLAN) - planned_s
    assert estimate.left_s == pytest.approx(2 * rest_s)


def test_a_block_again_is_added() -> None:
    estimate = Estimate(PLAN)
    estimate.add_block()
    assert estimate.left_s == pytest.approx(planning.duration_s(PLAN) * 4 / 3)


def test_nothing_is_left_at_the_end_and_never_less() -> None:
    estimate = Estimate(PLAN)
    for _ in range(4):
        for cell in PLAN.cells:
            estimate.add_trial(cell.id, 1.0)
    assert estimate.left_s == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (5.4, "0:05"),
        (59.6, "1:00"),
        (123, "2:03"),
        (3599.9, "1:00:00"),
        (3723, "1:02:03"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert planning_duration(seconds) == text
