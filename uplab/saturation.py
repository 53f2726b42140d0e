"""What a trial ran out of: the server's CPU, the load generator's, the host's, or nothing.

Under a closed loop something always is the limit. A server that is slowed while the load generator
was the limit hides a part of what slowed it; where both shared CPUs that were all busy, each took
from the other. Pure functions over the CPU seconds of a trial (see uplab/hostside/usage.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from uplab.measured import Trial

LOAD, SERVER, BOTH, NEITHER = "load generator", "server", "both", "neither"
HOST, OTHERS = "host's CPUs", "host's CPUs, by others too"

#: Of the CPU time that a part could use: from here on it had none left that mattered. Its window
#: holds the load's start and end, and a second is lost to waking up, so 100 is never reached.
PART_SATURATED_PCT = 90.0
#: Of the CPU time of all cores, stolen time included: what another took was not there to be used.
HOST_SATURATED_PCT = 95.0
#: Of the CPU time of all cores: from here on what others took, or a hypervisor stole, is a part of
#: why none was left (the same as the limits of a matrix are by default).
OTHERS_PCT = 10.0


@dataclass(frozen=True, slots=True)
class Saturation:
    """What was saturated in one trial, and the shares that say so; None is not known.

    `server_pct` is of the CPUs that the server may use (all, where a run does not share them out),
    `load_pct` of those that the load's threads can fill, `host_pct` what all processes used of all
    cores, with what a hypervisor stole.
    """

    what: str | None
    server_pct: float | None
    load_pct: float | None
    host_pct: float | None


UNKNOWN = Saturation(None, None, None, None)


def saturation(trial: Trial) -> Saturation:
    """What a trial ran out of.

    The load generator is saturated where its threads were on a CPU for PART_SATURATED_PCT of the
    time (of as many cores as it has threads), the server where its processes were so on all that
    it may use.
    Where neither was, and HOST_SATURATED_PCT of the host's CPU time was used, the CPUs were the
    limit of both together, or of both and others, who had OTHERS_PCT of it; `neither` is what is
    left: the limit was elsewhere (a lock, the number of connections, the fixed rate of an open
    loop, the tracer's path through the kernel).
    """
    cpu = trial.cpu
    if cpu is None or not cpu.window_s or not cpu.cores:
        return UNKNOWN
    server_cpus = trial.cpus.get("server", cpu.cores)
    load_cpus = min(trial.cpus.get("load", cpu.cores), _threads(trial))
    server_pct = _share(cpu.server_s, cpu.window_s * server_cpus)
    load_pct = _share(cpu.load_s, cpu.window_s * load_cpus)
    used_s = None if cpu.busy_s is None else cpu.busy_s + (cpu.steal_s or 0.0)
    host_pct = _share(used_s, cpu.window_s * cpu.cores)
    others_s = (cpu.foreign_s or 0.0) + (cpu.steal_s or 0.0)
    others_pct = _share(others_s, cpu.window_s * cpu.cores)
    what = _what(server_pct, load_pct, host_pct, others_pct)
    return Saturation(what, server_pct, load_pct, host_pct)


def _what(
    server_pct: float | None,
    load_pct: float | None,
    host_pct: float | None,
    others_pct: float | None,
) -> str | None:
    if server_pct is None or load_pct is None or host_pct is None:
        return None
    server, load = server_pct >= PART_SATURATED_PCT, load_pct >= PART_SATURATED_PCT
    if server or load:
        return BOTH if server and load else SERVER if server else LOAD
    if host_pct < HOST_SATURATED_PCT:
        return NEITHER
    return OTHERS if (others_pct or 0.0) >= OTHERS_PCT else HOST


def _share(used_s: float | None, capacity_s: float) -> float | None:
    return None if used_s is None else 100 * used_s / capacity_s


def _threads(trial: Trial) -> float:
    """The load's threads; where it has no such parameter it could fill every core."""
    threads = trial.cell.load_parameters.get("threads")
    is_number = isinstance(threads, int) and not isinstance(threads, bool)
    return threads if is_number and threads and threads > 0 else inf


def most_often(trials: Iterable[Trial]) -> tuple[str, int, int] | None:
    """What was saturated in most of some trials, in how many, of how many; None where unknown.

    On ties the first in the order of the trials.
    """
    found = [what for trial in trials if (what := saturation(trial).what) is not None]
    if not found:
        return None
    what, count = Counter(found).most_common(1)[0]
    return what, count, len(found)
