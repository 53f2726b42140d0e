"""A made-up kernel's settings as files: all that tuning and watching read, on bare metal."""

from __future__ import annotations

from pathlib import Path

from tests.unit.hostside.machines import write

BOOT_ID = "11111111-1111-1111-1111-111111111111"
OTHER_BOOT_ID = "22222222-2222-2222-2222-222222222222"
CPU = "/sys/devices/system/cpu"
GOVERNORS = tuple(f"{CPU}/cpufreq/policy{number}/scaling_governor" for number in (0, 1))
TURBO = f"{CPU}/intel_pstate/no_turbo"
THP = "/sys/kernel/mm/transparent_hugepage/enabled"
NMI = "/proc/sys/kernel/nmi_watchdog"
ASLR = "/proc/sys/kernel/randomize_va_space"
PORTS = "/proc/sys/net/ipv4/ip_local_port_range"
IRQS = tuple(f"/proc/irq/{number}/smp_affinity_list" for number in (9, 10))
BOOT = "/proc/sys/kernel/random/boot_id"

#: As they read before a run; the kernel marks the one that is chosen, or writes a tab.
BEFORE = {
    **dict.fromkeys(GOVERNORS, "powersave"),
    TURBO: "0",
    THP: "always [madvise] never",
    NMI: "1",
    ASLR: "2",
    PORTS: "32768\t60999",
    IRQS[0]: "0-3",
    IRQS[1]: "2",
}
#: As they read while a run is tuned.
TUNED = {
    **dict.fromkeys(GOVERNORS, "performance"),
    TURBO: "1",
    THP: "never",
    NMI: "0",
    ASLR: "0",
    PORTS: "10000 65535",
    IRQS[0]: "0-1",
    IRQS[1]: "0-1",
}
#: As they read when they are back: a file keeps what was written, the kernel would decorate it.
AFTER = {**BEFORE, THP: "madvise", PORTS: "32768 60999"}


def make(root: Path, changes: dict[str, str | None] | None = None) -> Path:
    """The settings below a root, four CPUs; in: further ones, None removes one."""
    files: dict[str, str | None] = {name.lstrip("/"): f"{text}\n" for name, text in BEFORE.items()}
    files[BOOT.lstrip("/")] = f"{BOOT_ID}\n"
    for policy in GOVERNORS:
        offered = policy.replace("_governor", "_available_governors")
        files[offered.lstrip("/")] = "performance powersave\n"
    write(root, files)
    write(root, {name.lstrip("/"): text for name, text in (changes or {}).items()})
    return root


def read(root: Path, name: str) -> str:
    """What a setting reads."""
    return (root / name.lstrip("/")).read_text().strip()


def values(root: Path) -> dict[str, str]:
    """All settings that tuning may change."""
    return {name: read(root, name) for name in BEFORE}
