"""Which CPUs the server, the tracer and the load get, so that they do not take turns on one.

Only where there are four or more: with fewer, each part alone would have less than they share.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from uplab.hostside.settings import Settings

LEAST_CPUS = 4
_CPU = "/sys/devices/system/cpu"


@dataclass(frozen=True)
class CpuPlan:
    """CPUs by role; hostside itself runs with the load."""

    server: frozenset[int]
    tracer: frozenset[int]
    load: frozenset[int]

    @property
    def others(self) -> frozenset[int]:
        """All but the server's: where interrupts may go."""
        return self.tracer | self.load

    def of(self, role: str) -> frozenset[int]:
        """The CPUs of a role; what is neither server nor load is the tracer's."""
        return {"server": self.server, "load": self.load}.get(role, self.tracer)

    def as_json(self) -> dict[str, str]:
        """The kernel's form: ``{"server": "2-3", "tracer": "1", "load": "0"}``."""
        return {role: cpu_list(self.of(role)) for role in ("server", "tracer", "load")}


def cpu_list(cpus: frozenset[int] | set[int]) -> str:
    """CPUs as the kernel writes them: ``0-2,5``."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def parse_list(text: str) -> frozenset[int]:
    """CPUs from the kernel's form; ValueError where it is none."""
    cpus: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


def _cores(settings: Settings, cpus: Sequence[int]) -> list[list[int]]:
    """The CPUs by core: the threads of one core slow each other, so they stay together."""
    cores: dict[frozenset[int], list[int]] = {}
    for cpu in cpus:
        text = settings.get(f"{_CPU}/cpu{cpu}/topology/thread_siblings_list")
        try:
            siblings = parse_list(text) if text else frozenset({cpu})
        except ValueError:
            siblings = frozenset({cpu})
        cores.setdefault(siblings, []).append(cpu)
    return list(cores.values())


def make(settings: Settings, cpus: frozenset[int]) -> CpuPlan | None:
    """Share CPUs out: half of them to the server, one core to the tracer, the rest to the load.

    The load gets the first ones, where the kernel does most of its own work.

    Args:
        settings: where the topology is read.
        cpus: those that hostside may use.

    Returns:
        None where there are fewer than ``LEAST_CPUS``.
    """
    if len(cpus) < LEAST_CPUS:
        return None
    cores = _cores(settings, sorted(cpus))
    if len(cores) < LEAST_CPUS:
        cores = [[cpu] for cpu in sorted(cpus)]
    half = len(cores) // 2
    server, tracer, load = cores[-half:], cores[-half - 1 : -half], cores[: -half - 1]
    return CpuPlan(
        *(frozenset(cpu for core in part for cpu in core) for part in (server, tracer, load))
    )


@contextmanager
def on(plan: CpuPlan | None, role: str) -> Iterator[frozenset[int]]:
    """While open, what is started runs on the CPUs of a role: children inherit them.

    Set before the start and not after it, because a program asks once how many CPUs it has, and
    makes its threads. Out: the CPUs that a child gets, as the kernel says.
    """
    before = os.sched_getaffinity(0)
    try:
        if plan is not None:
            os.sched_setaffinity(0, plan.of(role))
        yield frozenset(os.sched_getaffinity(0))
    finally:
        if plan is not None:
            os.sched_setaffinity(0, before)
