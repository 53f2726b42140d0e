"""uplab/detached.py, arrival.py, fetchrun.py: runs that outlive whoever started them.

Against a real hostside, here and behind a real sshd whose connections can be cut.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests import proxy, sshd
from tests.unit.test_remote import REGISTRY, experiment, planned
from tests.waiting import wait_for
from uplab import arrival, checksums, detached, fetchrun, hostzip
from uplab.detached import DetachedRun, End
from uplab.errors import EXIT_HOST, EXIT_INTERRUPTED, HostError, UplabError, UsageError
from uplab.hostside.control import Control, Process
from uplab.hostside.leftovers import Leftovers
from uplab.hostside.spec import Plan
from uplab.remote import Host, LocalHost
from uplab.ssh import SshHost
from uplab.sshconfig import endpoint


@dataclass
class Spot:
    """A host with places of its own, and the line to it where it is not this machine."""

    host: Host
    folder: Path
    line: proxy.Proxy | None = None
    said: list[str] = field(default_factory=list)

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def start(self, **changes: Any) -> tuple[DetachedRun, Plan]:
        made = planned(self.host, experiment(**changes))
        return detached.start(self.host, asdict(made), self.said.append), made

    def control(self, running: DetachedRun) -> Control:
        return Control(self.runs / running.run_id)

    def process(self, running: DetachedRun) -> Process:
        found = self.control(running).process()
        assert found is not None
        return found

    def bring(self, running: DetachedRun) -> Path:
        return arrival.bring(self.host, running.run_id, self.folder / "results", self.said.append)


def options(folder: Path) -> tuple[str, ...]:
    return tuple(f"--{name}={folder / name}" for name in ("root", "runs", "state"))


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Spot]:
    zipapp = hostzip.write(REGISTRY, tmp_path / "zips")
    yield Spot(LocalHost("local", zipapp, options(tmp_path)), tmp_path)
    remove_leftovers(tmp_path)


def remove_leftovers(folder: Path) -> None:
    """Of a run that was killed: its place has no next run, which would remove them."""
    Leftovers(folder / "state" / "leftovers.json").remove_earlier()


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    with sshd.running(tmp_path_factory.mktemp("sshd")) as started:
        yield started


@pytest.fixture
def there(tmp_path: Path, server: sshd.Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spot]:
    """Behind an sshd and a line that can be cut."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    zipapp = hostzip.write(REGISTRY, tmp_path / "zips")
    with proxy.running((sshd.ADDRESS, server.port)) as line:
        known = tmp_path / "known_hosts"
        known.write_text(f"[{proxy.ADDRESS}]:{line.port} {server.public_key()}\n")
        variables = {**server.variables(known), "ansible_port": line.port}
        host = SshHost("h1", endpoint("h1", variables), zipapp, options(tmp_path))
        yield Spot(host, tmp_path, line)
        remove_leftovers(tmp_path)


@pytest.fixture(params=["here", "there"])
def spot(request: pytest.FixtureRequest) -> Spot:
    found: Spot = request.getfixturevalue(request.param)
    return found


def line_of(spot: Spot) -> proxy.Proxy:
    assert spot.line is not None
    return spot.line


class Leave(Exception):
    """Whoever follows goes away."""


def leave_after(count: int, name: str = "trial-end") -> Callable[[dict[str, Any]], None]:
    """A follower that leaves after some events."""
    seen: list[str] = []

    def take(event: dict[str, Any]) -> None:
        seen.append(event["event"])
        if seen.count(name) == count:
            raise Leave

    return take


def events_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]


# --- a whole run ----------------------------------------------------------------------------------


def test_a_run_from_launch_to_its_place_among_the_results(spot: Spot) -> None:
    running, made = spot.start()
    assert running.run_id == made.run_id
    events: list[dict[str, Any]] = []
    assert running.follow(events.append) == End(0, "")
    assert spot.said == []
    assert [event["event"] for event in events].count("trial-end") == 2
    run_dir = spot.bring(running)
    assert events_of(run_dir) == events
    assert run_dir == spot.folder / "results" / made.run_id
    assert checksums.differences(run_dir) == []
    assert os.listdir(spot.runs) == []
    assert os.listdir(run_dir.parent) == [made.run_id]


