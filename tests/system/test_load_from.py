"""The load on a second machine: two boxes with a network of their own, wrk on one of them alone."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.system.away import LIMIT_S, Away, clean, follow_until, prepared
from tests.waiting import wait_for
from uplab import checksums
from uplab.box.record import Box

# The first test may have to make the image that boxes stand on, which takes a minute and more.
pytestmark = pytest.mark.timeout(300)

STATE = "/run/uplab"
#: Of Go's HTTP server without tracing: the tracer has its own tests.
ONLY = "server=http,mode=none"


@dataclass(frozen=True)
class Pair:
    """A host without the load's program, and the second machine that has it."""

    host: Away
    load: Away

    def all(self, *words: str) -> list[str]:
        own = ["--load-from", self.load.box.name, "--set=repeat.per_run=0"]
        return self.host.all(*own, *words, only=ONLY)

    def started(self, *words: str) -> subprocess.Popen[str]:
        argv = self.host.argv("bench.all", *self.all(*words))
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def trials(self) -> list[dict[str, Any]]:
        paths = sorted(self.host.collected().glob("trials/*/trial.json"))
        return [json.loads(path.read_text()) for path in paths]

    def agent(self) -> int:
        """The PID of the agent on the second machine."""
        found = self.load.run("sh", "-c", f"cat {STATE}/load-*/ready.json")
        pid: int = json.loads(found)["process"]["pid"]
        return pid


@pytest.fixture(scope="module")
def boxes(programs: Path, tls_files: tuple[Path, Path]) -> Iterator[tuple[Box, Box]]:
    with prepared(programs, tls_files, 2, network="own") as (host, load):
        Away(host, Path()).run("rm", "/usr/bin/wrk")
        yield host, load


@pytest.fixture
def pair(boxes: tuple[Box, Box], tmp_path: Path) -> Iterator[Pair]:
    """Both, with nothing of a run left on either of them afterwards."""
    with clean(boxes[0], tmp_path) as host, clean(boxes[1], tmp_path) as load:
        yield Pair(host, load)
        load.mend()
        wait_for(lambda: load.run("sh", "-c", f"ls -d {STATE}/load-* 2>/dev/null || :") == "")


def codes(trial: dict[str, Any]) -> list[str]:
    return [reason["code"] for reason in trial["verdict"]["reasons"]]


def test_valid_trials_by_the_load_of_the_second_machine(pair: Pair) -> None:
    said = pair.host.invoke("bench.all", *pair.all())
    run_dir = pair.host.collected()
    assert checksums.differences(run_dir) == []
    trials = pair.trials()
    assert [codes(trial) for trial in trials] == [[], []]
    for trial in trials:
        between = trial["load_from"]
        rtt, clock = between["rtt_us"], between["clock"]
        assert 0 < rtt["min"] <= rtt["median"]
        # Both boxes have the clock of this machine.
        assert abs(clock["offset_s"]) <= clock["uncertainty_s"] + 1e-4
        assert between["connect_us"] > 0
        assert between["cpu"]["load_s"] > 0
        assert trial["cpu"]["load_s"] == 0, "nothing of the load runs on the host"
    record = json.loads((run_dir / "run.json").read_text())
    far = record["load_from"]
    assert (far["name"], far["server_address"]) == (pair.load.box.name, pair.host.box.address)
    assert far["link"]["load_host"]["interface"] == "eth0"
    assert far["load_host"]["cpu"]["logical_cpus"]
    assert list(far["artifacts"]) == ["wrk/bin/wrk"]
    assert (run_dir / "trials" / trials[0]["trial"] / "load.hist").stat().st_size > 0
    report = (run_dir / "report" / "report.md").read_text()
    assert f"The load came from a second machine, {pair.load.box.name}" in report
    assert f"load from host {pair.load.box.name}" in said


def test_the_token_is_nowhere(pair: Pair) -> None:
    with pair.started("--set=blocks=300") as process:
        follow_until(process, "1/300")
        noted = json.loads(pair.load.run("sh", "-c", f"cat {STATE}/load-*/ready.json"))
        mode = pair.load.run("sh", "-c", f"stat -c %a {STATE}/load-* {STATE}/load-*/ready.json")
        assert mode.split() == ["700", "600"]
        for away in (pair.host, pair.load):
            seen = away.run(
                "sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' ' '"
            )
            assert noted["token"] not in seen
        kept = pair.host.run("sh", "-c", "ls -A /var/lib/uplab/runs/*/.part-control").split()
        assert "plan.json" in kept
        assert "load-agent" not in kept
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=LIMIT_S)[0]
    assert process.returncode == 130
    for path in pair.host.collected().rglob("*"):
        assert path.is_dir() or noted["token"].encode() not in path.read_bytes()


