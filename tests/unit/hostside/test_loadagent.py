"""uplab/hostside/{loadagent,far,loading}.py: an agent of its own, driven from here."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_for
from uplab import adapters, hostzip
from uplab.errors import UplabError
from uplab.hostside import frames, loadagent, lock, procfs, reaching
from uplab.hostside.errors import HostError, TrialError
from uplab.hostside.far import Far, Lost, Way
from uplab.hostside.loading import Order, Remote, way_to
from uplab.hostside.loop import Loop
from uplab.hostside.spec import FileRef, LoadAdapter, Parameter
from uplab.remote import LocalHost

ROOT = Path(__file__).resolve().parents[3]
LIMIT_S = 20.0
RUN = "20260102T030405Z-h-m"
HERE = "127.0.0.1"
#: A load that says where it is sent, writes a file, and stays for as long as it is told to.
SCRIPT = 'echo "to $1"; echo hurt >&2; echo 42 >"$2/figures"; exec sleep "$3"'
LOAD = LoadAdapter(
    1,
    "load",
    "standin",
    "",
    "closed",
    ("{program}", "-c", SCRIPT, "sh", "{url}", "{scratch}", "{stay_s}"),
    "adapter.py",
    programs={"program": FileRef(path="/bin/sh")},
    parameters={
        "duration_s": Parameter(1, 1, 60, "s", ""),
        "stay_s": Parameter(0, 0, 60, "s", ""),
    },
)


class Machine:
    """The second machine: hostside as it is called there, in a folder of the test's."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        registry = adapters.load([ROOT])
        options = ("--root", folder / "store", "--state", self.state, "--runs", folder / "runs")
        zipapp = hostzip.write(registry, folder / "zipapps")
        self.host = LocalHost("far", zipapp, tuple(map(str, options)), "/usr/bin/python3")
        (folder / "store").mkdir()

    def task(self, **changes: Any) -> dict[str, Any]:
        loads = {"standin": asdict(LOAD)}
        found = self.host.ask("load-look", {"loads": loads})
        assert found["missing"] == {}
        task = {"run_id": RUN, "address": HERE, "server_address": HERE, "loads": loads}
        return {**task, "artifacts": found["artifacts"], **changes}

    def start(self, **changes: Any) -> dict[str, Any]:
        return self.host.ask("load-start", self.task(**changes))

    def stop(self) -> None:
        self.host.ask("load-stop", {"run_id": RUN})

    @property
    def folders(self) -> list[str]:
        return [path.name for path in self.state.glob("load-*")]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    found = Machine(tmp_path)
    yield found
    found.stop()
    assert found.folders == []


@contextmanager
def connected(agent: dict[str, Any]) -> Iterator[tuple[Far, Loop]]:
    with Loop() as loop:
        far = Far(Way("far", HERE, agent["port"], bytes.fromhex(agent["token"])), loop, RUN)
        far.require()
        try:
            yield far, loop
        finally:
            far.close()


def order(stay_s: int = 0, url: str = "http://127.0.0.1:9/", **more: int) -> Order:
    return Order(LOAD, {"duration_s": 1, "stay_s": stay_s, **more}, 12, 1, url)


def drive(far: Far, folder: Path, asked: Order) -> Remote:
    scratch = folder / "scratch"
    scratch.mkdir()
    return Remote(far, asked, scratch, folder / "load.txt")


def lives(pid: int) -> bool:
    """Whether a process runs; nobody may have waited for one that ended."""
    try:
        return procfs.stat_fields(pid)[0] not in "ZX"
    except OSError:
        return False


def test_a_load_leaves_here_what_it_would_have_left_here(machine: Machine, tmp_path: Path) -> None:
    agent = machine.start()
    assert machine.start()["pid"] == agent["pid"], "asked again, it is found"
    with connected(agent) as (far, loop):
        load = drive(far, tmp_path, order())
        assert loop.until(load.ended, LIMIT_S)
        load.check()
        said = load.said()
        assert (said.returncode, said.out, said.err) == (0, "to http://127.0.0.1:9/\n", "hurt\n")
        assert (tmp_path / "scratch" / "figures").read_text() == "42\n"
        assert sorted((tmp_path / "load.txt").read_text().splitlines()) == sorted(
            ["to http://127.0.0.1:9/", "hurt"]
        )
        assert load.cpu is not None
        assert load.cpu["cores"] == os.cpu_count()
        assert load.pids == []
    wait_for(lambda: machine.folders == [])
    wait_for(lambda: not lives(agent["pid"]))