def test_the_run_is_root_s_alone_and_nobody_s_child(spot: Spot) -> None:
    running, _ = spot.start(blocks=500)
    run_dir = spot.runs / running.run_id
    for path in (run_dir, run_dir / ".part-control"):
        assert path.stat().st_mode & 0o777 == 0o700
    for path in (run_dir / ".part-control").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    process = spot.process(running)
    assert os.getsid(process.pid) == process.pid
    running.stop()


def test_launched_twice_it_runs_once(spot: Spot) -> None:
    running, made = spot.start(blocks=500)
    first = spot.process(running)
    again = spot.host.ask("launch", {"plan": asdict(made)})
    assert (again["pid"], again["start_ticks"]) == (first.pid, first.start_ticks)
    running.stop()


def test_a_busy_host_is_told_and_nothing_is_left_of_the_second(spot: Spot) -> None:
    running, made = spot.start(blocks=500)
    second = replace(made, run_id="the-second")
    with pytest.raises(UplabError, match=f"this host is busy: run {made.run_id} ") as caught:
        detached.start(spot.host, asdict(second), spot.said.append)
    assert caught.value.exit_code == EXIT_HOST
    assert os.listdir(spot.runs) == [made.run_id]
    running.stop()


# --- who leaves comes back ------------------------------------------------------------------------


def test_who_leaves_and_comes_back_misses_no_event_and_sees_none_twice(spot: Spot) -> None:
    running, _ = spot.start(blocks=3)
    events: list[dict[str, Any]] = []
    leave = leave_after(1, "trial-start")

    def take(event: dict[str, Any]) -> None:
        events.append(event)
        leave(event)

    with pytest.raises(Leave):
        running.follow(take)
    assert running.follow(events.append).code == 0
    assert events == events_of(spot.bring(running))


def test_another_controller_sees_it_from_the_beginning(spot: Spot) -> None:
    running, made = spot.start(blocks=2)
    with pytest.raises(Leave):
        running.follow(leave_after(1))
    found = spot.host.ask("describe", {"run_id": made.run_id})
    assert found["plan"]["plan_sha256"] == made.plan_sha256
    events: list[dict[str, Any]] = []
    other = DetachedRun(spot.host, made.run_id, spot.said.append)
    assert other.follow(events.append).code == 0
    assert events == events_of(spot.bring(other))


