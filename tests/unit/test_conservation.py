"""Hits and events against completed requests, from trials made by hand."""

from dataclasses import replace
from typing import Any

import pytest

from tests.handmade import cell, trial
from uplab.conservation import (
    EMITTED,
    EVENTS_LOST,
    LOST,
    RECEIVED,
    Balance,
    balances,
    placements,
    trials_that_lost,
)
from uplab.hostside.spec import HitsRule
from uplab.measured import Declared, DeclaredSite, Hits, Reason, Site, Trial

DECLARED = Declared(
    sites={
        "read": DeclaredSite("kernel", HitsRule(1, 2, 10)),
        "status": DeclaredSite("userspace", None),
        "left alone": DeclaredSite("untouched", HitsRule(0, 0)),
    },
    events=HitsRule(2, 2),
)
CELL = cell("kernel-uprobe", load_parameters={"connections": 10})


def counted(
    by_name: dict[str, int],
    events: tuple[int | None, int | None, int | None] = (2000, 1990, 0),
    requests: int | None = 1000,
    **changes: Any,
) -> Trial:
    hits = Hits(
        attach="uprobe_multi",
        sites=(),
        per_request_by_name={
            name: hits / requests if requests else None for name, hits in by_name.items()
        },
        events_emitted=events[0],
        events_received=events[1],
        events_lost=events[2],
        by_name=by_name,
    )
    return trial(1, CELL, 1, 1000, hits=replace(hits, **changes), requests=requests)


def balance(what: str, *trials: Trial, declared: Declared | None = DECLARED) -> Balance:
    (found,) = [line for line in balances(trials, trials, declared) if line.what == what]
    return found


def test_a_site_is_held_against_its_range_in_every_trial() -> None:
    line = balance("read", counted({"read": 1500}), counted({"read": 1700}), counted({"read": 900}))
    assert (line.median, line.least, line.most) == (1.5, 0.9, 1.7)
    # 1000 requests, of which 10 may be in flight: 990 hits at least.
    assert (line.judged, line.outside) == (3, 1)


@pytest.mark.parametrize(
    ("hits", "outside"), [(989, 1), (990, 0), (2 * 1010 + 100, 0), (2 * 1010 + 101, 1)]
)
def test_the_range_is_the_hosts_own(hits: int, outside: int) -> None:
    assert balance("read", counted({"read": hits})).outside == outside


def test_what_is_not_declared_is_shown_and_not_judged() -> None:
    line = balance("status", counted({"status": 13_000, "read": 1500}))
    assert (line.median, line.judged) == (13, 0)
    line = balance("other", counted({"other": 3000, "read": 1500}))
    assert (line.median, line.rule, line.judged) == (3, None, 0)
    line = balance("read", counted({"read": 1500}), declared=None)
    assert (line.median, line.rule, line.judged) == (1.5, None, 0)


def test_a_site_that_should_be_left_alone_has_no_hit() -> None:
    line = balance("left alone", counted({"left alone": 1}))
    assert (line.judged, line.outside) == (1, 1)


def test_what_was_neither_probed_nor_counted_has_no_line() -> None:
    shown = [line.what for line in balances([counted({"read": 1500})], [], DECLARED)]
    assert shown == ["read", EMITTED, LOST]
    assert balances([trial(1, CELL, 1, 1000)], [], DECLARED) == ()


def test_events_are_counted_per_request_and_none_may_be_lost() -> None:
    lossy = replace(counted({"read": 1500}, (1500, 1400, 100)), valid=False)
    trials = [counted({"read": 1500}), lossy]
    emitted, received, lost = (balance(what, *trials) for what in (EMITTED, RECEIVED, LOST))
    assert (emitted.least, emitted.most, emitted.outside) == (1.5, 2, 1)
    assert (received.least, received.most, received.judged) == (1.4, 1.99, 0)
    assert (lost.most, lost.judged, lost.outside) == (0.1, 2, 1)


def test_lost_events_that_the_host_let_pass_are_shown_and_not_judged() -> None:
    lost = balance(LOST, counted({"read": 1500}, (2000, None, 300)))
    assert (lost.median, lost.rule, lost.judged) == (0.3, None, 0)


def test_events_that_a_tracer_does_not_count_are_missing_not_zero() -> None:
    lines = balances([counted({"read": 1500}, (None, None, None))] * 2, [], DECLARED)
    assert [line.what for line in lines] == ["read"]


def test_only_trials_that_count_make_the_figure() -> None:
    good, spoiled = counted({"read": 1500}), counted({"read": 9})
    (line, *_) = balances([good, spoiled], [good], DECLARED)
    assert (line.median, line.most, line.judged, line.outside) == (1.5, 1.5, 2, 1)


def test_one_sum_over_all_programs_is_held_against_all_sites_together() -> None:
    declared = Declared(
        sites={
            "read": DeclaredSite("kernel", HitsRule(1, 2, 10)),
            "write": DeclaredSite("kernel", HitsRule(1, 4)),
        },
        events=None,
    )
    by_kernel: dict[str, Any] = {"events": (None, None, None), "warm_up_requests": 100}
    line = balance("all probes", counted({"all probes": 500}, **by_kernel), declared=declared)
    assert line.rule == HitsRule(2, 6, 10)
    # By the requests of the warm-up, in which the kernel counted.
    assert (line.judged, line.outside) == (1, 0)
    line = balance("all probes", counted({"all probes": 5000}, **by_kernel), declared=declared)
    assert line.outside == 1


def test_hits_that_may_be_of_other_processes_are_shown_and_not_judged() -> None:
    line = balance("read", counted({"read": 9000}, elsewhere=True))
    assert (line.median, line.judged) == (9, 0)


def test_hits_without_requests_are_not_judged() -> None:
    assert balances([counted({"read": 5}, requests=None)], [], DECLARED) == ()
    assert balances([counted({"read": 5}, requests=0)], [], DECLARED) == ()


def site(name: str, place: str | None) -> Site:
    return Site(name, "entry", None, 1, 1.0, place)


def test_where_a_site_lay_the_trials_say_first() -> None:
    seen = counted({}, sites=(site("read", "userspace"), site("status", None)))
    assert placements([seen], DECLARED) == {
        "read": "userspace",
        "status": "userspace",
        "left alone": "untouched",
    }
    assert placements([seen], None) == {"read": "userspace"}
    other = counted({}, sites=(site("read", "kernel"),))
    assert placements([seen, other], None) == {"read": "kernel and userspace"}
    assert placements([], None) == {}


def test_trials_that_lost_events_are_found_by_the_hosts_reason() -> None:
    lossy = replace(counted({}), reasons=(Reason(EVENTS_LOST, "events lost: 3"),))
    broken = replace(counted({}), reasons=(Reason("load", "3 read errors"),))
    assert trials_that_lost([lossy, broken, counted({})]) == [lossy]
