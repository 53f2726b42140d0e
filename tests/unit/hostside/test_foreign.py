"""uplab/hostside/foreign.py: tracers that say neither where they probe nor how often."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from uplab.hostside import elf, foreign
from uplab.hostside.attest import Evidence, SeenSite
from uplab.hostside.errors import TrialError
from uplab.hostside.runcounts import PROBE_PROGRAM, Program
from uplab.hostside.spec import HitsRule, Site

LIBC = "libc.so.6"
SITE = Site("pid", "getppid", "entry", (HitsRule(1, 1),), file=LIBC)
NOTHING = Evidence("proven", (1,), 1, ("/bin/x",), (), (), False)
ALTERED = SeenSite("", "", "", "/bin/x", 16, 1, "90", "cc", "breakpoint")


def refused(site: Site) -> str:
    with pytest.raises(TrialError) as caught:
        foreign.declared_sites([site], [os.getpid()], "kernel")
    assert caught.value.code == "sites-disagree"
    return caught.value.text


def test_a_site_lies_in_a_library_that_the_server_has_mapped() -> None:
    (found,) = foreign.declared_sites([SITE], [os.getpid()], "kernel")
    assert found.file.endswith(f"/{LIBC}")
    symbol = elf.symbols(Path(found.file), ["getppid"])["getppid"]
    assert (found.offset, found.symbol, found.placement) == (symbol.offset, "getppid", "kernel")
    assert found.instruction_class


def test_several_processes_with_the_same_library_have_one_site() -> None:
    pids = [os.getpid(), os.getpid()]
    assert len(foreign.declared_sites([SITE], pids, "kernel")) == 1


def test_what_is_not_mapped_or_not_there_is_told() -> None:
    assert refused(replace(SITE, file="libnone.so")) == (
        "pid: no process of the server maps libnone.so"
    )
    assert refused(replace(SITE, symbol="no_such")).endswith(f"/{LIBC} has no symbol no_such")
    assert "only entries" in refused(replace(SITE, at="ret"))


@pytest.mark.parametrize(
    ("altered", "counted", "attached", "grade"),
    [
        (True, True, 1, "proven"),
        (True, False, 0, "sites only"),
        (False, False, 2, "links only"),
        (False, True, 1, "links only"),
        (False, False, 0, None),
    ],
)
def test_evidence_has_a_grade(
    altered: bool, counted: bool, attached: int, grade: str | None
) -> None:
    seen = replace(NOTHING, altered_elsewhere=(ALTERED,)) if altered else NOTHING
    assert foreign.grade(seen, counted=counted, attached=attached) == grade


def test_a_declared_site_that_is_probed_counts_as_altered() -> None:
    assert foreign.grade(replace(NOTHING, sites=(ALTERED,)), counted=True, attached=1) == "proven"
    untouched = replace(ALTERED, state="original")
    seen = replace(NOTHING, sites=(untouched,))
    assert foreign.grade(seen, counted=False, attached=0) is None


@pytest.mark.parametrize(("requests", "each"), [(100, 0.3), (0, None), (None, None)])
def test_hits_are_the_runs_of_the_warm_up(requests: int | None, each: float | None) -> None:
    before = {1: Program(1, PROBE_PROGRAM, 10, 0)}
    after = {1: Program(1, PROBE_PROGRAM, 40, 0)}
    found: dict[str, Any] = foreign.hits(before, after, requests)
    assert found["by_name"] == {"all probes": {"hits": 30, "per_request": each}}
    assert found["warm_up_requests"] == requests
