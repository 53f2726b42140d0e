"""The preflight's checks of the machine: room, and what makes its figures noisy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from uplab.hostside.system import Line, System

_GIB = 1 << 30
_CPU = "/sys/devices/system/cpu"
_HYPERVISORS = ("kvm", "qemu-kvm", "firecracker", "cloud-hypervisor")
_SHOWN = 5
_BUSY_SHARE = 0.5


def platform_kind(system: System) -> Iterator[Line]:
    """A virtual machine pays for every breakpoint with exits of its own."""
    flags = re.search(r"^flags\s*:(.*)$", system.text("/proc/cpuinfo") or "", re.MULTILINE)
    wanted = "bare metal"
    if flags is not None and "hypervisor" in flags.group(1).split():
        vendor = system.text("/sys/class/dmi/id/sys_vendor") or "unknown vendor"
        seen = f"a virtual machine ({vendor}): a probe hit costs more here than on bare metal"
        yield Line("platform", "warn", seen, wanted, "Measure on bare metal what is to be quoted")
    else:
        yield Line("platform", "ok", "bare metal", wanted)


def memory(system: System) -> Iterator[Line]:
    """Room for builds and for servers, tracer and load."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", system.text("/proc/meminfo") or "", re.M)
    available = int(found.group(1)) * 1024 if found else 0
    mend = "End what uses the memory, or give the host more"
    yield _enough("memory", available, 2, "available", mend)


def disk(system: System, root: Path, runs: Path) -> Iterator[Line]:
    """Room for the store and for runs."""
    for check, path, wanted_gib in (("disk-store", root, 4), ("disk-runs", runs, 2)):
        free = system.free(system.path(path))
        mend = f"df -h {path.parent}   (and make room there)"
        yield _enough(check, free, wanted_gib, f"free for {path}", mend)


def _enough(check: str, amount_bytes: int, wanted_gib: int, of_what: str, mend: str) -> Line:
    """Good when there is as much as wanted, a failure below 1 GiB, a warning between."""
    seen, wanted = f"{amount_bytes / _GIB:.1f} GiB {of_what}", f">= {wanted_gib} GiB"
    if amount_bytes >= wanted_gib * _GIB:
        return Line(check, "ok", seen, wanted)
    return Line(check, "fail" if amount_bytes < _GIB else "warn", seen, wanted, mend)


def frequency(system: System) -> Iterator[Line]:
    """Governor and turbo: a frequency that moves is noise."""
    policies = sorted(system.path(_CPU).glob("cpu[0-9]*/cpufreq/scaling_governor"))
    governors = sorted({path.read_text().strip() for path in policies})
    wanted = "performance"
    if not governors:
        yield Line("governor", "ok", "none that this machine could set", wanted)
    elif governors == [wanted]:
        yield Line("governor", "ok", wanted, wanted)
    else:
        mend = f"echo performance | tee {_CPU}/cpu*/cpufreq/scaling_governor"
        yield Line("governor", "warn", ", ".join(governors), wanted, mend)
    for name, off in (("intel_pstate/no_turbo", "1"), ("cpufreq/boost", "0")):
        value = system.text(f"{_CPU}/{name}")
        if value is None:
            continue
        if value == off:
            yield Line("turbo", "ok", "off", "off")
        else:
            yield Line("turbo", "warn", "on", "off", f"echo {off} > {_CPU}/{name}")
        return
    yield Line("turbo", "ok", "none that this machine could set", "off")


def topology(system: System) -> Iterator[Line]:
    """SMT siblings and NUMA nodes share what is measured."""
    if system.text(f"{_CPU}/smt/active") == "1":
        seen = "on: two threads of one core slow each other"
        yield Line("smt", "warn", seen, "off", f"echo off > {_CPU}/smt/control")
    else:
        yield Line("smt", "ok", "off", "off")
    nodes = system.text("/sys/devices/system/node/online") or "0"
    if nodes == "0":
        yield Line("numa", "ok", "one node", "one node")
    else:
        seen = f"nodes {nodes}: memory is near or far by chance"
        mend = "numactl --hardware   (shows the nodes; keep other work off one of them)"
        yield Line("numa", "warn", seen, "one node, or all of the lab on one", mend)


