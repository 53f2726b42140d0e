"""Why two runs may differ: what is not the same of their hosts, their parts and their pins, ranked.

A rank is a judgement from experience, not a measurement: what decides the cost of a probe hit comes
first, what hardly can matter last. What always differs from one moment to the next (load average,
time since boot) is left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from uplab.measured import HitCost, LoadHost, Run
from uplab.report.model import flat

_ALWAYS_DIFFERS = ("load_average", "uptime_s")
_MISSING = "not recorded"

#: Beginnings of a field's name, most telling first, and what each does to the figures.
RANKS: tuple[tuple[str, str], ...] = (
    ("kernel.release", "how the kernel handles breakpoints and single steps is in its version"),
    ("cpu.model", "another CPU: every cost per hit and every rate is another"),
    ("cpu.microcode", "microcode changes what a trap into the kernel costs"),
    ("mitigations", "mitigations make each entry into the kernel dearer or cheaper"),
    ("kernel.cmdline", "flags of the kernel, such as mitigations= or isolcpus="),
    (
        "load_from",
        "a load elsewhere leaves this host its CPUs; the way is in its latencies",
    ),
    ("cpu.virtual_machine", "in a virtual machine a trap may leave the guest"),
    ("cpu.logical_cpus", "server and load share these CPUs"),
    ("artifacts", "other bytes of a program that was measured, or measured with"),
    ("components.golang", "another Go: the runtime's functions are hit another number of times"),
    ("pins.golang", "another Go: the runtime's functions are hit another number of times"),
    ("settings.governor", "the governor decides how fast the CPUs are clocked"),
    ("settings.turbo", "turbo decides how fast the CPUs are clocked"),
    ("settings.boost", "boost decides how fast the CPUs are clocked"),
    ("settings.scaling_driver", "it decides how fast the CPUs are clocked"),
    ("power", "the machine's own settings of power decide how fast the CPUs are clocked"),
    ("settings.smt", "with SMT two threads share a core"),
    ("settings.bpf_jit", "BPF programs that are hardened or not compiled are slower"),
    ("settings", "a setting of the host"),
    ("components", "another build of a part"),
    ("pins", "another pin"),
    ("uplab_version", "another uplab may measure or judge in another way"),
    ("kernel.version", "another build of the same kernel"),
    ("distribution", "another distribution has other libraries"),
    ("memory_bytes", "it matters only where memory is short"),
    ("dmi", "another machine, or another firmware"),
    ("", "it hardly explains a difference"),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that is not the same in both runs; `rank` 1 explains most, `why` says how."""

    rank: int
    field: str
    a: str
    b: str
    why: str


@dataclass(frozen=True, slots=True)
class HitCosts:
    """What a probe hit of one class costs on both hosts, in nanoseconds; None is not known."""

    tracer: str
    instruction_class: str
    a_ns: float | None
    b_ns: float | None

    @property
    def ratio(self) -> float | None:
        """B's cost by A's."""
        return self.b_ns / self.a_ns if self.a_ns and self.b_ns else None


def differences(a: Run, b: Run) -> tuple[Difference, ...]:
    """All fields that are not the same in two runs, the most telling first."""
    ours, theirs = _facts(a), _facts(b)
    found = [
        Difference(rank(name), name, _shown(ours, name), _shown(theirs, name), _why(name))
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    return tuple(sorted(found, key=lambda difference: (difference.rank, difference.field)))


def hit_costs(a: Run, b: Run) -> tuple[HitCosts, ...]:
    """The cost per hit of each tracer and class that one of the runs measured."""
    ours, theirs = _costs(a.hit_costs), _costs(b.hit_costs)
    return tuple(
        HitCosts(*key, ours.get(key), theirs.get(key))
        for key in sorted(ours.keys() | theirs.keys())
    )


def _costs(costs: tuple[HitCost, ...]) -> dict[tuple[str, str], float]:
    """By tracer and class; several instructions of a class count as their mean."""
    found: dict[tuple[str, str], list[float]] = {}
    for cost in costs:
        if cost.ns_per_hit is not None and cost.error is None:
            key = (cost.tracer or _MISSING, cost.instruction_class or _MISSING)
            found.setdefault(key, []).append(cost.ns_per_hit)
    return {key: statistics.fmean(values) for key, values in found.items()}


def _facts(run: Run) -> dict[str, Any]:
    """What a run says of its host and its parts, by dotted names."""
    host = {
        name: value
        for name, value in flat(run.fingerprint_before).items()
        if not name.startswith(_ALWAYS_DIFFERS)
    }
    artifacts = {f"artifacts.{name}": digest for name, digest in run.artifacts.items()}
    pins = {f"pins.{name}": value for name, value in flat(run.pins).items()}
    return {
        **host,
        **artifacts,
        **pins,
        **_load_host(run.load_host),
        "uplab_version": run.uplab_version,
        "host": run.host,
    }


def _load_host(far: LoadHost | None) -> dict[str, Any]:
    if far is None:
        return {"load_from": "the host itself"}
    return {
        "load_from": far.name,
        "load_from.host_mbit_s": far.host_mbit_s,
        "load_from.load_host_mbit_s": far.load_host_mbit_s,
    }


def _shown(facts: Mapping[str, Any], name: str) -> str:
    value = facts.get(name)
    return _MISSING if value is None else str(value)


def rank(name: str) -> int:
    """How much a field usually explains; 1 is most."""
    return next(at for at, (begins, _) in enumerate(RANKS, 1) if name.startswith(begins))


def _why(name: str) -> str:
    return RANKS[rank(name) - 1][1]
