"""What goes wrong on a host in mid-run: nothing that was measured is lost.

Real runs on a box with a network of its own. What goes wrong between a controller and its hosts is
in test_remote_faults.py; the table of both in docs/reliability.md.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.system.away import PACKAGES, RUNS, Away, clean, prepared
from tests.system.lab import ROOT, write_adapter
from tests.system.reliability import IN_THE_LOAD, Struck, named
from tests.waiting import wait_for
from uplab import box
from uplab.box import container
from uplab.box.record import Box

# The first test may have to make the image that boxes stand on, which takes a minute and more.
pytestmark = pytest.mark.timeout(300)

PORTS = "/proc/sys/net/ipv4/ip_local_port_range"
JOURNAL = "/var/lib/uplab/tuning.json"
TUNED = "10000\t65535"
HOUR_S = 3600
FLOOD_BYTES = 1 << 30
#: Where a program is told another time than the host's, and only that.
CLOCK = "/run/clock"
FAKED = {
    "LD_PRELOAD": "/usr/$LIB/faketime/libfaketime.so.1",
    "FAKETIME_TIMESTAMP_FILE": CLOCK,
    "FAKETIME_NO_CACHE": "1",
    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
}


@pytest.fixture(scope="module")
def two(programs: Path, tls_files: tuple[Path, Path]) -> Iterator[list[Box]]:
    packages = [*PACKAGES, "libfaketime"]
    with prepared(programs, tls_files, 2, network="own", packages=packages) as boxes:
        yield boxes


@pytest.fixture
def struck(two: list[Box], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Struck]:
    with clean(two[0], tmp_path) as away:
        yield Struck(named(request), away)


def trials(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(run_dir.glob("trials/*/trial.json"))]


def events(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]


@contextmanager
def tunable(away: Away) -> Iterator[str]:
    """In a box the kernel's settings are read-only; those of its own network may be written.

    Out: what the range of ports was.
    """
    away.run("mount", "-t", "proc", "proc", "/mnt")
    away.run("mount", "--bind", "/mnt/sys/net", "/proc/sys/net")
    away.run("umount", "--lazy", "/mnt")
    yield away.run("cat", PORTS).strip()
    # After a restart it is not mounted any more.
    away.run("sh", "-c", "! mountpoint -q /proc/sys/net || umount /proc/sys/net")


def assert_tuned(away: Away) -> None:
    assert away.run("cat", PORTS).strip() == TUNED
    assert away.run("ls", JOURNAL).strip() == JOURNAL


def test_hostside_killed(struck: Struck, tmp_path: Path) -> None:
    """hostside killed by SIGKILL in mid-run."""
    away = struck.away
    # A tracer that leaves a process behind, on a host whose systemd does not end all of a run.
    leaky = ["/bin/sh", "-c", 'sleep 999 & exec "$0" "$@"', "{program}", "--pid", "{pid}"]
    setting = write_adapter(
        tmp_path, "tracer", "leaky", {"argv": [*leaky, "{mode_args}"]}, base="gotrace"
    )
    words = [f"--set={setting}", "--set=factors.tracer=[leaky]", "--set=blocks=3", "--tune"]
    others = "setsid sleep 999 </dev/null >/dev/null 2>&1 & echo $!"
    foreign = away.run("sh", "-c", others).strip()
    with tunable(away) as before, without_systemd_run(away):
        with struck.measuring(*words) as controller:
            controller.until("2/6")
            struck.strikes(IN_THE_LOAD)
            children = json.loads(away.run("cat", "/run/uplab/children.json"))
            wait_for(lambda: len(sleepers(away)) == 2)
            away.run("pkill", "-KILL", "-f", "[r]un-detached")
            rest = controller.ends(4)
        assert "is gone without a word: it was killed" in rest
        assert {child["name"] for child in children} >= {"server", "load"}
        assert_tuned(away)
        struck.code = "4"
        run_dir = struck.conclude()
        assert away.run("cat", PORTS).strip() == before
    assert sleepers(away) == {foreign}
    away.run("kill", foreign)
    found = {event["event"]: event for event in events(run_dir)}
    assert "tracer (pid " in str(found["leftovers-ended"]["processes"])
    assert PORTS in {entry["path"] for entry in found["tuning-restored"]["put_back"]}


def sleepers(away: Away) -> set[str]:
    return set(away.run("sh", "-c", "pgrep -x sleep || :").split())


@contextmanager
def without_systemd_run(away: Away) -> Iterator[None]:
    """As on a host whose process 1 is not systemd: a run is a session of its own."""
    program = "/usr/bin/systemd-run"
    away.run("mv", program, f"{program}.away")
    try:
        yield
    finally:
        away.run("mv", f"{program}.away", program)


def test_host_rebooted(two: list[Box], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The host rebooted in mid-run."""
    with clean(two[1], tmp_path) as away:
        struck = Struck(named(request), away)
        with tunable(away) as before, struck.measuring("--set=blocks=3", "--tune") as controller:
            controller.until("2/6")
            struck.strikes(IN_THE_LOAD)
            assert_tuned(away)
            # As by its reset button: nothing that runs there is asked.
            container.stop(two[1])
            two[1] = box.restart(ROOT, two[1].name)
            rest = controller.ends(4)
        assert "the host was restarted during the run" in rest
        # What was tuned went with the kernel's memory; the journal outlived it.
        assert away.run("cat", PORTS).strip() == before
        assert away.run("ls", JOURNAL).strip() == JOURNAL
        struck.code = "4"
        run_dir = struck.conclude()
    assert len({part["boot_id"] for part in record(run_dir)["parts"]}) == 2
    # It was started by this test, and ends with it.
    container.stop(two[1])


