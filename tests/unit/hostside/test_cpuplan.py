"""uplab/hostside/cpuplan.py: who gets which CPUs, and that children get them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.hostside.machines import write
from uplab.hostside import cpuplan
from uplab.hostside.cpuplan import CpuPlan, cpu_list, parse_list
from uplab.hostside.settings import Settings


def siblings(root: Path, *cores: str) -> Settings:
    """A machine whose cores have these threads."""
    for core in cores:
        for cpu in parse_list(core):
            name = f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
            write(root, {name: f"{core}\n"})
    return Settings(root)


@pytest.mark.parametrize("text", ["", "0", "0-3", "0-2,5", "1,3,5", "0-1,4-5,11"])
def test_lists_are_read_and_written_as_the_kernel_does(text: str) -> None:
    assert cpu_list(parse_list(text)) == text


@pytest.mark.parametrize(
    ("cpus", "server", "tracer", "load"),
    [
        (4, "2-3", "1", "0"),
        (5, "3-4", "2", "0-1"),
        (8, "4-7", "3", "0-2"),
        (64, "32-63", "31", "0-30"),
    ],
)
def test_half_is_the_server_s_and_one_the_tracer_s(
    tmp_path: Path, cpus: int, server: str, tracer: str, load: str
) -> None:
    plan = cpuplan.make(Settings(tmp_path), frozenset(range(cpus)))
    assert plan is not None
    assert plan.as_json() == {"server": server, "tracer": tracer, "load": load}
    assert plan.server | plan.others == frozenset(range(cpus))


def test_the_threads_of_a_core_stay_together(tmp_path: Path) -> None:
    settings = siblings(tmp_path, "0,4", "1,5", "2,6", "3,7")
    plan = cpuplan.make(settings, frozenset(range(8)))
    assert plan is not None
    assert plan.as_json() == {"server": "2-3,6-7", "tracer": "1,5", "load": "0,4"}


def test_two_cores_with_two_threads_are_shared_out_by_thread(tmp_path: Path) -> None:
    plan = cpuplan.make(siblings(tmp_path, "0,2", "1,3"), frozenset(range(4)))
    assert plan is not None
    assert plan.as_json() == {"server": "2-3", "tracer": "1", "load": "0"}


def test_only_cpus_that_hostside_may_use_are_shared_out(tmp_path: Path) -> None:
    plan = cpuplan.make(Settings(tmp_path), frozenset({2, 3, 6, 7}))
    assert plan is not None
    assert plan.as_json() == {"server": "6-7", "tracer": "3", "load": "2"}


def test_a_topology_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    write(tmp_path, {"sys/devices/system/cpu/cpu0/topology/thread_siblings_list": "what\n"})
    plan = cpuplan.make(Settings(tmp_path), frozenset(range(4)))
    assert plan is not None
    assert plan.as_json()["load"] == "0"


@pytest.mark.parametrize("cpus", [1, 2, 3])
def test_fewer_than_four_are_not_shared_out(tmp_path: Path, cpus: int) -> None:
    assert cpuplan.make(Settings(tmp_path), frozenset(range(cpus))) is None


def test_a_child_gets_the_cpus_of_its_role_and_we_keep_ours() -> None:
    ours = os.sched_getaffinity(0)
    last = frozenset({max(ours)})
    plan = CpuPlan(server=last, tracer=frozenset(ours), load=frozenset(ours))
    code = "import os; print(*os.sched_getaffinity(0))"
    with cpuplan.on(plan, "server") as given:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert given == last
    assert [int(word) for word in done.stdout.split()] == [max(ours)]
    assert os.sched_getaffinity(0) == ours
    with pytest.raises(ZeroDivisionError), cpuplan.on(plan, "server"):
        raise ZeroDivisionError
    assert os.sched_getaffinity(0) == ours


def test_without_a_plan_nothing_changes() -> None:
    ours = os.sched_getaffinity(0)
    with cpuplan.on(None, "server") as given:
        assert given == frozenset(ours) == frozenset(os.sched_getaffinity(0))
