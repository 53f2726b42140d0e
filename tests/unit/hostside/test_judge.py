"""uplab/hostside/judge.py: which reasons speak against a trial, from what was seen."""

from dataclasses import replace
from typing import Any

import pytest

from uplab.hostside import judge
from uplab.hostside.attest import Evidence, ExpectedSite, Placement
from uplab.hostside.judge import Reason, rule_for
from uplab.hostside.reasons import REASONS
from uplab.hostside.spec import (
    Cell,
    HitsRule,
    Limits,
    ModeSpec,
    ServerAdapter,
    Site,
    TracerAdapter,
)

RULE = HitsRule(minimum=1, maximum=2)
ENTRY = Site("enter", "traced", "entry", (RULE,))
TRACER = TracerAdapter(
    1,
    "tracer",
    "t",
    "",
    ("{p}",),
    modes={"tracer-only": ModeSpec(), "kernel-uprobe": ModeSpec(placement="kernel")},
    sites=(ENTRY,),
)
SERVER = ServerAdapter(1, "server", "s", "", ("{p}",), "http://h/", "", traits=("go", "tls"))
CELL = Cell("c", "s", "kernel-uprobe", "t", 12, "l", {"duration_s": 1, "connections": 10})
NO_EVENTS = {"emitted": 0, "received": 0, "lost": 0}


def counted(hits: int, lost: int = 0) -> dict[str, Any]:
    return {"by_name": {"enter": {"hits": hits}}, "events": {**NO_EVENTS, "lost": lost}}


def texts(hits: int, rule: HitsRule = RULE, mode: Any = "kernel-uprobe") -> list[str]:
    """What is said of 1000 requests by 10 connections."""
    tracer = replace(TRACER, sites=(replace(ENTRY, hits=(rule,)),))
    reasons = judge.hits(tracer, SERVER, replace(CELL, mode=mode), counted(hits), 1000)
    assert {reason.code for reason in reasons} <= {"hits"}
    return [reason.text for reason in reasons]


def test_the_first_rule_whose_traits_fit_applies() -> None:
    tls = HitsRule(minimum=1, maximum=1, traits=("tls",))
    both = HitsRule(minimum=2, maximum=2, traits=("tls", "go"))
    rest = HitsRule(minimum=0, maximum=0)
    assert rule_for(Site("a", "a", "entry", (tls, both, rest)), SERVER) is tls
    assert rule_for(Site("a", "a", "entry", (both, tls)), SERVER) is both
    assert rule_for(Site("a", "a", "entry", (tls, rest)), replace(SERVER, traits=())) is rest
    assert rule_for(Site("a", "a", "entry", (tls,)), replace(SERVER, traits=())) is None


@pytest.mark.parametrize("hits", [990, 1000, 2000, 2020, 2050])
def test_hits_within_the_range_and_its_edges(hits: int) -> None:
    # 990 = 1 * (1000 - 10); 2050 = 2 * (1000 + 10) + 3 * 10
    assert texts(hits, replace(RULE, per_connection=3)) == []


@pytest.mark.parametrize("hits", [0, 989, 2051, -5])
def test_hits_out_of_the_range(hits: int) -> None:
    assert texts(hits, replace(RULE, per_connection=3)) == [
        f"enter: {hits} hits for 1000 requests, declared are 1 to 2 per request"
    ]


def test_a_site_that_must_not_be_hit() -> None:
    never = HitsRule(minimum=0, maximum=0)
    assert texts(0, never) == []
    assert texts(1, never) == ["enter: 1 hits for 1000 requests, declared are 0 to 0 per request"]


def test_in_a_mode_without_probes_any_hit_is_one_too_many() -> None:
    assert texts(0, mode="tracer-only") == []
    assert texts(1, mode="tracer-only") == [
        "enter: 1 hits for 1000 requests, declared are 0 to 0 per request"
    ]


