"""What happened on the host during a trial, beside stolen time and foreign CPU (``usage.py``).

Throttling, temperature and frequency of the CPUs, processes that the kernel killed for memory, and
errors of the hardware. A source that this host does not have is named with the reason, and its
figure is None: nothing here is ever 0 because it could not be read.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uplab.hostside.judge import Reason, over
from uplab.hostside.kmsg import Kmsg
from uplab.hostside.settings import Settings, reason
from uplab.hostside.spec import Limits

_CPU = "/sys/devices/system/cpu"
_KMSG = "/dev/kmsg"
#: Whose sensors are a CPU's; the others (disks, network cards) are hot without slowing one.
_CPU_SENSOR = re.compile(r"coretemp|k10temp|zenpower|x86_pkg_temp|cpu|soc", re.IGNORECASE)


@dataclass
class _Extremes:
    """The lowest, the highest and the mean of what was seen."""

    number: int = 0
    total: float = 0.0
    lowest: float = 0.0
    highest: float = 0.0

    def add(self, value: float) -> None:
        self.lowest = min(self.lowest, value) if self.number else value
        self.highest = max(self.highest, value) if self.number else value
        self.number += 1
        self.total += value


@dataclass(frozen=True)
class Sources:
    """Where a host's counters and sensors lie.

    Args:
        throttled: path of each counter to what it counts for: the threads of a core show one
            counter twice, and all of its cores that of a package.
        sensors: path of each temperature to its name: the CPUs' own where there are any, else all.
        clocks: paths of the frequencies.
    """

    throttled: dict[str, tuple[str, ...]]
    sensors: dict[str, str]
    clocks: tuple[str, ...]


@functools.cache
def sources(root: Path) -> Sources:
    """Look for them, once for all trials of a run: on many CPUs it takes a while."""
    settings = Settings(root)
    throttled = {
        path: (kind, *_place(settings, path.split("/thermal_throttle/")[0], kind))
        for kind in ("core", "package")
        for path in settings.find(f"{_CPU}/cpu[0-9]*/thermal_throttle/{kind}_throttle_count")
    }
    clocks = settings.find(f"{_CPU}/cpufreq/policy[0-9]*/scaling_cur_freq")
    return Sources(throttled, _sensors(settings), tuple(clocks))


def _place(settings: Settings, cpu: str, kind: str) -> tuple[str, ...]:
    package = settings.get(f"{cpu}/topology/physical_package_id")
    core = settings.get(f"{cpu}/topology/core_id")
    if package is None or core is None:
        return (cpu,)
    return (package,) if kind == "package" else (package, core)


def _sensors(settings: Settings) -> dict[str, str]:
    found = {}
    for path in settings.find("/sys/class/thermal/thermal_zone[0-9]*/temp"):
        kind = settings.get(path.removesuffix("temp") + "type")
        found[path] = kind or path.split("/")[-2]
    for path in settings.find("/sys/class/hwmon/hwmon[0-9]*/temp[0-9]*_input"):
        chip = settings.get(f"{path.rsplit('/', 1)[0]}/name") or path.split("/")[-2]
        label = settings.get(path.removesuffix("input") + "label")
        found[path] = f"{chip} {label}" if label else chip
    of_cpus = {path: name for path, name in found.items() if _CPU_SENSOR.search(name)}
    return of_cpus or found


class Watch:
    """Watches a trial; :meth:`begin` before its first step, :meth:`end` after the last.

    Args:
        root: below which ``/proc``, ``/sys`` and ``/dev`` are read.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._settings = Settings(root)
        self.missing: dict[str, str] = {}
        self._kmsg: Kmsg | None = None
        self._throttled: int | None = None
        self._killed: int | None = None
        self._sources = Sources({}, {}, ())
        self._hot = _Extremes()
        self._hottest: str | None = None
        self._mhz = _Extremes()

    def begin(self) -> Watch:
        """Note the counters and listen to the kernel from now on."""
        self._sources = sources(self._settings.root)
        self._throttled = self._throttle_count()
        if self._throttled is None:
            self.missing["throttle_events"] = f"no {_CPU}/cpu*/thermal_throttle"
        self._killed = self._kill_count()
        if self._killed is None:
            self.missing["oom_kills"] = "no oom_kill in /proc/vmstat"
        if not self._sources.sensors:
            self.missing["temperature"] = "no sensor in /sys/class/thermal or /sys/class/hwmon"
        if not self._sources.clocks:
            self.missing["frequency"] = f"no {_CPU}/cpufreq/policy*/scaling_cur_freq"
        try:
            self._kmsg = Kmsg(self._settings.path(_KMSG))
        except OSError as error:
            self.missing["kernel"] = f"{_KMSG}: {reason(error)}"
        self.sample()
        return self

    def sample(self) -> None:
        """Read temperatures and frequencies now; cheap enough for once a second."""
        for path, name in self._sources.sensors.items():
            millidegrees = _integer(self._settings.get(path))
            if millidegrees is not None:
                degrees = millidegrees / 1000
                if not self._hot.number or degrees > self._hot.highest:
                    self._hottest = name
                self._hot.add(degrees)
        for path in self._sources.clocks:
            khz = _integer(self._settings.get(path))
            if khz is not None:
                self._mhz.add(khz / 1000)

    def end(self) -> dict[str, Any]:
        """The record of what happened since :meth:`begin`: ``noise`` of trial.json."""
        self.sample()
        hot, mhz = self._hot, self._mhz
        record: dict[str, Any] = {
            "throttle_events": _risen(self._throttled, self._throttle_count()),
            "temperature": {"highest_c": hot.highest, "sensor": self._hottest}
            if hot.number
            else None,
            "frequency": {"min_mhz": mhz.lowest, "mean_mhz": mhz.total / mhz.number}
            if mhz.number
            else None,
            "oom_kills": _risen(self._killed, self._kill_count()),
            "kernel": self._kernel(),
        }
        for name, value in record.items():
            if value is None:
                self.missing.setdefault(name, "it is there, but could not be read")
        return {**record, "missing": dict(self.missing)}

    def close(self) -> None:
        """Listen no more; twice is once."""
        if self._kmsg is not None:
            self._kmsg.close()
            self._kmsg = None

    def _kernel(self) -> dict[str, Any] | None:
        if self._kmsg is None:
            return None
        try:
            said = self._kmsg.read()
        except OSError as error:
            self.missing["kernel"] = f"{_KMSG}: {reason(error)}"
            return None
        if said.lost:
            self.missing["kernel"] = "messages were overwritten before they could be read"
        return {"counts": said.counts, "lines": said.lines}

    def _throttle_count(self) -> int | None:
        """How often cores and packages were throttled since boot."""
        found: dict[tuple[str, ...], int] = {}
        for path, place in self._sources.throttled.items():
            count = _integer(self._settings.get(path))
            if count is not None:
                found[place] = max(count, found.get(place, 0))
        return sum(found.values()) if found else None

    def _kill_count(self) -> int | None:
        words = (self._settings.get("/proc/vmstat") or "").split()
        if "oom_kill" not in words:
            return None
        return _integer(words[words.index("oom_kill") + 1])


