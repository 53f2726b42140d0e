"""uplab/hostside/usage.py: who used the CPU between two moments."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from uplab.hostside import procfs
from uplab.hostside.usage import Snapshot, snapshot, usage

BURN = (
    "import sys, time\n"
    "def burn(seconds):\n"
    "    end = time.process_time() + seconds\n"
    "    while time.process_time() < end: pass\n"
)


def moment(at_s: float, **changes: Any) -> Snapshot:
    still = Snapshot(at_s, procfs.HostTimes(0.0, 0.0, 0), 0.0, 0.0, {})
    return replace(still, **changes)


def process(pid: int, cpu_s: float, start_ticks: int = 1, switches: int = 0) -> procfs.ProcessTimes:
    return procfs.ProcessTimes(pid, start_ticks, cpu_s, switches, 2 * switches)


@contextmanager
def burner() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that burns as many CPU seconds as it is told, and says when it did."""
    program = BURN + "for line in sys.stdin:\n    burn(float(line)); print(flush=True)\n"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as child:
        yield child
        child.kill()


def burn(child: "subprocess.Popen[bytes]", seconds: float) -> None:
    assert child.stdin
    assert child.stdout
    child.stdin.write(f"{seconds}\n".encode())
    child.stdout.readline()


def test_each_one_s_cpu_is_its_own() -> None:
    with burner() as server, burner() as tracer, burner() as foreign:
        burn(server, 0.01)
        burn(tracer, 0.01)
        before = snapshot([server.pid, tracer.pid])
        burn(server, 0.2)
        burn(tracer, 0.1)
        burn(foreign, 0.2)
        subprocess.run([sys.executable, "-S", "-c", BURN + "burn(0.15)"], check=True)
        own_end_s = time.process_time() + 0.05
        while time.process_time() < own_end_s:
            pass
        after = snapshot([server.pid, tracer.pid])
    seen = usage(before, after, [server.pid], [tracer.pid], requests=1000)
    assert seen["server_s"] == pytest.approx(0.2, abs=0.03)
    assert seen["server_us_per_request"] == pytest.approx(seen["server_s"] * 1000)
    assert seen["tracer_s"] == pytest.approx(0.1, abs=0.03)
    assert 0.15 <= seen["load_s"] < 0.3
    assert 0.05 <= seen["hostside_s"] < 0.15
    # Others run here too, but nobody takes away what the foreign process used.
    assert seen["foreign_s"] >= 0.14
    assert seen["cores"] == os.cpu_count()
    assert seen["window_s"] > 0.4
    switches = seen["context_switches"]
    assert switches["host"] > 0
    assert switches["server_voluntary"] >= 1
    assert switches["server_involuntary"] >= 0


def test_the_arithmetic() -> None:
    before = moment(100.0, processes={1: process(1, 5.0, switches=10), 2: process(2, 1.0)})
    after = moment(
        110.0,
        host=procfs.HostTimes(busy_s=9.0, steal_s=1.0, context_switches=77),
        hostside_s=0.5,
        reaped_s=2.0,
        processes={1: process(1, 8.0, switches=15), 2: process(2, 2.0)},
    )
    capacity_s = 10.0 * (os.cpu_count() or 1)
    assert usage(before, after, [1], [2], requests=1_000_000) == {
        "window_s": 10.0,
        "cores": os.cpu_count(),
        "server_s": 3.0,
        "server_us_per_request": 3.0,
        "tracer_s": 1.0,
        "load_s": 2.0,
        "hostside_s": 0.5,
        "busy_s": 9.0,
        "foreign_s": 2.5,
        "steal_s": 1.0,
        "foreign_pct": pytest.approx(100 * 2.5 / capacity_s),
        "steal_pct": pytest.approx(100 * 1.0 / capacity_s),
        "context_switches": {"server_voluntary": 5, "server_involuntary": 10, "host": 77},
    }


@pytest.mark.parametrize("requests", [None, 0])
def test_without_requests_there_is_no_figure_per_request(requests: int | None) -> None:
    before, after = (
        moment(0.0, processes={1: process(1, 1.0)}),
        moment(1.0, processes={1: process(1, 2.0)}),
    )
    seen = usage(before, after, [1], [], requests)
    assert seen["server_s"] == 1.0
    assert seen["server_us_per_request"] is None
    assert seen["tracer_s"] is None


def test_the_figure_of_a_process_that_went_away_is_missing_not_zero() -> None:
    before = moment(0.0, processes={1: process(1, 1.0), 2: process(2, 1.0)})
    after = moment(1.0, processes={1: process(1, 2.0)})
    seen = usage(before, after, [1, 2], [2], requests=10)
    assert seen["server_s"] is None
    assert seen["server_us_per_request"] is None
    assert seen["tracer_s"] is None
    assert seen["context_switches"]["server_voluntary"] is None


def test_the_figure_of_another_process_of_the_same_number_is_missing() -> None:
    before = moment(0.0, processes={1: process(1, 1.0, start_ticks=1)})
    after = moment(1.0, processes={1: process(1, 9.0, start_ticks=2)})
    assert usage(before, after, [1], [], requests=10)["server_s"] is None


def test_foreign_load_is_never_negative() -> None:
    after = moment(1.0, hostside_s=2.0)
    seen = usage(moment(0.0), after, [], [], None)
    assert seen["foreign_s"] == 0.0
    assert seen["foreign_pct"] == 0.0


def test_a_snapshot_leaves_out_who_is_gone() -> None:
    seen = snapshot([os.getpid(), 1 << 22])
    assert list(seen.processes) == [os.getpid()]
