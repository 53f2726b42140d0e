"""Readings of ``/proc``: processes, their memory maps, CPU time and the host's.

Formats: proc(5). Every function takes the text or a PID and returns numbers with units in
their names; nothing is cached.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Mapping:
    """One line of ``/proc/PID/maps``."""

    start: int
    end: int
    permissions: str
    offset: int
    inode: int
    path: str

    @property
    def executable(self) -> bool:
        """Whether code can run there."""
        return "x" in self.permissions


@dataclass(frozen=True)
class ProcessTimes:
    """CPU time of a process, all of its threads, living and gone."""

    pid: int
    start_ticks: int
    cpu_s: float
    voluntary_switches: int
    involuntary_switches: int


@dataclass(frozen=True)
class HostTimes:
    """CPU time of the whole host since boot, summed over its cores, and context switches."""

    busy_s: float
    steal_s: float
    context_switches: int


def maps(pid: int) -> list[Mapping]:
    """The memory mappings of a process; OSError when it is gone."""
    return parse_maps(Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape"))


def parse_maps(text: str) -> list[Mapping]:
    """Parse ``/proc/PID/maps``; a path may contain spaces."""
    mappings = []
    # Not splitlines(): a path may hold a form feed and others that it takes for ends of lines.
    for line in text.split("\n"):
        if not line:
            continue
        parts = line.split(maxsplit=5)
        start, end = parts[0].split("-")
        mappings.append(
            Mapping(
                start=int(start, 16),
                end=int(end, 16),
                permissions=parts[1],
                offset=int(parts[2], 16),
                inode=int(parts[4]),
                path=parts[5] if len(parts) > 5 else "",
            )
        )
    return mappings


def stat_fields(pid: int) -> list[str]:
    """Fields 3.. of ``/proc/PID/stat`` (the name in brackets may hold anything)."""
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    return text[text.rindex(")") + 2 :].split()


def start_ticks(pid: int) -> int | None:
    """When the process started, in ticks since boot; None when there is no such process.

    Together with the PID this names a process for good: PIDs are used again.
    """
    try:
        return int(stat_fields(pid)[19])
    except (OSError, ValueError, IndexError):
        return None


def status(pid: int) -> dict[str, str]:
    """``/proc/PID/status`` by its names; OSError when the process is gone."""
    lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def users() -> set[int]:
    """The numbers of all users and groups that some process has."""
    return {number for fields in _all_status() for number in _users(fields)}


def of_user(uid: int) -> list[int]:
    """The processes that have a user, and are no zombies."""
    return [
        int(fields["Pid"])
        for fields in _all_status()
        if str(uid) in fields["Uid"].split() and fields["State"][0] not in "ZX"
    ]


def since(uid: int, ticks: int) -> list[int]:
    """The processes of our PID namespace that have a user, and began at a time or later.

    Args:
        uid: the user.
        ticks: the time, in clock ticks since boot.
    """
    found = []
    for pid in of_user(uid):
        start = start_ticks(pid)
        if start is not None and start >= ticks and in_our_namespace(pid):
            found.append(pid)
    return found


def _users(fields: dict[str, str]) -> list[int]:
    return [int(word) for name in ("Uid", "Gid", "Groups") for word in fields[name].split()]


def _all_status() -> Iterator[dict[str, str]]:
    for pid in _pids():
        with suppress(OSError):
            yield status(pid)


def in_our_namespace(pid: int) -> bool:
    """Whether a process is of our PID namespace; no where it is gone."""
    try:
        return Path(f"/proc/{pid}/ns/pid").readlink() == Path("/proc/self/ns/pid").readlink()
    except OSError:
        return False


def process_times(pid: int) -> ProcessTimes:
    """CPU seconds and context switches of a process.

    utime + stime come from the scheduler's exact run time, in ticks of 10 ms; the switches are
    those of the living threads.

    Raises:
        OSError: the process is gone.
    """
    fields = stat_fields(pid)
    voluntary = involuntary = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            status = (task / "status").read_text(errors="replace")
        except OSError:
            continue
        for line in status.splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                voluntary += int(line.split()[1])
            elif line.startswith("nonvoluntary_ctxt_switches:"):
                involuntary += int(line.split()[1])
    return ProcessTimes(
        pid=pid,
        start_ticks=int(fields[19]),
        cpu_s=(int(fields[11]) + int(fields[12])) / TICKS_PER_S,
        voluntary_switches=voluntary,
        involuntary_switches=involuntary,
    )


def host_times() -> HostTimes:
    """CPU seconds of the host: busy (all but idle, waiting and stolen), stolen; switches."""
    busy = steal = 0.0
    switches = 0
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("cpu "):
            user, nice, system, _idle, _iowait, irq, softirq, stolen = map(int, line.split()[1:9])
            busy = (user + nice + system + irq + softirq) / TICKS_PER_S
            steal = stolen / TICKS_PER_S
        elif line.startswith("ctxt "):
            switches = int(line.split()[1])
    return HostTimes(busy_s=busy, steal_s=steal, context_switches=switches)


def _pids() -> list[int]:
    """All processes that can be seen."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def session_members(leader: int) -> list[int]:
    """All living processes of the session that ``leader`` leads, the leader first.

    Each child of hostside leads a session of its own, so this is the child and what it started.
    """
    members = []
    for pid in _pids():
        try:
            fields = stat_fields(pid)
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] not in "ZX":
            members.append(pid)
    return sorted(members, key=lambda pid: pid != leader)


def descendants(pid: int) -> list[int]:
    """A process and all that it started and that still hang below it, itself first."""
    found = [pid]
    for parent in found:
        try:
            tasks = list(Path(f"/proc/{parent}/task").iterdir())
        except OSError:
            continue
        for task in tasks:
            try:
                children = (task / "children").read_text()
            except OSError:
                continue
            found.extend(int(child) for child in children.split())
    return found


def open_files(pid: int) -> set[str]:
    """What the descriptors of a process name, as their links say; empty when it is gone."""
    found = set()
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.add(str(descriptor.readlink()))
    except OSError:
        return set()
    return found


def mapped_by(path: str) -> list[int]:
    """The processes that have a file mapped."""
    found = []
    for pid in _pids():
        with suppress(OSError):
            if any(mapping.path == path for mapping in maps(pid)):
                found.append(pid)
    return found


def named(pid: int) -> str:
    """A process for people: ``NAME (pid N)``; OSError when it is gone."""
    return f"{Path(f'/proc/{pid}/comm').read_text().strip()} (pid {pid})"


def listeners(port: int) -> list[str]:
    """Who listens on a TCP port here: ``name (pid N)``, or ``unknown`` where it cannot be seen."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(fields[9])
    return [_socket_owner(inode) for inode in sorted(inodes)]


def _socket_owner(inode: str) -> str:
    """The process that holds a socket; a search through every process's open files."""
    wanted = f"socket:[{inode}]"
    for pid in _pids():
        try:
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                if str(descriptor.readlink()) == wanted:
                    return named(pid)
        except OSError:
            continue
    return "a process that cannot be seen"
