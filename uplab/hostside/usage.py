"""CPU of a measurement: server, tracer, load, hostside, the rest of the host, stolen time."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from typing import Any

from uplab.hostside import procfs


@dataclass(frozen=True)
class Snapshot:
    """Counters at one moment; the differences of two are a measurement."""

    at_s: float
    host: procfs.HostTimes
    hostside_s: float
    reaped_s: float
    processes: dict[int, procfs.ProcessTimes]


def snapshot(pids: list[int]) -> Snapshot:
    """Read all counters now; a process that is gone is left out."""
    processes = {}
    for pid in pids:
        try:
            processes[pid] = procfs.process_times(pid)
        except OSError:
            continue
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Snapshot(
        at_s=time.monotonic(),
        host=procfs.host_times(),
        hostside_s=time.process_time(),
        reaped_s=children.ru_utime + children.ru_stime,
        processes=processes,
    )


def _cpu_s(before: Snapshot, after: Snapshot, pids: list[int]) -> float | None:
    """CPU seconds between two snapshots; None when one of the processes is missing."""
    total = 0.0
    for pid in pids:
        first, last = before.processes.get(pid), after.processes.get(pid)
        if first is None or last is None or first.start_ticks != last.start_ticks:
            return None
        total += last.cpu_s - first.cpu_s
    return total


def usage(
    before: Snapshot, after: Snapshot, server: list[int], tracer: list[int], requests: int | None
) -> dict[str, Any]:
    """What a measurement used.

    The load generator starts and ends inside the window, so its CPU time is what the kernel
    charged hostside for reaped children. ``foreign_s`` is what nobody of ours used.

    Args:
        before: taken right before the load starts.
        after: taken right after it ended.
        server: PIDs of the server's processes.
        tracer: PIDs of the tracer's processes; empty where none runs.
        requests: completed by the load, for the figure per request.

    Returns:
        the ``cpu`` object of trial.json; a figure that cannot be known is None.
    """
    cores = os.cpu_count() or 1
    window_s = after.at_s - before.at_s
    server_s = _cpu_s(before, after, server)
    tracer_s = _cpu_s(before, after, tracer) if tracer else None
    load_s = after.reaped_s - before.reaped_s
    hostside_s = after.hostside_s - before.hostside_s
    busy_s = after.host.busy_s - before.host.busy_s
    steal_s = after.host.steal_s - before.host.steal_s
    ours_s = (server_s or 0.0) + (tracer_s or 0.0) + load_s + hostside_s
    foreign_s = max(busy_s - ours_s, 0.0)
    capacity_s = window_s * cores
    voluntary = involuntary = None
    if server and server_s is not None:
        ends = [(before.processes[pid], after.processes[pid]) for pid in server]
        voluntary = sum(b.voluntary_switches - a.voluntary_switches for a, b in ends)
        involuntary = sum(b.involuntary_switches - a.involuntary_switches for a, b in ends)
    per_request = None
    if server_s is not None and requests:
        per_request = server_s * 1e6 / requests
    return {
        "window_s": window_s,
        "cores": cores,
        "server_s": server_s,
        "server_us_per_request": per_request,
        "tracer_s": tracer_s,
        "load_s": load_s,
        "hostside_s": hostside_s,
        "busy_s": busy_s,
        "foreign_s": foreign_s,
        "steal_s": steal_s,
        "foreign_pct": 100.0 * foreign_s / capacity_s,
        "steal_pct": 100.0 * steal_s / capacity_s,
        "context_switches": {
            "server_voluntary": voluntary,
            "server_involuntary": involuntary,
            "host": after.host.context_switches - before.host.context_switches,
        },
    }
