"""What the adapters declare for each traced cell; it travels in run.json, for the report to audit.

The host judges by the same rules, from the plan's adapters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from uplab.hostside import judge, placing
from uplab.hostside.spec import Adapters, Cell, HitsRule, ServerAdapter, TracerAdapter


def of(adapters: Adapters, cells: Iterable[Cell]) -> dict[str, Any]:
    """By the id of each traced cell: its sites with placement and range, and its events."""
    return {
        cell.id: _of(adapters.tracers[cell.tracer], adapters.servers[cell.server], cell)
        for cell in cells
        if cell.tracer is not None and _is_offered(adapters.tracers[cell.tracer], cell)
    }


def _is_offered(tracer: TracerAdapter, cell: Cell) -> bool:
    """Whether the tracer has such a mode and placement at all: else there is nothing to declare."""
    mode = tracer.modes.get(cell.mode)
    if mode is None:
        return False
    return mode.placement != "userspace" or placing.chosen(mode, cell) is not None


def _of(tracer: TracerAdapter, server: ServerAdapter, cell: Cell) -> dict[str, Any]:
    places = placing.places(tracer, cell)
    sites = []
    for site in tracer.sites:
        place = places.get(site.name)
        rule = judge.rule_for(site.hits, server) if place != "untouched" else HitsRule(0, 0)
        sites.append({"name": site.name, "placement": place, "range": _range(rule)})
    events = judge.rule_for(judge.event_rules(tracer, cell), server)
    return {"sites": sites, "events": _range(events)}


def _range(rule: HitsRule | None) -> dict[str, float] | None:
    if rule is None:
        return None
    return {
        "minimum": rule.minimum,
        "maximum": rule.maximum,
        "per_connection": rule.per_connection,
    }
