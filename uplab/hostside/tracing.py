"""What a tracer says (JSON lines) and what follows from it: sites, hits, lost events."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from uplab.hostside import elf
from uplab.hostside.attest import ExpectedSite
from uplab.hostside.children import Child
from uplab.hostside.errors import TrialError
from uplab.hostside.loop import Loop
from uplab.hostside.placing import places
from uplab.hostside.spec import Cell, Site, TracerAdapter

_COUNTERS_TIMEOUT_S = 5.0


def message(child: Child, event: str, after: int = 0) -> dict[str, Any] | None:
    """The first message of a kind among those past the first ``after`` that were heard."""
    forgotten = child.heard - len(child.messages)
    for entry in itertools.islice(child.messages, max(after - forgotten, 0), None):
        if entry.get("event") == event:
            return entry
    return None


def wait_attached(loop: Loop, child: Child, timeout_s: float) -> dict[str, Any]:
    """Wait for the tracer's ``attached`` line.

    Raises:
        TrialError: ``tracer-died`` or ``tracer-not-ready``.
    """

    def said_or_ended() -> bool:
        return message(child, "attached") is not None or child.ended

    loop.until(said_or_ended, timeout_s)
    attached = message(child, "attached")
    if attached is not None:
        return attached
    if child.ended:
        raise TrialError("tracer-died", f"tracer died before it was attached: {child.death()}")
    raise TrialError("tracer-not-ready", f"tracer was not attached within {timeout_s:g} s")


def read_counters(loop: Loop, child: Child, signal_name: str) -> dict[str, Any]:
    """Ask the tracer for its counters.

    Raises:
        TrialError: ``tracer-died``, or ``no-counters`` when it does not answer.
    """
    heard = child.heard
    child.send(signal_name)
    loop.until(
        lambda: message(child, "counters", heard) is not None or child.ended, _COUNTERS_TIMEOUT_S
    )
    counters = message(child, "counters", heard)
    if counters is not None:
        return counters
    if child.ended:
        raise TrialError("tracer-died", f"tracer died: {child.death()}")
    raise TrialError("no-counters", f"tracer printed no counters within {_COUNTERS_TIMEOUT_S:g} s")


def expected_sites(
    adapter: TracerAdapter, cell: Cell, attached: Mapping[str, Any], program: Path
) -> list[ExpectedSite]:
    """The sites that a trial must show, from two sides that must agree.

    The tracer says where it set its probes. The adapter says which symbols these are: an entry
    must be the symbol's first byte by the file's own symbol table, a RET must be a ``ret``
    instruction inside the symbol.

    Args:
        adapter: declares the groups of sites.
        cell: its mode, and its placement, say where each site must lie.
        attached: the tracer's message.
        program: the server's binary.

    Returns:
        the sites with their placement; in a mode whose placement is ``untouched`` the ones that
        the tracer would probe, which must be as in the file.

    Raises:
        TrialError: ``sites-disagree`` with the first site on which both sides differ.
    """
    placement = adapter.modes[cell.mode].placement
    placed = places(adapter, cell)
    if placement == "any":
        text = f"{cell.mode}: a tracer that lists its sites must say where each one lies"
        raise TrialError("sites-disagree", text)
    if placement == "untouched" and attached.get("attach") != "none":
        raise TrialError(
            "sites-disagree",
            f"{cell.mode} must set no probe, but the tracer attached by {attached.get('attach')}",
        )
    if placement == "untouched" and not attached.get("sites"):
        return []
    reported = _reported(attached)
    found = elf.symbols(program, [site.symbol for site in adapter.sites])
    real = os.path.realpath(program)
    sites: list[ExpectedSite] = []
    for declared in adapter.sites:
        offsets = [offset for name, offset in reported if name == declared.name]
        if not offsets and placement != "untouched" and placed[declared.name] == "untouched":
            continue
        _check_offsets(declared, found.get(declared.symbol), offsets, program)
        sites.extend(
            ExpectedSite(
                name=declared.name,
                symbol=declared.symbol,
                at=declared.at,
                file=real,
                offset=offset,
                placement=placed[declared.name],
                instruction_class=instruction_class(_bytes_at(program, offset)),
            )
            for offset in offsets
        )
    extra = {name for name, _ in reported} - {site.name for site in adapter.sites}
    if extra:
        raise TrialError("sites-disagree", f"the adapter declares no site named {sorted(extra)}")
    return sites


def _reported(attached: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Name and offset of each site in the tracer's message, which may hold anything."""
    sites = attached.get("sites")
    if not isinstance(sites, list):
        raise TrialError("sites-disagree", f"the tracer lists no sites but {str(sites)[:200]}")
    found = []
    for site in sites:
        name, offset = (site.get("name"), site.get("offset")) if isinstance(site, dict) else (0, 0)
        if not isinstance(name, str) or not isinstance(offset, int):
            text = f"the tracer lists a site without name and offset: {str(site)[:200]}"
            raise TrialError("sites-disagree", text)
        found.append((name, offset))
    return found


