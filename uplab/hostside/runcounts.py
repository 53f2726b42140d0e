"""How often the BPF programs of some processes ran: the kernel's own count, for any tracer.

A tracer that counts nothing itself can still be counted. The kernel counts the runs of every
program while somebody holds its statistics switched on, and shows them in ``/proc/PID/fdinfo``.
Counting costs each run two reads of the clock, so it is done in a warm-up, never in a measurement.

Formats: ``bpf_prog_show_fdinfo`` and ``bpf_link_show_fdinfo`` in the kernel's
``kernel/bpf/syscall.c``; ``BPF_ENABLE_STATS`` in bpf(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from uplab.hostside.bpfload import syscall_number

_BPF_ENABLE_STATS = 32
_BPF_STATS_RUN_TIME = 0
_ATTRIBUTES_BYTES = 64
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


@contextmanager
def counting() -> Iterator[None]:
    """Have the kernel count runs meanwhile.

    Raises:
        OSError: it refuses (no right to, or a kernel before 5.8).
    """
    attributes = struct.pack("=I", _BPF_STATS_RUN_TIME).ljust(_ATTRIBUTES_BYTES, b"\0")
    libc = ctypes.CDLL(None, use_errno=True)
    number = syscall_number()
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    descriptor = libc.syscall(number, _BPF_ENABLE_STATS, attributes, _ATTRIBUTES_BYTES)
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
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


def runs_between(before: dict[int, Program], after: dict[int, Program]) -> int:
    """How often programs on probes ran between two looks; one that came meanwhile counts whole."""
    return sum(
        program.runs - (before[number].runs if number in before else 0)
        for number, program in after.items()
        if program.kind == PROBE_PROGRAM
    )


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
