"""Does a trial count? Pure functions from what was seen to the reasons against it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from uplab.hostside.attest import Evidence, ExpectedSite
from uplab.hostside.reasons import REASONS
from uplab.hostside.spec import Cell, HitsRule, Limits, ServerAdapter, Site, TracerAdapter


@dataclass(frozen=True)
class Reason:
    """Why a trial is invalid: a stable name, and the words with the values seen."""

    code: str
    text: str

    def __post_init__(self) -> None:
        if self.code not in REASONS:
            raise ValueError(f"{self.code!r} is not a documented reason")


def evidence(
    seen: Evidence, expected: Sequence[ExpectedSite], when: str, *, anything: bool = False
) -> list[Reason]:
    """What the process's own bytes say against the cell.

    Args:
        seen: one look at the server's processes.
        expected: the sites with their placement.
        when: ``before`` or ``after``.
        anything: nobody knows beforehand what the tracer alters.
    """
    reasons = []
    for problem in seen.problems:
        code = "site-unchanged" if problem.startswith("probe site unchanged") else "bytes"
        reasons.append(Reason(code, f"{when} the load: {problem}"))
    untouched = not anything and all(site.placement == "untouched" for site in expected)
    if seen.uprobes_page and untouched:
        text = f"{when} the load: the kernel's [uprobes] page is in the server"
        reasons.append(Reason("bytes", text))
    return reasons


def same_alterations(before: Evidence, after: Evidence) -> list[Reason]:
    """What a tracer altered at the start must be altered at the end, and nothing else.

    Args:
        before: the look before the load.
        after: the look after it.
    """

    def altered(seen: Evidence) -> set[tuple[str, int]]:
        return {(site.file, site.offset) for site in seen.altered_elsewhere}

    came, went = altered(after) - altered(before), altered(before) - altered(after)
    found = [("came", came), ("went", went)]
    return [
        Reason("bytes", f"{len(sites)} altered sites {how} during the load: {file}+{offset:#x} ...")
        for how, sites in found
        if sites
        for file, offset in [min(sites)]
    ]


def load(problems: Iterable[str]) -> list[Reason]:
    """What the load's own report says against itself."""
    return [Reason("load", text) for text in problems]


def quiet(limits: Limits, cpu: Mapping[str, Any]) -> tuple[list[Reason], list[str]]:
    """Whether the host was quiet enough.

    Args:
        limits: the matrix's.
        cpu: ``steal_pct`` and ``foreign_pct`` in percent of all cores.

    Returns:
        reasons where the matrix makes such a trial invalid, else flags.
    """
    loud = [
        f"{name} {cpu[f'{name}_pct']:.1f} % of the host's CPU > {limit:g} %"
        for name, limit in (("steal", limits.steal_pct), ("foreign", limits.foreign_pct))
        if cpu[f"{name}_pct"] > limit
    ]
    if limits.over == "invalid":
        return [Reason("noise", text) for text in loud], []
    return [], loud


def rule_for(site: Site, server: ServerAdapter) -> HitsRule | None:
    """The first rule whose traits the server all has."""
    for rule in site.hits:
        if set(rule.traits) <= set(server.traits):
            return rule
    return None


def hits(
    tracer: TracerAdapter,
    server: ServerAdapter,
    cell: Cell,
    counted: Mapping[str, Any],
    requests: int | None,
) -> list[Reason]:
    """Where hits and events contradict the load's completed requests.

    Requests in flight at the edges of the measurement, at most one per connection, widen the
    declared range, as do the hits that a rule allows per connection. In a mode that sets no probe
    the range is zero for every site.

    Args:
        tracer: declares the ranges.
        server: its traits choose among them.
        cell: its mode, and its load's connections.
        counted: ``by_name`` and ``events`` of the trial's ``hits``.
        requests: completed; None where the load could not tell, which is a reason of its own.
    """
    reasons = []
    if counted["events"].get("lost"):
        reasons.append(Reason("events-lost", f"events lost: {counted['events']['lost']}"))
    if requests is None:
        return reasons
    probed = tracer.modes[cell.mode].placement != "untouched"
    connections = cell.load_parameters.get("connections", 0)
    for site in tracer.sites:
        rule = rule_for(site, server) if probed else HitsRule(minimum=0, maximum=0)
        if rule is None:
            continue
        seen = counted["by_name"].get(site.name, {}).get("hits", 0)
        least, most = bounds(rule, requests, connections)
        if not least <= seen <= most:
            text = (
                f"{site.name}: {seen} hits for {requests} requests, declared are "
                f"{rule.minimum:g} to {rule.maximum:g} per request"
            )
            reasons.append(Reason("hits", text))
    return reasons


def bounds(rule: HitsRule, requests: int, connections: int) -> tuple[float, float]:
    """The fewest and the most hits of a site that fit completed requests and connections."""
    least = rule.minimum * max(requests - connections, 0)
    most = rule.maximum * (requests + connections) + rule.per_connection * connections
    return least, most


def total_hits(
    tracer: TracerAdapter, server: ServerAdapter, cell: Cell, counted: Mapping[str, Any]
) -> list[Reason]:
    """As :func:`hits`, where only the sum over all sites was counted, in the warm-up.

    Args:
        tracer: declares the ranges; where it declares none, nothing is judged.
        server: its traits choose among them.
        cell: its mode, and its load's connections.
        counted: ``by_name`` with one entry, and ``warm_up_requests``.
    """
    requests = counted["warm_up_requests"]
    rules = [rule for site in tracer.sites if (rule := rule_for(site, server))]
    if requests is None or not rules or tracer.modes[cell.mode].placement == "untouched":
        return []
    connections = cell.load_parameters.get("connections", 0)
    each = [bounds(rule, requests, connections) for rule in rules]
    least, most = sum(low for low, _ in each), sum(high for _, high in each)
    seen = sum(part["hits"] for part in counted["by_name"].values())
    if least <= seen <= most:
        return []
    text = f"{seen} hits for {requests} requests of the warm-up, declared are {least:g} to {most:g}"
    return [Reason("hits", text)]
