"""The tables about the probes: where they lay, what they counted, what a hit of them costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from uplab.analysis import CellSummary, Group
from uplab.conservation import Balance
from uplab.measured import HitCost
from uplab.reconcile import USERSPACE, Reconciliation
from uplab.report import text
from uplab.report.table import Table


def placement(group: Group) -> Table:
    """Per measured mode: where each site lay, and its hits per request; no row if nobody says."""
    cells = [cell for cell in group.cells if cell.counted and cell.placements]
    names = list(dict.fromkeys(name for cell in cells for name in cell.placements))
    return Table(
        ("mode", *names),
        (False,) * (1 + len(names)),
        tuple((text.label(cell), *(_place(cell, name) for name in names)) for cell in cells),
    )


def _place(cell: CellSummary, name: str) -> str:
    """`userspace, 13.0`; a site that was left alone has no hits to show."""
    place, hits = cell.placements.get(name), cell.hits_per_request_by_name.get(name)
    if place is None:
        return text.MISSING
    return place if hits is None else f"{place}, {text.decimal(hits)}"


def conservation(group: Group) -> Table:
    """Per traced mode: every site and the events, per request, against what is declared."""
    return Table(
        ("mode", "counted", "per request", "declared", "verdict"),
        (False, False, True, False, False),
        tuple(
            (
                text.label(cell),
                what,
                text.middle(line.median, line.least, line.most),
                text.declared(line.rule),
                _within(line),
            )
            for cell in group.cells
            for what, line in _untouched_together(cell.balances)
        ),
    )


def _untouched_together(balances: Sequence[Balance]) -> Iterator[tuple[str, Balance]]:
    """Each line with its name; sites that should have no hit, and had none, are one line."""
    idle = [line for line in balances if _is_idle(line)]
    for line in balances:
        if not _is_idle(line):
            yield line.what, line
        elif line is idle[0]:
            yield (line.what if len(idle) == 1 else f"{len(idle)} sites without a hit"), line


def _is_idle(line: Balance) -> bool:
    allowed = line.rule is None or line.rule.maximum == 0
    return line.is_site and allowed and line.most == 0 and not line.outside


def _within(line: Balance) -> str:
    if not line.judged:
        return text.MISSING
    return f"{line.outside} of {line.judged} outside" if line.outside else "within"


def reconciliation(group: Group) -> Table:
    """Per traced mode: what its hits should cost, against the extra CPU that was measured."""
    cells = [(cell, cell.reconciliation) for cell in group.cells if cell.reconciliation]
    return Table(
        ("mode", "hits x cost, us/req", "measured, us/req", "against", "calculated / measured"),
        (False, True, True, False, True),
        tuple(
            (
                text.label(cell),
                _calculated(found),
                text.estimate(found.measured_us, unit=""),
                found.against or text.MISSING,
                text.decimal(found.ratio, 2),
            )
            for cell, found in cells
        ),
    )


def _calculated(found: Reconciliation) -> str:
    if found.unknown_costs:
        return f"not measured: {', '.join(found.unknown_costs)}"
    return text.decimal(found.calculated_us)


_CLASSES = {
    "emulated": "kernel, emulates the instruction",
    "nop5": "kernel, 5-byte nop",
    "single-stepped": "kernel, single-steps the instruction",
    "return": "kernel, single-steps a ret",
    USERSPACE: "userspace, no kernel (bpftime)",
}


def hit_costs(costs: Sequence[HitCost]) -> Table:
    """What a probe hit costs on this host, by the class of its instruction or in userspace."""
    return Table(
        (
            *("class", "who handles a hit", "instruction", "ns per hit", "hits"),
            *("attached by", "measured with", "runtime options", "error"),
        ),
        (False, False, False, True, True, False, False, False, False),
        tuple(
            (
                cost.instruction_class or text.MISSING,
                _CLASSES.get(cost.instruction_class or "", text.MISSING),
                cost.instruction or text.MISSING,
                "not measurable" if cost.error else text.whole(cost.ns_per_hit),
                text.whole(cost.hits),
                cost.attach or text.MISSING,
                cost.tracer or text.MISSING,
                text.runtime(cost.runtime) or text.MISSING,
                cost.error or text.MISSING,
            )
            for cost in costs
        ),
    ).without_empty_columns()
