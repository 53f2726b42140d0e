"""Conservation: what a tracer counted and told of, against the requests that were completed.

A mode that is quick because it missed hits or dropped events shows here. Pure functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from uplab.estimates import median
from uplab.hostside import judge
from uplab.hostside.spec import HitsRule
from uplab.measured import Declared, Hits, Trial

EMITTED, RECEIVED, LOST = "events emitted", "events received", "events lost"
#: The host's reason for a trial whose tracer lost events (see uplab/hostside/reasons.py).
EVENTS_LOST = "events-lost"


@dataclass(frozen=True, slots=True)
class Balance:
    """One site, or one kind of events, of one cell.

    `median`, `least` and `most` are per request, over the trials that count. `judged` says how many
    trials could be held against `rule`, of all attempts, and `outside` how many were not within it.
    """

    what: str
    is_site: bool
    median: float | None
    least: float | None
    most: float | None
    rule: HitsRule | None
    judged: int
    outside: int


@dataclass(frozen=True, slots=True)
class _Count:
    """How to read one figure of a trial, and the requests that it belongs to."""

    count: Callable[[Hits], int | None]
    requests: Callable[[Trial], int | None]
    of_site: bool = False

    def of(self, trial: Trial) -> tuple[int, int] | None:
        """The count and the requests; None where one of them is missing or there were none."""
        count = self.count(trial.hits) if trial.hits else None
        requests = self.requests(trial)
        return (count, requests) if count is not None and requests else None


def balances(
    trials: Sequence[Trial], counted: Sequence[Trial], declared: Declared | None
) -> tuple[Balance, ...]:
    """Every site and the events of a cell.

    In: all trials of the cell, those that count, and what its adapters declare (None where the run
    does not say). Out: the sites in the order of the adapter, then the events; what was neither
    probed nor counted is left out.
    """
    both = (trials, counted)
    rules = _rules(declared, _counted_names(trials))
    found = [_balance(name, _site(name), rule, *both) for name, rule in rules.items()]
    emitted = declared.events if declared else None
    told = [
        _balance(EMITTED, _Count(lambda hits: hits.events_emitted, _measured), emitted, *both),
        _balance(RECEIVED, _Count(lambda hits: hits.events_received, _measured), None, *both),
        _balance(LOST, _Count(_lost, _measured), _lost_rule(trials), *both),
    ]
    return tuple(line for line in (*found, *told) if line.median is not None or line.judged)


def placements(trials: Iterable[Trial], declared: Declared | None) -> dict[str, str]:
    """Where each site of a cell lay: as the trials say, else as the adapter declares it."""
    seen: dict[str, set[str]] = {}
    for trial in trials:
        for site in trial.hits.sites if trial.hits else ():
            if site.placement is not None:
                seen.setdefault(site.name, set()).add(site.placement)
    found = {
        name: site.placement
        for name, site in (declared.sites.items() if declared else ())
        if site.placement is not None
    }
    return found | {name: " and ".join(sorted(places)) for name, places in seen.items()}


def trials_that_lost(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that are invalid because their tracer lost events."""
    return [
        trial for trial in trials if any(reason.code == EVENTS_LOST for reason in trial.reasons)
    ]


def _counted_names(trials: Iterable[Trial]) -> set[str]:
    return {name for trial in trials if trial.hits for name in trial.hits.by_name}


def _rules(declared: Declared | None, names: set[str]) -> dict[str, HitsRule | None]:
    """The range of each name that was counted: the site's own, or that of all sites together.

    The latter where a tracer does not count and the kernel did: one sum over all of its programs.
    """
    rules = {name: site.rule for name, site in declared.sites.items()} if declared else {}
    others = names - set(rules)
    all_together = _total(rules.values()) if len(names) == 1 else None
    return rules | dict.fromkeys(sorted(others), all_together)


def _total(rules: Iterable[HitsRule | None]) -> HitsRule | None:
    known = [rule for rule in rules if rule is not None]
    if not known:
        return None
    return HitsRule(
        minimum=sum(rule.minimum for rule in known),
        maximum=sum(rule.maximum for rule in known),
        per_connection=sum(rule.per_connection for rule in known),
    )


def _measured(trial: Trial) -> int | None:
    return trial.load.requests if trial.load else None


def _hit(trial: Trial) -> int | None:
    """The requests of the warm-up where the kernel counted hits, in it; else the measured ones."""
    in_warm_up = trial.hits.warm_up_requests if trial.hits else None
    return _measured(trial) if in_warm_up is None else in_warm_up


def _lost(hits: Hits) -> int | None:
    return hits.events_lost


def _lost_rule(trials: Iterable[Trial]) -> HitsRule | None:
    """None may be lost, but where the host let one pass: those of a tracer that tells of the whole
    machine may be anybody's.
    """
    passed = any(trial.valid and trial.hits and trial.hits.events_lost for trial in trials)
    return None if passed else HitsRule(minimum=0, maximum=0)


def _site(name: str) -> _Count:
    def count(hits: Hits) -> int | None:
        """Only with the host's figure per request: without it, it knew no requests to go by."""
        known = hits.per_request_by_name.get(name) is not None
        return hits.by_name.get(name) if known else None

    return _Count(count, _hit, of_site=True)


def _balance(
    what: str,
    figure: _Count,
    rule: HitsRule | None,
    trials: Sequence[Trial],
    counted: Sequence[Trial],
) -> Balance:
    figures = [
        hits / requests
        for trial in counted
        if (found := figure.of(trial))
        for hits, requests in [found]
    ]
    within = [fits for trial in trials if (fits := _fits(trial, figure, rule)) is not None]
    return Balance(
        what=what,
        is_site=figure.of_site,
        median=median(figures),
        least=min(figures, default=None),
        most=max(figures, default=None),
        rule=rule,
        judged=len(within),
        outside=within.count(False),
    )


def _fits(trial: Trial, figure: _Count, rule: HitsRule | None) -> bool | None:
    """Whether a count lies in a range, by the host's own arithmetic; None where nobody can tell."""
    found = figure.of(trial)
    connections = trial.cell.load_parameters.get("connections", 0)
    if rule is None or found is None:
        return None
    if figure.of_site and trial.hits and trial.hits.elsewhere:
        return None
    if isinstance(connections, bool) or not isinstance(connections, int):
        return None
    hits, requests = found
    least, most = judge.bounds(rule, requests, connections)
    return least <= hits <= most
