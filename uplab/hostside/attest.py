"""Evidence from the process's own bytes: which instructions differ from the program's file.

Every executable mapping of every process of the server is compared with the file it was mapped
from, so a probe that nobody declared is seen as well as a declared one that is missing.

What a changed site looks like (x86-64):

- ``breakpoint``: the first byte is ``cc`` and the rest is the file's: a kernel uprobe.
- ``kernel-call``: ``e8`` to the kernel's own ``[uprobes...]`` page: a kernel uprobe on a 5-byte
  nop (Linux >= 6.18).
- ``redirected``: a jump into memory that is not the program's: a userspace uprobe.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from uplab.hostside import procfs

State = Literal["original", "breakpoint", "kernel-call", "redirected", "other"]
Placement = Literal["untouched", "kernel", "userspace"]
#: How much the evidence says: sites and hits agree; sites alone; programs are attached, no more.
Grade = Literal["proven", "sites only", "links only"]

#: How each placement may look in memory.
STATES: dict[Placement, tuple[State, ...]] = {
    "untouched": ("original",),
    "kernel": ("breakpoint", "kernel-call"),
    "userspace": ("redirected",),
}
#: How the library of a userspace tracing runtime that works inside the server is called.
AGENT_PREFIX = "libbpftime-agent"
#: The longest patch that is attributed to one site: a jump with an 8-byte absolute target.
SITE_BYTES = 14
_BREAKPOINT = 0xCC
_CHUNK_BYTES = 1 << 16
_MAX_LISTED = 20


@dataclass(frozen=True)
class ExpectedSite:
    """A probe site, where the cell places it, and what a kernel uprobe has to do there."""

    name: str
    symbol: str
    at: str
    file: str
    offset: int
    placement: Placement
    instruction_class: str = ""


@dataclass(frozen=True)
class SeenSite:
    """The bytes of one site in the file and in the process; ``target`` is where a jump leads."""

    name: str
    symbol: str
    at: str
    file: str
    offset: int
    pid: int
    file_bytes: str
    memory_bytes: str
    state: State
    target: str | None = None


@dataclass(frozen=True)
class Evidence:
    """What was seen in one look at the server's processes.

    ``agents`` are libraries of a userspace tracing runtime that the server has mapped.
    ``problems`` is empty when every site is where it should be and nothing else was altered.
    """

    grade: Grade
    pids: tuple[int, ...]
    compared_bytes: int
    compared_files: tuple[str, ...]
    sites: tuple[SeenSite, ...]
    altered_elsewhere: tuple[SeenSite, ...]
    uprobes_page: bool
    problems: tuple[str, ...] = ()
    altered_unlisted: int = 0
    agents: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For trial.json."""
        return asdict(self)


@dataclass
class _Look:
    """Collects while walking through the mappings."""

    anything: bool = False
    compared_bytes: int = 0
    files: set[str] = field(default_factory=set)
    sites: list[SeenSite] = field(default_factory=list)
    elsewhere: list[SeenSite] = field(default_factory=list)
    uprobes_page: bool = False
    agents: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    unlisted: int = 0

    def alter(self, seen: SeenSite) -> None:
        """Note an alteration that nobody declared; beyond the first ones only their number."""
        if len(self.elsewhere) == _MAX_LISTED:
            self.unlisted += 1
            return
        self.elsewhere.append(seen)
        if self.anything:
            return
        self.problems.append(
            f"{seen.file}+{seen.offset:#x} was altered ({seen.state}: "
            f"{seen.file_bytes} is now {seen.memory_bytes}) and is no declared probe site"
        )