def record(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "run.json").read_text())
    return found


def test_disk_full_there(struck: Struck) -> None:
    """Disk full on the host."""
    away = struck.away
    away.run("mkdir", "-p", RUNS)
    away.run("mount", "-t", "tmpfs", "-o", "size=100m", "none", RUNS)
    try:
        with struck.measuring("--set=blocks=4") as controller:
            controller.until("2/8")
            struck.strikes()
            away.run("sh", "-c", f"cat /dev/zero >{RUNS}/ballast 2>/dev/null || :")
            struck.goes_on()
            rest = controller.ends(4)
        assert "disk full" in rest
        away.run("rm", f"{RUNS}/ballast")
        struck.code = "4"
        struck.conclude()
    finally:
        away.run("umount", RUNS)


def test_clock_jump(struck: Struck) -> None:
    """The host's clock jumps."""
    away = struck.away
    away.run("tee", CLOCK, stdin=b"+0\n")
    away.run("systemctl", "set-environment", *(f"{k}={v}" for k, v in FAKED.items()))
    try:
        with struck.measuring("--set=blocks=3") as controller:
            controller.until("1/6")
            struck.strikes(IN_THE_LOAD)
            away.run("tee", CLOCK, stdin=f"+{HOUR_S}\n".encode())
            struck.goes_on()
            rest = controller.ends(0)
    finally:
        away.run("systemctl", "unset-environment", *FAKED)
        away.run("rm", CLOCK)
    assert "INVALID: the host's clock jumped by +3600.0 s during the trial" in rest
    struck.code = "0"
    run_dir = struck.conclude()
    jumped = [trial for trial in trials(run_dir) if trial["times"]["clock_jump_s"] is not None]
    (trial,) = jumped
    assert trial["times"]["clock_jump_s"] == pytest.approx(HOUR_S, abs=1)
    assert "clock" in {reason["code"] for reason in trial["verdict"]["reasons"]}
    # No duration is taken from that clock.
    assert trial["times"]["wall_s"] < HOUR_S
    assert max(step["duration_s"] for step in trial["times"]["steps"]) < HOUR_S


def test_wrk_hangs(struck: Struck) -> None:
    """wrk hangs."""
    with struck.measuring() as controller:
        controller.until("1/4")
        struck.strikes("until pkill -STOP -x wrk; do sleep 0.02; done")
        struck.goes_on()
        rest = controller.ends(0)
    assert "INVALID: the load did not end within" in rest
    assert "is measured again: it has an invalid trial" in rest
    struck.code = "0"
    struck.conclude()


def test_log_flood(struck: Struck, tmp_path: Path) -> None:
    """A tracer floods its log with 1 GB."""
    line = shlex.quote(
        f"import sys; [sys.stdout.write('x' * 1023 + '\\n') for _ in range({FLOOD_BYTES >> 10})]"
    )
    flooding = [
        "/bin/sh",
        "-c",
        f'python3 -c {line}; exec "$0" "$@"',
        "{program}",
        "--pid",
        "{pid}",
    ]
    setting = write_adapter(
        tmp_path,
        "tracer",
        "flooding",
        {"argv": [*flooding, "{mode_args}"], "attached_timeout_s": 60.0},
        base="gotrace",
    )
    with struck.measuring(f"--set={setting}", "--set=factors.tracer=[flooding]") as controller:
        controller.until("1/4")
        struck.strikes()
        struck.goes_on()
        controller.ends(0)
    struck.code = "0"
    run_dir = struck.conclude()
    logs = list(run_dir.glob("trials/*/tracer.log"))
    assert len(logs) >= 2
    for log in logs:
        assert log.stat().st_size < 17 << 20
        counted = log.read_bytes()[-100:].decode().rstrip().splitlines()[-1]
        more = int(counted.removeprefix("[uplab: ").split()[0])
        assert FLOOD_BYTES < more + log.stat().st_size < FLOOD_BYTES + (1 << 20)
