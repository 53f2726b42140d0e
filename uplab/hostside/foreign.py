"""Tracers that know nothing of uplab: when they are ready, where their probes must be.

Such a tracer says neither where its probes are nor how often they were hit. Where it was told
which functions to probe, the adapter declares them, and the symbol tables of the server's mapped
files say where they lie. Where it runs as it was shipped, what it altered is found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from uplab.hostside import elf, procfs, runcounts
from uplab.hostside.attest import Evidence, ExpectedSite, Grade, Placement
from uplab.hostside.children import Child
from uplab.hostside.errors import TrialError
from uplab.hostside.loop import Loop
from uplab.hostside.runcounts import Program
from uplab.hostside.spec import Site
from uplab.hostside.tracing import instruction_class

_SETTLE_S = 0.2


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


def declared_sites(
    sites: Sequence[Site], pids: Sequence[int], placement: Placement
) -> list[ExpectedSite]:
    """Where the declared sites lie in the files that the server has mapped.

    Args:
        sites: of the adapter; only entries, because a RET is found by disassembly.
        pids: the server's processes, the first one first.
        placement: of all of them.

    Raises:
        TrialError: ``sites-disagree`` where no process maps the file, or it has no such symbol.
    """
    found: dict[tuple[str, int], ExpectedSite] = {}
    for site in sites:
        if site.at != "entry":
            text = f"{site.name}: only entries can be declared for a tracer that lists no sites"
            raise TrialError("sites-disagree", text)
        files = _files(site, pids)
        if not files:
            text = f"{site.name}: no process of the server maps {site.file}"
            raise TrialError("sites-disagree", text)
        for file, opened in files.items():
            symbol = elf.symbols(opened, [site.symbol]).get(site.symbol)
            if symbol is None:
                raise TrialError("sites-disagree", f"{file} has no symbol {site.symbol}")
            with opened.open("rb") as stream:
                stream.seek(symbol.offset)
                code = stream.read(5)
            found[file, symbol.offset] = ExpectedSite(
                name=site.name,
                symbol=site.symbol,
                at=site.at,
                file=file,
                offset=symbol.offset,
                placement=placement,
                instruction_class=instruction_class(code),
            )
    return list(found.values())


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


def hits(
    before: Mapping[int, Program], after: Mapping[int, Program], requests: int | None
) -> dict[str, Any]:
    """The runs of all programs on probes during the warm-up, in the form of a trial's hits."""
    runs = runcounts.runs_between(dict(before), dict(after))
    per_request = runs / requests if requests else None
    return {
        "sites": [],
        "by_name": {"all probes": {"hits": runs, "per_request": per_request}},
        "events": {},
        "counted": "by the kernel, in the warm-up",
        "warm_up_requests": requests,
    }
