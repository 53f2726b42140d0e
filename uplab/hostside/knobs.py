"""What ``--tune`` sets on a host, and what this host does not let it set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from uplab.hostside import cpuplan
from uplab.hostside.cpuplan import CpuPlan
from uplab.hostside.settings import Settings, reason

_CPU = "/sys/devices/system/cpu"
_THP = "/sys/kernel/mm/transparent_hugepage/enabled"
_PORTS = "/proc/sys/net/ipv4/ip_local_port_range"
#: Enough for 55,000 connections at once; a range that is wider already stays as wide.
_FIRST_PORT, _LAST_PORT = 10_000, 65_535


@dataclass(frozen=True)
class Wish:
    """A value to set: what it is for, the setting's absolute path, the value."""

    knob: str
    path: str
    new: str


@dataclass(frozen=True)
class NotTunable:
    """What cannot be set on this host, and why."""

    knob: str
    reason: str


Found = Wish | NotTunable


def governor(settings: Settings) -> Iterator[Found]:
    """The highest frequency always: no time is lost until it is reached."""
    policies = settings.find(f"{_CPU}/cpufreq/policy[0-9]*/scaling_governor")
    if not policies:
        yield NotTunable("governor", f"no cpufreq in {_CPU}: the frequency is not the kernel's")
    for path in policies:
        offered = settings.get(path.replace("_governor", "_available_governors"))
        if offered is not None and "performance" not in offered.split():
            yield NotTunable("governor", f"{path}: the driver offers only {offered}")
        else:
            yield Wish("governor", path, "performance")


def turbo(settings: Settings) -> Iterator[Found]:
    """A frequency that depends on temperature and neighbours is noise."""
    for name, off in (("intel_pstate/no_turbo", "1"), ("cpufreq/boost", "0")):
        if settings.get(f"{_CPU}/{name}") is not None:
            yield Wish("turbo", f"{_CPU}/{name}", off)
            return
    yield NotTunable("turbo", f"neither intel_pstate/no_turbo nor cpufreq/boost in {_CPU}")


def hugepages(settings: Settings) -> Iterator[Found]:
    """Pages that the kernel joins in the background, at a time of its own."""
    yield from _one(settings, "thp", _THP, "never")


def nmi_watchdog(settings: Settings) -> Iterator[Found]:
    """It interrupts every core, and takes one of its counters."""
    yield from _one(settings, "nmi-watchdog", "/proc/sys/kernel/nmi_watchdog", "0")


def aslr(settings: Settings) -> Iterator[Found]:
    """Addresses that differ from start to start differ in how they meet in the caches."""
    yield from _one(settings, "aslr", "/proc/sys/kernel/randomize_va_space", "0")


def port_range(settings: Settings) -> Iterator[Found]:
    """Room for the load's connections, also while closed ones still wait."""
    value = settings.get(_PORTS)
    if value is None:
        yield NotTunable("port-range", f"no {_PORTS}")
        return
    words = value.split()
    if len(words) != 2 or not all(word.isdigit() for word in words):
        yield NotTunable("port-range", f"{_PORTS} reads {value!r}")
        return
    first, last = map(int, words)
    yield Wish("port-range", _PORTS, f"{min(first, _FIRST_PORT)} {max(last, _LAST_PORT)}")


def interrupts(settings: Settings, cpus: CpuPlan | None) -> Iterator[Found]:
    """Interrupts go where the server is not."""
    names = settings.find("/proc/irq/[0-9]*/smp_affinity_list")
    if cpus is None:
        few = f"fewer than {cpuplan.LEAST_CPUS} CPUs: none can be kept free of them"
        yield NotTunable("irq-affinity", few)
    elif not names:
        yield NotTunable("irq-affinity", "no /proc/irq")
    elif _irqbalance_runs(settings):
        text = "irqbalance runs and would move them again. There, run: systemctl stop irqbalance"
        yield NotTunable("irq-affinity", text)
    else:
        for path in names:
            if cpus.server & cpuplan.parse_list(settings.get(path) or ""):
                yield Wish("irq-affinity", path, cpuplan.cpu_list(cpus.others))


def _irqbalance_runs(settings: Settings) -> bool:
    return any(settings.get(path) == "irqbalance" for path in settings.find("/proc/[0-9]*/comm"))


def _one(settings: Settings, knob: str, path: str, new: str) -> Iterator[Found]:
    try:
        settings.read(path)
    except FileNotFoundError:
        yield NotTunable(knob, f"no {path}")
    except OSError as error:
        yield NotTunable(knob, f"{path}: {reason(error)}")
    else:
        yield Wish(knob, path, new)


_ALL: tuple[Callable[[Settings], Iterator[Found]], ...] = (
    governor,
    turbo,
    hugepages,
    nmi_watchdog,
    aslr,
    port_range,
)


def wishes(settings: Settings, cpus: CpuPlan | None) -> tuple[list[Wish], list[NotTunable]]:
    """All that tuning sets here, and what it cannot.

    Args:
        settings: of the host.
        cpus: who runs where; None where nobody is to be kept apart.
    """
    found = [each for knob in _ALL for each in knob(settings)]
    found += interrupts(settings, cpus)
    wanted = [each for each in found if isinstance(each, Wish)]
    return wanted, [each for each in found if isinstance(each, NotTunable)]
