"""uplab/hostside/tracing.py: what a tracer says, held against the binary, and what it counted."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from uplab.hostside import tracing
from uplab.hostside.attest import ExpectedSite
from uplab.hostside.children import Child, Ledger
from uplab.hostside.errors import TrialError
from uplab.hostside.loop import Loop
from uplab.hostside.spec import (
    Cell,
    HitsRule,
    ModeSpec,
    Placing,
    RuntimeOptions,
    Site,
    TracerAdapter,
)
from uplab.hostside.tracing import expected_sites, hits_between

Start = Callable[[str], Child]
RULE = HitsRule(minimum=1, maximum=2)
ENTRY = Site("enter", "traced", "entry", (RULE,))
RET = Site("leave", "traced", "ret", (RULE,))
ADAPTER = TracerAdapter(
    1,
    "tracer",
    "t",
    "",
    ("{p}",),
    modes={"tracer-only": ModeSpec(), "kernel-uprobe": ModeSpec(placement="kernel")},
    sites=(ENTRY, RET),
)


KERNEL = Cell("s-kernel-uprobe-t-12B", "s", "kernel-uprobe", "t", 12, "l", {"duration_s": 1})
TRACER_ONLY = replace(KERNEL, mode="tracer-only")
IN_USERSPACE = replace(
    KERNEL, mode="userspace-uprobe", loader="syscall-server", runtime=RuntimeOptions()
)
PLACED = replace(
    ADAPTER,
    modes={
        "userspace-uprobe": ModeSpec(
            placement="userspace",
            placements={
                "entries": Placing(userspace=("enter",)),
                "both": Placing(userspace=("enter",), kernel=("leave",)),
            },
        )
    },
)


# --- talking to a real program --------------------------------------------------------------------


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop() as loop:
        yield loop


@pytest.fixture
def start(loop: Loop, tmp_path: Path) -> Iterator[Start]:
    started: list[Child] = []

    def run(program: str) -> Child:
        argv = [sys.executable, "-S", "-c", program]
        log = tmp_path / "tracer.log"
        started.append(Child(loop, Ledger(tmp_path / "ledger"), "tracer", argv, log, {}))
        return started[-1]

    yield run
    for child in started:
        child.stop("SIGKILL", 1.0)


TRACER = """
import json, signal
SIGNALS = {signal.SIGUSR1, signal.SIGUSR2}
signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
count = 0
def say(event, **more): print(json.dumps({"event": event, **more}), flush=True)
"""
ANSWER = """
while True:
    if signal.sigwait(SIGNALS) == signal.SIGUSR1:
        count += 1
        say("counters", count=count)
    else:
        for n in range(3000): say("event")
        print("done", flush=True)
