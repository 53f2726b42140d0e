"""The preflight's checks of the lab itself: what is installed, what is left over, what can run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from uplab.hostside import check_tuning, doctor, store
from uplab.hostside.selftest import SelfTests
from uplab.hostside.spec import Adapters, Cell
from uplab.hostside.system import Line, System

_SHOWN = 5
#: How the doctor says that a component is missing.
_LACKING = re.compile(r"\bno (\S+) on this host|(\S+) is not installed")
_ENTERPRISE = re.compile(r"https?://enterprise\.proxmox\.com")


@dataclass(frozen=True)
class Request:
    """What the controller wants to know.

    Args:
        host: its name in the inventory, for the commands that mend.
        adapters: those of the cells.
        cells: of the matrix that the preflight is for.
        components: that a host which was set up must have.
        no_subscription: whether setting up replaces Proxmox VE's enterprise repository.
    """

    host: str
    adapters: Adapters = field(default_factory=lambda: Adapters({}, {}, {}))
    cells: tuple[Cell, ...] = ()
    components: tuple[str, ...] = ()
    no_subscription: bool = False


@dataclass(frozen=True)
class Places:
    """Where hostside keeps things: the store's root, its state below /run, the runs.

    ``adapters`` gives the folder with the adapters' files; without it no tracer is started.
    """

    root: Path
    state: Path
    runs: Path
    adapters: Callable[[], Path] | None = None


def ports(system: System, request: Request) -> Iterator[Line]:
    """The servers' ports."""
    wanted_by = {cell.server_parameters.get("port"): cell.server for cell in request.cells}
    for port, server in sorted((p, s) for p, s in wanted_by.items() if p is not None):
        owners = system.listeners(port)
        if owners:
            mend = f"End it, or measure elsewhere: --set servers.{server}.port=N"
            yield Line(f"port-{port}", "fail", f"used by {', '.join(owners)}", "free", mend)
        else:
            yield Line(f"port-{port}", "ok", f"free ({server})", "free")


# ---- what an earlier run or build left -----------------------------------------------------------


def leftovers(system: System, places: Places, request: Request) -> Iterator[Line]:
    """A run that goes on, processes of one that crashed, unfinished and uncollected runs."""
    busy = _run_under_way(system, places.state)
    if busy is not None:
        yield Line("run-under-way", "warn", busy, "none", "Wait for its end")
    else:
        yield Line("run-under-way", "ok", "none", "none")
        yield _left_processes(system, places.state)
        yield from check_tuning.left_tuned(system, places.runs, request.host)
    yield _left_runs(system, places.runs, busy or "")
    yield _left_builds(system, places.root, request.host)


def _run_under_way(system: System, state: Path) -> str | None:
    """The run whose hostside holds the lock; None when nobody does.

    Looked up in the kernel's table: trying the lock could refuse a run that starts meanwhile.
    """
    try:
        holder = json.loads(system.text(state / "lock") or "{}")
    except ValueError:
        return None
    locks = (system.text("/proc/locks") or "").splitlines()
    pids = {words[4] for line in locks if len(words := line.split()) > 4 and words[1] == "FLOCK"}
    if str(holder.get("pid")) not in pids:
        return None
    return f"run {holder.get('run_id')} (pid {holder.get('pid')}, since {holder.get('since_utc')})"


def _left_processes(system: System, state: Path) -> Line:
    """Processes that the ledger names, by PID and start: never somebody else's of that number."""
    try:
        noted = json.loads(system.text(state / "children.json") or "[]")
        living = [
            f"{entry['name']} (pid {entry['pid']})"
            for entry in noted
            if system.start_ticks(entry["pid"]) == entry["start_ticks"]
        ]
    except (ValueError, KeyError, TypeError):
        seen, mend = "the ledger is damaged", f"rm {state / 'children.json'}"
        return Line("left-processes", "warn", seen, "none", mend)
    if living:
        seen = f"{_some(living)}, of a run that did not end by itself"
        return Line("left-processes", "fail", seen, "none", "Start a run: it ends them first")
    return Line("left-processes", "ok", "none", "none")


def _left_runs(system: System, runs: Path, busy: str) -> Line:
    """Runs that nobody collected, with what an interruption left in them."""
    folder = system.path(runs)
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    names = [name for name in names if name not in busy]
    if not names:
        return Line("left-runs", "ok", "none", "none")
    unfinished = [name for name in names if any((folder / name).glob("trials/.part-*"))]
    cut_off = f"; cut off in a trial: {_some(unfinished)}" if unfinished else ""
    mend = f"rm -r {runs / names[0]}   (if its figures are not needed)"
    return Line("left-runs", "warn", f"{_some(names)}{cut_off}", "none", mend)


def _left_builds(system: System, root: Path, host: str) -> Line:
    parts = sorted(path.name for path in system.path(root / "store").glob(".part-*"))
    if not parts:
        return Line("left-builds", "ok", "none", "none")
    mend = f"invoke lab.setup --host {shlex.quote(host)}"
    return Line("left-builds", "warn", f"under way or cut off: {_some(parts)}", "none", mend)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


# ---- the store -----------------------------------------------------------------------------------


