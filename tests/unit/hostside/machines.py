"""Made-up machines for the tests of the preflight: files below a root, and readings."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from uplab.hostside.system import Line, System

GIB = 1 << 30
CONFIG = "\n".join(
    f"CONFIG_{name}=y"
    for name in (
        "BPF_SYSCALL",
        "BPF_EVENTS",
        "UPROBES",
        "UPROBE_EVENTS",
        "DEBUG_INFO_BTF",
        "FTRACE",
        "KPROBES",
        "BPF_JIT",
        "FTRACE_SYSCALLS",
    )
)
#: A quiet Debian 12 on bare metal on which everything works.
FILES = {
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n',
    "boot/config-6.8.1": CONFIG,
    "sys/kernel/btf/vmlinux": "",
    "sys/bus/event_source/devices/uprobe/type": "9\n",
    "sys/bus/event_source/devices/kprobe/type": "8\n",
    "proc/filesystems": "nodev\tsysfs\nnodev\ttracefs\n\text4\n",
    "proc/sys/kernel/perf_event_paranoid": "2\n",
    "proc/sys/kernel/randomize_va_space": "0\n",
    "proc/sys/net/core/bpf_jit_enable": "1\n",
    "proc/sys/net/core/bpf_jit_harden": "0\n",
    "proc/cpuinfo": "model name\t: Xeon\nflags\t\t: fpu sse2\n",
    "proc/meminfo": "MemTotal:       65536000 kB\nMemAvailable:   60000000 kB\n",
    "proc/loadavg": "0.10 0.20 0.30 1/100 4242\n",
    "proc/locks": "",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/intel_pstate/no_turbo": "1\n",
    "sys/devices/system/cpu/smt/active": "0\n",
    "sys/devices/system/node/online": "0\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "etc/apt/sources.list": "deb http://apt.example/debian bookworm main\n",
}


def write(root: Path, files: dict[str, str | None]) -> None:
    """Write files below a root; None removes one."""
    for name, text in files.items():
        path = root / name
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def machine(root: Path, files: dict[str, str | None] | None = None, **readings: Any) -> System:
    """The good machine with some files and readings changed."""
    write(root, {**FILES})
    write(root, files or {})
    good: dict[str, Any] = {
        "kernel_release": "6.8.1",
        "machine": "x86_64",
        "is_root": True,
        "cpus": 4,
        "refusal": lambda _code, _kind: None,
        "user_refusal": lambda: None,
        "output": lambda _argv: None,
        "listeners": lambda _port: [],
        "synchronised": lambda: True,
        "free": lambda _path: 100 * GIB,
    }
    return System(root=root, **{**good, **readings})


def process(root: Path, pid: int, argv: list[str], start_ticks: int = 7) -> None:
    """A process of the made-up machine."""
    folder = root / "proc" / str(pid)
    folder.mkdir(parents=True)
    (folder / "cmdline").write_text("".join(f"{word}\0" for word in argv))
    fields = ["S", "1"] + ["0"] * 17 + [str(start_ticks), "0"]
    (folder / "stat").write_text(f"{pid} (a name) {' '.join(fields)}\n")


def pack_config(root: Path, text: str) -> None:
    """The kernel's own copy of its configuration."""
    (root / "proc" / "config.gz").write_bytes(gzip.compress(text.encode()))


def by_check(lines: Iterable[Line]) -> dict[str, Line]:
    """Lines by the name of their check."""
    return {line.check: line for line in lines}
