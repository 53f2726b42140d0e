"""uplab/comeback.py and attend.py: runs that somebody left, seen from another shell."""

from __future__ import annotations

import json
import signal
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.unit import apart
from tests.unit.test_campaign import host_of, matrix_of
from uplab import attend, campaign, comeback, inventory, provision
from uplab.adapters import Registry
from uplab.campaign import Request
from uplab.detached import PATIENCE_S, DetachedRun
from uplab.errors import HostError, UplabError, UsageError
from uplab.hostside.decode import build
from uplab.hostside.spec import Plan
from uplab.remote import LocalHost
from uplab.view import Shown


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> comeback.Place:
    """A project in the test's folder, whose host is this machine; another host is away."""

    def connect(
        _project: Path, name: str, registry: Registry, _chosen: Path | None = None
    ) -> LocalHost:
        if name == "away":
            raise HostError("host away: no answer")
        return host_of(tmp_path, name, registry)

    monkeypatch.setattr(provision, "connect", connect)
    monkeypatch.setattr(inventory, "select", lambda _, text, __: text.split(","))
    return comeback.Place(tmp_path, "local")


def leave(place: comeback.Place, blocks: int) -> DetachedRun:
    path = place.project / "m.yml"
    path.write_text(matrix_of(blocks=blocks))
    return campaign.leave(Request(place.project, "local", str(path), setup=False))


def test_nothing_is_there(place: comeback.Place) -> None:
    assert comeback.status(place.project, "local", as_json=False) == "local: no runs"
    assert comeback.collect(place, None) == []
    assert comeback.stop(place, None) == "local: no run goes on"
    with pytest.raises(UsageError, match=r"no run on host local\. Run: invoke bench\.all"):
        comeback.follow(place, None)
    with pytest.raises(UsageError, match="no run mine on host local; there is none"):
        comeback.collect(place, "mine")


def test_a_run_that_was_left_is_seen_stopped_and_collected(
    place: comeback.Place, capsys: pytest.CaptureFixture[str]
) -> None:
    running = leave(place, 500)
    assert f"run {running.run_id} goes on by itself. Run: invoke bench.follow --host local" in (
        capsys.readouterr().out
    )
    text = comeback.status(place.project, "local", as_json=False)
    assert f"local: {running.run_id}  running, " in text
    assert " of 1000 trials, " in text
    assert text.endswith("Run: invoke bench.follow --host local")
    with pytest.raises(UplabError, match=r"host local: run .* goes on\."):
        comeback.collect(place, running.run_id)
    assert "it was stopped" in comeback.stop(place, None)
    text = comeback.status(place.project, "local", as_json=False)
    assert "interrupted, " in text
    assert text.endswith("Run: invoke bench.collect --host local")
    (run_dir,) = comeback.collect(place, None)
    assert (run_dir / "report" / "report.md").exists()
    assert comeback.collect(place, running.run_id) == [run_dir]


def test_the_last_run_is_followed_where_none_goes_on(
    place: comeback.Place, capsys: pytest.CaptureFixture[str]
) -> None:
    running = leave(place, 1)
    running.follow(lambda _: None)
    report = comeback.follow(place, None)
    assert report.run.run_id == running.run_id
    assert "   1/2  echo-" in capsys.readouterr().out


def test_a_host_that_is_away_is_told_after_the_others(
    place: comeback.Place, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(HostError, match="host away: no answer"):
        comeback.status(place.project, "away,local", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "hosts": {"local": []}}


def test_a_terminal_that_closes_does_not_end_the_run(place: comeback.Place) -> None:
    (place.project / "m.yml").write_text(matrix_of(blocks=500))
    with apart.start(place.project) as process:
        assert process.stdout
        for line in process.stdout:
            if line.lstrip().startswith("1/"):
                break
        process.send_signal(signal.SIGHUP)
        rest = process.communicate()[0]
    assert "the run goes on by itself. Run: invoke bench.follow --host local --run " in rest
    (run,) = comeback.listed(place.connect())
    assert run["state"] == "running"
    comeback.stop(place, run["run_id"])


class Impatient:
    """A view, and the run in it, on which Ctrl-C is pressed while anything is being shown.

    Args:
        presses: how often at most.
    """

    patience_s = PATIENCE_S

    def __init__(self, presses: int) -> None:
        self.presses = presses
        self.notes: list[str] = []

    def say(self, text: str) -> None:
        """Keep some lines."""
        self.notes.append(text)

    def progress(self, _plan: Plan) -> AbstractContextManager[Shown]:
        """It is both."""
        return nullcontext(self)

    def started(self, _running: DetachedRun) -> None:
        """Nothing to note."""

    def show(self, _event: dict[str, Any]) -> None:
        """Take in one event."""
        self._press()

    def note(self, line: str) -> None:
        """Keep a line."""
        self.notes.append(line)
        self._press()

    def _press(self) -> None:
        if self.presses:
            self.presses -= 1
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_again_while_the_first_one_is_still_being_told(place: comeback.Place) -> None:
    running, view = leave(place, 500), Impatient(2)
    made = build(Plan, running.host.ask("describe", {"run_id": running.run_id})["plan"])
    with pytest.raises(KeyboardInterrupt):
        attend.to_the_end(running, made, place.folder, view)
    assert view.notes == [
        "stopping the run; its finished trials are kept",
        f"the run may go on by itself. {running.way_back()}",
    ]
    comeback.stop(place, running.run_id)


def test_ctrl_c_once_brings_the_finished_trials_here(place: comeback.Place) -> None:
    running, view = leave(place, 500), Impatient(1)
    made = build(Plan, running.host.ask("describe", {"run_id": running.run_id})["plan"])
    with pytest.raises(KeyboardInterrupt):
        attend.to_the_end(running, made, place.folder, view)
    (run_dir,) = place.folder.iterdir()
    assert view.notes[0] == "stopping the run; its finished trials are kept"
    assert view.notes[-1] == f"interrupted; the finished trials are in {run_dir}"
