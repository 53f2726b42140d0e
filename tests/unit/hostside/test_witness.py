"""uplab/hostside/witness.py: tracers that know nothing of uplab, and what is against them.

Server, tracer and altered bytes are real; only what the kernel counts is made up.
"""

from __future__ import annotations

import errno
import functools
import os
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from uplab.hostside import attest, elf, foreign, procfs, runcounts, runhits, witness
from uplab.hostside.attest import Evidence
from uplab.hostside.children import Child, Ledger
from uplab.hostside.judge import Reason
from uplab.hostside.loop import Loop
from uplab.hostside.runcounts import PROBE_PROGRAM, Probe, Program
from uplab.hostside.spec import Cell, HitsRule, ModeSpec, ServerAdapter, Site, TracerAdapter
from uplab.hostside.witness import Observed, Scene

LIBC = "libc.so.6"
SITE = Site("ask", "getppid", "entry", (HitsRule(1, 2),), file=LIBC)
ADAPTER = TracerAdapter(
    1,
    "tracer",
    "theirs",
    "",
    ("{p}",),
    modes={
        "tracer-only": ModeSpec(placement="untouched"),
        "kernel-uprobe": ModeSpec(placement="kernel"),
        "as-shipped": ModeSpec(placement="any"),
    },
    ready_line="^ready",
    sites=(SITE,),
    attached_timeout_s=0.5,
)
#: As somebody's tracer is shipped: nobody declares what it probes.
SHIPPED = replace(ADAPTER, sites=())
SERVER = ServerAdapter(1, "server", "s", "", ("{p}",), "http://127.0.0.1/", "^ready")
SLEEPS = "import time; print('ready', flush=True); time.sleep(60)"
PROGRAM = 7
REQUESTS = {"warm-up": 100, "measure": 100}
Stage = Callable[..., "Played"]


