"""What limited the figures: which part of the host was saturated, cell by cell."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from uplab.analysis import CellSummary, Group
from uplab.report import text
from uplab.report.table import Table
from uplab.saturation import (
    BOTH,
    HOST,
    HOST_SATURATED_PCT,
    LOAD,
    NEITHER,
    OTHERS,
    OTHERS_PCT,
    PART_SATURATED_PCT,
    SERVER,
    Saturation,
    most_often,
    saturation,
)

EXPLANATION = (
    f"From CPU time during the measurement. Saturated is the load generator or the server from "
    f"{PART_SATURATED_PCT:g} % of the CPU time that it could use (the server all CPUs, the load "
    "generator as many as it has threads), else the host's CPUs together from "
    f"{HOST_SATURATED_PCT:g} % of all of it, stolen time included (by others too: with "
    f"{OTHERS_PCT:g} % or more for others and stolen); medians over the trials that count."
)

_MEANS = {
    LOAD: "the load generator was the limit: the server could have done more, and what tracing "
    "costs is partly hidden",
    SERVER: "the server was the limit: req/s are what it can do",
    BOTH: "server and load generator were at their limits, each on CPUs of its own",
    HOST: "no CPU was left: server and load generator (and tracer) took them from each other, so "
    "req/s are those of this host with both on it",
    OTHERS: "no CPU was left, and others on this host (or its hypervisor) had a part of it: req/s "
    "are lower than the host alone would give",
    NEITHER: "no CPU was the limit: something else was, such as waiting or a fixed rate",
}


def meaning(kind: str) -> str:
    """What it means for the figures that this was saturated."""
    return _MEANS[kind]


def sentences(group: Group) -> list[str]:
    """What each kind of saturation that occurs in a group means, with its cells."""
    by_kind: dict[str, list[str]] = {}
    for cell in group.cells:
        found = most_often(cell.counted)
        if found is not None:
            by_kind.setdefault(found[0], []).append(text.label(cell))
    return [f"{', '.join(cells)}: {meaning(kind)}." for kind, cells in by_kind.items()]


def table(group: Group) -> Table:
    """Per mode: what was saturated, and the shares of CPU time."""
    rows = [row for cell in group.cells if (row := _row(cell)) is not None]
    return Table(
        ("mode", "saturated", "trials", "server", "load generator", "whole host"),
        (False, False, True, True, True, True),
        tuple(rows),
    )


def _row(cell: CellSummary) -> tuple[str, ...] | None:
    found = most_often(cell.counted)
    if found is None:
        return None
    what, count, known = found
    each = [saturation(trial) for trial in cell.counted]
    return (
        text.label(cell),
        what,
        f"{count} of {known}",
        _median(each, "server_pct"),
        _median(each, "load_pct"),
        _median(each, "host_pct"),
    )


def _median(each: Sequence[Saturation], name: str) -> str:
    known = [value for one in each if (value := getattr(one, name)) is not None]
    return text.percent(statistics.median(known) if known else None, 0)