def test_a_cut_line_costs_no_event(there: Spot) -> None:
    running, made = there.start(blocks=3)
    events: list[dict[str, Any]] = []

    def take(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "trial-end" and len(there.said) < 2:
            line_of(there).cut()

    assert running.follow(take).code == 0
    assert len(there.said) >= 1
    assert "The run goes on; trying again in 1 s" in there.said[0]
    run_dir = there.bring(running)
    assert events == events_of(run_dir)
    assert len(list(run_dir.glob("trials/*/trial.json"))) == 2 * made.blocks


def test_a_host_that_stays_away_is_given_up_and_the_run_is_not(there: Spot) -> None:
    running, made = there.start(blocks=6)
    running.patience_s = 0.5

    def take(event: dict[str, Any]) -> None:
        if event["event"] == "trial-end":
            line_of(there).down = True
            line_of(there).cut()

    with pytest.raises(HostError) as caught:
        running.follow(take)
    assert f"Run: invoke bench.follow --host h1 --run {made.run_id}" in caught.value.message
    line_of(there).down = False
    assert running.follow(lambda _: None).code == 0
    assert json.loads((there.bring(running) / "run.json").read_text())["outcome"] == "complete"


def test_how_long_a_host_may_be_away_is_said_in_minutes() -> None:
    assert detached.patience(None) == detached.PATIENCE_S
    assert detached.patience(0.5) == 30.0
    assert detached.patience(0.0) == 0.0
    for none in (-1.0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="--away-minutes"):
            detached.patience(none)


def test_what_the_taker_fails_at_is_no_lost_connection(spot: Spot) -> None:
    running, _ = spot.start()

    def take(_: dict[str, Any]) -> None:
        raise BrokenPipeError("nobody reads the screen")

    with pytest.raises(BrokenPipeError, match="nobody reads"):
        running.follow(take)
    assert running.follow(lambda _: None).code == 0
    assert spot.said == []


# --- stopping, killing ----------------------------------------------------------------------------


def test_stopped_it_keeps_what_is_finished_and_may_be_stopped_again(spot: Spot) -> None:
    running, _ = spot.start(blocks=500)
    with pytest.raises(Leave):
        running.follow(leave_after(1))
    done = running.stop()
    assert (done["did"], done["state"]) == ("it was stopped", "interrupted")
    assert done["trials"] >= 1
    again = running.stop()
    assert (again["did"], again["state"]) == ("it had ended already", "interrupted")
    assert running.follow(lambda _: None).code == EXIT_INTERRUPTED
    run_dir = spot.bring(running)
    assert json.loads((run_dir / "run.json").read_text())["outcome"] == "interrupted"
    assert len(list(run_dir.glob("trials/*/trial.json"))) == done["trials"]


def test_a_killed_run_is_told_and_gives_its_finished_trials(spot: Spot) -> None:
    running, _ = spot.start(blocks=500)
    with pytest.raises(Leave):
        running.follow(leave_after(2))
    process = spot.process(running)
    process.send(signal.SIGKILL)
    end = running.follow(lambda _: None)
    assert end.code == EXIT_HOST
    assert (
        end.said == f"the run's process (pid {process.pid}) is gone without a word: it was killed"
    )
    (listed,) = spot.host.ask("runs", {})["runs"]
    assert listed["state"] == "lost"
    run_dir = spot.bring(running)
    record = json.loads((run_dir / "run.json").read_text())
    assert (record["outcome"], record["error"]) == ("interrupted", end.said)
    assert len(list(run_dir.glob("trials/*/trial.json"))) >= 2
    assert checksums.differences(run_dir) == []


def test_of_a_killed_run_stop_ends_what_is_left(spot: Spot) -> None:
    running, _ = spot.start(blocks=500)
    with pytest.raises(Leave):
        running.follow(leave_after(1))
    spot.process(running).send(signal.SIGKILL)
    wait_for(lambda: not spot.control(running).runs())
    assert running.stop()["did"].startswith("it was killed before")
    assert running.stop()["state"] == "interrupted"


def test_a_run_of_another_boot_is_lost(here: Spot) -> None:
    running, _ = here.start()
    running.follow(lambda _: None)
    control = here.control(running)
    (control.folder / "exit.json").unlink()
    control.began(replace(here.process(running), boot_id="of yesterday"))
    assert running.follow(lambda _: None) == End(EXIT_HOST, "the host was restarted during the run")


def test_the_runs_of_a_host_are_listed(spot: Spot) -> None:
    assert spot.host.ask("runs", {}) == {"runs": [], "running": None}
    running, made = spot.start(blocks=500)
    found = spot.host.ask("runs", {})
    assert found["running"] == made.run_id
    (run,) = found["runs"]
    assert (run["state"], run["trials_planned"]) == ("running", 1000)
    running.stop()
    (run,) = spot.host.ask("runs", {})["runs"]
    assert run["state"] == "interrupted"
    assert run["size_bytes"] > 0


# --- bringing it here -----------------------------------------------------------------------------


def ended(spot: Spot, **changes: Any) -> DetachedRun:
    running, _ = spot.start(**changes)
    assert running.follow(lambda _: None).code == 0
    return running


def test_a_run_that_goes_on_is_not_collected(spot: Spot) -> None:
    running, _ = spot.start(blocks=500)
    with pytest.raises(UplabError, match=r"goes on\. Run: invoke bench\.follow") as caught:
        spot.bring(running)
    assert caught.value.exit_code == 2
    running.stop()


def test_a_cut_transfer_goes_on_where_it_broke(
    there: Spot, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = ended(there, blocks=3)
    noise = there.runs / running.run_id / "trials"
    big = sorted(noise.iterdir())[-1] / "server.log"
    data = os.urandom(4_000_000)
    big.write_bytes(data)
    (there.runs / running.run_id / "SHA256SUMS").unlink()
    asked: list[list[str]] = []
    receive = SshHost.receive

    def watch(
        self: SshHost, command: str, request: dict[str, Any], *rest: Any, **more: Any
    ) -> None:
        if command == "pack":
            asked.append(request["names"])
            if len(asked) == 1:
                line_of(there).cut(after_bytes=1_000_000)
        receive(self, command, request, *rest, **more)

    monkeypatch.setattr(SshHost, "receive", watch)
    run_dir = there.bring(running)
    assert len(asked) == 2
    assert len(asked[1]) < len(asked[0])
    assert "what arrived is kept" in there.said[0]
    assert (run_dir / "trials" / big.parent.name / "server.log").read_bytes() == data
    assert checksums.differences(run_dir) == []


def test_what_was_damaged_here_meanwhile_is_fetched_again(spot: Spot) -> None:
    running = ended(spot)
    results = spot.folder / "results"
    part = fetchrun.fetch(spot.host, running.run_id, results, spot.said.append)
    (part / "events.jsonl").write_text("something else")
    (part / "stranger").write_text("not of the run")
    run_dir = spot.bring(running)
    assert checksums.differences(run_dir) == []
    assert not part.exists()


def test_brought_twice_it_is_here_once(spot: Spot, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host did not hear that it may forget the run."""
    running = ended(spot)
    ask = type(spot.host).ask

    def deaf(self: Any, command: str, request: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {} if command == "forget-run" else ask(self, command, request, **more)

    monkeypatch.setattr(type(spot.host), "ask", deaf)
    first = spot.bring(running)
    monkeypatch.undo()
    assert spot.bring(running) == first
    assert os.listdir(spot.runs) == []
    assert os.listdir(first.parent) == [first.name]
    # And once more, where the host knows nothing of it any more.
    assert spot.bring(running) == first
    assert os.listdir(first.parent) == [first.name]


def test_two_who_collect_at_once_get_one_run(here: Spot) -> None:
    running = ended(here, blocks=3)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(here.bring(running))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [here.folder / "results" / running.run_id] * 2
    assert checksums.differences(found[0]) == []


def test_a_file_that_changed_since_it_was_signed_off_is_refused(spot: Spot) -> None:
    running = ended(spot)
    (spot.runs / running.run_id / "host.json").write_text("{}")
    with pytest.raises(HostError, match=r"host\.json is not the file that the host described"):
        spot.bring(running)
    assert not (spot.folder / "results" / running.run_id).exists()
    assert (spot.runs / running.run_id).exists()


# --- what a host may send -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/x",
        "a/../../x",
        "a//b",
        "",
        ".",
        "a\nb",
        "a\\b",
        ".part-x",
        "t/.part-x",
        "report/x",
    ],
)
def test_names_that_no_run_holds_are_refused(name: str) -> None:
    with pytest.raises(HostError, match="which no run directory holds"):
        fetchrun._checked([{"name": name, "size": 1, "sha256": "0"}])


@pytest.mark.parametrize("row", [None, [], {}, {"name": "a", "size": "x", "sha256": ""}])
def test_what_describes_no_file_is_refused(row: Any) -> None:
    with pytest.raises(HostError, match="the host describes a file as"):
        fetchrun._checked([row])


def test_a_run_that_is_too_large_is_refused_before_anything_is_written() -> None:
    huge = {"name": "a", "size": 1 << 60, "sha256": "0"}
    with pytest.raises(HostError, match="the host has more than"):
        fetchrun._checked([huge])


def test_a_link_that_lies_in_the_way_is_replaced_and_not_followed(spot: Spot) -> None:
    running = ended(spot)
    outside = spot.folder / "outside"
    outside.write_text("mine")
    part = spot.folder / "results" / f".part-{running.run_id}"
    part.mkdir(parents=True)
    (part / "events.jsonl").symlink_to(outside)
    run_dir = spot.bring(running)
    assert outside.read_text() == "mine"
    assert not (run_dir / "events.jsonl").is_symlink()