def test_the_way_between_the_two(machine: Machine) -> None:
    with connected(machine.start()) as (far, _), socket.create_server((HERE, 0)) as server:
        found = way_to(far, server.getsockname()[1])
        assert 0 < found["rtt_us"]["min"] <= found["rtt_us"]["median"]
        assert found["clock"]["uncertainty_s"] == pytest.approx(found["rtt_us"]["min"] / 2e6)
        # Both ends have the same clock.
        assert abs(found["clock"]["offset_s"]) <= found["clock"]["uncertainty_s"] + 1e-4
        assert found["connect_us"] > 0
        assert far.describe()["link"]["host"]["interface"] == "lo"
        server.close()
        with pytest.raises(TrialError, match=r"load host far does not reach port \d+ of the"):
            way_to(far, 1)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (order(url="http://192.0.2.1/"), "the load is for 127.0.0.1 alone"),
        (order(url="file:///etc/shadow"), "the load is for 127.0.0.1 alone"),
        (order(stay_s=61), "stay_s is 61"),
        (order(other=1), "other"),
    ],
)
def test_it_does_what_it_was_made_for_and_nothing_else(
    machine: Machine, tmp_path: Path, asked: Order, text: str
) -> None:
    with connected(machine.start()) as (far, _):
        with pytest.raises(TrialError, match=text):
            drive(far, tmp_path, asked)
        assert far.ask("echo")[0]["received_ns"]


def test_without_the_token_nobody_is_let_in(machine: Machine) -> None:
    agent = machine.start()
    with Loop() as loop:
        far = Far(Way("far", HERE, agent["port"], b"x" * 32), loop, RUN)
        with pytest.raises(Lost, match="ended the connection"):
            far.connect()
    with socket.create_connection((HERE, agent["port"])) as stranger:
        stranger.recv(frames.CHALLENGE_BYTES)
        stranger.sendall(bytes(frames.ANSWER_BYTES))
        assert stranger.recv(1) == b""
    with connected(agent) as (far, _):
        assert far.ask("echo")


def test_what_it_notes_is_for_root_alone(machine: Machine) -> None:
    machine.start()
    (folder,) = machine.state.glob("load-*")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "ready.json").stat().st_mode & 0o077 == 0


def test_an_agent_that_is_killed_takes_its_load_with_it(machine: Machine, tmp_path: Path) -> None:
    agent = machine.start()
    with Loop() as loop:
        far = Far(Way("far", HERE, agent["port"], bytes.fromhex(agent["token"])), loop, RUN)
        far.require()
        load = drive(far, tmp_path, order(stay_s=50))
        noted = json.loads((machine.state / "children.json").read_text())
        os.kill(agent["pid"], signal.SIGKILL)
        assert loop.until(load.ended, LIMIT_S)
        with pytest.raises(TrialError, match="load host far: ") as caught:
            load.check()
        assert caught.value.code == "load-lost"
        with pytest.raises(
            HostError, match=rf"Its agent is gone\. Run: invoke bench\.resume {RUN}"
        ):
            far.require()
    wait_for(lambda: not lives(noted[0]["pid"]))
    assert machine.folders == [f"load-{RUN}"]
    # The next one here removes what is left.
    other = machine.start(run_id=f"{RUN}2")
    assert machine.folders == [f"load-{RUN}2"]
    machine.host.ask("load-stop", {"run_id": f"{RUN}2"})
    assert not lives(other["pid"])


