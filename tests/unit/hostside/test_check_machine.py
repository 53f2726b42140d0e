"""uplab/hostside/check_machine.py: room and noise, good and bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.hostside.machines import GIB, by_check, machine, process, write
from uplab.hostside import check_machine
from uplab.hostside.system import Line, System

CPU = "sys/devices/system/cpu"


def lines(system: System) -> dict[str, Line]:
    return by_check(line for check in check_machine.CHECKS for line in check(system))


def test_everything_is_good_on_a_good_machine(tmp_path: Path) -> None:
    found = lines(machine(tmp_path))
    assert {line.state for line in found.values()} == {"ok"}
    assert sorted(found) == [
        "aslr",
        "governor",
        "guests",
        "memory",
        "numa",
        "platform",
        "quiet",
        "smt",
        "thp",
        "time-sync",
        "turbo",
    ]


@pytest.mark.parametrize(
    ("check", "files", "readings", "state", "seen"),
    [
        ("platform", {"proc/cpuinfo": "flags\t: fpu hypervisor sse2\n"}, {}, "warn", "virtual"),
        ("memory", {"proc/meminfo": "MemAvailable: 1572864 kB\n"}, {}, "warn", "1.5 GiB"),
        ("memory", {"proc/meminfo": "MemAvailable: 524288 kB\n"}, {}, "fail", "0.5 GiB"),
        ("memory", {"proc/meminfo": None}, {}, "fail", "0.0 GiB"),
        (
            "governor",
            {f"{CPU}/cpu1/cpufreq/scaling_governor": "powersave\n"},
            {},
            "warn",
            "performance, powersave",
        ),
        ("turbo", {f"{CPU}/intel_pstate/no_turbo": "0\n"}, {}, "warn", "on"),
        (
            "turbo",
            {f"{CPU}/intel_pstate/no_turbo": None, f"{CPU}/cpufreq/boost": "1\n"},
            {},
            "warn",
            "on",
        ),
        ("turbo", {f"{CPU}/intel_pstate/no_turbo": None}, {}, "ok", "none that"),
        ("smt", {f"{CPU}/smt/active": "1\n"}, {}, "warn", "on: "),
        ("numa", {"sys/devices/system/node/online": "0-1\n"}, {}, "warn", "nodes 0-1"),
        (
            "thp",
            {"sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never\n"},
            {},
            "warn",
            "always",
        ),
        ("thp", {"sys/kernel/mm/transparent_hugepage/enabled": None}, {}, "ok", "none here"),
        ("aslr", {"proc/sys/kernel/randomize_va_space": "2\n"}, {}, "warn", "2: each start"),
        ("quiet", {"proc/loadavg": "3.50 1 1 1/1 1\n"}, {}, "warn", "load 3.5"),
        ("time-sync", {}, {"synchronised": lambda: False}, "warn", "not synchronised"),
        ("time-sync", {}, {"synchronised": lambda: None}, "warn", "does not say"),
    ],
)
def test_what_is_not_good_is_told_with_what_mends_it(
    tmp_path: Path,
    check: str,
    files: dict[str, str | None],
    readings: dict[str, Any],
    state: str,
    seen: str,
) -> None:
    line = lines(machine(tmp_path, files, **readings))[check]
    assert line.state == state
    assert seen in line.seen
    assert line.wanted
    assert bool(line.mend) == (state != "ok")


def test_a_machine_without_frequency_control_has_none_to_set(tmp_path: Path) -> None:
    files: dict[str, str | None] = {
        f"{CPU}/cpu{n}/cpufreq/scaling_governor": None for n in range(2)
    }
    assert lines(machine(tmp_path, files))["governor"].state == "ok"


@pytest.mark.parametrize(
    ("store_gib", "runs_gib", "states"),
    [(4, 2, ("ok", "ok")), (3, 1, ("warn", "warn")), (0, 0, ("fail", "fail"))],
)
def test_room_for_store_and_runs(
    tmp_path: Path, store_gib: int, runs_gib: int, states: tuple[str, str]
) -> None:
    def free(path: Path) -> int:
        return (store_gib if path == tmp_path / "opt/uplab" else runs_gib) * GIB

    system = machine(tmp_path, free=free)
    found = list(check_machine.disk(system, Path("/opt/uplab"), Path("/var/lib/uplab/runs")))
    assert [line.check for line in found] == ["disk-store", "disk-runs"]
    assert tuple(line.state for line in found) == states
    assert all(bool(line.mend) == (line.state != "ok") for line in found)


@pytest.mark.parametrize(
    ("argv", "seen", "mend"),
    [
        (["/usr/bin/kvm", "-id", "101", "-name", "web,debug-threads=on"], "vm 101", "virsh"),
        (["/usr/bin/qemu-system-x86_64", "-name", "guest=db,x=y"], "vm db", "virsh shutdown db"),
        (["[lxc monitor] /var/lib/lxc 104"], "lxc 104", "lxc-stop -n 104"),
        (["/usr/bin/lxc-start", "-F", "-n", "105"], "lxc 105", "lxc-stop -n 105"),
        (["systemd-nspawn", "-q", "--machine=box1", "-b"], "nspawn box1", "machinectl poweroff"),
    ],
)
def test_guests_that_run_are_named(tmp_path: Path, argv: list[str], seen: str, mend: str) -> None:
    system = machine(tmp_path)
    process(tmp_path, 1, ["/sbin/init"])
    process(tmp_path, 2, [])
    process(tmp_path, 77, argv)
    line = lines(system)["guests"]
    assert (line.state, line.seen) == ("warn", f"1 running: {seen}")
    assert line.mend.startswith(mend)


def test_on_proxmox_ve_its_own_commands_end_guests(tmp_path: Path) -> None:
    system = machine(tmp_path)
    (tmp_path / "etc/pve").mkdir()
    process(tmp_path, 77, ["[lxc monitor] /var/lib/lxc 104"])
    assert lines(system)["guests"].mend == "pct shutdown 104"
    for number in range(7):
        process(tmp_path, 200 + number, ["/usr/bin/kvm", "-id", str(110 + number)])
    line = lines(system)["guests"]
    assert line.seen.startswith("8 running: lxc 104, vm 110, ")
    assert line.seen.endswith(" and 3 more")


def test_a_program_that_only_names_a_hypervisor_is_no_guest(tmp_path: Path) -> None:
    system = machine(tmp_path)
    process(tmp_path, 9, ["/usr/bin/vim", "qemu-system-x86_64", "-name", "x"])
    assert lines(system)["guests"].state == "ok"
    write(tmp_path, {})