@dataclass
class Played:
    """A trial's witness, and the hands that alter the server behind its back."""

    observed: Observed
    against: list[Reason] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """The server's."""
        return self.observed.scene.server.pid

    @property
    def libc(self) -> procfs.Mapping:
        """Where the server can run its libc."""
        return next(m for m in procfs.maps(self.pid) if m.executable and m.path.endswith(LIBC))

    def address(self, symbol: str) -> int:
        """Where a function of libc begins in the server."""
        found = elf.symbols(Path(self.libc.path), [symbol])[symbol]
        return self.libc.start + found.offset - self.libc.offset

    def probe(self, symbol: str, code: bytes = b"\xcc") -> bytes:
        """Set a breakpoint as a kernel uprobe does, or put bytes back; out: what was there."""
        with Path(f"/proc/{self.pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(self.address(symbol))
            before = memory.read(len(code))
            memory.seek(self.address(symbol))
            memory.write(code)
        return before

    def before(self) -> Evidence:
        """Up to the look before the load."""
        self.observed.attached()
        seen, against = self.observed.look("before")
        self.against += against
        return seen

    def load(self) -> dict[str, Any]:
        """Warm-up and measurement; out: the hits."""
        with self.observed.warm_up():
            pass
        self.observed.begin()
        hits, against = self.observed.end(dict(REQUESTS))
        self.against += against
        assert hits is not None
        return hits

    def after(self) -> Evidence:
        """The look after the load."""
        seen, against = self.observed.look("after")
        self.against += against
        return seen

    @property
    def codes(self) -> list[str]:
        """What speaks against the trial."""
        return [reason.code for reason in self.against]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A function that starts a server and a tracer; both are ended after the test."""
    started: list[Child] = []
    with Loop() as loop:

        def child(name: str, *argv: str) -> Child:
            ledger = Ledger(tmp_path / "ledger")
            started.append(Child(loop, ledger, name, list(argv), tmp_path / f"{name}.log", {}))
            return started[-1]

        def play(
            mode: Any = "as-shipped",
            tracer: str = "echo ready; exec sleep 60",
            adapter: TracerAdapter | None = None,
        ) -> Played:
            adapter = adapter or (SHIPPED if mode == "as-shipped" else ADAPTER)
            server = child("server", sys.executable, "-I", "-S", "-c", SLEEPS)
            told = child("tracer", "/bin/sh", "-c", tracer, "sh", str(server.pid))
            cell = Cell("c", "s", mode, "theirs", 12, "l", {"duration_s": 1, "connections": 0})
            scene = Scene(loop, adapter, SERVER, cell, told, server)
            played = Played(Observed(scene, adapter.ready_line or ""))
            assert loop.until(lambda: "ready" in server.lines, 5.0)
            return played

        yield play
        for process in started:
            process.stop("SIGKILL", 1.0)


@dataclass
class Kernel:
    """What the kernel says of the tracer's programs: how often they ran from look to look."""

    programs: dict[int, Program] = field(default_factory=dict)
    probes: tuple[Probe, ...] = ()
    runs: list[int] = field(default_factory=list)
    refusals: dict[str, OSError] = field(default_factory=dict)
    switched: list[str] = field(default_factory=list)

    def serve(self, played: Played, runs: int, file: Path | None = None) -> None:
        """Have the program of a probe on the declared site run so often in the warm-up."""
        path = file or Path(played.libc.path)
        offset = elf.symbols(Path(played.libc.path), [SITE.symbol])[SITE.symbol].offset
        self.probes += (Probe(PROGRAM, "uprobe", str(path), path, offset),)
        self.programs[PROGRAM] = Program(PROGRAM, PROBE_PROGRAM, 0, 0)
        self.runs = [0, runs]

    @contextmanager
    def counting(self) -> Iterator[None]:
        """As the real one, which raises where the kernel refuses."""
        self._refuse("counting")
        self.switched.append("on")
        yield
        self.switched.append("off")

    def look(self, _pids: list[int]) -> runhits.Look:
        """One look, with the next number of runs."""
        self._refuse("look")
        runs = self.runs.pop(0) if self.runs else 0
        programs = {n: replace(program, runs=runs) for n, program in self.programs.items()}
        return runhits.Look(programs, self.probes, frozenset())

    def _refuse(self, what: str) -> None:
        if what in self.refusals:
            raise self.refusals[what]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A kernel that counts as it is told."""
    made = Kernel()
    monkeypatch.setattr(runcounts, "counting", made.counting)
    monkeypatch.setattr(runhits, "look", made.look)
    monkeypatch.setattr(runcounts, "programs", lambda _: dict(made.programs))
    return made


# --- what the evidence is worth -------------------------------------------------------------------


def test_altered_sites_with_the_declared_hits_are_proven(stage: Stage, kernel: Kernel) -> None:
    played = stage("kernel-uprobe")
    played.probe("getppid")
    kernel.serve(played, runs=150)
    assert played.before().problems == ()
    assert played.load()["by_name"] == {"ask": {"hits": 150, "per_request": 1.5}}
    assert played.after().grade == "proven"
    assert played.codes == []
    assert kernel.switched == ["on", "off"]


def test_counting_that_is_refused_leaves_sites_only(stage: Stage, kernel: Kernel) -> None:
    kernel.refusals["counting"] = OSError(errno.EPERM, os.strerror(errno.EPERM))
    played = stage()
    played.probe("getppid")
    played.before()
    hits = played.load()
    assert (hits["by_name"], hits["counted"]) == ({}, "Operation not permitted")
    assert played.after().grade == "sites only"
    assert played.codes == []


def test_counts_that_cannot_be_read_leave_sites_only(stage: Stage, kernel: Kernel) -> None:
    kernel.refusals["look"] = OSError(errno.EPERM, os.strerror(errno.EPERM))
    played = stage("kernel-uprobe")
    played.probe("getppid")
    played.before()
    assert played.load()["counted"] == "Operation not permitted"
    assert played.after().grade == "sites only"
    assert played.codes == []


def test_without_a_warm_up_nothing_is_counted(stage: Stage, kernel: Kernel) -> None:
    played = stage()
    played.probe("getppid")
    played.before()
    played.observed.begin()
    hits, against = played.observed.end({"warm-up": None, "measure": 100})
    assert hits is not None
    assert (hits["by_name"], against, kernel.switched) == ({}, [], [])
    assert played.after().grade == "sites only"


def test_too_few_hits_are_no_proof(stage: Stage, kernel: Kernel) -> None:
    played = stage("kernel-uprobe")
    played.probe("getppid")
    kernel.serve(played, runs=3)
    played.before()
    played.load()
    assert played.after().grade == "sites only"
    (reason,) = played.against
    assert (reason.code, reason.text.split(",")[0]) == ("hits", "ask: 3 hits for 100 requests")


def test_hits_that_may_be_of_another_file_are_no_proof(
    stage: Stage, kernel: Kernel, tmp_path: Path
) -> None:
    other = tmp_path / LIBC
    other.touch()
    played = stage(adapter=ADAPTER)
    played.probe("getppid")
    kernel.serve(played, runs=150)
    kernel.serve(played, runs=150, file=other)
    played.before()
    assert played.load()["elsewhere"]
    assert played.after().grade == "sites only"
    assert played.codes == []


def test_programs_alone_are_links_only(stage: Stage, kernel: Kernel) -> None:
    kernel.programs[PROGRAM] = Program(PROGRAM, PROBE_PROGRAM, 0, 0)
    played = stage()
    played.before()
    played.load()
    assert played.after().grade == "links only"
    assert played.codes == []


def test_no_hit_of_what_is_declared_is_told(stage: Stage, kernel: Kernel) -> None:
    played = stage(adapter=ADAPTER)
    played.probe("getuid")
    kernel.serve(played, runs=0)
    played.before()
    played.load()
    assert played.after().grade == "sites only"
    assert played.codes == ["hits"]


def test_a_tracer_that_did_nothing_is_told(stage: Stage) -> None:
    played = stage()
    played.before()
    played.load()
    played.after()
    (reason,) = played.against
    assert reason.code == "site-unchanged"
    assert reason.text == "the tracer altered nothing in the server and holds no BPF program"


# --- what is altered must be so all the time ------------------------------------------------------


def test_what_was_altered_meanwhile_is_told(stage: Stage) -> None:
    played = stage()
    played.probe("getppid")
    assert len(played.before().altered_elsewhere) == 1
    played.load()
    played.probe("getpgrp")
    played.probe("getuid")
    assert len(played.after().altered_elsewhere) == 3
    (reason,) = played.against
    assert reason.code == "bytes"
    assert reason.text.startswith("2 altered sites came during the load: ")


def test_what_was_put_back_meanwhile_is_told(stage: Stage) -> None:
    played = stage()
    code = played.probe("getppid")
    played.probe("getuid")
    played.before()
    played.load()
    played.probe("getppid", code)
    played.after()
    (reason,) = played.against
    assert reason.text.startswith("1 altered sites went during the load: ")


def test_a_declared_site_that_is_put_back_is_told(stage: Stage, kernel: Kernel) -> None:
    played = stage("kernel-uprobe")
    code = played.probe("getppid")
    kernel.serve(played, runs=150)
    played.before()
    played.load()
    played.probe("getppid", code)
    played.after()
    first, *_ = played.against
    assert first.code == "site-unchanged"
    assert first.text.startswith("after the load: probe site unchanged: ask ")


def test_more_than_what_is_declared_is_told(stage: Stage) -> None:
    played = stage("kernel-uprobe")
    played.probe("getppid")
    played.probe("getuid")
    played.before()
    assert played.codes == ["bytes"]
    assert "is no declared probe site" in played.against[0].text


def test_a_jump_where_the_kernel_should_be_is_told(stage: Stage) -> None:
    played = stage("kernel-uprobe")
    to_itself = struct.pack("<Bi", 0xE9, -5)
    played.probe("getppid", to_itself)
    played.before()
    (reason,) = played.against
    assert reason.code == "bytes"
    assert reason.text.startswith("before the load: ")


def test_a_last_probe_may_come_after_the_ready_line(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = stage("kernel-uprobe")
    real, looks = attest.attest, 0

    def look(*given: Any, **more: Any) -> Evidence:
        nonlocal looks
        looks += 1
        if looks == 2:
            played.probe("getppid")
        return real(*given, **more)

    monkeypatch.setattr(attest, "attest", look)
    seen = played.before()
    assert [site.state for site in seen.sites] == ["breakpoint"]
    # Once more than it took to see it: the same twice.
    assert looks == 3
    assert played.codes == []


# --- a mode that sets no probe --------------------------------------------------------------------


def test_tracer_only_is_proven_by_untouched_bytes(stage: Stage, kernel: Kernel) -> None:
    kernel.programs[PROGRAM] = Program(PROGRAM, PROBE_PROGRAM, 0, 0)
    played = stage("tracer-only")
    played.before()
    played.load()
    assert played.after().grade == "proven"
    assert played.codes == []


def test_tracer_only_that_sets_a_probe_is_told(stage: Stage) -> None:
    played = stage("tracer-only")
    played.probe("getppid")
    played.before()
    assert played.codes == ["bytes"]


# --- events ---------------------------------------------------------------------------------------

# Tells of one event for each SIGUSR1, and at the third that it lost two.
TELLS = """
n=0
trap 'n=$((n + 1)); echo "event $n of $1"; [ $n != 3 ] || echo "lost 2"' USR1
echo ready
while :; do sleep 0.01; done
"""


@pytest.fixture
def telling(monkeypatch: pytest.MonkeyPatch) -> TracerAdapter:
    """A tracer that prints its events, one for each request."""
    monkeypatch.setattr(foreign, "_CALM_S", 0.1)
    return replace(
        SHIPPED,
        modes={"as-shipped": ModeSpec(placement="any", events=(HitsRule(1, 1),))},
        event_line=r"event \d+ of {pid}\b",
        lost_line=r"lost (\d+)",
    )


def has_told(meter: foreign.Meter, events: int) -> bool:
    return meter.emitted == events


def tell(played: Played, events: int) -> None:
    """Have the tracer print events and wait until they are counted."""
    scene, meter = played.observed.scene, played.observed.meter
    for number in range(meter.emitted + 1, meter.emitted + events + 1):
        scene.tracer.send("SIGUSR1")
        assert scene.loop.until(functools.partial(has_told, meter, number), 5.0, 0.01)


def test_events_of_the_measurement_are_counted(stage: Stage, telling: TracerAdapter) -> None:
    played = stage(tracer=TELLS, adapter=telling)
    played.before()
    tell(played, 1)
    played.observed.begin()
    tell(played, 1)
    hits, against = played.observed.end({"warm-up": 1, "measure": 1})
    assert hits is not None
    assert hits["events"] == {"emitted": 1, "received": 1, "lost": 0, "per_request": 1.0}
    assert against == []


def test_a_tracer_that_dropped_its_events_is_told(stage: Stage, telling: TracerAdapter) -> None:
    played = stage(tracer=TELLS, adapter=telling)
    played.before()
    played.observed.begin()
    tell(played, 3)
    hits, against = played.observed.end({"warm-up": 100, "measure": 100})
    assert hits is not None
    assert (hits["events"]["emitted"], hits["events"]["lost"]) == (3, 2)
    assert [reason.code for reason in against] == ["events", "events-lost"]


def test_the_witness_follows_from_the_ready_line(stage: Stage) -> None:
    scene = stage().observed.scene
    assert isinstance(witness.of(scene), Observed)
    scene.adapter = replace(ADAPTER, ready_line=None, modes={"tracer-only": ModeSpec()})
    assert isinstance(witness.of(scene), witness.Told)
