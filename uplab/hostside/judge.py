"""Does a trial count? Pure functions from what was seen to the reasons against it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from uplab.hostside.attest import Evidence, ExpectedSite
from uplab.hostside.placing import chosen, places
from uplab.hostside.reasons import REASONS
from uplab.hostside.spec import (
    Cell,
    HitsRule,
    Limits,
    LoadAdapter,
    ServerAdapter,
    Site,
    TracerAdapter,
)

#: The parameter of an open loop that says how many requests per second it asks for.
RATE = "rate_per_s"
#: A load that reached less than this share of its rate was not the load that was asked for.
LEAST_RATE = 0.99


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
    placed = {site.placement for site in expected}
    if seen.uprobes_page and not anything and "kernel" not in placed:
        text = f"{when} the load: the kernel's [uprobes] page is in the server"
        reasons.append(Reason("bytes", text))
    if seen.agents and not anything and "userspace" not in placed:
        text = f"{when} the load: a userspace tracing agent is in the server ({seen.agents[0]})"
        reasons.append(Reason("bytes", text))
    if not seen.agents and "userspace" in placed:
        text = f"{when} the load: no userspace tracing agent is in the server"
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
    return over(limits, loud)


def over(limits: Limits, loud: list[str]) -> tuple[list[Reason], list[str]]:
    """What was over a limit: as reasons where the matrix says ``invalid``, else as flags."""
    if limits.over == "invalid":
        return [Reason("noise", text) for text in loud], []
    return [], loud


def short_of_rate(load: LoadAdapter, cell: Cell, requests_per_s: float | None) -> list[str]:
    """A flag where an open loop reached too little of the rate that its parameter asks for.

    The trial counts, because its CPU per request is what it is; its latency is of another load.

    Args:
        load: whether it is an open loop.
        cell: the parameter ``rate_per_s``.
        requests_per_s: completed; None where the load could not tell.
    """
    asked = cell.load_parameters.get(RATE)
    if load.loop != "open" or not asked or requests_per_s is None:
        return []
    if requests_per_s >= LEAST_RATE * asked:
        return []
    short_pct = 100 * (1 - requests_per_s / asked)
    return [f"load: {requests_per_s:.1f} of {asked} requests/s asked for, {short_pct:.1f} % short"]


def rule_for(rules: Iterable[HitsRule], server: ServerAdapter) -> HitsRule | None:
    """The first rule whose traits the server all has."""
    for rule in rules:
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
    reasons += site_hits(tracer.sites, tracer, server, cell, counted["by_name"], requests)
    rules = event_rules(tracer, cell)
    return reasons + events(rules, server, cell, counted["events"].get("emitted"), requests)


def site_hits(
    sites: Iterable[Site],
    tracer: TracerAdapter,
    server: ServerAdapter,
    cell: Cell,
    by_name: Mapping[str, Any],
    requests: int,
) -> list[Reason]:
    """Where the hits of single sites contradict completed requests.

    Args:
        sites: those of the tracer's that were counted.
        tracer: says where a cell places them; untouched ones must have no hit.
        server: its traits choose among the ranges.
        cell: its load's connections.
        by_name: the hits of each site.
        requests: completed while they were counted.
    """
    reasons = []
    placed = places(tracer, cell)
    connections = cell.load_parameters.get("connections", 0)
    for site in sites:
        probed = placed.get(site.name) != "untouched"
        rule = rule_for(site.hits, server) if probed else HitsRule(minimum=0, maximum=0)
        if rule is None:
            continue
        seen = by_name.get(site.name, {}).get("hits", 0)
        least, most = bounds(rule, requests, connections)
        if not least <= seen <= most:
            text = (
                f"{site.name}: {seen} hits for {requests} requests, declared are "
                f"{rule.minimum:g} to {rule.maximum:g} per request"
            )
            reasons.append(Reason("hits", text))
    return reasons


def event_rules(tracer: TracerAdapter, cell: Cell) -> tuple[HitsRule, ...]:
    """The events that a cell must emit: those of its placement, else those of its mode."""
    mode = tracer.modes[cell.mode]
    placing = chosen(mode, cell)
    return (placing and placing.events) or mode.events


def events(
    rules: Iterable[HitsRule],
    server: ServerAdapter,
    cell: Cell,
    emitted: int | None,
    requests: int | None,
) -> list[Reason]:
    """Where a tracer told of fewer or more events than the completed requests allow.

    Args:
        rules: of the mode, or of the placement.
        server: its traits choose among them; where none fits, nothing is judged.
        cell: its load's connections.
        emitted: events during the measurement; None where the tracer does not count them.
        requests: completed meanwhile; None where the load could not tell.
    """
    rule = rule_for(rules, server)
    if rule is None or requests is None or emitted is None:
        return []
    least, most = bounds(rule, requests, cell.load_parameters.get("connections", 0))
    if least <= emitted <= most:
        return []
    text = (
        f"{emitted} events for {requests} requests, declared are "
        f"{rule.minimum:g} to {rule.maximum:g} per request"
    )
    return [Reason("events", text)]


def printed_events(
    tracer: TracerAdapter,
    server: ServerAdapter,
    cell: Cell,
    told: Mapping[str, Any],
    requests: int | None,
) -> list[Reason]:
    """As :func:`events`, for a tracer that prints the events of the whole machine.

    What it says to have lost may be anybody's. So where it told of as many events of this server
    as are declared, the lost ones are shown and are no reason; where it did not, or nothing is
    declared, they are.

    Args:
        tracer: declares the events.
        server: its traits choose among the ranges.
        cell: its mode, and its load's connections.
        told: ``emitted`` of this server and ``lost`` of all, during the measurement.
        requests: completed meanwhile; None where the load could not tell.
    """
    rules = event_rules(tracer, cell)
    reasons = events(rules, server, cell, told["emitted"], requests)
    if told["lost"] and (reasons or rule_for(rules, server) is None):
        reasons.append(Reason("events-lost", f"events lost: {told['lost']}"))
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
    rules = [rule for site in tracer.sites if (rule := rule_for(site.hits, server))]
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