def attest(
    pids: Sequence[int], expected: Iterable[ExpectedSite], *, anything: bool = False
) -> Evidence:
    """Compare the code of processes with their files.

    Args:
        pids: the server's processes; the first one is the one that is traced.
        expected: every site with its placement; code that is no site must be as in the file.
        anything: nobody knows beforehand what is altered: it is found, and no problem.

    Returns:
        the evidence, with a problem for each site that is not where it should be, each
        alteration that nobody declared, and each mapping that could not be compared.
    """
    by_file: dict[str, dict[int, ExpectedSite]] = {}
    for site in expected:
        by_file.setdefault(site.file, {})[site.offset] = site
    look = _Look(anything=anything)
    for pid in pids:
        try:
            _attest_process(pid, by_file, look)
        except OSError as error:
            look.problems.append(f"process {pid} could not be read: {error.strerror}")
    if look.unlisted and not anything:
        look.problems.append(f"and {look.unlisted} more alterations")
    if not look.compared_bytes and not look.problems:
        look.problems.append("the server has no code that could be compared")
    seen = {(site.file, site.offset) for site in look.sites}
    for site in (site for sites in by_file.values() for site in sites.values()):
        if (site.file, site.offset) not in seen:
            look.problems.append(
                f"probe site {site.name} ({site.symbol} {site.at}, {site.file}+{site.offset:#x}) "
                "is in no executable mapping of the server"
            )
    return Evidence(
        grade="proven",
        pids=tuple(pids),
        compared_bytes=look.compared_bytes,
        compared_files=tuple(sorted(look.files)),
        sites=tuple(look.sites),
        altered_elsewhere=tuple(look.elsewhere),
        altered_unlisted=look.unlisted,
        agents=tuple(sorted(look.agents)),
        uprobes_page=look.uprobes_page,
        problems=tuple(look.problems),
    )


def _attest_process(pid: int, by_file: dict[str, dict[int, ExpectedSite]], look: _Look) -> None:
    """Compare all executable mappings of one process."""
    mappings = procfs.maps(pid)
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        for mapping in mappings:
            if mapping.path.startswith("[uprobes"):
                look.uprobes_page = True
            if mapping.path.rsplit("/", 1)[-1].startswith(AGENT_PREFIX):
                look.agents.add(mapping.path)
            if mapping.executable and mapping.inode:
                _attest_mapping(pid, memory, mapping, mappings, by_file, look)
    finally:
        os.close(memory)


def _attest_mapping(
    pid: int,
    memory: int,
    mapping: procfs.Mapping,
    mappings: list[procfs.Mapping],
    by_file: dict[str, dict[int, ExpectedSite]],
    look: _Look,
) -> None:
    """Compare one mapping with its file and judge what differs."""
    try:
        content = _file_bytes(pid, mapping)
    except OSError as error:
        look.problems.append(f"{mapping.path} could not be compared: {error}")
        return
    actual = _read(memory, mapping.start, len(content))
    if len(actual) != len(content):
        raise ProcessLookupError(errno.ESRCH, "its memory ended while it was read")
    look.compared_bytes += len(content)
    look.files.add(mapping.path)
    sites = {
        offset - mapping.offset: site
        for offset, site in by_file.get(mapping.path, {}).items()
        if 0 <= offset - mapping.offset < len(content)
    }
    undeclared = {
        at: ExpectedSite("", "", "", mapping.path, mapping.offset + at, "untouched")
        for at in _undeclared(
            differences(content, actual), sorted(sites), actual if look.anything else b""
        )
    }
    starts = sorted((*sites, *undeclared))
    for index, at in enumerate(starts):
        limit = starts[index + 1] if index + 1 < len(starts) else len(content)
        end = min(at + SITE_BYTES, limit)
        site = sites.get(at) or undeclared[at]
        seen = _seen(pid, site, content[at:end], actual[at:end], mapping.start + at, mappings)
        if at in undeclared:
            look.alter(seen)
        else:
            look.sites.append(seen)
            problem = site_problem(site, seen)
            if problem:
                look.problems.append(problem)


def site_problem(site: ExpectedSite, seen: SeenSite) -> str | None:
    """Why the bytes of a site contradict its placement; None when they agree."""
    if seen.state in STATES[site.placement]:
        return None
    where = f"{site.name} ({site.symbol} {site.at}, {site.file}+{site.offset:#x})"
    if seen.state == "original":
        return f"probe site unchanged: {where} should be in {site.placement}"
    return (
        f"probe site {where} should be {site.placement} but is {seen.state}: "
        f"{seen.file_bytes} is now {seen.memory_bytes}"
    )


