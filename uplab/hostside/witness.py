"""What testifies to how a trial was traced: where the probes must be, and how often they were hit.

A tracer that talks in JSON lines is asked, and held against the server's own bytes
(:class:`Told`). One that knows nothing of uplab is observed: its probes are where the adapter
declares them or wherever the bytes were altered, and its hits are the kernel's own counts
(:class:`Observed`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from uplab.hostside import attest, foreign, judge, procfs, runcounts, runhits, tracing
from uplab.hostside.attest import Evidence, ExpectedSite, Placement
from uplab.hostside.children import Child
from uplab.hostside.errors import TrialError
from uplab.hostside.foreign import Located, Meter
from uplab.hostside.judge import Reason
from uplab.hostside.loop import Loop
from uplab.hostside.placing import places
from uplab.hostside.spec import Cell, ServerAdapter, TracerAdapter


@dataclass
class Scene:
    """Who takes part in a traced trial."""

    loop: Loop
    adapter: TracerAdapter
    server_adapter: ServerAdapter
    cell: Cell
    tracer: Child
    server: Child

    @property
    def placement(self) -> Placement | Literal["any"]:
        """Where the mode places the sites."""
        return self.adapter.modes[self.cell.mode].placement

    def server_pids(self) -> list[int]:
        """The server's processes, the first one first."""
        return procfs.descendants(self.server.pid)


class Witness(Protocol):
    """What a trial asks, in this order; ``expected`` are the sites, once it is attached."""

    scene: Scene
    expected: list[ExpectedSite]

    def attached(self) -> dict[str, Any]:
        """Wait until the tracer is attached; out: what it said; raises TrialError."""

    def look(self, when: str) -> tuple[Evidence, list[Reason]]:
        """Compare the server with its files, ``before`` or ``after`` the load."""

    def warm_up(self) -> Any:
        """A context manager around the load that is not counted."""

    def begin(self) -> None:
        """Just before the measured load; raises TrialError."""

    def end(self, requests: dict[str, int | None]) -> tuple[dict[str, Any] | None, list[Reason]]:
        """Just after it: the hits, and what speaks against them.

        In: the completed requests of ``warm-up`` and ``measure``. Raises TrialError.
        """


@dataclass
class Told:
    """A tracer that says where its probes are and counts their hits."""

    scene: Scene
    expected: list[ExpectedSite] = field(default_factory=list)
    said: dict[str, Any] = field(default_factory=dict)
    counters: dict[str, Any] = field(default_factory=dict)

    def attached(self) -> dict[str, Any]:
        """Its own line, with the sites, which must be where the symbol table says."""
        scene = self.scene
        self.said = tracing.wait_attached(
            scene.loop, scene.tracer, scene.adapter.attached_timeout_s
        )
        try:
            program = Path(f"/proc/{scene.server.pid}/exe").readlink()
        except OSError as error:
            raise TrialError("server-died", f"server died: {scene.server.death()}") from error
        self.expected = tracing.expected_sites(scene.adapter, scene.cell, self.said, program)
        return self.said

    def look(self, when: str) -> tuple[Evidence, list[Reason]]:
        """Every site must be where the cell places it, and nothing else altered."""
        evidence = attest.attest(self.scene.server_pids(), self.expected)
        return evidence, judge.evidence(evidence, self.expected, when)

    @contextmanager
    def warm_up(self) -> Iterator[None]:
        """Nothing is counted in it."""
        yield

    def begin(self) -> None:
        """The tracer's counters before the load."""
        self.counters = self._read()

    def end(self, requests: dict[str, int | None]) -> tuple[dict[str, Any] | None, list[Reason]]:
        """What they grew by, against the completed requests."""
        completed = requests.get("measure")
        hits = tracing.hits_between(self.expected, self.counters, self._read(), completed)
        hits["attach"] = self.said.get("attach")
        scene = self.scene
        against = judge.hits(scene.adapter, scene.server_adapter, scene.cell, hits, completed)
        return hits, against

    def _read(self) -> dict[str, Any]:
        scene = self.scene
        return tracing.read_counters(scene.loop, scene.tracer, scene.adapter.counters_signal)