"""


def test_the_attached_line_is_waited_for(loop: Loop, start: Start) -> None:
    child = start(TRACER + "print('text'); say('hello'); say('attached', pid=7)" + ANSWER)
    assert tracing.wait_attached(loop, child, 5.0) == {"event": "attached", "pid": 7}


def test_a_tracer_that_dies_before_it_is_attached(loop: Loop, start: Start) -> None:
    child = start("import sys; sys.exit('t: no BTF: boot a kernel that has it')")
    with pytest.raises(TrialError) as caught:
        tracing.wait_attached(loop, child, 5.0)
    assert caught.value.code == "tracer-died"
    assert caught.value.text == (
        "tracer died before it was attached: exit code 1, "
        "last line: t: no BTF: boot a kernel that has it"
    )


def test_a_tracer_that_never_says_that_it_is_attached(loop: Loop, start: Start) -> None:
    child = start("input() if False else __import__('time').sleep(60)")
    with pytest.raises(TrialError) as caught:
        tracing.wait_attached(loop, child, 0.1)
    assert caught.value.code == "tracer-not-ready"
    assert caught.value.text == "tracer was not attached within 0.1 s"


def test_each_request_for_counters_gets_a_new_answer(loop: Loop, start: Start) -> None:
    child = start(TRACER + "say('attached')" + ANSWER)
    tracing.wait_attached(loop, child, 5.0)
    assert tracing.read_counters(loop, child, "SIGUSR1")["count"] == 1
    assert tracing.read_counters(loop, child, "SIGUSR1")["count"] == 2


def test_a_tracer_that_talks_a_lot_is_still_heard(loop: Loop, start: Start) -> None:
    """More messages than are kept: what comes after them must not be lost among them."""
    child = start(TRACER + "say('attached')" + ANSWER)
    tracing.wait_attached(loop, child, 5.0)
    child.send("SIGUSR2")
    assert loop.until(lambda: "done" in child.lines, 5.0)
    assert tracing.read_counters(loop, child, "SIGUSR1")["count"] == 1
    assert tracing.read_counters(loop, child, "SIGUSR1")["count"] == 2


def test_a_tracer_that_dies_when_asked(loop: Loop, start: Start) -> None:
    child = start("import json; print(json.dumps({'event': 'attached'}), flush=True); input()\n")
    loop.until(lambda: child.ended, 5.0)
    with pytest.raises(TrialError, match="tracer died: exit code 1, last line: EOFError") as caught:
        tracing.read_counters(loop, child, "SIGUSR1")
    assert caught.value.code == "tracer-died"


def test_a_tracer_that_does_not_count(
    loop: Loop, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "_COUNTERS_TIMEOUT_S", 0.1)
    child = start(
        "import signal; signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
        'print(\'{"event": "attached"}\', flush=True)\nsignal.pause()'
    )
    tracing.wait_attached(loop, child, 5.0)
    with pytest.raises(TrialError, match=r"no counters within 0\.1 s") as caught:
        tracing.read_counters(loop, child, "SIGUSR1")
    assert caught.value.code == "no-counters"


# --- where the probes are -------------------------------------------------------------------------

SOURCE = """
__asm__(".text\\n.globl traced\\n.type traced, @function\\n"
        "traced: .ascii \\"UPLAB-MARK\\"\\n nop\\n ret\\n nop\\n ret $8\\n.size traced, .-traced\\n"
        "ret\\n");
int main(void) { return 0; }
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    (folder / "a.c").write_text(SOURCE)
    argv = ["gcc", "-Wl,-z,noexecstack", "-o", "server", "a.c"]
    subprocess.run(argv, cwd=folder, check=True)
    subprocess.run(["strip", "-o", "stripped", "server"], cwd=folder, check=True)
    return folder / "server"


@pytest.fixture(scope="module")
def offset(program: Path) -> int:
    """Of the symbol `traced`; its RETs are 11 and 13 bytes behind."""
    return program.read_bytes().index(b"UPLAB-MARK")


def said(*sites: tuple[str, int], attach: str = "uprobe_multi") -> dict[str, Any]:
    reported = [{"name": name, "offset": offset} for name, offset in sites]
    return {"event": "attached", "attach": attach, "sites": reported}


def disagreement(attached: dict[str, Any], program: Path, **changes: Any) -> str:
    with pytest.raises(TrialError) as caught:
        expected_sites(replace(ADAPTER, **changes), KERNEL, attached, program)
    assert caught.value.code == "sites-disagree"
    return caught.value.text


def test_sites_on_which_both_sides_agree(program: Path, offset: int, tmp_path: Path) -> None:
    attached = said(("enter", offset), ("leave", offset + 11), ("leave", offset + 13))
    link = tmp_path / "link"
    link.symlink_to(program)
    real = str(program.resolve())
    assert expected_sites(ADAPTER, KERNEL, attached, link) == [
        # The mark begins with a U: the code of a push.
        ExpectedSite("enter", "traced", "entry", real, offset, "kernel", "emulated"),
        ExpectedSite("leave", "traced", "ret", real, offset + 11, "kernel", "return"),
        ExpectedSite("leave", "traced", "ret", real, offset + 13, "kernel", "return"),
    ]