def instruction_class(code: bytes) -> str:
    """What a kernel uprobe does with an instruction, which decides what a hit costs.

    Source: ``arch_uprobe_analyze_insn`` and its ``*_setup_xol_ops`` in the kernel's
    ``arch/x86/kernel/uprobes.c``: relative jumps and calls, nops and pushes of a register are
    emulated; the rest is single-stepped out of line. ``return`` and ``nop5`` are classes of their
    own because the micro-measurement draws them apart.

    Args:
        code: the bytes at the site, at least five unless the file ends there.

    Returns:
        ``emulated``, ``nop5``, ``return`` or ``single-stepped``.
    """
    if code[:1] in (b"\xc3", b"\xc2"):
        return "return"
    if code[:5] == b"\x0f\x1f\x44\x00\x00":
        return "nop5"
    first, second = code[0], code[1] if len(code) > 1 else 0
    push = 0x50 <= first <= 0x57 or (first == 0x41 and 0x50 <= second <= 0x57)
    branch = first in (0xE8, 0xE9, 0xEB) or 0x70 <= first <= 0x7F
    long_branch = first == 0x0F and 0x80 <= second <= 0x8F
    nop = first == 0x90 or (first == 0x66 and second == 0x90) or (first, second) == (0x0F, 0x1F)
    return "emulated" if push or branch or long_branch or nop else "single-stepped"


def _bytes_at(program: Path, offset: int) -> bytes:
    with program.open("rb") as file:
        file.seek(offset)
        return file.read(5)


def _check_offsets(
    declared: Site, symbol: elf.Symbol | None, offsets: list[int], program: Path
) -> None:
    """Hold what the tracer says against the file's symbol table."""
    if symbol is None:
        raise TrialError("sites-disagree", f"{program} has no symbol {declared.symbol}")
    if not offsets:
        raise TrialError("sites-disagree", f"the tracer set no probe at {declared.name}")
    if declared.at == "entry":
        if offsets != [symbol.offset]:
            raise TrialError(
                "sites-disagree",
                f"{declared.name}: the tracer probes {[hex(o) for o in offsets]}, but "
                f"{declared.symbol} starts at {symbol.offset:#x}",
            )
        return
    with program.open("rb") as file:
        for offset in offsets:
            inside = symbol.offset <= offset < symbol.offset + symbol.size_bytes
            file.seek(offset)
            # c3 and c2 are the near returns; a Go function has no other.
            if not inside or file.read(1) not in (b"\xc3", b"\xc2"):
                raise TrialError(
                    "sites-disagree", f"{declared.name}: {offset:#x} is no ret of {declared.symbol}"
                )


def hits_between(
    sites: Iterable[ExpectedSite],
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    requests: int | None,
) -> dict[str, Any]:
    """The hits of each site and group during the measurement, and per completed request.

    Raises:
        TrialError: ``no-counters`` where the tracer did not count something: that is not 0.
    """

    def per_request(hits: int) -> float | None:
        return hits / requests if requests else None

    first, last = _hits_by_offset(before), _hits_by_offset(after)
    rows = []
    groups: dict[str, int] = {}
    for site in sites:
        if site.offset not in first or site.offset not in last:
            text = f"the tracer did not count the hits of {site.name} at {site.offset:#x}"
            raise TrialError("no-counters", text)
        hits = last[site.offset] - first[site.offset]
        groups[site.name] = groups.get(site.name, 0) + hits
        rows.append(row(site, hits, per_request(hits)))
    events = {
        key: _events(after, key) - _events(before, key) for key in ("emitted", "received", "lost")
    }
    return {
        "sites": rows,
        "by_name": {
            name: {"hits": hits, "per_request": per_request(hits)} for name, hits in groups.items()
        },
        "events": {**events, "per_request": per_request(events["emitted"])},
    }


def row(site: ExpectedSite, hits: int, per_request: float | None) -> dict[str, Any]:
    """One site of a trial's hits."""
    return {
        "name": site.name,
        "symbol": site.symbol,
        "at": site.at,
        "file": site.file,
        "offset": site.offset,
        "class": site.instruction_class,
        "placement": site.placement,
        "hits": hits,
        "per_request": per_request,
    }


def _hits_by_offset(counters: Mapping[str, Any]) -> dict[int, int]:
    """What the tracer counted at each site; entries of another form are left out."""
    sites = counters.get("sites")
    return {
        site["offset"]: site["hits"]
        for site in (sites if isinstance(sites, list) else [])
        if isinstance(site, dict)
        and isinstance(site.get("offset"), int)
        and isinstance(site.get("hits"), int)
    }


def _events(counters: Mapping[str, Any], key: str) -> int:
    events = counters.get("events")
    count = events.get(key) if isinstance(events, dict) else None
    if not isinstance(count, int):
        raise TrialError("no-counters", f"the tracer did not count its events: {key} is missing")
    return count