def stored(system: System, places: Places, request: Request) -> Iterator[Line]:
    """Whether the host was set up, and whether what was installed is still there."""
    wanted = "every component installed"
    mend = f"invoke lab.setup --host {shlex.quote(request.host)}"
    try:
        installed = store.load(system.path(places.root))
    except ValueError as error:
        yield Line("store", "fail", str(error).split(". Run:")[0], wanted, mend)
        return
    if not installed.manifest:
        yield Line("store", "warn", f"not set up (no {places.root}/manifest.json)", wanted, mend)
        return
    # What only builds, where what it builds came from another host, is not to be here.
    expected = set(request.components) - set(installed.manifest.get("left_out", []))
    lacking = sorted(expected - set(installed.components))
    damaged = [
        f"{record.get('prefix')}/{name}"
        for record in installed.components.values()
        for name, artifact in sorted(record.get("artifacts", {}).items())
        if _size(system, f"{record.get('prefix')}/{name}") != artifact.get("bytes")
    ]
    if not lacking and not damaged:
        seen = f"{', '.join(sorted(installed.components))}"
        yield Line("store", "ok", seen, wanted)
        return
    seen = "; ".join(
        f"{word}: {_some(names)}"
        for word, names in (("not installed", lacking), ("missing or of another size", damaged))
        if names
    )
    yield Line("store", "fail", seen, wanted, mend)


def _size(system: System, name: str) -> int | None:
    try:
        return system.path(name).stat().st_size
    except OSError:
        return None


# ---- what can run --------------------------------------------------------------------------------


def modes(system: System, places: Places, request: Request) -> Iterator[Line]:
    """For each mode of each tracer: can it run here, by the code that plans and starts runs."""
    installed = store.load(system.path(places.root))
    tests = SelfTests(installed, places.state, places.adapters) if places.adapters else None
    judged: dict[str, dict[str | None, list[str]]] = {}
    for cell in request.cells:
        # A port that is in use has a line of its own, and keeps no mode from running for good.
        portless = replace(cell, server_parameters={})
        status, reason = doctor.judge(portless, request.adapters, installed, tests)
        if status != doctor.NOT_APPLICABLE:
            parts = ("mode", cell.tracer, cell.mode, cell.loader)
            name = "-".join(part for part in parts if part)
            why = None if status == doctor.AVAILABLE else reason or status
            judged.setdefault(name, {}).setdefault(why, []).append(cell.server)
    for name, reasons in sorted(judged.items()):
        if set(reasons) == {None}:
            yield Line(name, "ok", "can run", "can run")
        else:
            seen = _why_not(reasons)
            yield Line(name, "warn", seen, "can run", _mend_mode(seen, request))


def _mend_mode(seen: str, request: Request) -> str:
    """Setting up mends it; what the host is not to have so far has to be named first."""
    setup = f"invoke lab.setup --host {shlex.quote(request.host)}"
    lacking = {name for pair in _LACKING.findall(seen) for name in pair if name}
    unnamed = sorted(lacking - set(request.components))
    if unnamed:
        return f"Add {', '.join(unnamed)} to the host's uplab_components, then run: {setup}"
    return f"{setup}   (and see the lines above)"


def _why_not(reasons: dict[str | None, list[str]]) -> str:
    """Each reason once; with the servers where a mode can run with others."""
    able = dict.fromkeys(reasons.get(None, []))
    unable = dict.fromkeys(s for why, servers in reasons.items() if why for s in servers)
    parts = dict.fromkeys(part for why in reasons if why for part in why.split("; "))
    cause = "; ".join(parts)
    if not able:
        return f"cannot run because {cause}"
    return f"can run ({', '.join(able)}); cannot run ({', '.join(unable)}) because {cause}"


# ---- apt -----------------------------------------------------------------------------------------


def apt_sources(system: System, request: Request) -> Iterator[Line]:
    """Proxmox VE's enterprise repository answers 401 to a host without a subscription."""
    named = [name for name, text in _sources(system) if _names_enterprise(name, text)]
    wanted = "apt-get update works"
    if not named:
        yield Line("apt-sources", "ok", "no repository that needs a subscription", wanted)
    elif system.path("/etc/subscription").exists():
        yield Line("apt-sources", "ok", "Proxmox VE with a subscription", wanted)
    elif request.no_subscription:
        seen = f"enterprise repository without subscription; lab.setup replaces it ({named[0]})"
        yield Line("apt-sources", "ok", seen, wanted)
    else:
        seen = f"enterprise repository without subscription (401): {', '.join(named)}"
        mend = "Write into the host's variables: base_pve_no_subscription: true"
        yield Line("apt-sources", "fail", seen, wanted, mend)


def _sources(system: System) -> Iterator[tuple[str, str]]:
    """Each file of apt's sources with its text."""
    folder = system.path("/etc/apt/sources.list.d")
    names = ["/etc/apt/sources.list"]
    if folder.is_dir():
        found = sorted(entry.name for entry in folder.iterdir())
        names += [
            f"/etc/apt/sources.list.d/{n}" for n in found if n.endswith((".list", ".sources"))
        ]
    for name in names:
        text = system.text(name)
        if text:
            yield name, text


def _names_enterprise(name: str, text: str) -> bool:
    """Whether a file of sources names the enterprise repository and does not switch it off."""
    if name.endswith(".sources"):
        stanzas = re.split(r"\n\s*\n", text)
        off = re.compile(r"^Enabled:\s*(no|false|0)\s*$", re.IGNORECASE | re.MULTILINE)
        lines = [
            line for stanza in stanzas if not off.search(stanza) for line in stanza.split("\n")
        ]
    else:
        lines = text.split("\n")
    return any(_ENTERPRISE.search(line) for line in lines if not line.lstrip().startswith("#"))
