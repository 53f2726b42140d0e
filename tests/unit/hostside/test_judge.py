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
    LoadAdapter,
    ModeSpec,
    Parameter,
    Placing,
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
    assert rule_for((tls, both, rest), SERVER) is tls
    assert rule_for((both, tls), SERVER) is both
    assert rule_for((tls, rest), replace(SERVER, traits=())) is rest
    assert rule_for((tls,), replace(SERVER, traits=())) is None


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


AGENT = "/opt/libbpftime-agent.so"


def looked(*problems: str, uprobes_page: bool = False, agents: tuple[str, ...] = ()) -> Evidence:
    return Evidence("proven", (1,), 4096, ("/s",), (), (), uprobes_page, problems, agents=agents)


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


def test_nor_where_all_sites_are_in_userspace() -> None:
    seen = looked(uprobes_page=True, agents=(AGENT,))
    (reason,) = judge.evidence(seen, expect("userspace"), "before")
    assert reason.text == "before the load: the kernel's [uprobes] page is in the server"
    both = [*expect("userspace"), *expect("kernel")]
    assert judge.evidence(seen, both, "before") == []


@pytest.mark.parametrize("placement", ["untouched", "kernel"])
def test_an_agent_that_was_left_in_memory_is_seen(placement: Placement) -> None:
    seen = looked(agents=(AGENT,))
    text = f"before the load: a userspace tracing agent is in the server ({AGENT})"
    assert judge.evidence(seen, expect(placement), "before") == [Reason("bytes", text)]
    assert judge.evidence(seen, [], "before") == [Reason("bytes", text)]
    assert judge.evidence(seen, [], "before", anything=True) == []


def test_userspace_probes_without_their_agent_are_somebody_else_s() -> None:
    (reason,) = judge.evidence(looked(), expect("userspace"), "after")
    assert reason == Reason("bytes", "after the load: no userspace tracing agent is in the server")


def test_a_site_that_the_placement_leaves_untouched_must_not_be_hit() -> None:
    mode = ModeSpec(placement="userspace", placements={"other": Placing(userspace=("other",))})
    tracer = replace(
        TRACER,
        modes={"userspace-uprobe": mode},
        sites=(ENTRY, Site("other", "other", "entry", ())),
    )
    cell = replace(CELL, mode="userspace-uprobe", placement="other")
    assert judge.hits(tracer, SERVER, cell, counted(0), 1000) == []
    (reason,) = judge.hits(tracer, SERVER, cell, counted(1), 1000)
    assert reason.text == "enter: 1 hits for 1000 requests, declared are 0 to 0 per request"


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


# --- events, and hits that the kernel counted -----------------------------------------------------


EVENTS = (HitsRule(2, 2, traits=("tls",)),)
TELLING = replace(
    TRACER, modes={"kernel-uprobe": ModeSpec(placement="kernel", events=EVENTS)}, ready_line="r"
)


def printed(emitted: int, lost: int = 0, requests: int | None = 1000) -> list[Reason]:
    told = {"emitted": emitted, "lost": lost}
    return judge.printed_events(TELLING, SERVER, CELL, told, requests)


def test_events_as_declared_are_no_reason_even_where_some_were_lost() -> None:
    assert printed(1980) == printed(2020) == printed(2000, lost=500) == []


def test_too_few_events_are_a_reason_and_so_are_the_lost_ones() -> None:
    text = "1979 events for 1000 requests, declared are 2 to 2 per request"
    assert printed(1979) == [Reason("events", text)]
    assert printed(1979, lost=7) == [
        Reason("events", text),
        Reason("events-lost", "events lost: 7"),
    ]


def test_too_many_events_are_a_reason() -> None:
    assert [reason.code for reason in printed(2021)] == ["events"]


def test_where_no_events_are_declared_any_lost_one_is_a_reason() -> None:
    plain = replace(SERVER, traits=("plain",))
    told = {"emitted": 5, "lost": 0}
    assert judge.printed_events(TELLING, plain, CELL, told, 1000) == []
    lossy = judge.printed_events(TELLING, plain, CELL, {**told, "lost": 3}, 1000)
    assert lossy == [Reason("events-lost", "events lost: 3")]


def test_without_requests_events_are_not_judged() -> None:
    assert printed(0, requests=None) == []


def test_only_the_sites_that_were_counted_are_judged() -> None:
    nothing: dict[str, Any] = {}
    assert judge.site_hits([], TRACER, SERVER, CELL, nothing, 1000) == []
    (reason,) = judge.site_hits([ENTRY], TRACER, SERVER, CELL, nothing, 1000)
    assert reason.code == "hits"


def test_a_tracer_that_counts_its_events_is_held_to_them() -> None:
    counts = counted(1000)
    counts["events"]["emitted"] = 2100
    (reason,) = judge.hits(TELLING, SERVER, CELL, counts, 1000)
    assert reason == Reason(
        "events", "2100 events for 1000 requests, declared are 2 to 2 per request"
    )
    counts["events"]["emitted"] = 2000
    assert judge.hits(TELLING, SERVER, CELL, counts, 1000) == []


def test_a_placement_has_events_of_its_own() -> None:
    placing = Placing(userspace=("enter",), events=(HitsRule(1, 1),))
    mode = ModeSpec(placement="userspace", placements={"a": placing}, events=EVENTS)
    tracer = replace(TRACER, modes={"userspace-uprobe": mode})
    cell = replace(CELL, mode="userspace-uprobe", placement="a")
    assert judge.event_rules(tracer, cell) == placing.events
    bare = replace(mode, placements={"a": replace(placing, events=())})
    assert judge.event_rules(replace(tracer, modes={"userspace-uprobe": bare}), cell) == EVENTS


# --- the rate of an open loop ---------------------------------------------------------------------


OPEN = LoadAdapter(
    1,
    "load",
    "l",
    "",
    "open",
    ("{p}",),
    "a.py",
    parameters={
        "duration_s": Parameter(1, 1, 9, "s", ""),
        "rate_per_s": Parameter(1000, 1, 9999, "requests/s", ""),
    },
)
AT_RATE = replace(CELL, load_parameters={"duration_s": 1, "rate_per_s": 1000})


def test_an_open_loop_that_misses_its_rate_is_flagged() -> None:
    assert judge.short_of_rate(OPEN, AT_RATE, 990.0) == []
    assert judge.short_of_rate(OPEN, AT_RATE, 985.04) == [
        "load: 985.0 of 1000 requests/s asked for, 1.5 % short"
    ]


def test_without_a_rate_nothing_is_short_of_it() -> None:
    assert judge.short_of_rate(replace(OPEN, loop="closed"), AT_RATE, 10.0) == []
    assert judge.short_of_rate(OPEN, CELL, 10.0) == []
    assert judge.short_of_rate(OPEN, AT_RATE, None) == []
