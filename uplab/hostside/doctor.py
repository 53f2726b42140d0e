"""Can a cell run here? The same answers serve the plan, the start of a run and the preflight."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from uplab.hostside import bpfload, bpftime, elf, procfs, serveruser
from uplab.hostside.spec import (
    UNTRACED_MODES,
    Adapters,
    Cell,
    FileRef,
    ServerAdapter,
    TracerAdapter,
)
from uplab.hostside.store import Store
from uplab.hostside.templates import placeholders

if TYPE_CHECKING:
    from uplab.hostside.selftest import SelfTests

NOT_APPLICABLE = "not applicable"
NOT_AVAILABLE = "not available here"
AVAILABLE = "available"


def need_root(_store: Store) -> str | None:
    """Tracing other processes and listening below port 1024 takes root."""
    return None if os.geteuid() == 0 else "not root on this host"


def need_bpf(_store: Store) -> str | None:
    """Loads a program of two instructions: the kernel's own answer, whatever forbids it."""
    refused = bpfload.refusal(bpfload.RETURN_0, bpfload.SOCKET_FILTER)
    return None if refused is None else f"the kernel refuses BPF programs ({refused})"


def need_btf(_store: Store) -> str | None:
    """CO-RE programs need the kernel's own types."""
    path = Path("/sys/kernel/btf/vmlinux")
    return None if path.exists() else f"no {path} (a kernel with CONFIG_DEBUG_INFO_BTF)"


def need_uprobes(_store: Store) -> str | None:
    """The kernel's uprobe events."""
    path = Path("/sys/bus/event_source/devices/uprobe/type")
    return None if path.exists() else f"no {path} (a kernel with CONFIG_UPROBE_EVENTS)"


def need_tracefs(_store: Store) -> str | None:
    """Tracepoints; the run mounts tracefs where the kernel has it and nobody did."""
    known = "tracefs" in Path("/proc/filesystems").read_text()
    return None if known else "the kernel has no tracefs (CONFIG_FTRACE)"


def need_bpftime_daemon(_store: Store) -> str | None:
    """It writes into other processes' memory from BPF, and looks up two event sources."""
    path = Path("/sys/bus/event_source/devices/kprobe/type")
    if not path.exists():
        return f"bpftime_daemon needs kprobes: no {path} (a kernel with CONFIG_KPROBE_EVENTS)"
    refused = bpfload.refusal(bpfload.WRITE_USER, bpfload.KPROBE)
    if refused is None:
        return None
    return f"bpftime_daemon needs bpf_probe_write_user: refused ({refused}; a kernel in lockdown?)"


_NEEDS: dict[str, Callable[[Store], str | None]] = {
    "root": need_root,
    "bpf": need_bpf,
    "btf": need_btf,
    "uprobes": need_uprobes,
    "tracefs": need_tracefs,
    "bpftime-daemon": need_bpftime_daemon,
}


def unmet(need: str, store: Store) -> str | None:
    """Why one of an adapter's ``needs`` is not met; None when it is.

    Args:
        need: a name of this module's list, or ``component:NAME`` for a part of the store.
        store: what is installed.
    """
    if need.startswith("component:"):
        component = need.removeprefix("component:")
        if component in store.components:
            return None
        return f"no {component} on this host (no such component in {store.root})"
    known = _NEEDS.get(need)
    if known is None:
        return f"the adapter needs {need!r}, which is none of {', '.join(sorted(_NEEDS))}"
    return known(store)


