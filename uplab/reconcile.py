"""What the hits of a request should cost, against what tracing was seen to cost. Pure functions.

The cost of a hit is that of a program that only counts, so what a tracer does beside it (reading
memory, emitting events) comes on top and is no error of the sum.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from uplab.estimates import Estimate, median
from uplab.measured import Cell, HitCost, Site, Trial

#: The class of a site that lies in userspace, whatever its instruction is.
USERSPACE = "userspace"
UNKNOWN_CLASS = "a site of unknown class"
UNKNOWN_SITES = "where in the server each hit was"


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Calculated and measured microseconds of the server's CPU per request, of one cell.

    `calculated_us` is None where a class of `unknown_costs` was hit and has no cost here: a sum
    over some sites would look like a saving. `measured_us` is paired against the cells of the mode
    `against`.
    """

    calculated_us: float | None
    unknown_costs: tuple[str, ...]
    measured_us: Estimate | None
    against: str | None

    @property
    def ratio(self) -> float | None:
        """Calculated by measured; None where one is missing, or nothing extra was measured."""
        if self.calculated_us is None or self.measured_us is None or self.measured_us.value <= 0:
            return None
        return self.calculated_us / self.measured_us.value


def reconcile(
    counted: Sequence[Trial],
    costs: Iterable[HitCost],
    measured_us: Estimate | None,
    against: str | None,
) -> Reconciliation | None:
    """The reconciliation of a cell; None where none of its trials counted a hit."""
    costs = tuple(costs)
    sums = [found for trial in counted if (found := expected_us(trial, costs)) is not None]
    if not sums:
        return None
    unknown = sorted({name for _, names in sums for name in names})
    calculated = None if unknown else median([us for us, _ in sums])
    return Reconciliation(calculated, tuple(unknown), measured_us, against)


def expected_us(trial: Trial, costs: Iterable[HitCost]) -> tuple[float, set[str]] | None:
    """Hits per request times this host's cost per hit, in microseconds, over all sites.

    Out: the sum, and what was hit and has no cost here; None where nothing was hit.
    """
    if trial.hits is None or not any(trial.hits.per_request_by_name.values()):
        return None
    if trial.hits.elsewhere or not trial.hits.sites:
        return 0.0, {UNKNOWN_SITES}
    sites = [site for site in trial.hits.sites if site.hits_per_request != 0]
    ns_by_class = _ns_by_class(costs, trial.cell)
    total_ns, unknown = 0.0, set()
    for site in sites:
        name = _class_of(site)
        ns_per_hit = ns_by_class.get(name)
        if ns_per_hit is None or site.hits_per_request is None:
            unknown.add(name)
        else:
            total_ns += site.hits_per_request * ns_per_hit
    return total_ns / 1000, unknown


def _class_of(site: Site) -> str:
    if site.placement == USERSPACE:
        return USERSPACE
    return site.instruction_class or UNKNOWN_CLASS


def _ns_by_class(costs: Iterable[HitCost], cell: Cell) -> Mapping[str, float]:
    """Nanoseconds per hit of each class; several instructions of one class count as their mean.

    A cost in the kernel is that tracer's own. One in userspace is of a runtime with the cell's
    options; where the tracer has none of its own, that of any other stands in.
    """
    own: dict[str, list[float]] = defaultdict(list)
    others: list[float] = []
    for cost in costs:
        if cost.ns_per_hit is None or cost.error is not None or cost.instruction_class is None:
            continue
        if not all(cell.runtime.get(name, value) == value for name, value in cost.runtime.items()):
            continue
        if cost.tracer == cell.tracer:
            own[cost.instruction_class].append(cost.ns_per_hit)
        elif cost.instruction_class == USERSPACE:
            others.append(cost.ns_per_hit)
    if others and USERSPACE not in own:
        own[USERSPACE] = others
    return {name: statistics.fmean(values) for name, values in own.items()}
