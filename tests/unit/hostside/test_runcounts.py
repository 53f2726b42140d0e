"""uplab/hostside/runcounts.py: the kernel's own counts of BPF programs' runs."""

from __future__ import annotations

import os

import pytest

from uplab.hostside import runcounts
from uplab.hostside.runcounts import PROBE_PROGRAM, Link, Program

PROGRAM = """\
pos:\t0
flags:\t02000002
prog_type:\t2
prog_jited:\t1
prog_tag:\ta9a8da54dce2df65
prog_id:\t14641
run_time_ns:\t19180511
run_cnt:\t52348
"""
LINK = """\
pos:\t0
link_type:\tuprobe_multi
link_id:\t5585
prog_tag:\ta9a8da54dce2df65
prog_id:\t14641
uprobe_cnt:\t2
pid:\t18439
path:\t/opt/a b/go-server
cookie           offset           ref_ctr_offset
0                0x3af40          0x0
"""


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the open files of any process look like."""
    texts: list[str] = []

    def descriptors(_: object) -> object:
        return (runcounts.parse_fdinfo(text) for text in texts)

    monkeypatch.setattr(runcounts, "_descriptors", descriptors)
    return texts


def test_a_program_is_read(shown: list[str]) -> None:
    shown += [PROGRAM, LINK, PROGRAM]
    assert runcounts.programs([1]) == {14641: Program(14641, PROBE_PROGRAM, 52348, 19180511)}


def test_a_link_is_read(shown: list[str]) -> None:
    shown += [PROGRAM, LINK, LINK.replace("18439", "0").replace("5585", "7")]
    assert runcounts.links([1]) == {
        5585: Link(5585, "uprobe_multi", 14641, 18439, "/opt/a b/go-server"),
        7: Link(7, "uprobe_multi", 14641, None, "/opt/a b/go-server"),
    }


def test_runs_are_what_counts_grew_by() -> None:
    before = {1: Program(1, PROBE_PROGRAM, 10, 0), 2: Program(2, PROBE_PROGRAM, 5, 0)}
    after = {
        1: Program(1, PROBE_PROGRAM, 25, 0),
        2: Program(2, PROBE_PROGRAM, 500, 0),
        3: Program(3, PROBE_PROGRAM, 4, 0),
    }
    # Program 2 is on a kprobe; program 3 came meanwhile; one that went cannot be counted.
    assert runcounts.runs_between(before, after, {1, 3}) == {1: 15, 3: 4}
    assert runcounts.runs_between(after, {}, {1}) == {}


def test_what_is_gone_holds_nothing() -> None:
    assert runcounts.programs([1 << 22]) == {}
    assert runcounts.links([1 << 22]) == {}
    assert runcounts.probes([1 << 22]) == []


def test_what_holds_no_perf_event_has_no_probes() -> None:
    assert runcounts.probes([os.getpid()]) == []


def test_who_may_not_ask_for_probes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runcounts, "_perf_events", lambda _pid: iter([3]))
    monkeypatch.setattr(runcounts, "syscall_number", lambda: None)
    with pytest.raises(OSError, match="not implemented"):
        runcounts.probes([os.getpid()])


def test_counting_can_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runcounts, "syscall_number", lambda: None)
    with pytest.raises(OSError, match="not implemented"), runcounts.counting():
        pytest.fail("it does not count")
