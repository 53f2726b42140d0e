"""Tracers that know nothing of uplab: when they are ready, where their probes must be.

Such a tracer says neither where its probes are nor how often they were hit. Where it was told
which functions to probe, the adapter declares them, and the symbol tables of the server's mapped
files say where they lie. Where it runs as it was shipped, what it altered is found.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from uplab.hostside import elf, procfs
from uplab.hostside.attest import Evidence, ExpectedSite, Grade, Placement, differences
from uplab.hostside.children import Child
from uplab.hostside.errors import TrialError
from uplab.hostside.loop import Loop
from uplab.hostside.spec import Site, TracerAdapter
from uplab.hostside.templates import fill
from uplab.hostside.tracing import instruction_class

_SETTLE_S = 0.2
#: A tracer that tells of no event for this long has told of all; and how long that may take.
_CALM_S = 0.5
_CALM_TIMEOUT_S = 10.0
_NEAR_RETURNS = b"\xc3\xc2"


def wait_ready(loop: Loop, child: Child, ready_line: str, timeout_s: float) -> str:
    """Wait for the line with which the tracer says that it is ready; out: the line.

    Raises:
        TrialError: ``tracer-died`` or ``tracer-not-ready``.
    """
    pattern = re.compile(ready_line)
    seen = [line for line in child.lines if pattern.search(line)]
    child.on_line = lambda line: seen.append(line) if pattern.search(line) else None
    loop.until(lambda: bool(seen) or child.ended, timeout_s)
    child.on_line = None
    if seen:
        return seen[0]
    if child.ended:
        raise TrialError("tracer-died", f"tracer died before it was ready: {child.death()}")
    text = f"tracer printed no line like {ready_line!r} within {timeout_s:g} s"
    raise TrialError("tracer-not-ready", text)


@dataclass(frozen=True)
class Located:
    """A declared site and the symbol that it belongs to, in one file of the server's."""

    site: Site
    file: str
    opened: Path
    symbol: elf.Symbol

    def expected(self, offset: int, placement: Placement) -> ExpectedSite:
        """One place of it."""
        with self.opened.open("rb") as stream:
            stream.seek(offset)
            code = stream.read(5)
        return ExpectedSite(
            name=self.site.name,
            symbol=self.site.symbol,
            at=self.site.at,
            file=self.file,
            offset=offset,
            placement=placement,
            instruction_class=instruction_class(code),
        )


def locate(sites: Sequence[Site], pids: Sequence[int]) -> list[Located]:
    """Find the symbols of the declared sites in the files that the server has mapped.

    Args:
        sites: of the adapter.
        pids: the server's processes, the first one first.

    Raises:
        TrialError: ``sites-disagree`` where no process maps the file, or it has no such symbol.
    """
    found = []
    for site in sites:
        files = _files(site, pids)
        if not files:
            text = f"{site.name}: no process of the server maps {site.file}"
            raise TrialError("sites-disagree", text)
        for file, opened in files.items():
            symbol = elf.symbols(opened, [site.symbol]).get(site.symbol)
            if symbol is None:
                raise TrialError("sites-disagree", f"{file} has no symbol {site.symbol}")
            found.append(Located(site, file, opened, symbol))
    return found


def entries(located: Iterable[Located], placed: Mapping[str, Placement]) -> list[ExpectedSite]:
    """The declared entries, each with its placement; two names of one place are one site."""
    found: dict[tuple[str, int], ExpectedSite] = {}
    for part in located:
        if part.site.at == "entry":
            place = part.file, part.symbol.offset
            found[place] = part.expected(part.symbol.offset, placed[part.site.name])
    return list(found.values())


def anywhere(
    sites: Sequence[Site], placed: Mapping[str, Placement], pids: Sequence[int]
) -> list[ExpectedSite]:
    """The declared sites of a mode in which none is expected: what may have been hit.

    Args:
        sites: of the adapter.
        placed: their placement by name; those that nobody placed are taken for the kernel's.
        pids: the server's processes.

    Returns:
        those that can be found, RETs as far as they were altered.
    """
    placed = {site.name: placed.get(site.name, "kernel") for site in sites}
    located: list[Located] = []
    for site in sites:
        with suppress(TrialError):
            located += locate([site], pids)
    return [*entries(located, placed), *returns(located, placed, pids)[0]]


def returns(
    located: Iterable[Located], placed: Mapping[str, Placement], pids: Sequence[int]
) -> tuple[list[ExpectedSite], list[str]]:
    """The declared RETs that the tracer has probed, as far as it has.

    Which ones there are only a disassembler knows. But who alters one byte in the middle of an
    instruction breaks the program, so an altered byte that is a near return in the file is one.

    Args:
        located: declared sites; entries are left out.
        placed: their placement by name.
        pids: the server's processes.

    Returns:
        the sites, and a problem for each declared site of which no RET was altered.
    """
    found: dict[tuple[str, int], ExpectedSite] = {}
    problems = []
    for part in located:
        placement = placed[part.site.name]
        if part.site.at != "ret" or placement == "untouched":
            continue
        offsets = {offset for pid in pids for offset in _altered_returns(pid, part)}
        for offset in sorted(offsets):
            found[part.file, offset] = part.expected(offset, placement)
        if not offsets:
            problems.append(
                f"probe site unchanged: {part.site.name} ({part.site.symbol} ret, {part.file}) "
                f"should be in {placement}, and no return of it was altered"
            )
    return list(found.values()), problems


