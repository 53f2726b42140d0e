"""How often the BPF programs of some processes ran: the kernel's own count, for any tracer.

A tracer that counts nothing itself can still be counted. The kernel counts the runs of every
program while somebody holds its statistics switched on, and shows them in ``/proc/PID/fdinfo``.
Counting costs each run two reads of the clock, so it is done in a warm-up, never in a measurement.

Formats: ``bpf_prog_show_fdinfo`` and ``bpf_link_show_fdinfo`` in the kernel's
``kernel/bpf/syscall.c``; ``BPF_ENABLE_STATS`` and ``BPF_TASK_FD_QUERY`` in bpf(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from uplab.hostside.bpfload import syscall_number

_BPF_ENABLE_STATS = 32
_BPF_STATS_RUN_TIME = 0
_BPF_TASK_FD_QUERY = 20
_ATTRIBUTES_BYTES = 64
#: pid, fd, flags, length of the name; where the name goes; program, kind, offset, address.
_FD_QUERY = struct.Struct("=IIIIQIIQQ")
_PERF_EVENT = "anon_inode:[perf_event]"
#: ``enum bpf_task_fd_type``.
_PROBE_KINDS = {4: "uprobe", 5: "uretprobe"}
#: ``BPF_PROG_TYPE_KPROBE``: programs on kernel and on userspace probes.
PROBE_PROGRAM = 2


@dataclass(frozen=True)
class Program:
    """A BPF program that a process holds; ``runs`` and ``run_ns`` since it was loaded."""

    program_id: int
    kind: int
    runs: int
    run_ns: int


@dataclass(frozen=True)
class Link:
    """What a program is attached by; ``pid`` and ``path`` where the kernel tells them."""

    link_id: int
    kind: str
    program_id: int
    pid: int | None
    path: str | None


@dataclass(frozen=True)
class Probe:
    """A userspace probe that a process holds: its program, and the place it is set at.

    ``path`` is the file as the process named it, ``opened`` a path by which we can open it.
    """

    program_id: int
    kind: str
    path: str
    opened: Path
    offset: int


@contextmanager
def counting() -> Iterator[None]:
    """Have the kernel count runs meanwhile.

    Raises:
        OSError: it refuses (no right to, or a kernel before 5.8).
    """
    attributes = struct.pack("=I", _BPF_STATS_RUN_TIME).ljust(_ATTRIBUTES_BYTES, b"\0")
    descriptor = _bpf(_BPF_ENABLE_STATS, ctypes.create_string_buffer(attributes))
    try:
        yield
    finally:
        os.close(descriptor)


def programs(pids: Iterable[int]) -> dict[int, Program]:
    """The BPF programs that processes hold, by their ids; each once."""
    found = {}
    for fields in _descriptors(pids):
        if "prog_type" in fields:
            program = Program(
                program_id=int(fields["prog_id"]),
                kind=int(fields["prog_type"]),
                runs=int(fields.get("run_cnt", 0)),
                run_ns=int(fields.get("run_time_ns", 0)),
            )
            found[program.program_id] = program
    return found


def links(pids: Iterable[int]) -> dict[int, Link]:
    """What the programs of processes are attached by, by the links' ids; each once."""
    found = {}
    for fields in _descriptors(pids):
        if "link_type" in fields:
            pid, path = fields.get("pid", ""), fields.get("path", "")
            link = Link(
                link_id=int(fields["link_id"]),
                kind=fields["link_type"],
                program_id=int(fields["prog_id"]),
                pid=int(pid) if pid.isdigit() and pid != "0" else None,
                path=path or None,
            )
            found[link.link_id] = link
    return found


def probes(pids: Iterable[int]) -> list[Probe]:
    """The userspace probes that processes hold as perf events, by the kernel's own word.

    Raises:
        OSError: the kernel may not be asked.
    """
    found = []
    for pid in pids:
        for descriptor in _perf_events(pid):
            probe = _probe(pid, descriptor)
            if probe is not None:
                found.append(probe)
    return found


def _perf_events(pid: int) -> Iterator[int]:
    """The descriptors of a process that are perf events; none where it is gone."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for name in names:
        with suppress(OSError):
            if str(Path(f"/proc/{pid}/fd/{name}").readlink()) == _PERF_EVENT:
                yield int(name)


def _probe(pid: int, descriptor: int) -> Probe | None:
    """What a perf event is; None where it is no userspace probe, or has no program."""
    name = ctypes.create_string_buffer(os.pathconf("/", "PC_PATH_MAX"))
    asked = (pid, descriptor, 0, len(name), ctypes.addressof(name), 0, 0, 0, 0)
    attributes = ctypes.create_string_buffer(_FD_QUERY.pack(*asked), _ATTRIBUTES_BYTES)
    try:
        _bpf(_BPF_TASK_FD_QUERY, attributes)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS):
            raise
        return None
    program_id, kind, offset = _FD_QUERY.unpack_from(attributes)[5:8]
    if kind not in _PROBE_KINDS:
        return None
    path = os.fsdecode(name.value)
    opened = Path(f"/proc/{pid}/root{path}")
    return Probe(program_id, _PROBE_KINDS[kind], path, opened, offset)


def _bpf(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    """bpf(2); what it answers may be in the attributes; OSError where it refuses."""
    number = syscall_number()
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    libc = ctypes.CDLL(None, use_errno=True)
    answer = int(libc.syscall(number, command, attributes, _ATTRIBUTES_BYTES))
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return answer


def runs_between(
    before: Mapping[int, Program], after: Mapping[int, Program], on: Container[int]
) -> dict[int, int]:
    """How often programs ran between two looks; one that came meanwhile counts whole.

    Args:
        before: the first look.
        after: the second one.
        on: the ids of the programs on userspace probes; others are left out.
    """
    return {
        number: program.runs - (before[number].runs if number in before else 0)
        for number, program in after.items()
        if number in on
    }


def _descriptors(pids: Iterable[int]) -> Iterator[dict[str, str]]:
    """The fields of each open file of BPF's; what ends meanwhile is left out."""
    for pid in pids:
        try:
            names = os.listdir(f"/proc/{pid}/fdinfo")
        except OSError:
            continue
        for name in names:
            try:
                text = Path(f"/proc/{pid}/fdinfo/{name}").read_text(errors="replace")
            except OSError:
                continue
            if "prog_id:" in text:
                yield parse_fdinfo(text)


def parse_fdinfo(text: str) -> dict[str, str]:
    """The lines ``name: value`` of a file in ``fdinfo``; tables in it are left out."""
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}
