"""uplab/resume.py and joining.py: what was cut off is measured later, and belongs to one run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import runs
from tests.unit.test_campaign import host_of, matrix_of
from uplab import arrival, campaign, checksums, comeback, joining, plan, provision, results, resume
from uplab.adapters import Registry
from uplab.campaign import Request
from uplab.detached import DetachedRun
from uplab.errors import HostError, UsageError
from uplab.hostside.spec import Earlier
from uplab.remote import LocalHost


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> comeback.Place:
    """A project in the test's folder, whose host is this machine."""

    def connect(
        _project: Path, name: str, registry: Registry, _chosen: Path | None = None
    ) -> LocalHost:
        return host_of(tmp_path, name, registry)

    monkeypatch.setattr(provision, "connect", connect)
    return comeback.Place(tmp_path, "local")


def start(place: comeback.Place, **changes: Any) -> DetachedRun:
    """A run that goes on by itself."""
    path = place.project / "m.yml"
    path.write_text(matrix_of(**changes))
    return campaign.leave(Request(place.project, "local", str(path), setup=False))


def cut_off(place: comeback.Place, trials: int, **changes: Any) -> Path:
    """A run that was stopped after some trials, and collected."""
    running = start(place, **changes)
    seen = 0

    def take(event: dict[str, Any]) -> None:
        nonlocal seen
        seen += event["event"] == "trial-end"
        if event["event"] == "trial-end" and seen == trials:
            running.stop()

    running.follow(take)
    (run_dir,) = comeback.collect(place, running.run_id)
    return run_dir


def ask(place: comeback.Place, run_dir: Path, more_blocks: int = 0) -> resume.Request:
    return resume.Request(place.project, run_dir.name, more_blocks)


def record_of(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "run.json").read_text())
    return found