def test_the_agent_is_killed_in_mid_trial(pair: Pair) -> None:
    with pair.started("--set=blocks=3", "--set=load.duration_s=5") as process:
        follow_until(process, "1/3")
        wait_for(lambda: "wrk" in pair.load.run("ps", "-eo", "comm"))
        pair.load.run("kill", "-KILL", str(pair.agent()))
        rest = process.communicate(timeout=LIMIT_S)[0]
    assert process.returncode == 4, rest
    assert "Its agent is gone. Run: invoke bench.resume" in rest
    assert [codes(trial) for trial in pair.trials()] == [[], ["load-lost"]]
    pair.host.invoke_bare("bench.resume", str(pair.host.collected()))
    last = {trial["block"]: codes(trial) for trial in pair.trials()}
    assert last == {1: [], 2: [], 3: []}


def test_the_network_of_the_second_machine_is_cut_in_mid_trial(pair: Pair) -> None:
    """The trial is lost, the agent ends its load by itself; once mended, the run goes on."""

    def load_runs() -> bool:
        return "wrk" in pair.load.outside("ps", "-eo", "comm")

    with pair.started("--set=blocks=3", "--set=load.duration_s=20") as process:
        wait_for(load_runs)
        pair.load.cut()
        wait_for(lambda: not load_runs())
        pair.load.mend()
        follow_until(process, "INVALID")
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=LIMIT_S)[0]
    assert process.returncode == 130, rest
    assert codes(pair.trials()[0]) == ["load-lost"]


def test_the_run_s_process_is_killed_and_the_agent_ends_its_load(pair: Pair) -> None:
    with pair.started("--set=blocks=2", "--set=load.duration_s=30") as process:
        wait_for(lambda: "wrk" in pair.load.run("ps", "-eo", "comm"))
        unit = pair.host.run("systemctl", "list-units", "--plain", "--no-legend", "uplab-*")
        pair.host.run("systemctl", "kill", "--signal=KILL", unit.split()[0])
        wait_for(lambda: "wrk" not in pair.load.run("ps", "-eo", "comm"))
        process.communicate(timeout=LIMIT_S)
    assert process.returncode == 4
    assert not list(pair.host.folder.glob("*/trials/0*"))
    # What a killed run left on its host goes with the next one there.
    pair.host.invoke("bench.all", *pair.all("--set=blocks=1"))


def test_a_firewall_between_the_two_is_told_before(pair: Pair) -> None:
    """The server's port is where nobody gets through: its host drops what comes for it."""
    pair.host.run("ip", "route", "add", "blackhole", f"{pair.load.box.address}/32")
    try:
        words = ["--matrix=smoke", f"--only={ONLY}", "--load-from", pair.load.box.name]
        said = pair.host.refused("bench.plan", *words, code=4)
        names = f"load host {pair.load.box.name}, for host {pair.host.box.name}"
        assert said.startswith(f"bench.plan: {names}: this host does not reach it: ")
    finally:
        pair.host.run("ip", "route", "delete", "blackhole", f"{pair.load.box.address}/32")


def test_what_cannot_be_is_refused_in_one_line(pair: Pair) -> None:
    name, far = pair.host.box.name, pair.load.box.name
    words = ["--matrix=smoke", f"--only={ONLY}", "--load-from"]
    assert "that is the measured host itself" in pair.host.refused(
        "bench.plan", *words, name, code=2
    )
    hold = f"mkdir -p {STATE}; exec flock {STATE}/lock sleep 60"
    with subprocess.Popen([*_ssh(pair.load), hold], stdin=subprocess.DEVNULL) as holder:
        wait_for(lambda: "sleep" in pair.load.run("ps", "-eo", "comm"))
        said = pair.host.refused("bench.plan", *words, far, code=4)
        assert f"load host {far}: this host is busy" in said
        pair.load.run("pkill", "-x", "sleep")
        holder.wait()
    pair.load.run("mv", "/usr/bin/wrk", "/usr/bin/wrk.away")
    try:
        said = pair.host.invoke("bench.plan", *words, far)
        assert f"not available here: load host {far}: " in said
    finally:
        pair.load.run("mv", "/usr/bin/wrk.away", "/usr/bin/wrk")
    assert "one machine loads one host at a time" in pair.host.refused(
        "bench.all", "--no-setup", *words, far, code=2, host=f"{name},{far}"
    )


def _ssh(away: Away) -> list[str]:
    from uplab import box

    return box.ssh_argv(away.box)
