"""What this host is: everything that may explain a figure, read from the kernel's own files."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

from uplab.hostside.store import Store

_CPU = Path("/sys/devices/system/cpu")
_DMI = Path("/sys/class/dmi/id")
_SETTINGS = {
    "smt_active": _CPU / "smt/active",
    "turbo_off": _CPU / "intel_pstate/no_turbo",
    "boost": _CPU / "cpufreq/boost",
    "governor": _CPU / "cpu0/cpufreq/scaling_governor",
    "scaling_driver": _CPU / "cpu0/cpufreq/scaling_driver",
    "cpus_online": _CPU / "online",
    "numa_nodes": Path("/sys/devices/system/node/online"),
    "transparent_hugepages": Path("/sys/kernel/mm/transparent_hugepage/enabled"),
    "clocksource": Path("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
    "aslr": Path("/proc/sys/kernel/randomize_va_space"),
    "nmi_watchdog": Path("/proc/sys/kernel/nmi_watchdog"),
    "perf_event_paranoid": Path("/proc/sys/kernel/perf_event_paranoid"),
    "bpf_jit_enable": Path("/proc/sys/net/core/bpf_jit_enable"),
    "bpf_jit_harden": Path("/proc/sys/net/core/bpf_jit_harden"),
    "bpf_stats_enabled": Path("/proc/sys/kernel/bpf_stats_enabled"),
    "unprivileged_bpf_disabled": Path("/proc/sys/kernel/unprivileged_bpf_disabled"),
    "ip_local_port_range": Path("/proc/sys/net/ipv4/ip_local_port_range"),
    "somaxconn": Path("/proc/sys/net/core/somaxconn"),
    "lockdown": Path("/sys/kernel/security/lockdown"),
}
#: How firmware and processor trade speed for power, below the root of the file system. The BIOS's
#: own profile can be read where its maker's driver offers it, as on newer Dell servers.
_POWER = {
    "platform_profile": "sys/firmware/acpi/platform_profile",
    "energy_performance_preference": (
        "sys/devices/system/cpu/cpu0/cpufreq/energy_performance_preference"
    ),
    "energy_perf_bias": "sys/devices/system/cpu/cpu0/power/energy_perf_bias",
    "bios_system_profile": (
        "sys/class/firmware-attributes/dell-wmi-sysman/attributes/SysProfile/current_value"
    ),
}
_DMI_NAMES = ("sys_vendor", "product_name", "bios_vendor", "bios_version", "bios_date")


def _text(path: Path) -> str | None:
    """A small file's text; None where it is absent or not readable."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _cpuinfo() -> dict[str, Any]:
    """Model, microcode, MHz and hypervisor flag of the first CPU."""
    text = _text(Path("/proc/cpuinfo")) or ""

    def field(name: str) -> str | None:
        match = re.search(rf"^{name}\s*:\s*(.*)$", text, re.MULTILINE)
        return match.group(1) if match else None

    return {
        "model": field("model name"),
        "microcode": field("microcode"),
        "virtual_machine": " hypervisor " in f" {field('flags') or ''} ",
        "logical_cpus": os.cpu_count(),
    }


def _memory_bytes() -> int | None:
    match = re.search(r"^MemTotal:\s+(\d+) kB$", _text(Path("/proc/meminfo")) or "", re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None


def _mitigations() -> dict[str, str | None]:
    folder = _CPU / "vulnerabilities"
    if not folder.is_dir():
        return {}
    return {entry.name: _text(entry) for entry in sorted(folder.iterdir())}


def _distribution() -> str | None:
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', _text(Path("/etc/os-release")) or "", re.M)
    return match.group(1) if match else None


def power(root: Path = Path("/")) -> dict[str, str | None]:
    """The profiles that trade speed for power; None for one that is absent or not readable."""
    return {name: _text(root / place) for name, place in _POWER.items()}


def take(store: Store) -> dict[str, Any]:
    """Describe the host now; what cannot be read is None."""
    load = os.getloadavg()
    return {
        "kernel": {
            "release": platform.release(),
            "version": platform.version(),
            "cmdline": _text(Path("/proc/cmdline")),
        },
        "distribution": _distribution(),
        "proxmox": _text(Path("/etc/pve/.version")) is not None or Path("/etc/pve").is_dir(),
        "python": platform.python_version(),
        "cpu": _cpuinfo(),
        "memory_bytes": _memory_bytes(),
        "mitigations": _mitigations(),
        "settings": {name: _text(path) for name, path in _SETTINGS.items()},
        "power": power(),
        "dmi": {name: _text(_DMI / name) for name in _DMI_NAMES},
        "load_average": {"1_min": load[0], "5_min": load[1], "15_min": load[2]},
        "uptime_s": float((_text(Path("/proc/uptime")) or "0").split()[0]),
        "components": {
            name: {key: record.get(key) for key in ("version", "hash", "source")}
            for name, record in store.components.items()
        },
    }
