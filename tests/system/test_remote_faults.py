"""What goes wrong between a controller and its hosts: nothing that was measured is lost.

Real runs on boxes with a network of their own. What goes wrong on a host itself is in
test_host_faults.py; the table of both in docs/reliability.md.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests import proxy
from tests.system.away import LIMIT_S, Away, clean, prepared
from tests.system.lab import ROOT, write_adapter
from tests.system.reliability import GO_ON, Struck, named
from tests.waiting import wait_for
from uplab import box, results
from uplab.box import container
from uplab.box.record import Box

# The first test may have to make the image that boxes stand on, which takes a minute and more.
pytestmark = pytest.mark.timeout(300)

NETWORK_GONE_S = 60.0
LOG_BYTES = 400_000
#: In a shell of its own, because it ends the connection that it came by.
#: A run that is held goes on once it is asked to end.
GO_ON_TO_END = """
pid=$(pgrep -f [r]un-detached)
until grep -q '^ShdPnd:.*[1-9a-f]' "/proc/$pid/status"; do sleep 0.05; done
kill -CONT "$pid"
"""
DETACHED = "setsid sh -c {script} </dev/null >/dev/null 2>&1 &"


@pytest.fixture(scope="module")
def four(programs: Path, tls_files: tuple[Path, Path]) -> Iterator[list[Box]]:
    with prepared(programs, tls_files, 4, network="own") as boxes:
        yield boxes


@pytest.fixture
def struck(four: list[Box], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Struck]:
    with clean(four[0], tmp_path) as away:
        yield Struck(named(request), away)


def detached(away: Away, script: str) -> None:
    """Let a script run there that does not need us any more."""
    away.run("sh", "-c", DETACHED.format(script=shlex.quote(f"sleep 0.1; {script}")))


def test_ssh_killed(struck: Struck) -> None:
    """SSH killed in mid-run."""
    with struck.measuring("--set=blocks=3") as controller:
        controller.until("1/6")
        struck.strikes()
        # Every session of the box's sshd, ours that asks for it included.
        detached(struck.away, f"pkill -KILL -f [s]shd:.*root; {GO_ON}")
        controller.until("The run goes on; trying again in 1 s")
        controller.ends(0)
    struck.code = "0"
    run_dir = struck.conclude()
    assert (run_dir / "events.jsonl").read_text().count('"event": "run-end"') == 1


def test_sshd_restarted(struck: Struck) -> None:
    """sshd restarted in mid-run."""
    with struck.measuring("--set=blocks=3") as controller:
        controller.until("1/6")
        struck.strikes()
        # With its sessions, and not at once: a connection is refused before the next one succeeds.
        stopped = "systemctl stop ssh; pkill -KILL -f [s]shd:.*root"
        detached(struck.away, f"{stopped}; sleep 2; systemctl start ssh; {GO_ON}")
        controller.until("The run goes on; trying again in 1 s")
        controller.ends(0)
    struck.code = "0"
    struck.conclude()


def test_network_gone(struck: Struck) -> None:
    """The host's network gone for 60 s."""
    with struck.measuring("--set=blocks=3") as controller:
        controller.until("1/6")
        struck.strikes()
        struck.away.cut()
        struck.goes_on()
        try:
            # The fault itself is that long.
            time.sleep(NETWORK_GONE_S)
        finally:
            struck.away.mend()
        rest = controller.ends(0)
    assert "The run goes on; trying again in 1 s" in rest
    struck.code = "0"
    struck.conclude()


def test_controller_killed(struck: Struck) -> None:
    """The controller killed by SIGKILL."""
    with struck.measuring() as controller:
        controller.until("1/4")
        struck.strikes()
        controller.send(signal.SIGKILL)
    struck.goes_on()
    struck.code = "killed"
    wait_for(lambda: struck.away.state() == "finished")
    struck.back("bench.collect")
    struck.conclude()


def test_ctrl_c_twice(struck: Struck) -> None:
    """Ctrl-C twice."""
    with struck.measuring("--set=blocks=4") as controller:
        controller.until("1/8")
        struck.strikes()
        detached(struck.away, GO_ON_TO_END)
        controller.send(signal.SIGINT)
        controller.until("stopping the run; its finished trials are kept")
        controller.send(signal.SIGINT)
        rest = controller.ends(130)
    assert "the run may go on by itself. Run: invoke bench.follow --host" in rest
    struck.code = "130"
    # Whether the first one had reached the host is chance: who is in a hurry asks again.
    struck.back("bench.stop")
    struck.back("bench.collect")
    struck.conclude()


