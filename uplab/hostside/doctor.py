"""Can a cell run here? The same answers serve the plan, the start of a run and the preflight."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from uplab.hostside import bpfload, procfs
from uplab.hostside.spec import UNTRACED_MODES, Adapters, Cell, FileRef
from uplab.hostside.store import Store

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


_NEEDS: dict[str, Callable[[Store], str | None]] = {
    "root": need_root,
    "bpf": need_bpf,
    "btf": need_btf,
    "uprobes": need_uprobes,
    "tracefs": need_tracefs,
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


def judge(cell: Cell, adapters: Adapters, store: Store) -> tuple[str, str | None]:
    """Whether a cell can run on this host.

    Returns:
        ``available``, ``not available here`` or ``not applicable``, with the reason.
    """
    server = adapters.servers[cell.server]
    programs: list[FileRef] = [*server.programs.values()]
    programs += adapters.loads[cell.load].programs.values()
    needs: tuple[str, ...] = ()
    if cell.tracer is not None and cell.mode not in UNTRACED_MODES:
        tracer = adapters.tracers[cell.tracer]
        lacking = [trait for trait in tracer.needs_traits if trait not in server.traits]
        if lacking:
            text = f"{tracer.name} needs a server that is {', '.join(lacking)}"
            return NOT_APPLICABLE, text
        mode = tracer.modes.get(cell.mode)
        if mode is None:
            return NOT_APPLICABLE, f"{tracer.name} does not offer {cell.mode}"
        programs += tracer.programs.values()
        needs = mode.needs
    reasons = [reason for ref in programs if (reason := store.missing(ref))]
    reasons += [reason for need in needs if (reason := unmet(need, store))]
    port = cell.server_parameters.get("port")
    owners = procfs.listeners(port) if port is not None else []
    if owners:
        reasons.append(f"port {port} is in use by {', '.join(owners)}")
    if port is not None and port < 1024 and (reason := need_root(store)):
        reasons.append(f"port {port}: {reason}")
    if reasons:
        return NOT_AVAILABLE, "; ".join(dict.fromkeys(reasons))
    return AVAILABLE, None
