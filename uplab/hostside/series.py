"""Once a second while a measurement runs: what the host did in that second.

A total over ten seconds hides the one second in which a backup ran. A sample costs about a
millisecond of CPU, a thousandth of one core; most of it is to find what server and load started.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from uplab.hostside import procfs
from uplab.hostside.loop import Loop

INTERVAL_S = 1.0
_NONE = "-"


@dataclass(frozen=True)
class _Sample:
    at_s: float
    host: procfs.HostTimes
    ours_s: dict[int, float]
    hostside_s: float


@dataclass
class Series:
    """Samples of a measurement; differences of neighbours become the series.

    Args:
        pids: gives the processes of ours that run now: server, tracer and load.
    """

    pids: Callable[[], Sequence[int]]
    samples: list[_Sample] = field(default_factory=list)

    def take(self) -> None:
        """Look now."""
        ours = {}
        for pid in self.pids():
            used_s = _tree_cpu_s(pid)
            if used_s is not None:
                ours[pid] = used_s
        self.samples.append(
            _Sample(time.monotonic(), procfs.host_times(), ours, time.process_time())
        )

    def as_json(self) -> dict[str, Any]:
        """The series: for each interval its end, and what happened in it.

        Each as one text of numbers with spaces between, ``-`` where one is not known: as a list it
        would take a line of trial.json per number.
        """
        cores = os.cpu_count() or 1
        rows = [_row(a, b, cores) for a, b in itertools.pairwise(self.samples)]
        began_s = self.samples[0].at_s if self.samples else 0.0
        ends = [sample.at_s - began_s for sample in self.samples[1:]]
        return {
            "interval_s": INTERVAL_S,
            "at_s": " ".join(f"{end_s:.2f}" for end_s in ends),
            "steal_pct": " ".join(f"{row.steal_pct:.1f}" for row in rows),
            "foreign_pct": " ".join(
                _NONE if row.foreign_pct is None else f"{row.foreign_pct:.1f}" for row in rows
            ),
            "context_switches": " ".join(str(row.context_switches) for row in rows),
        }


@dataclass(frozen=True)
class _Row:
    steal_pct: float
    foreign_pct: float | None
    context_switches: int


def _row(before: _Sample, after: _Sample, cores: int) -> _Row:
    """What happened between two samples, in percent of all cores."""
    capacity_s = (after.at_s - before.at_s) * cores
    foreign_pct = None
    # What one that ended in between had used by then is not known.
    if set(before.ours_s) <= set(after.ours_s):
        ours_s = sum(used_s - before.ours_s.get(pid, 0.0) for pid, used_s in after.ours_s.items())
        ours_s += after.hostside_s - before.hostside_s
        busy_s = after.host.busy_s - before.host.busy_s
        foreign_pct = 100.0 * max(busy_s - ours_s, 0.0) / capacity_s
    return _Row(
        steal_pct=100.0 * (after.host.steal_s - before.host.steal_s) / capacity_s,
        foreign_pct=foreign_pct,
        context_switches=after.host.context_switches - before.host.context_switches,
    )


def values(text: str) -> list[float | None]:
    """The numbers of one text of a series; None where one was not known.

    Raises:
        ValueError: something else is in it.
    """
    return [None if word == _NONE else float(word) for word in text.split()]


def _tree_cpu_s(pid: int) -> float | None:
    """CPU seconds of a process and all that it started, ended ones too; None when it is gone."""
    try:
        own = procfs.stat_fields(pid)
    except OSError:
        return None
    ticks = sum(int(word) for word in own[11:15])
    for child in procfs.descendants(pid)[1:]:
        try:
            ticks += sum(int(word) for word in procfs.stat_fields(child)[11:15])
        except OSError:
            continue
    return ticks / procfs.TICKS_PER_S


@contextmanager
def sampled(loop: Loop, looks: Sequence[Callable[[], None]]) -> Iterator[None]:
    """While open and the loop is waited in, look now and then every ``INTERVAL_S``.

    Args:
        loop: wakes up for it.
        looks: are called each time; they must not raise.
    """

    def look() -> None:
        for each in looks:
            each()

    timer = _timer()

    def due() -> None:
        # How often it was due; a host that was too busy gets one sample for all of them.
        os.read(timer, 8)
        look()

    look()
    loop.add(timer, due)
    try:
        yield
    finally:
        loop.remove(timer)
        os.close(timer)


def _timer() -> int:
    """A descriptor that becomes readable every ``INTERVAL_S`` (Python has them from 3.13 on).

    Raises:
        OSError: the kernel gives none.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = int(libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
    seconds, nanoseconds = int(INTERVAL_S), int(INTERVAL_S % 1 * 1e9)
    # struct itimerspec: the interval, then the first time.
    spec = struct.pack("@4l", seconds, nanoseconds, seconds, nanoseconds)
    if descriptor < 0 or libc.timerfd_settime(descriptor, 0, spec, None) < 0:
        raise OSError(ctypes.get_errno(), "timerfd")
    return descriptor