def test_a_run_that_dies_ends_the_load(machine: Machine, tmp_path: Path) -> None:
    agent = machine.start()
    with Loop() as loop:
        far = Far(Way("far", HERE, agent["port"], bytes.fromhex(agent["token"])), loop, RUN)
        far.require()
        drive(far, tmp_path, order(stay_s=50))
        noted = json.loads((machine.state / "children.json").read_text())
        far.leave()
    wait_for(lambda: not lives(noted[0]["pid"]))
    assert lives(agent["pid"]), "it waits for the run to come back"
    with connected(agent) as (far, _):
        assert far.ask("echo")


def test_who_comes_later_with_the_token_takes_the_place(machine: Machine) -> None:
    agent = machine.start()
    with Loop() as loop:
        way = Way("far", HERE, agent["port"], bytes.fromhex(agent["token"]))
        first, second = Far(way, loop, RUN), Far(way, loop, RUN)
        first.require()
        second.require()
        with pytest.raises(Lost):
            first.ask("echo")
        assert second.ask("echo")
        second.close()


def test_a_machine_that_measures_by_itself_is_busy(machine: Machine) -> None:
    with (
        lock.hold(machine.state, "its-own"),
        pytest.raises(UplabError, match=r"host far: this host is busy: run its-own") as caught,
    ):
        machine.start()
    assert caught.value.exit_code == 4
    assert machine.folders == []
    machine.start()
    with (
        pytest.raises(HostError, match=f"this host is busy: run {RUN} "),
        lock.hold(machine.state, "its-own"),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"artifacts": {"/bin/sh": "0" * 64}}, "/bin/sh is not the file that was planned for"),
        ({"address": "192.0.2.9"}, r"192\.0\.2\.9 is no address of this machine .* uplab_address"),
        ({"address": "far.example"}, "ValueError"),
        ({"run_id": "../x"}, "x"),
    ],
)
def test_one_that_cannot_start_says_why_and_leaves_nothing(
    machine: Machine, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(UplabError, match=text):
        machine.start(**changes)
    assert machine.folders == []


def test_what_is_missing_is_named(machine: Machine) -> None:
    lacking = asdict(LOAD)
    lacking["programs"] = {"program": asdict(FileRef(path="/nowhere/load"))}
    found = machine.host.ask("load-look", {"loads": {"standin": lacking}})
    assert found["artifacts"] == {}
    assert "/nowhere/load" in found["missing"]["standin"]


def test_it_listens_no_longer_than_it_is_wanted() -> None:
    """A run tries for less long to come back than the agent waits for it."""
    from uplab.hostside import far

    assert far.PATIENCE_S < loadagent.LINGER_S


def reach(agent: dict[str, Any], address: str, port: int) -> str | None:
    """What the measured host is told before a run."""
    asked = {"name": "far", "address": HERE, "port": agent["port"], "token": agent["token"]}
    answer = reaching.reach({**asked, "server_address": address, "server_ports": [port]})
    problem: str | None = answer["problem"]
    return problem


def test_a_port_that_it_reaches_is_no_problem_and_free_again(machine: Machine) -> None:
    with socket.create_server((HERE, 0)) as probe:
        port = probe.getsockname()[1]
    agent = machine.start()
    assert reach(agent, HERE, port) is None
    assert reach(agent, HERE, port) is None
    with socket.create_server((HERE, port)):
        assert (reach(agent, HERE, port) or "").startswith(f"port {port} is in use by ")
    problem = reach(agent, "192.0.2.9", port)
    assert problem is not None
    assert "192.0.2.9 is no address of this host that can be listened on" in problem
    assert "uplab_address" in problem


def test_a_port_that_it_does_not_reach_is_said(machine: Machine) -> None:
    """The listener is where the agent does not look for it, as behind a firewall that refuses."""
    agent = machine.start(server_address="127.0.0.2")
    with socket.create_server((HERE, 0)) as probe:
        port = probe.getsockname()[1]
    problem = reach(agent, HERE, port)
    assert problem is not None
    assert problem.startswith(f"it does not reach 127.0.0.1 port {port}: ")
    assert problem.endswith("Is there a firewall between?")
    machine.stop()
    problem = reach(agent, HERE, port)
    assert problem is not None
    assert problem.startswith("this host does not reach it: load host far: 127.0.0.1 port ")
