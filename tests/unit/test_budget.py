"""uplab/budget.py: as many blocks as fit into a time."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import runs
from tests.unit.test_untilci import RUN_ID, plan_of
from uplab import attend, budget, results
from uplab.errors import HostError, UsageError
from uplab.hostside.spec import Plan
from uplab.plan import trial_s
from uplab.remote import LocalHost
from uplab.report.model import Report
from uplab.view import Screen, View
from uplab.waiting import Queue

PLANNED_S = sum(trial_s(plan_of(), cell) for cell in plan_of().cells)


@dataclass
class Lab:
    """A stand-in for a host, on which a block takes `block_s` of the test's clock."""

    folder: Path
    block_s: float = PLANNED_S
    breaks_at: int | None = None
    parts: list[Plan] = field(default_factory=list)
    now_s: float = 0.0

    def start(self, _host: LocalHost, made: Plan, _view: View) -> Plan:
        self.parts.append(made)
        if len(self.parts) == self.breaks_at:
            raise HostError("host local: no answer")
        return made

    def to_the_end(self, _running: Plan, made: Plan, folder: Path, _view: View) -> Report:
        before = self.parts[-2].blocks if len(self.parts) > 1 else 0
        run_dir = folder / made.run_id
        shutil.rmtree(run_dir, ignore_errors=True)
        modes = tuple(cell.mode for cell in made.cells)
        runs.make_run(
            run_dir,
            servers=("https",),
            modes=modes,
            blocks=made.blocks,
            histogram_buckets=10,
            logs=False,
        )
        self.now_s += self.block_s * (made.blocks - before)
        return attend.reported(run_dir)

    def measure(self, budget_s: float) -> Report:
        host, view = LocalHost("local", Path("no-zipapp")), Screen()
        queue = Queue(host, None, view)
        return budget.measure(
            host, plan_of(), self.folder, view, budget_s, queue, lambda: self.now_s
        )

    @property
    def blocks(self) -> list[int]:
        return [part.blocks for part in self.parts]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    made = Lab(tmp_path / "results")
    monkeypatch.setattr(attend, "start", made.start)
    monkeypatch.setattr(attend, "to_the_end", made.to_the_end)
    return made


def test_as_many_blocks_as_fit_are_measured_in_two_parts(lab: Lab) -> None:
    report = lab.measure(10.5 * PLANNED_S)
    assert lab.blocks == [5, 10]
    assert {trial.block for trial in report.run.trials} == set(range(1, 11))
    skipped = lab.parts[1].earlier.skip
    assert len(skipped) == 5 * len(plan_of().cells)


def test_blocks_that_take_longer_than_planned_are_fewer(lab: Lab) -> None:
    lab.block_s = 1.5 * PLANNED_S
    lab.measure(12 * PLANNED_S)
    assert lab.blocks == [6, 8]
    assert lab.now_s <= 12 * PLANNED_S


def test_blocks_that_are_quicker_than_planned_are_not_promised_more(lab: Lab) -> None:
    """Planned times are the least: a load has its duration."""
    lab.block_s = 0.5 * PLANNED_S
    lab.measure(4 * PLANNED_S)
    assert lab.blocks[0] == 2
    assert lab.now_s <= 4 * PLANNED_S


def test_the_intervals_are_not_sequential(lab: Lab) -> None:
    assert results.load(lab.measure(4 * PLANNED_S).run.path).sequential is None


def test_a_time_for_less_than_one_block_is_refused(lab: Lab) -> None:
    with pytest.raises(UsageError, match=r"^--time-budget 10 s: one block of 3 cells takes about"):
        lab.measure(10)
    assert lab.parts == []


def test_a_time_for_too_few_blocks_is_told(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.measure(2.2 * PLANNED_S)
    said = "an interval, and so a gate, takes at least 3"
    assert said in capsys.readouterr().out


def test_whoever_is_thrown_out_is_told_how_to_go_on(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.breaks_at = 2
    with pytest.raises(HostError):
        lab.measure(10 * PLANNED_S)
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"to go on later, run: invoke bench.resume {RUN_ID}"


def test_the_flag_is_read_and_goes_with_no_other_that_decides_the_blocks() -> None:
    assert budget.read(None, ["blocks=3"], until=True, detach=True) is None
    assert budget.read("15m", ["seed=1"], until=False, detach=False) == 900
    for settings, flags, said in (
        (["blocks=3"], {}, "--set blocks"),
        ([], {"until": True}, "--until-ci"),
        ([], {"detach": True}, "--detach"),
    ):
        with pytest.raises(UsageError, match=f"^{said} and --time-budget exclude each other"):
            budget.read("15m", settings, **{"until": False, "detach": False, **flags})
    with pytest.raises(UsageError, match="expected a time above 0"):
        budget.read("soon", [], until=False, detach=False)