@dataclass
class Observed:
    """A tracer that knows nothing of uplab: ready line, the server's bytes, the kernel's counts."""

    scene: Scene
    ready_line: str
    expected: list[ExpectedSite] = field(default_factory=list)
    located: list[Located] = field(default_factory=list)
    placed: dict[str, Placement] = field(default_factory=dict)
    runs: list[runhits.Look] = field(default_factory=list)
    meter: Meter = field(default_factory=Meter)
    began: tuple[int, int] = (0, 0)
    counts: bool = False
    first: Evidence | None = None
    why_not_counted: str | None = None

    def attached(self) -> dict[str, Any]:
        """Its ready line; the declared sites by the symbol tables of the server's files."""
        scene = self.scene
        line = foreign.wait_ready(
            scene.loop, scene.tracer, self.ready_line, scene.adapter.attached_timeout_s
        )
        self.meter = foreign.meter(scene.adapter, scene.server.pid)
        scene.tracer.drain(self.meter.take)
        self.placed = places(scene.adapter, scene.cell)
        if set(self.placed.values()) - {"untouched"}:
            self.located = foreign.locate(scene.adapter.sites, scene.server_pids())
            self.expected = foreign.entries(self.located, self.placed)
        return {"event": "ready", "line": line[:500]}

    def look(self, when: str) -> tuple[Evidence, list[Reason]]:
        """Before the load, as long as the tracer still sets probes; after it, once.

        Which RETs it probes is seen before the load, and must be the same after it.
        """
        scene = self.scene
        anything = scene.placement == "any"
        entries = list(self.expected)

        def once() -> Evidence:
            pids = scene.server_pids()
            returns, problems = foreign.returns(self.located, self.placed, pids)
            self.expected = [*entries, *returns]
            seen = attest.attest(pids, self.expected, anything=anything)
            return replace(seen, problems=(*seen.problems, *problems))

        if when == "before":
            limit_s = scene.adapter.attached_timeout_s
            seen = foreign.settle(scene.loop, once, scene.tracer, limit_s)
            self.first = seen
        else:
            seen = attest.attest(scene.server_pids(), self.expected, anything=anything)
        against = judge.evidence(seen, self.expected, when, anything=anything)
        if when == "before" or self.first is None:
            return seen, against
        return self._graded(seen, against + judge.same_alterations(self.first, seen))

    def _graded(self, seen: Evidence, against: list[Reason]) -> tuple[Evidence, list[Reason]]:
        """The evidence with what it is worth; that nothing is altered is proven by the bytes."""
        if self.scene.placement == "untouched":
            return seen, against
        programs = runcounts.programs(procfs.descendants(self.scene.tracer.pid))
        worth = foreign.grade(seen, counted=self.counts, attached=len(programs))
        if worth is not None:
            return replace(seen, grade=worth), against
        text = "the tracer altered nothing in the server and holds no BPF program"
        return seen, [*against, Reason("site-unchanged", text)]

    @contextmanager
    def warm_up(self) -> Iterator[None]:
        """The kernel counts meanwhile: it makes each hit dearer, so never in the measurement."""
        pids = procfs.descendants(self.scene.tracer.pid)
        with ExitStack() as stack:
            try:
                stack.enter_context(runcounts.counting())
                first = runhits.look(pids)
            except OSError as error:
                # Not counted is not 0: the evidence is worth less, and says so.
                self.why_not_counted = error.strerror
                yield
                return
            yield
            self.runs = [first, runhits.look(pids)]

    def begin(self) -> None:
        """The events so far, once those of the warm-up have all come."""
        self.meter.settle(self.scene.loop, self.scene.tracer)
        self.began = self.meter.emitted, self.meter.lost

    def end(self, requests: dict[str, int | None]) -> tuple[dict[str, Any] | None, list[Reason]]:
        """The kernel's counts of the warm-up, and the events of the measurement."""
        hits: dict[str, Any] = {"sites": [], "by_name": {}, "counted": self.why_not_counted}
        against: list[Reason] = []
        if self.runs:
            hits, against = self._counted(requests.get("warm-up"))
        hits["events"], problems = self._told(requests.get("measure"))
        return hits, against + problems

    def _counted(self, requests: int | None) -> tuple[dict[str, Any], list[Reason]]:
        """The hits of the warm-up, per request of the warm-up."""
        scene, adapter = self.scene, self.scene.adapter
        first, last = self.runs
        sites = self.expected or foreign.anywhere(adapter.sites, self.placed, scene.server_pids())
        hits = runhits.hits(first, last, sites, requests)
        if scene.placement == "any" and hits["elsewhere"]:
            # Its programs ran for other processes too: nobody can tell whose hits these are.
            return hits, []
        against: list[Reason] = []
        if runhits.ALL in hits["by_name"]:
            against = judge.total_hits(adapter, scene.server_adapter, scene.cell, hits)
        elif requests is not None:
            by_kernel = [s for s in adapter.sites if self.placed.get(s.name) != "userspace"]
            against = judge.site_hits(
                by_kernel, adapter, scene.server_adapter, scene.cell, hits["by_name"], requests
            )
        in_userspace = "userspace" in self.placed.values()
        self.counts = bool(adapter.sites) and not against and not in_userspace
        return hits, against

    def _told(self, requests: int | None) -> tuple[dict[str, Any], list[Reason]]:
        """The events of the measurement, where the tracer prints them."""
        scene, meter = self.scene, self.meter
        if not meter.counts:
            return {}, []
        meter.settle(scene.loop, scene.tracer)
        emitted, lost = meter.emitted - self.began[0], meter.lost - self.began[1]
        events = {
            "emitted": emitted,
            "received": emitted,
            "lost": lost,
            "per_request": emitted / requests if requests else None,
        }
        return events, judge.printed_events(
            scene.adapter, scene.server_adapter, scene.cell, events, requests
        )


def of(scene: Scene) -> Witness:
    """The witness of a traced trial."""
    if scene.adapter.ready_line is None:
        return Told(scene)
    return Observed(scene, scene.adapter.ready_line)