def test_each_site_lies_where_the_cell_places_it(program: Path, offset: int) -> None:
    attached = said(("enter", offset), ("leave", offset + 11))
    cell = replace(IN_USERSPACE, placement="both")
    sites = expected_sites(PLACED, cell, attached, program)
    assert [(site.name, site.placement) for site in sites] == [
        ("enter", "userspace"),
        ("leave", "kernel"),
    ]


def test_a_site_that_is_placed_nowhere_is_not_asked_for(program: Path, offset: int) -> None:
    cell = replace(IN_USERSPACE, placement="entries")
    (site,) = expected_sites(PLACED, cell, said(("enter", offset)), program)
    assert (site.name, site.placement) == ("enter", "userspace")


def test_a_site_that_is_placed_somewhere_must_be_probed(program: Path, offset: int) -> None:
    cell = replace(IN_USERSPACE, placement="both")
    with pytest.raises(TrialError, match="set no probe at leave"):
        expected_sites(PLACED, cell, said(("enter", offset)), program)


def test_a_tracer_without_uprobes_has_no_sites(program: Path) -> None:
    attached = said(attach="none")
    assert expected_sites(ADAPTER, TRACER_ONLY, attached, program) == []


def test_sites_that_a_tracer_would_probe_must_be_untouched(program: Path, offset: int) -> None:
    attached = said(("enter", offset), ("leave", offset + 11), attach="none")
    sites = expected_sites(ADAPTER, TRACER_ONLY, attached, program)
    assert {site.placement for site in sites} == {"untouched"}
    assert len(sites) == 2


def test_a_tracer_that_attached_where_it_must_not(program: Path) -> None:
    with pytest.raises(TrialError, match=r"tracer-only must set no probe, but .* by perf_event"):
        expected_sites(ADAPTER, TRACER_ONLY, said(attach="perf_event"), program)
    with pytest.raises(TrialError, match="must set no probe"):
        expected_sites(ADAPTER, TRACER_ONLY, {"event": "attached"}, program)


@pytest.mark.parametrize("wrong", [[1], [0, 1], [0, 0], [-1]])
def test_an_entry_that_is_not_the_symbol_s_first_byte(
    program: Path, offset: int, wrong: list[int]
) -> None:
    sites = [("enter", offset + at) for at in wrong]
    text = disagreement(said(*sites, ("leave", offset + 11)), program)
    assert text == (
        f"enter: the tracer probes {[hex(offset + at) for at in wrong]}, "
        f"but traced starts at {offset:#x}"
    )


# 10: a nop inside; 16: a ret behind the symbol's end; 0: its first byte.
@pytest.mark.parametrize("at", [10, 16, 0, -1])
def test_a_ret_that_is_none_of_the_symbol(program: Path, offset: int, at: int) -> None:
    text = disagreement(said(("enter", offset), ("leave", offset + at)), program)
    assert text == f"leave: {offset + at:#x} is no ret of traced"


def test_a_declared_site_that_the_tracer_does_not_name(program: Path, offset: int) -> None:
    assert disagreement(said(("enter", offset)), program) == "the tracer set no probe at leave"


def test_a_site_that_the_adapter_does_not_declare(program: Path, offset: int) -> None:
    attached = said(("enter", offset), ("leave", offset + 11), ("more", 1))
    assert disagreement(attached, program) == "the adapter declares no site named ['more']"


def test_a_symbol_that_the_binary_does_not_have(program: Path, offset: int) -> None:
    text = disagreement(said(("enter", offset)), program, sites=(replace(ENTRY, symbol="other"),))
    assert text == f"{program} has no symbol other"
    stripped = program.with_name("stripped")
    assert disagreement(said(("enter", offset)), stripped) == f"{stripped} has no symbol traced"