def _undeclared(differing: Iterable[int], starts: Sequence[int], memory: bytes = b"") -> list[int]:
    """Where alterations begin that belong to no site: one entry for each run of bytes.

    Args:
        differing: positions in ascending order.
        starts: of the declared sites, in ascending order.
        memory: the bytes of the process; where they are given, a breakpoint is a run by itself,
            because two of them may be closer than a jump is long.
    """
    found: list[int] = []
    last = -SITE_BYTES
    index = 0
    for at in differing:
        while index < len(starts) and starts[index] <= at:
            last = max(last, starts[index])
            index += 1
        if at - last >= SITE_BYTES:
            found.append(at)
            alone = bool(memory) and memory[at] == _BREAKPOINT
            last = at - SITE_BYTES + 1 if alone else at
    return found


def differences(expected: bytes, actual: bytes) -> list[int]:
    """The positions at which two byte strings of equal length differ."""
    positions: list[int] = []
    for start in range(0, len(expected), _CHUNK_BYTES):
        left = expected[start : start + _CHUNK_BYTES]
        right = actual[start : start + _CHUNK_BYTES]
        if left != right:
            positions.extend(
                start + index
                for index, (a, b) in enumerate(zip(left, right, strict=True))
                if a != b
            )
    return positions


def classify(
    file_bytes: bytes, memory_bytes: bytes, address: int, mappings: Sequence[procfs.Mapping]
) -> tuple[State, str | None]:
    """Say what happened to an instruction.

    Args:
        file_bytes: the site in the file.
        memory_bytes: the site in the process, the same length.
        address: where the site lies in the process.
        mappings: of the process, to find what a jump leads to.

    Returns:
        the state, and for jumps and calls the name of the mapping that they lead to
        (``anonymous`` where it has none).
    """
    if memory_bytes == file_bytes:
        return "original", None
    if (
        memory_bytes[0] == _BREAKPOINT
        and file_bytes[0] != _BREAKPOINT
        and memory_bytes[1:] == file_bytes[1:]
    ):
        return "breakpoint", None
    if memory_bytes[0] in (0xE8, 0xE9) and len(memory_bytes) >= 5:
        (relative,) = struct.unpack_from("<i", memory_bytes, 1)
        target = address + 5 + relative
        mapping = next((m for m in mappings if m.start <= target < m.end), None)
        if mapping is not None and mapping.executable:
            name = mapping.path or "anonymous"
            if name.startswith("[uprobes"):
                return "kernel-call", name
            # Memory that a program made at run time, and not any of its files' code.
            if memory_bytes[0] == 0xE9 and not mapping.inode and not mapping.path:
                return "redirected", name
    return "other", None


def _seen(
    pid: int,
    site: ExpectedSite,
    file_bytes: bytes,
    memory_bytes: bytes,
    address: int,
    mappings: Sequence[procfs.Mapping],
) -> SeenSite:
    """Put one site's bytes and their meaning together."""
    state, target = classify(file_bytes, memory_bytes, address, mappings)
    return SeenSite(
        name=site.name,
        symbol=site.symbol,
        at=site.at,
        file=site.file,
        offset=site.offset,
        pid=pid,
        file_bytes=file_bytes.hex(),
        memory_bytes=memory_bytes.hex(),
        state=state,
        target=target,
    )


def _file_bytes(pid: int, mapping: procfs.Mapping) -> bytes:
    """What the mapped file holds at the mapping; OSError when it is not the same file any more."""
    path = f"/proc/{pid}/root{mapping.path}"
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if os.fstat(descriptor).st_ino != mapping.inode:
            raise OSError("the file was replaced since it was mapped")
        return _read(descriptor, mapping.offset, mapping.end - mapping.start)
    finally:
        os.close(descriptor)


def _read(descriptor: int, offset: int, length: int) -> bytes:
    """Read up to ``length`` bytes; shorter only at the end of a file."""
    parts = []
    while length > 0:
        part = os.pread(descriptor, length, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)