def event_names(run_dir: Path) -> list[str]:
    lines = (run_dir / "events.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


# --- taking up ------------------------------------------------------------------------------------


def test_what_was_cut_off_is_measured_and_nothing_else(place: comeback.Place) -> None:
    run_dir = cut_off(place, 3, blocks=4)
    before = {path.name: path.stat().st_mtime_ns for path in (run_dir / "trials").iterdir()}
    assert 3 <= len(before) < 8
    report = resume.resume(ask(place, run_dir))
    assert report is not None
    assert report.run.outcome == "complete"
    places = [(trial.block, trial.cell.cell_id) for trial in report.run.trials]
    assert len(places) == len(set(places)) == 8
    assert [trial.number for trial in report.run.trials] == list(range(1, 9))
    assert {name: (run_dir / "trials" / name).stat().st_mtime_ns for name in before} == before
    assert checksums.differences(run_dir) == []
    assert (run_dir / "report" / "report.md").exists()
    parts = record_of(run_dir)["parts"]
    assert [part["outcome"] for part in parts] == ["interrupted", "complete"]
    assert record_of(run_dir)["started_utc"] == parts[0]["started_utc"]
    assert [path.name for path in place.folder.iterdir()] == [run_dir.name]
    assert event_names(run_dir).count("run-end") == 2


def test_a_run_that_lacks_nothing_is_told_so_and_may_get_more_blocks(
    place: comeback.Place, capsys: pytest.CaptureFixture[str]
) -> None:
    start(place).follow(lambda _: None)
    (run_dir,) = comeback.collect(place, None)
    before = (run_dir / "SHA256SUMS").read_bytes()
    assert resume.resume(ask(place, run_dir)) is None
    assert "lacks nothing. Run: invoke bench.resume" in capsys.readouterr().out
    assert (run_dir / "SHA256SUMS").read_bytes() == before
    report = resume.resume(ask(place, run_dir, more_blocks=2))
    assert report is not None
    assert report.run.blocks == 3
    assert sorted({trial.block for trial in report.run.trials}) == [1, 2, 3]
    assert report.run.trials_planned == len(report.run.trials) == 6


def test_a_part_that_its_host_still_has_counts(place: comeback.Place) -> None:
    """The later part was measured, but whoever followed it never came back."""
    run_dir = cut_off(place, 1, blocks=2)
    before = run_dir.with_name("before")
    shutil.copytree(run_dir, before)
    assert resume.resume(ask(place, run_dir)) is not None
    # As if it had never arrived.
    there = place.project / "runs" / run_dir.name
    run_dir.rename(there)
    before.rename(run_dir)
    for path in run_dir.glob("trials/*"):
        shutil.rmtree(there / "trials" / path.name)
    (there / "SHA256SUMS").unlink()
    assert resume.resume(ask(place, run_dir)) is None
    assert len(list(run_dir.glob("trials/*/trial.json"))) == 4
    assert not there.exists()


def test_another_plan_is_refused_with_what_differs(
    place: comeback.Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = cut_off(place, 1, blocks=2)
    monkeypatch.setattr(plan, "_files_sha256", lambda _: {"loads/fetch/adapter.py": "0" * 64})
    with pytest.raises(UsageError) as caught:
        resume.resume(ask(place, run_dir))
    assert caught.value.message == (
        f"run {run_dir.name} cannot be taken up again, because its plan would be another one: "
        "other files. Run: invoke bench.all"
    )
    assert not (place.project / "runs" / run_dir.name).exists()


def test_a_run_that_is_not_here_is_told(place: comeback.Place) -> None:
    with pytest.raises(UsageError, match=r"no run .*/results/none\. Run: invoke bench\.collect"):
        resume.resume(ask(place, Path("none")))


def test_a_run_that_goes_on_is_not_taken_up(place: comeback.Place) -> None:
    run_dir = cut_off(place, 1, blocks=500)
    again = start(place, blocks=500)
    place.folder.joinpath(run_dir.name).rename(place.folder / again.run_id)
    with pytest.raises(UsageError, match=r"goes on\. Run: invoke bench\.follow --host local"):
        resume.resume(ask(place, Path(again.run_id)))
    again.stop()


# --- what need not be measured again --------------------------------------------------------------


def earlier(folder: Path, **changes: Any) -> Earlier:
    run_dir = runs.make_run(folder, servers=("http",), blocks=2, **changes)
    return resume.earlier(results.load(run_dir))


def test_a_block_with_an_invalid_trial_is_measured_again_as_a_whole(tmp_path: Path) -> None:
    whole = earlier(tmp_path / "a")
    assert len(whole.skip) == whole.number == 8
    assert whole.attempts == {}
    cell = whole.skip[0].partition("/")[2]
    # Measured again within its run, and valid then: nothing is left to do.
    again = tmp_path / "b"
    found = earlier(again, invalid={(cell, 1, 1): "server-died"})
    assert (len(found.skip), found.attempts) == (8, {"1": 2})
    (trial,) = again.glob(f"trials/*-{cell}-b01-a2/trial.json")
    verdict = {"valid": False, "reasons": [{"code": "server-died", "text": "it died"}], "flags": []}
    runs.edit_json(trial, verdict=verdict)
    found = resume.earlier(results.load(again, strict=False))
    assert {name.partition("/")[0] for name in found.skip} == {"2"}
    assert found.attempts == {"1": 3}


# --- joining --------------------------------------------------------------------------------------


class PowerCut(Exception):
    """Nothing that comes after it is done."""


def power_cut(*_: Any, **__: Any) -> None:
    raise PowerCut


def test_joining_may_break_at_every_step_and_be_done_again(
    place: comeback.Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = cut_off(place, 1, blocks=2)
    join = joining.join

    def join_with_power_cuts(part: Path, final: Path) -> None:
        for step in ("_take_trial", "_take_events", "write_json", "sums.write", "shutil.rmtree"):
            with monkeypatch.context() as patch:
                patch.setattr(f"uplab.joining.{step}", power_cut)
                with pytest.raises(PowerCut):
                    join(part, final)
        join(part, final)

    monkeypatch.setattr(joining, "join", join_with_power_cuts)
    report = resume.resume(ask(place, run_dir))
    assert report is not None
    assert len(report.run.trials) == 4
    assert len(record_of(run_dir)["parts"]) == 2
    assert checksums.differences(run_dir) == []
    assert event_names(run_dir).count("run-end") == 2


def test_another_run_of_the_same_name_is_not_joined(place: comeback.Place) -> None:
    start(place).follow(lambda _: None)
    (run_dir,) = comeback.collect(place, None)
    other = start(place, warm_up_s=1)
    other.stop()
    other_dir = place.project / "runs" / other.run_id
    record = record_of(other_dir)
    (other_dir / "SHA256SUMS").unlink()
    (other_dir / "run.json").write_text(json.dumps({**record, "run_id": run_dir.name}))
    other_dir.rename(other_dir.with_name(run_dir.name))
    before = (run_dir / "SHA256SUMS").read_bytes()
    with pytest.raises(HostError, match="has another plan_sha256"):
        arrival.bring(place.connect(), run_dir.name, place.folder, print)
    assert (run_dir / "SHA256SUMS").read_bytes() == before
