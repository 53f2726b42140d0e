"""uplab/hostside/foreign.py: tracers that say neither where they probe nor how often."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from uplab.hostside import elf, foreign, procfs
from uplab.hostside.attest import Evidence, Placement, SeenSite
from uplab.hostside.children import Child, Ledger
from uplab.hostside.errors import TrialError
from uplab.hostside.foreign import Meter
from uplab.hostside.loop import Loop
from uplab.hostside.spec import HitsRule, ModeSpec, Site, TracerAdapter

LIBC = "libc.so.6"
SITE = Site("pid", "getppid", "entry", (HitsRule(1, 1),), file=LIBC)
RETURN = replace(SITE, name="ret", at="ret")
KERNEL: dict[str, Placement] = {"pid": "kernel", "ret": "kernel"}
NOTHING = Evidence("proven", (1,), 1, ("/bin/x",), (), (), False)
ALTERED = SeenSite("", "", "", "/bin/x", 16, 1, "90", "cc", "breakpoint")
BREAKPOINT = 0xCC


def refused(site: Site) -> str:
    with pytest.raises(TrialError) as caught:
        foreign.locate([site], [os.getpid()])
    assert caught.value.code == "sites-disagree"
    return caught.value.text


def test_a_site_lies_in_a_library_that_the_server_has_mapped() -> None:
    (found,) = foreign.entries(foreign.locate([SITE], [os.getpid()]), KERNEL)
    assert found.file.endswith(f"/{LIBC}")
    symbol = elf.symbols(Path(found.file), ["getppid"])["getppid"]
    assert (found.offset, found.symbol, found.placement) == (symbol.offset, "getppid", "kernel")
    assert found.instruction_class


def test_several_processes_with_the_same_library_have_one_site() -> None:
    located = foreign.locate([SITE], [os.getpid(), os.getpid()])
    assert len(foreign.entries(located, KERNEL)) == 1


def test_what_is_not_mapped_or_not_there_is_told() -> None:
    assert refused(replace(SITE, file="libnone.so")) == (
        "pid: no process of the server maps libnone.so"
    )
    assert refused(replace(SITE, symbol="no_such")).endswith(f"/{LIBC} has no symbol no_such")


def test_of_a_tracer_that_probes_what_it_likes_what_can_be_found_is_taken() -> None:
    sites = [replace(SITE, name="none", symbol="no_such"), SITE]
    (found,) = foreign.anywhere(sites, {}, [os.getpid()])
    assert (found.name, found.placement) == ("pid", "kernel")
    (found,) = foreign.anywhere([SITE], {"pid": "untouched"}, [os.getpid()])
    assert found.placement == "untouched"


# ---- RETs ----------------------------------------------------------------------------------------


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands still, so that its code may be altered."""
    command = ["sh", "-c", "echo; read -r line"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def alter(pid: int, file: str, offset: int, value: int) -> int:
    """Write one byte of a process's code; out: what was there."""
    (mapping,) = [
        m
        for m in procfs.maps(pid)
        if m.path == file and m.executable and m.offset <= offset < m.offset + m.end - m.start
    ]
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        memory.seek(mapping.start + offset - mapping.offset)
        before = memory.read(1)[0]
        memory.seek(mapping.start + offset - mapping.offset)
        memory.write(bytes([value]))
    return before


def near_return(part: foreign.Located) -> int:
    """The offset of the last near return in a symbol."""
    with part.opened.open("rb") as stream:
        stream.seek(part.symbol.offset)
        code = stream.read(part.symbol.size_bytes)
    return part.symbol.offset + code.rindex(b"\xc3")


def test_the_returns_that_were_altered_are_the_sites(victim: subprocess.Popen[bytes]) -> None:
    located = foreign.locate([RETURN, SITE], [victim.pid])
    at = near_return(located[0])
    alter(victim.pid, located[0].file, at, BREAKPOINT)
    (found,), problems = foreign.returns(located, KERNEL, [victim.pid])
    assert (found.name, found.at, found.offset) == ("ret", "ret", at)
    assert (found.instruction_class, found.placement) == ("return", "kernel")
    assert problems == []


def test_of_a_declared_return_at_least_one_must_be_altered(
    victim: subprocess.Popen[bytes],
) -> None:
    located = foreign.locate([RETURN], [victim.pid])
    found, (problem,) = foreign.returns(located, KERNEL, [victim.pid])
    assert found == []
    assert problem.startswith("probe site unchanged: ret (getppid ret, ")
    assert foreign.returns(located, {"ret": "untouched"}, [victim.pid]) == ([], [])


def test_what_is_altered_in_the_symbol_and_no_return_is_no_site(
    victim: subprocess.Popen[bytes],
) -> None:
    located = foreign.locate([RETURN], [victim.pid])
    was = alter(victim.pid, located[0].file, located[0].symbol.offset, BREAKPOINT)
    assert was not in b"\xc3\xc2"
    found, problems = foreign.returns(located, KERNEL, [victim.pid])
    assert (found, len(problems)) == ([], 1)


def test_a_process_that_is_gone_has_no_returns(victim: subprocess.Popen[bytes]) -> None:
    located = foreign.locate([RETURN], [victim.pid])
    victim.kill()
    victim.wait()
    assert foreign.returns(located, KERNEL, [victim.pid])[0] == []


# ---- what evidence is worth ----------------------------------------------------------------------


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


# ---- events --------------------------------------------------------------------------------------


def test_events_are_counted_line_by_line_in_whole_blocks() -> None:
    meter = Meter(r"event PID 7 ", r"lost (\d+)\.")
    meter.take(b"event PID 7 a\nevent PID 71 b\nqueue lost 16.\nevent PID 7 c\n")
    meter.take(b"queue lost 4.\n")
    assert (meter.emitted, meter.lost, meter.counts) == (2, 20, True)


def test_the_events_of_one_server_are_counted() -> None:
    adapter = TracerAdapter(
        1,
        "tracer",
        "t",
        "",
        ("/t",),
        modes={"tracer-only": ModeSpec()},
        ready_line="x",
        event_line=r"PID {pid} \d{2}$",
    )
    meter = foreign.meter(adapter, 42)
    assert (meter.event_line, meter.lost_line) == (r"PID 42 \d{2}$", None)
    silent = foreign.meter(replace(adapter, event_line=None), 42)
    silent.take(b"PID 42 10\n")
    assert (silent.counts, silent.emitted) == (False, 0)


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop() as opened:
        yield opened


def start(loop: Loop, folder: Path, *argv: str) -> Child:
    return Child(loop, Ledger(folder / "children.json"), "tracer", argv, folder / "log", {})


def test_events_that_a_tracer_still_holds_back_are_waited_for(loop: Loop, tmp_path: Path) -> None:
    script = "for i in 1 2 3 4; do echo event; sleep 0.2; done; exec sleep 600"
    child = start(loop, tmp_path, "sh", "-c", script)
    try:
        meter = Meter("event")
        child.drain(meter.take)
        meter.settle(loop, child)
        assert meter.emitted == 4
    finally:
        child.stop("SIGTERM", 1.0)


FLOOD_LINE_BYTES = 300
FLOOD = f"""
import os, sys, time
line = b"2026 <GO_TLS_HTTP1> RECONFIRM false DIR 1 TYPE 1 PID 7 THREAD_ID 8 "
line = line.ljust({FLOOD_LINE_BYTES - 1}, b"x") + b"\\n"
began = time.monotonic()
while (spent := time.monotonic() - began) < float(sys.argv[2]):
    sent = 0
    while sent < float(sys.argv[1]) * 1e6 * 0.01:
        sent += os.write(1, line)
    time.sleep(max(0.0, began + spent + 0.01 - time.monotonic()))
print("end", flush=True)
"""


def test_a_flood_of_events_costs_little(loop: Loop, tmp_path: Path) -> None:
    """A stand-in for a tracer that prints 30 MB in a second, a line at a time."""
    child = start(loop, tmp_path, sys.executable, "-S", "-c", FLOOD, "30", "2")
    try:
        meter = Meter("DIR [01] TYPE [12] PID 7 ", r"lost (\d+)")
        child.drain(meter.take)
        before = os.times()
        assert loop.until(lambda: child.ended, 60.0)
        after = os.times()
    finally:
        child.stop("SIGTERM", 1.0)
    lines, rest = divmod(child.output_bytes - len("end\n"), FLOOD_LINE_BYTES)
    assert (meter.emitted, rest) == (lines, 0)
    assert lines > 50_000
    assert child.death() == "exit code 0, last line: end"
    spent_s = after.user + after.system - before.user - before.system
    # Seen: 0.13 s for 60 MB, which is 0.07 of a core.
    assert spent_s < 1.0 * child.output_bytes / 60e6
    assert (tmp_path / "log").stat().st_size < 17 << 20
