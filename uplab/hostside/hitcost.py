"""What one probe hit costs on this host, once per run, so that percentages can be judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from uplab.hostside import bpftime
from uplab.hostside.children import Child
from uplab.hostside.context import Context
from uplab.hostside.errors import TrialError
from uplab.hostside.spec import Cell, RuntimeOptions, TracerAdapter
from uplab.hostside.templates import Scalar, fill_argv

_TIMEOUT_S = 20.0


def draw(context: Context, log: Path) -> list[dict[str, Any]]:
    """Run the tracers' own measurements.

    Args:
        context: of the run; its plan says which tracers probe, and which runtimes they use.
        log: a file for the output, removed again.

    Returns:
        what they printed, one object per class of instruction, each with ``tracer``; one with
        ``error`` for each measurement that failed.
    """
    costs: list[dict[str, Any]] = []
    for tracer in context.plan.adapters.tracers.values():
        cells = [cell for cell in context.plan.cells if cell.tracer == tracer.name]
        if any(tracer.modes[cell.mode].placement != "untouched" for cell in cells):
            costs += _measure(context, log, tracer, tracer.hit_cost, {}, {})
        for options in _runtimes(cells):
            costs += _in_userspace(context, log, tracer, options)
    return costs


def _runtimes(cells: list[Cell]) -> Iterator[RuntimeOptions]:
    """The runtimes that differ in what a hit costs, once each."""
    seen = set()
    for cell in cells:
        if cell.runtime is not None:
            options = replace(cell.runtime, shm_mb=RuntimeOptions.shm_mb, map_kind="array")
            if options not in seen:
                seen.add(options)
                yield options


def _in_userspace(
    context: Context, log: Path, tracer: TracerAdapter, options: RuntimeOptions
) -> list[dict[str, Any]]:
    folder, name = bpftime.folder(options, context.store), bpftime.new_name()
    context.leftovers.note([bpftime.memory(name)])
    values = {
        "preload": str(folder / bpftime.PRELOAD),
        "bpftime": str(folder / bpftime.LAUNCHER),
    }
    env = bpftime.environment(options, name)
    try:
        costs = _measure(context, log, tracer, tracer.userspace_hit_cost, values, env)
    finally:
        context.leftovers.remove()
    # As the cells name it, so that a cost finds its cells; the folder is for the reader.
    named = {
        "bpftime_prefix": options.bpftime_prefix,
        "folder": str(folder),
        "jit": options.jit,
    }
    return [{**cost, **named} for cost in costs]


def _measure(
    context: Context,
    log: Path,
    tracer: TracerAdapter,
    template: tuple[str, ...],
    more: Mapping[str, Scalar],
    env: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Run one program to its end; nothing where the adapter names none."""
    if not template:
        return []
    values: dict[str, Scalar] = {"root": str(context.store.root)}
    values |= {name: str(context.store.path(ref)) for name, ref in tracer.programs.items()}
    argv = fill_argv(template, {**values, **more}, {})
    try:
        child = Child(context.loop, context.ledger, "hit-cost", argv, log, env)
    except TrialError as error:
        return [{"tracer": tracer.name, "error": error.text}]
    try:
        finished = context.loop.until(lambda: child.ended, _TIMEOUT_S)
    finally:
        child.stop("SIGTERM", 1.0)
        log.unlink()
    costs = [{"tracer": tracer.name, **line} for line in child.messages]
    if not finished or child.returncode != 0 or not costs:
        costs.append({"tracer": tracer.name, "error": child.death()})
    return costs
