"""Whole runs on another host: a box with its own systemd and sshd, real servers, real uprobes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.away import (
    LIMIT_S,
    Away,
    assert_complete,
    clean,
    follow_until,
    prepared,
)
from tests.system.lab import ROOT
from tests.waiting import wait_for
from uplab.box.record import Box

# The first test may have to make the image that boxes stand on, which takes a minute and more.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def host(programs: Path, tls_files: tuple[Path, Path]) -> Iterator[Box]:
    """A box with a store."""
    with prepared(programs, tls_files) as (box,):
        yield box


@pytest.fixture
def away(host: Box, tmp_path: Path) -> Iterator[Away]:
    """The box, with nothing of an earlier test in it, and nothing left in it afterwards."""
    with clean(host, tmp_path) as found:
        yield found


def test_from_the_command_to_the_report(away: Away) -> None:
    said = away.invoke("bench.all", *away.all())
    run_dir = away.collected()
    record = assert_complete(run_dir)
    assert record["host"] == away.box.name
    assert f"report: {run_dir}/report/report.html" in said
    assert (run_dir / "report" / "report.md").exists()


def test_it_runs_as_a_unit_of_systemd_and_goes_on_without_us(away: Away) -> None:
    said = away.invoke("bench.all", *away.all("--detach"))
    assert f"Run: invoke bench.follow --host {away.box.name} --run " in said
    units = away.run("systemctl", "list-units", "--plain", "--no-legend", "uplab-*")
    assert "running" in units
    assert away.state() == "running"
    said = away.invoke("bench.follow", "--results", away.results)
    assert_complete(away.collected())
    assert "   1/4  http-" in said
    assert away.invoke("bench.collect") == f"{away.box.name}: nothing to collect\n"


def test_a_unit_that_cannot_start_is_told_at_once_with_the_reason(away: Away) -> None:
    """The host allows its units no further open file, so that Python cannot even be loaded."""
    folder = "/etc/systemd/system/uplab-.service.d"
    away.run("mkdir", folder)
    away.run("tee", f"{folder}/small.conf", stdin=b"[Service]\nLimitNOFILE=3\n")
    away.run("systemctl", "daemon-reload")
    try:
        said = away.refused("bench.all", *away.all(), code=4)
    finally:
        away.run("rm", "-r", folder)
        away.run("systemctl", "daemon-reload")
    # At its exec, or just after it; and not that a minute has passed, nor a run outside of a unit.
    reasons = ("systemd does not start uplab-", "the run ended before it began: ")
    (line,) = (line for line in said.splitlines() if any(reason in line for reason in reasons))
    assert "it was killed" not in line
    assert away.state() is None


def test_the_controller_is_killed_and_the_run_is_collected_later(away: Away) -> None:
    with subprocess.Popen(
        away.argv("bench.all", *away.all()), stdout=subprocess.PIPE, text=True
    ) as process:
        follow_until(process, "1/4")
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: away.state() == "finished")
    said = away.invoke("bench.collect", "--results", away.results)
    assert said == f"collected: {away.collected()}\n"
    assert_complete(away.collected())


def test_the_connection_is_killed_and_the_controller_comes_back_by_itself(away: Away) -> None:
    with subprocess.Popen(
        away.argv("bench.all", *away.all("--set=blocks=4")), stdout=subprocess.PIPE, text=True
    ) as process:
        follow_until(process, "1/8")
        # Every session of the box's sshd, ours that asks for it included.
        kill = "setsid sh -c 'sleep 0.1; pkill -KILL -f sshd:.*root' </dev/null >/dev/null 2>&1 &"
        away.run("sh", "-c", kill)
        follow_until(process, "The run goes on; trying again in 1 s")
        rest = process.communicate(timeout=LIMIT_S)[0]
    assert process.returncode == 0, rest
    assert_complete(away.collected(), blocks=4)
    events = (away.collected() / "events.jsonl").read_text().splitlines()
    assert json.loads(events[-1])["event"] == "run-end"


def test_ctrl_c_stops_it_there_and_resume_measures_the_rest(away: Away) -> None:
    with subprocess.Popen(
        away.argv("bench.all", *away.all("--set=blocks=3")), stdout=subprocess.PIPE, text=True
    ) as process:
        follow_until(process, "2/6")
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=LIMIT_S)[0]
    run_dir = away.collected()
    assert process.returncode == 130
    assert f"interrupted; the finished trials are in {run_dir}" in rest
    kept = len(list(run_dir.glob("trials/*/trial.json")))
    assert 2 <= kept < 6
    words = [str(run_dir), "--results", away.results]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tasks.py"), "bench.resume", *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = assert_complete(run_dir, blocks=3)
    assert [part["outcome"] for part in record["parts"]] == ["interrupted", "complete"]


def test_stop_from_another_shell(away: Away) -> None:
    away.invoke("bench.all", *away.all("--detach", "--set=blocks=50"))
    said = away.invoke("bench.stop")
    assert "it was stopped" in said
    assert "no run goes on" in away.invoke("bench.stop")
    away.invoke("bench.collect", "--results", away.results)
    record = json.loads((away.collected() / "run.json").read_text())
    assert record["outcome"] == "interrupted"