def test_a_site_without_any_hits_reported_is_a_reason() -> None:
    nothing = {"by_name": {}, "events": NO_EVENTS}
    (reason,) = judge.hits(TRACER, SERVER, CELL, nothing, 1000)
    assert reason.code == "hits"
    assert reason.text.startswith("enter: ")


def test_a_site_without_a_rule_for_this_server_is_not_judged() -> None:
    assert texts(10**9, replace(RULE, traits=("java",))) == []


def test_more_connections_than_requests_ask_for_nothing_negative() -> None:
    assert judge.hits(TRACER, SERVER, CELL, counted(0), 5) == []


def test_lost_events_are_a_reason_also_when_nobody_knows_the_requests() -> None:
    assert judge.hits(TRACER, SERVER, CELL, counted(10**9, lost=3), None) == [
        Reason("events-lost", "events lost: 3")
    ]
    assert judge.hits(TRACER, SERVER, CELL, counted(10**9), None) == []


def test_a_load_without_connections_widens_nothing() -> None:
    cell = replace(CELL, load_parameters={"duration_s": 1})
    assert judge.hits(TRACER, SERVER, cell, counted(1000), 1000) == []
    assert len(judge.hits(TRACER, SERVER, cell, counted(999), 1000)) == 1


def looked(*problems: str, uprobes_page: bool = False) -> Evidence:
    return Evidence("proven", (1,), 4096, ("/s",), (), (), uprobes_page, problems)


def expect(placement: Placement) -> list[ExpectedSite]:
    return [ExpectedSite("enter", "traced", "entry", "/s", 1, placement)]


def test_evidence_without_problems_is_no_reason() -> None:
    assert judge.evidence(looked(), [], "before") == []
    assert judge.evidence(looked(uprobes_page=True), expect("kernel"), "after") == []


def test_a_probe_that_is_missing_has_a_reason_of_its_own() -> None:
    seen = looked("probe site unchanged: enter", "/s+0x1 was altered")
    assert judge.evidence(seen, expect("kernel"), "before") == [
        Reason("site-unchanged", "before the load: probe site unchanged: enter"),
        Reason("bytes", "before the load: /s+0x1 was altered"),
    ]


def test_the_kernel_s_page_for_uprobes_does_not_belong_where_none_is() -> None:
    seen = looked(uprobes_page=True)
    wanted = [Reason("bytes", "after the load: the kernel's [uprobes] page is in the server")]
    assert judge.evidence(seen, [], "after") == wanted
    assert judge.evidence(seen, expect("untouched"), "after") == wanted


def test_each_problem_of_the_load_is_a_reason() -> None:
    assert judge.load(["3 read errors", "no requests"]) == [
        Reason("load", "3 read errors"),
        Reason("load", "no requests"),
    ]


@pytest.mark.parametrize(
    ("steal", "foreign", "said"),
    [
        (5.0, 10.0, []),
        (5.04, 0.0, ["steal 5.0 % of the host's CPU > 5 %"]),
        (0.0, 10.1, ["foreign 10.1 % of the host's CPU > 10 %"]),
        (
            50.0,
            60.0,
            ["steal 50.0 % of the host's CPU > 5 %", "foreign 60.0 % of the host's CPU > 10 %"],
        ),
    ],
)
def test_a_host_that_was_not_quiet(steal: float, foreign: float, said: list[str]) -> None:
    cpu = {"steal_pct": steal, "foreign_pct": foreign}
    limits = Limits(steal_pct=5.0, foreign_pct=10.0)
    assert judge.quiet(limits, cpu) == ([], said)
    reasons = [Reason("noise", text) for text in said]
    assert judge.quiet(replace(limits, over="invalid"), cpu) == (reasons, [])


def test_a_reason_that_is_not_documented_cannot_be_given() -> None:
    with pytest.raises(ValueError, match="'bad-mood' is not a documented reason"):
        Reason("bad-mood", "")


def test_every_reason_is_explained() -> None:
    assert all(entry.means and entry.look_at for entry in REASONS.values())