@pytest.mark.parametrize(
    "attached",
    [
        {"attach": "uprobe_multi", "sites": [{"name": "enter"}]},
        {"attach": "uprobe_multi", "sites": [{"name": "enter", "offset": "12"}]},
        {"attach": "uprobe_multi", "sites": ["enter"]},
        {"attach": "uprobe_multi", "sites": None},
        {"attach": "uprobe_multi", "sites": {"enter": 12}},
        {"attach": "uprobe_multi"},
    ],
)
def test_a_message_of_another_form_is_a_disagreement_and_no_crash(
    attached: dict[str, Any], program: Path
) -> None:
    assert disagreement(attached, program)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("c3", "return"),
        ("c20800", "return"),
        ("0f1f440000", "nop5"),
        ("55", "emulated"),
        ("4157", "emulated"),
        ("e800000000", "emulated"),
        ("e900000000", "emulated"),
        ("eb10", "emulated"),
        ("7410", "emulated"),
        ("0f8400000000", "emulated"),
        ("90", "emulated"),
        ("6690", "emulated"),
        ("0f1f4000", "emulated"),
        # What Go's functions begin with: the check of the stack's limit.
        ("493b6610", "single-stepped"),
        ("4883ec28", "single-stepped"),
        ("64488b0c25", "single-stepped"),
        ("4189c0", "single-stepped"),
        ("0f05", "single-stepped"),
    ],
)
def test_the_class_of_an_instruction(code: str, name: str) -> None:
    assert tracing.instruction_class(bytes.fromhex(code)) == name


# --- hits -----------------------------------------------------------------------------------------


def site(name: str, offset: int) -> ExpectedSite:
    return ExpectedSite(name, f"sym.{name}", "entry", "/s", offset, "kernel", "nop5")


def counters(hits: dict[int, int], **events: int) -> dict[str, Any]:
    return {
        "event": "counters",
        "sites": [{"offset": offset, "hits": count} for offset, count in hits.items()],
        "events": {"emitted": 0, "received": 0, "lost": 0, **events},
    }


def test_hits_are_differences_by_site_and_by_name() -> None:
    sites = [site("a", 1), site("b", 2), site("b", 3)]
    before = counters({1: 5, 2: 0, 3: 100}, emitted=10, received=9, lost=1)
    after = counters({3: 110, 2: 20, 1: 1005}, emitted=1010, received=1000, lost=4)
    seen = hits_between(sites, before, after, 100)
    assert [(row["offset"], row["hits"], row["per_request"]) for row in seen["sites"]] == [
        (1, 1000, 10.0),
        (2, 20, 0.2),
        (3, 10, 0.1),
    ]
    assert seen["sites"][0] == {
        "name": "a",
        "symbol": "sym.a",
        "at": "entry",
        "file": "/s",
        "offset": 1,
        "class": "nop5",
        "placement": "kernel",
        "hits": 1000,
        "per_request": 10.0,
    }
    assert seen["by_name"] == {
        "a": {"hits": 1000, "per_request": 10.0},
        "b": {"hits": 30, "per_request": 0.3},
    }
    assert seen["events"] == {"emitted": 1000, "received": 991, "lost": 3, "per_request": 10.0}


@pytest.mark.parametrize("requests", [0, None])
def test_without_requests_there_are_no_hits_per_request(requests: int | None) -> None:
    seen = hits_between([site("a", 1)], counters({1: 0}), counters({1: 7}), requests)
    assert seen["by_name"] == {"a": {"hits": 7, "per_request": None}}


@pytest.mark.parametrize(
    ("before", "after"),
    [(counters({1: 5}), counters({})), (counters({}), counters({1: 5})), ({}, {})],
)
def test_a_counter_that_is_missing_is_not_zero(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    with pytest.raises(TrialError) as caught:
        hits_between([site("a", 1)], before, after, 100)
    assert caught.value.code == "no-counters"
    assert "a" in caught.value.text