def _integer(text: str | None) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _risen(before: int | None, after: int | None) -> int | None:
    """How far a counter rose; None where it is not known, as when it was set back."""
    if before is None or after is None or after < before:
        return None
    return after - before


def judge(limits: Limits, record: Mapping[str, Any]) -> tuple[list[Reason], list[str]]:
    """Whether the host was quiet, as far as :class:`Watch` saw.

    Processes killed for memory and errors of the hardware have no limit: one is one too many.

    Args:
        limits: the matrix's.
        record: of :meth:`Watch.end`.

    Returns:
        reasons where the matrix makes such a trial invalid, else flags.
    """
    loud = []
    said, heat = (record["kernel"] or {}).get("counts", {}), record["temperature"]
    throttled = max(record["throttle_events"] or 0, said.get("throttle", 0))
    if throttled > limits.throttle_events:
        loud.append(f"CPU throttling events {throttled} > {limits.throttle_events}")
    if heat is not None and heat["highest_c"] > limits.temperature_c:
        loud.append(
            f"{heat['highest_c']:.1f} degrees Celsius ({heat['sensor']}) > {limits.temperature_c:g}"
        )
    killed = max(record["oom_kills"] or 0, said.get("oom", 0))
    if killed:
        loud.append(f"processes that the kernel killed for want of memory {killed} > 0")
    if said.get("mce"):
        loud.append(f"errors of the hardware that the kernel reported {said['mce']} > 0")
    return over(limits, loud)
