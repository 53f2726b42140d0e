"""uplab/hostside/check_kernel.py: each check of distribution and kernel, good and bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.hostside.machines import CONFIG, by_check, machine, pack_config, write
from uplab.hostside import bpfload, check_kernel
from uplab.hostside.system import Line, System


def lines(system: System) -> dict[str, Line]:
    return by_check(line for check in check_kernel.CHECKS for line in check(system))


def test_everything_is_good_on_a_good_machine(tmp_path: Path) -> None:
    found = lines(machine(tmp_path))
    assert {line.state for line in found.values()} == {"ok"}
    assert {line.mend for line in found.values()} == {""}
    assert sorted(found) == [
        "bpf",
        "bpf-jit-enable",
        "bpf-jit-harden",
        "bpf-write-user",
        "btf",
        "distribution",
        "kernel",
        "kernel-config",
        "kprobes",
        "perf-event-paranoid",
        "server-user",
        "tracefs",
        "uprobes",
    ]


UBUNTU = 'PRETTY_NAME="Ubuntu 24.04 LTS"\nID=ubuntu\nVERSION_ID="24.04"\n'
SID = 'PRETTY_NAME="Debian GNU/Linux trixie/sid"\nID=debian\n'
NO_UPROBES = CONFIG.replace("CONFIG_UPROBES=y", "# CONFIG_UPROBES is not set")
NO_KPROBES = CONFIG.replace("CONFIG_KPROBES=y", "")


@pytest.mark.parametrize(
    ("check", "files", "readings", "state", "seen"),
    [
        ("distribution", {"etc/os-release": UBUNTU}, {}, "fail", "Ubuntu 24.04 LTS, x86_64"),
        ("distribution", {"etc/os-release": SID}, {}, "fail", "trixie/sid"),
        ("distribution", {"etc/os-release": None}, {}, "fail", "no /etc/os-release"),
        ("distribution", {}, {"machine": "aarch64"}, "fail", "bookworm), aarch64"),
        ("kernel", {}, {"kernel_release": "5.15.0-1-pve"}, "warn", "5.15.0-1-pve"),
        ("kernel", {}, {"kernel_release": "odd"}, "warn", "odd"),
        ("kernel-config", {"boot/config-6.8.1": NO_UPROBES}, {}, "fail", "not set: UPROBES (/boot"),
        ("kernel-config", {"boot/config-6.8.1": NO_KPROBES}, {}, "warn", "not set: KPROBES (/boot"),
        ("kernel-config", {"boot/config-6.8.1": None}, {}, "ok", "no configuration to read"),
        ("btf", {"sys/kernel/btf/vmlinux": None}, {}, "fail", "absent"),
        ("uprobes", {"sys/bus/event_source/devices/uprobe/type": None}, {}, "fail", "no /sys/bus"),
        ("kprobes", {"sys/bus/event_source/devices/kprobe/type": None}, {}, "warn", "no /sys/bus"),
        ("tracefs", {"proc/filesystems": "nodev\tdebugfs\n"}, {}, "fail", "absent"),
        ("bpf", {}, {"refusal": lambda _code, _kind: "EPERM"}, "fail", "refused (EPERM)"),
        ("server-user", {}, {"user_refusal": lambda: "setresuid failed"}, "fail", "setresuid"),
        ("server-user", {}, {"is_root": False}, "ok", "not root"),
        ("perf-event-paranoid", {}, {"is_root": False}, "fail", "2"),
        (
            "bpf-jit-enable",
            {"proc/sys/net/core/bpf_jit_enable": "0"},
            {},
            "warn",
            "0: every hit is interpreted",
        ),
        ("bpf-jit-harden", {"proc/sys/net/core/bpf_jit_harden": "2"}, {}, "warn", "2: every hit"),
        ("bpf-jit-harden", {"proc/sys/net/core/bpf_jit_harden": None}, {}, "ok", "not shown"),
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


def test_lockdown_is_judged_by_a_program_that_it_forbids(tmp_path: Path) -> None:
    def refusal(code: bytes, _kind: int) -> str | None:
        return "EINVAL" if code == bpfload.WRITE_USER else None

    files: dict[str, str | None] = {"sys/kernel/security/lockdown": "none [integrity]\n"}
    found = lines(machine(tmp_path, files, refusal=refusal))
    assert found["bpf"].state == "ok"
    line = found["bpf-write-user"]
    assert (line.state, line.seen) == ("warn", "refused (EINVAL); lockdown: none [integrity]")
    assert "bpftime_loader: syscall-server" in line.mend


@pytest.mark.parametrize(
    ("said", "state", "seen"),
    [
        ("pve-manager/8.0.4/d258a813cfa6b390 (running kernel: 6.2.16-19-pve)\n", "ok", "VE 8.0.4"),
        ("pve-manager/7.4-3/9002ab8a (running kernel: 5.15.102-1-pve)\n", "fail", "VE 7.4"),
        (None, "fail", "VE of unknown version"),
    ],
)
def test_proxmox_ve_is_told_by_its_own_version(
    tmp_path: Path, said: str | None, state: str, seen: str
) -> None:
    system = machine(tmp_path, output=lambda argv: said if argv == ["pveversion"] else None)
    (tmp_path / "etc/pve").mkdir()
    line = lines(system)["distribution"]
    assert line.state == state
    assert seen in line.seen
    assert "Debian GNU/Linux 12" in line.seen


def test_the_kernel_s_own_copy_of_its_configuration_comes_first(tmp_path: Path) -> None:
    system = machine(tmp_path)
    write(tmp_path, {"boot/config-6.8.1": ""})
    pack_config(tmp_path, CONFIG)
    assert lines(system)["kernel-config"].seen == "all set (/proc/config.gz)"


def test_without_root_the_mending_is_to_become_root(tmp_path: Path) -> None:
    system = machine(tmp_path, is_root=False, refusal=lambda _code, _kind: "EPERM")
    assert "passwordless sudo" in lines(system)["bpf"].mend
    assert "container" in lines(machine(tmp_path, refusal=lambda _c, _k: "EPERM"))["bpf"].mend