def memory_layout(system: System) -> Iterator[Line]:
    """Transparent huge pages and address randomisation differ from start to start."""
    name = "/sys/kernel/mm/transparent_hugepage/enabled"
    found = re.search(r"\[(\w+)\]", system.text(name) or "")
    chosen = found.group(1) if found else "none here"
    wanted = "madvise or never"
    if chosen == "always":
        yield Line("thp", "warn", chosen, wanted, f"echo madvise > {name}")
    else:
        yield Line("thp", "ok", chosen, wanted)
    aslr = system.text("/proc/sys/kernel/randomize_va_space") or "unknown"
    if aslr == "0":
        yield Line("aslr", "ok", aslr, "0")
    else:
        seen = f"{aslr}: each start lays memory out anew (blocks average over it)"
        yield Line("aslr", "warn", seen, "0", "sysctl -w kernel.randomize_va_space=0")


def guests(system: System) -> Iterator[Line]:
    """Guests that run here take time of the same cores."""
    found = sorted(filter(None, (_guest(system.argv(pid)) for pid in system.pids())))
    wanted = "none running"
    if not found:
        yield Line("guests", "ok", "none running", wanted)
        return
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    shown = ", ".join(f"{kind} {name}" for kind, name, _ in found[:_SHOWN])
    pve = system.path("/etc/pve").is_dir()
    kind, name, mend = found[0]
    if pve and kind in ("vm", "lxc"):
        mend = f"{'qm' if kind == 'vm' else 'pct'} shutdown {name}"
    yield Line("guests", "warn", f"{len(found)} running: {shown}{more}", wanted, mend)


def _guest(argv: list[str]) -> tuple[str, str, str] | None:
    """Kind, name and how to end it, of the guest that a process is; None when it is none."""
    if not argv:
        return None
    program = PurePosixPath(argv[0]).name
    if program.startswith("qemu-system-") or program in _HYPERVISORS:
        name = _option(argv, "-id", "--id") or _option(argv, "-name", "--name") or "?"
        name = name.removeprefix("guest=").split(",")[0]
        return "vm", name, f"virsh shutdown {name}"
    if argv[0].startswith("[lxc monitor]") or program == "lxc-start":
        name = _option(argv, "-n", "--name") or argv[0].split()[-1]
        return "lxc", name, f"lxc-stop -n {name}"
    if program == "systemd-nspawn":
        name = _option(argv, "-M", "--machine") or "?"
        return "nspawn", name, f"machinectl poweroff {name}"
    return None


def _option(argv: list[str], *names: str) -> str | None:
    """The value behind an option, or behind its equals sign."""
    for position, word in enumerate(argv):
        if word in names and position + 1 < len(argv):
            return argv[position + 1]
        for name in names:
            if word.startswith(f"{name}="):
                return word.removeprefix(f"{name}=")
    return None


def quiet(system: System) -> Iterator[Line]:
    """What else runs now."""
    words = (system.text("/proc/loadavg") or "").split()
    load = float(words[0])
    limit = _BUSY_SHARE * system.cpus
    wanted = f"load of the last minute <= {limit:g} ({system.cpus} CPUs)"
    if load <= limit:
        yield Line("quiet", "ok", f"load {load:g}", wanted)
    else:
        yield Line("quiet", "warn", f"load {load:g}", wanted, "top   (shows what runs)")


def time_sync(system: System) -> Iterator[Line]:
    """The kernel's own word: whatever program keeps the clock."""
    wanted = "the clock is synchronised"
    answer = system.synchronised()
    if answer:
        yield Line("time-sync", "ok", "synchronised", wanted)
    else:
        seen = "the kernel does not say" if answer is None else "not synchronised"
        yield Line("time-sync", "warn", seen, wanted, "timedatectl set-ntp true")


CHECKS = (
    platform_kind,
    memory,
    frequency,
    topology,
    memory_layout,
    guests,
    quiet,
    time_sync,
)