def judge(
    cell: Cell, adapters: Adapters, store: Store, tests: SelfTests | None = None
) -> tuple[str, str | None]:
    """Whether a cell can run on this host.

    Args:
        cell: with the names of its adapters.
        adapters: those of the cells.
        store: what is installed.
        tests: starts tracers to see whether they do, where nothing else speaks against them.

    Returns:
        ``available``, ``not available here`` or ``not applicable``, with the reason.
    """
    server = adapters.servers[cell.server]
    programs: list[FileRef] = [*server.programs.values()]
    programs += adapters.loads[cell.load].programs.values()
    needs: tuple[str, ...] = ()
    tracer: TracerAdapter | None = None
    if cell.tracer is not None and cell.mode not in UNTRACED_MODES:
        tracer = adapters.tracers[cell.tracer]
        lacking = [trait for trait in tracer.needs_traits if trait not in server.traits]
        if lacking:
            text = f"{tracer.name} needs a server that is {', '.join(lacking)}"
            return NOT_APPLICABLE, text
        mode = tracer.modes.get(cell.mode)
        if mode is None:
            return NOT_APPLICABLE, f"{tracer.name} does not offer {cell.mode}"
        wrong = _unfit(cell, tracer)
        if wrong is not None:
            return NOT_APPLICABLE, wrong
        programs += [*tracer.programs.values(), *bpftime.refs(cell)]
        needs = (*mode.needs, *(["bpftime-daemon"] if cell.loader == "daemon" else []))
    reasons = [reason for ref in programs if (reason := store.missing(ref))]
    reasons += [reason for need in needs if (reason := unmet(need, store))]
    if cell.runtime is not None and not reasons and (reason := _no_agent(cell, server, store)):
        reasons.append(reason)
    reasons += _start_reasons(cell, server, store)
    if tests is not None and tracer is not None and not reasons:
        reasons += [reason] if (reason := tests.refusal(tracer)) else []
    if reasons:
        return NOT_AVAILABLE, "; ".join(dict.fromkeys(reasons))
    return AVAILABLE, None


def _start_reasons(cell: Cell, server: ServerAdapter, store: Store) -> list[str]:
    """Why a server cannot listen, or not run as who it should."""
    port = cell.server_parameters.get("port")
    owners = procfs.listeners(port) if port is not None else []
    privileged = serveruser.is_privileged(port)
    reasons = [f"port {port} is in use by {', '.join(owners)}"] if owners else []
    if privileged and (reason := need_root(store)):
        reasons.append(f"port {port}: {reason}")
    if server.user == "own" and os.geteuid() == 0:
        refused = serveruser.refusal(privileged=privileged)
        reasons += [] if refused is None else [f"no user of its own for the server: {refused}"]
    return reasons


def _unfit(cell: Cell, tracer: TracerAdapter) -> str | None:
    """Why a tracer does not know a userspace cell's placement or loader."""
    mode = tracer.modes[cell.mode]
    if cell.placement is not None and cell.placement not in mode.placements:
        known = ", ".join(mode.placements) or "none"
        return f"{tracer.name} has no placement {cell.placement} (there are: {known})"
    if cell.loader is not None and cell.loader not in mode.loaders:
        return f"{tracer.name} does not run under the loader {cell.loader}"
    return None


def _no_agent(cell: Cell, server: ServerAdapter, store: Store) -> str | None:
    """Why bpftime's agent cannot come into a server, or finds nothing there.

    The agent works as the server's user: it comes there as an open file, so its folders do not
    matter, but it looks up the program by its path.
    """
    programs = _programs_of(server, store)
    for program in programs:
        if elf.is_static(program):
            return f"{program} is not dynamically linked: bpftime cannot be attached to it"
    if cell.runtime is None or server.user == "root":
        return None
    agent = bpftime.folder(cell.runtime, store) / bpftime.AGENT
    if not serveruser.is_open(agent):
        return f"{agent} cannot be read by the server's own user. There, run: chmod o+r {agent}"
    for program in programs:
        closed = serveruser.locked_out(program)
        if closed is not None:
            return f"bpftime's agent, as the server's own user, cannot reach {program}: {closed}"
    return None


def _programs_of(server: ServerAdapter, store: Store) -> list[Path]:
    """The program that a server's argv begins with."""
    names = placeholders(server.argv[0])
    return [store.path(server.programs[name]) for name in names if name in server.programs]