def test_disk_full_here(struck: Struck) -> None:
    """Disk full on the controller."""
    folder, ballast = struck.away.folder, struck.away.folder / "ballast"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)], check=True)
    try:
        with struck.measuring() as controller:
            controller.until("4/4")
            fill(ballast)
            rest = controller.ends(4)
        struck.strikes()
        assert f"{folder} has no room for the run; what arrived is kept in {folder}/.part-" in rest
        ballast.unlink()
        struck.code = "4"
        struck.back("bench.collect")
        struck.conclude()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write until the file system has no room left."""
    with path.open("wb", buffering=0) as ballast:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    ballast.write(bytes(size))
            except OSError:
                continue


def test_truncated_transfer(struck: Struck, tmp_path: Path) -> None:
    """The transfer cut off, and the controller with it."""
    away = struck.away
    # A tracer whose log cannot be compressed, so that where the line is cut is in the middle of it.
    noisy = ["/bin/sh", "-c", f'head -c {LOG_BYTES} /dev/urandom | base64; exec "$0" "$@"']
    argv = [*noisy, "{program}", "--pid", "{pid}", "{mode_args}"]
    setting = write_adapter(tmp_path, "tracer", "noisy", {"argv": argv}, base="gotrace")
    words = ["--detach", f"--set={setting}", "--set=factors.tracer=[noisy]"]
    away.invoke("bench.all", *away.all(*words))
    wait_for(lambda: away.state() == "finished")
    struck.strikes()
    with proxy.running((away.box.address, away.box.port)) as line:
        inventory = by_way_of(line, away.box, tmp_path)
        argv = away.argv("bench.collect", "--inventory", str(inventory), "--results", away.results)
        line.cut(after_bytes=LOG_BYTES // 2)
        with struck.measuring(argv=argv) as controller:
            controller.until("what arrived is kept, trying again in 1 s")
            controller.send(signal.SIGKILL)
    (part,) = away.folder.glob(".part-2*")
    arrived = {path: path.stat().st_ino for path in part.glob("trials/*/*")}
    assert 0 < len(arrived) < len(struck.finished)
    struck.code = "killed"
    struck.back("bench.collect")
    run_dir = struck.conclude()
    # What had arrived whole did not come again: at most the file that was cut off did.
    now = {part / path.relative_to(run_dir): path.stat().st_ino for path in run_dir.rglob("*")}
    assert len([path for path, inode in arrived.items() if now[path] != inode]) <= 1


def by_way_of(line: proxy.Proxy, host: Box, folder: Path) -> Path:
    """An inventory in which a box is reached through a line that can be cut."""
    known_hosts = folder / "known_hosts"
    _, *key = host.known_hosts.read_text().split()
    known_hosts.write_text(f"[{proxy.ADDRESS}]:{line.port} {' '.join(key)}\n")
    variables = {
        "ansible_host": proxy.ADDRESS,
        "ansible_port": line.port,
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(host.key_file),
        "ansible_ssh_common_args": f"-oUserKnownHostsFile={known_hosts}",
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    path = folder / "inventory.yml"
    path.write_text(yaml.safe_dump({"uplab": {"hosts": {host.name: variables}}}))
    return path


def test_two_controllers(struck: Struck, tmp_path: Path) -> None:
    """Two controllers on one host."""
    away = struck.away
    second = Away(away.box, tmp_path / "second")
    with struck.measuring() as first:
        first.until("1/4")
        struck.strikes()
        refused = second_try(second)
        assert re.search(r"this host is busy: run \S+ \(pid \d+, since ", refused)
        # To follow is another matter: both bring the run to the same place.
        argv = away.argv("bench.follow", "--results", away.results)
        with struck.measuring(argv=argv) as other:
            other.until("1/4")
            struck.goes_on()
            other.ends(0)
        first.ends(0)
    assert not second.folder.exists()
    struck.code = "0, the second 4"
    struck.conclude()


def second_try(away: Away) -> str:
    """What a bench.all says that is refused because the host is busy."""
    done = subprocess.run(
        away.argv("bench.all", *away.all()),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 4
    return done.stderr


def test_one_of_four_dies(four: list[Box], struck: Struck) -> None:
    """One of four hosts dies."""
    names = [each.name for each in four]
    dead = Struck(struck.fault, Away(four[3], struck.away.folder))
    words = ["--host", ",".join(names), "--away-minutes", "0.05", *struck.away.all()]
    argv = [sys.executable, str(ROOT / "tasks.py"), "bench.all", *words]
    with dead.measuring(argv=argv) as controller:
        controller.until(f"{names[3]}:    1/4")
        dead.strikes()
        container.stop(four[3])
        rest = controller.ends(4)
    assert f"not all is well on {names[3]}; see above" in rest
    assert "The run may go on there. Run: invoke bench.follow" in rest
    by_host = {results.load(path).host: path for path in struck.away.folder.iterdir()}
    assert set(by_host) == set(names[:3])
    for path in by_host.values():
        assert all(trial.valid for trial in results.load(path).trials)
        assert len(results.load(path).trials) == 4
    four[3] = box.restart(ROOT, names[3])
    dead.code = "4"
    dead.back("bench.collect")
    (run_dir,) = set(struck.away.folder.iterdir()) - set(by_host.values())
    dead.conclude(run_dir)
    # It was started by this test, and ends with it.
    container.stop(four[3])
