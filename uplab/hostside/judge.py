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


def evidence(seen: Evidence, expected: Sequence[ExpectedSite], when: str) -> list[Reason]:
    """What the process's own bytes say against the cell.

    Args:
        seen: one look at the server's processes.
        expected: the sites with their placement.
        when: ``before`` or ``after``.
    """
    reasons = []
    for problem in seen.problems:
        code = "site-unchanged" if problem.startswith("probe site unchanged") else "bytes"
        reasons.append(Reason(code, f"{when} the load: {problem}"))
    if seen.uprobes_page and all(site.placement == "untouched" for site in expected):
        text = f"{when} the load: the kernel's [uprobes] page is in the server"
        reasons.append(Reason("bytes", text))
    return reasons


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
    if counted["events"]["lost"]:
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
        least = rule.minimum * max(requests - connections, 0)
        most = rule.maximum * (requests + connections) + rule.per_connection * connections
        if not least <= seen <= most:
            text = (
                f"{site.name}: {seen} hits for {requests} requests, declared are "
                f"{rule.minimum:g} to {rule.maximum:g} per request"
            )
            reasons.append(Reason("hits", text))
    return reasons