def _altered_returns(pid: int, part: Located) -> list[int]:
    """The offsets in the file of a symbol's returns that differ in a process."""
    symbol = part.symbol
    found = []
    try:
        with part.opened.open("rb") as stream:
            stream.seek(symbol.offset)
            code = stream.read(symbol.size_bytes)
        mappings = procfs.maps(pid)
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            for mapping in mappings:
                end = mapping.offset + mapping.end - mapping.start
                inside = mapping.offset <= symbol.offset and symbol.offset + len(code) <= end
                if not (mapping.executable and mapping.path == part.file and inside):
                    continue
                memory.seek(mapping.start + symbol.offset - mapping.offset)
                altered = differences(code, memory.read(len(code)).ljust(len(code), b"\0"))
                found += [symbol.offset + at for at in altered if code[at] in _NEAR_RETURNS]
    except OSError:
        # Whether the server still lives is looked at by who compares all of it.
        return []
    return found


def _files(site: Site, pids: Sequence[int]) -> dict[str, Path]:
    """The mapped files that a site lies in: name in the maps, and a path that opens it."""
    found: dict[str, Path] = {}
    for pid in pids:
        try:
            if site.file is None:
                real = os.path.realpath(Path(f"/proc/{pid}/exe").readlink())
                return {real: Path(f"/proc/{pid}/exe")}
            for mapping in procfs.maps(pid):
                named = mapping.path.rsplit("/", 1)[-1] == site.file
                if mapping.executable and mapping.inode and named:
                    found[mapping.path] = Path(f"/proc/{pid}/root{mapping.path}")
        except OSError:
            continue
    return found


def settle(loop: Loop, look: Callable[[], Evidence], child: Child, timeout_s: float) -> Evidence:
    """Look until the evidence is complete: no problem, and the same twice.

    A tracer may say that it is ready before its last probe is in.

    Args:
        loop: waits.
        look: attests the server.
        child: the tracer; when it ends, so does the waiting.
        timeout_s: after it the last evidence is returned as it is.
    """
    last = look()

    def complete() -> bool:
        nonlocal last
        before, last = last, look()
        same = _altered(before) == _altered(last)
        return child.ended or (same and not last.problems)

    loop.until(complete, timeout_s, _SETTLE_S)
    return last


def _altered(evidence: Evidence) -> set[tuple[str, int, str]]:
    seen = (*evidence.sites, *evidence.altered_elsewhere)
    return {(site.file, site.offset, site.state) for site in seen}


def grade(evidence: Evidence, *, counted: bool, attached: int) -> Grade | None:
    """How much the evidence says of a tracer that nobody knows; None where it says nothing.

    Args:
        evidence: of the server's bytes.
        counted: whether hits were counted and lie in a declared range.
        attached: how many BPF programs the tracer holds.
    """
    altered = evidence.altered_elsewhere or any(site.state != "original" for site in evidence.sites)
    if altered and counted:
        return "proven"
    if altered:
        return "sites only"
    return "links only" if attached else None


def meter(adapter: TracerAdapter, server_pid: int) -> Meter:
    """What counts a tracer's events of one server."""
    values = {"pid": server_pid}
    event, lost = adapter.event_line, adapter.lost_line
    return Meter(event and fill(event, values), lost and fill(lost, values))


@dataclass
class Meter:
    """Counts a tracer's events, and those it lost, in what it prints.

    Args:
        event_line: finds each event once; None where it prints none.
        lost_line: its group is a number of lost ones; None where nothing tells.
    """

    event_line: str | None = None
    lost_line: str | None = None
    emitted: int = 0
    lost: int = 0

    def __post_init__(self) -> None:
        self._event = re.compile(self.event_line.encode()) if self.event_line else None
        self._lost = re.compile(self.lost_line.encode()) if self.lost_line else None

    @property
    def counts(self) -> bool:
        """Whether there is anything to count."""
        return self._event is not None or self._lost is not None

    def take(self, block: bytes) -> None:
        """Count in whole lines, many at once: a tracer may print 30 MB in a second."""
        if self._event is not None:
            self.emitted += sum(1 for _ in self._event.finditer(block))
        if self._lost is not None:
            self.lost += sum(int(match.group(1)) for match in self._lost.finditer(block))

    def settle(self, loop: Loop, child: Child) -> None:
        """Wait until the tracer has told what it still held back, at most a few seconds."""
        last = -1
        calm_s = time.monotonic() + _CALM_S

        def calm() -> bool:
            nonlocal last, calm_s
            if self.emitted != last:
                last, calm_s = self.emitted, time.monotonic() + _CALM_S
            return child.ended or time.monotonic() >= calm_s

        if self._event is not None:
            loop.until(calm, _CALM_TIMEOUT_S, _CALM_S / 4)
