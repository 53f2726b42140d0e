"""One trial: every mode goes through the same steps.

fence, start, ready, attach, attached, warm up, measure, check, stop, fence. Each wait is for a
condition, with a limit; whatever happens, what was started is stopped.
"""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from uplab.hostside import (
    attest,
    bpftime,
    cpuplan,
    histogram,
    judge,
    loading,
    noise,
    procfs,
    series,
    tracing,
    usage,
    witness,
)
from uplab.hostside.children import Child
from uplab.hostside.clock import Clock
from uplab.hostside.context import Context
from uplab.hostside.errors import TrialError
from uplab.hostside.judge import Reason
from uplab.hostside.loading import Load
from uplab.hostside.rundir import PART_PREFIX, utc_now
from uplab.hostside.serving import Serving, values_of
from uplab.hostside.spec import UNTRACED_MODES, Cell, LoadAdapter, TracerAdapter
from uplab.hostside.templates import fill, fill_argv
from uplab.hostside.witness import Scene, Witness

_SAMPLE_S = 1.0
_LOAD_STOP_S = 0.5
_HURRIED_STOP_S = 1.5
_DEATH_S = 0.2


@dataclass
class Trial:
    """The state of one trial while it runs; :meth:`as_json` is its record."""

    context: Context
    cell: Cell
    directory: Path
    steps: list[dict[str, Any]] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    tracer: Child | None = None
    load: Load | None = None
    witness: Witness | None = None
    runtime: bpftime.Runtime | None = None
    watch: noise.Watch = field(default_factory=noise.Watch)
    serving: Serving = field(init=False)

    def __post_init__(self) -> None:
        """Its server; nothing is started yet."""
        self.serving = Serving(self.context, self.cell, self.directory)

    @property
    def name(self) -> str:
        """The name that the trial's directory will have."""
        return self.directory.name.removeprefix(PART_PREFIX)

    @property
    def load_adapter(self) -> LoadAdapter:
        """The adapter of the cell's load."""
        return self.context.plan.adapters.loads[self.cell.load]

    @property
    def tracer_adapter(self) -> TracerAdapter | None:
        """The adapter of the cell's tracer; None in the untraced modes."""
        if self.cell.tracer is None or self.cell.mode in UNTRACED_MODES:
            return None
        return self.context.plan.adapters.tracers[self.cell.tracer]

    # ---- the steps -----------------------------------------------------------------------

    def run(self) -> None:
        """Go through all steps; judge; leave nothing running.

        Raises:
            Interrupted: a signal came; all processes of the trial are gone.
            HostError: the host cannot go on (disk full).
        """
        self.record["started_utc"] = utc_now()
        self.record["started_monotonic_ns"] = began_ns = time.monotonic_ns()
        clock = Clock()
        self.watch = noise.Watch(self.context.kernel).begin()
        try:
            self._measure()
        except TrialError as error:
            self.reasons.append(Reason(error.code, error.text))
        finally:
            began_stop_s = time.monotonic()
            # Not a step like the others: nothing that may fail, such as writing an event on a
            # full disk, comes before what has to be stopped.
            self._stop()
            self._note_step("stop", began_stop_s)
            self._note_noise(self.watch)
            self._note_clock(clock)
        self._check_logs()
        with self._step("fence"):
            if all(reason.code != "port-in-use" for reason in self.reasons):
                self.reasons += self.serving.fence_after()
        self.record["wall_s"] = (time.monotonic_ns() - began_ns) / 1e9

    def _note_noise(self, watch: noise.Watch) -> None:
        """What happened on the host from the first step to the last."""
        self.record["noise"] = watch.end()
        watch.close()
        reasons, flags = noise.judge(self.context.plan.limits, self.record["noise"])
        self.reasons += reasons
        self.flags += flags

    def _note_clock(self, clock: Clock) -> None:
        """A load that times itself by a clock that was set has measured something else."""
        self.record["clock_jump_s"] = jump_s = clock.jump_s()
        if jump_s is not None:
            text = f"the host's clock jumped by {jump_s:+.1f} s during the trial"
            self.reasons.append(Reason("clock", text))

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        began_s = time.monotonic()
        self.context.events.emit("step", trial=self.name, step=name)
        try:
            yield
        finally:
            self._note_step(name, began_s)

    def _note_step(self, name: str, began_s: float) -> None:
        self.steps.append({"step": name, "duration_s": round(time.monotonic() - began_s, 6)})

    @contextmanager
    def _on_cpus_of(self, role: str) -> Iterator[None]:
        """While open, what is started gets the CPUs of a role, where the host is tuned.

        All else runs on the load's, where hostside is.
        """
        with cpuplan.on(self.context.cpus, role) as cpus:
            self.record.setdefault("cpus", {})[role] = cpuplan.cpu_list(cpus)
            yield

    def _measure(self) -> None:
        """From the first fence to the last check."""
        if self.context.far is not None:
            with self._step("load-host"):
                self.context.far.require()
        with self._step("fence"):
            self.serving.fence_before()
        with self._step("start"), self._on_cpus_of("server"):
            self.runtime = self._make_runtime()
            self.serving.start(self._runtime_env)
        with self._step("ready"):
            self.serving.wait_ready()
            self._answers["before"] = self.serving.check_answer("before")
            self._note_user()
        if self.context.far is not None:
            with self._step("reach"):
                port = self.cell.server_parameters.get("port")
                self.record["load_from"] = loading.way_to(self.context.far, port)
        if self.tracer_adapter is not None:
            with self._step("attach"), self._on_cpus_of("tracer"):
                self.witness = self._start_tracer(self.tracer_adapter)
            with self._step("attached"):
                self.record["attached"] = self.witness.attached()
                self._attach_runtime(self.witness)
        with self._step("attest"):
            self._attest("before")
        if self.context.plan.warm_up_s:
            with self._step("warm-up"):
                with self.witness.warm_up() if self.witness else nullcontext():
                    self._drive_load("warm-up", self.context.plan.warm_up_s)
                warm_up = self._collect_load("warm-up")
                self.record["warm_up"] = {k: v for k, v in warm_up.items() if k != "histogram"}
        with self._step("measure"):
            self._run_measurement()
        with self._step("check"):
            self._attest("after")
            self._answers["after"] = self.serving.check_answer("after")
            # The last chance to stop before this trial counts.
            self.context.loop.pump(0.0)

    @property
    def _answers(self) -> dict[str, Any]:
        answers: dict[str, Any] = self.record.setdefault("answer", {})
        return answers

    def _make_runtime(self) -> bpftime.Runtime | None:
        """What traces in userspace, where the cell does."""
        adapter, options = self.tracer_adapter, self.cell.runtime
        if adapter is None or options is None:
            return None
        return bpftime.Runtime(self.context, self.cell, options, adapter, self.directory)

    def _note_user(self) -> None:
        self.record["server_user"], flags = self.serving.user()
        self.flags += flags

    def _start_tracer(self, adapter: TracerAdapter) -> Witness:
        server = self.serving.running
        values = values_of(self.context, self.cell, adapter.programs) | {"pid": server.pid}
        values |= {"adapter": str(self.context.adapters / "tracers" / adapter.name)}
        mode = adapter.modes[self.cell.mode]
        mode_args = mode.args
        if self.runtime is not None:
            values |= self.runtime.values()
            mode_args = mode.daemon_args if self.runtime.by_daemon else mode.args
        argv = fill_argv(adapter.argv, values, {"mode_args": mode_args})
        self.tracer = Child(
            self.context.loop,
            self.context.ledger,
            "tracer",
            argv if self.runtime is None else self.runtime.argv(argv),
            self.directory / "tracer.log",
            {name: fill(text, values) for name, text in adapter.env.items()} | self._runtime_env,
        )
        if self.runtime is not None:
            self.runtime.release(server, self.tracer)
        return witness.of(
            Scene(
                loop=self.context.loop,
                adapter=adapter,
                server_adapter=self.serving.adapter,
                cell=self.cell,
                tracer=self.tracer,
                server=server,
            )
        )

    @property
    def _runtime_env(self) -> dict[str, str]:
        return {} if self.runtime is None else self.runtime.env

    def _attach_runtime(self, traced: Witness) -> None:
        if self.runtime is not None:
            user = self.serving.loan.user if self.serving.loan else None
            scene = traced.scene
            self.runtime.attach(scene.server, scene.tracer, traced.expected, user)

    def _attest(self, when: str) -> None:
        server = self.serving.running
        server.require_alive()
        if self.witness is not None:
            evidence, against = self.witness.look(when)
        else:
            evidence = attest.attest(procfs.descendants(server.pid), [])
            against = judge.evidence(evidence, [], when)
        if evidence.problems:
            # A process that is ending has no memory any more: that it died is the reason.
            self.context.loop.until(lambda: server.returncode is not None, _DEATH_S)
            server.require_alive()
        attestation = self.record.setdefault("attestation", {})
        attestation |= {"grade": evidence.grade, when: evidence.as_json()}
        if self.runtime is not None and against:
            more = self.runtime.complaint(server)
            against = [replace(against[0], text=against[0].text + more), *against[1:]]
        if self.runtime is not None and self.witness is not None and when == "after":
            self.reasons += self.runtime.bystanders([server, self.witness.scene.tracer])
        self.reasons += against

    def _run_measurement(self) -> None:
        server = self.serving.running
        if self.witness is not None:
            self.witness.begin()
        server_pids = procfs.descendants(server.pid)
        tracer_pids = procfs.descendants(self.tracer.pid) if self.tracer else []
        first = usage.snapshot([*server_pids, *tracer_pids])
        seconds = series.Series(self._living)
        with series.sampled(self.context.loop, (seconds.take, self.watch.sample)):
            self._drive_load("measure", self._duration_s())
        last = usage.snapshot([*server_pids, *tracer_pids])
        load = self._collect_load("measure")
        self.record["load"] = {k: v for k, v in load.items() if k != "histogram"}
        requests = load["requests"]
        self.record["cpu"] = usage.usage(first, last, server_pids, tracer_pids, requests)
        self.record["cpu"]["series"] = seconds.as_json()
        if self.witness is not None:
            warm_up = (self.record.get("warm_up") or {}).get("requests")
            asked = {"warm-up": warm_up, "measure": requests}
            self.record["hits"], against = self.witness.end(asked)
            self.reasons += against
        shape = load["histogram"]
        encoded = histogram.encode(shape["values_us"], shape["counts"])
        (self.directory / "load.hist").write_bytes(encoded)
        self.reasons += judge.load(load["problems"])
        reasons, flags = judge.quiet(self.context.plan.limits, self.record["cpu"])
        self.reasons += reasons
        self.flags += flags
        self._note_load_host()
        self.flags += judge.short_of_rate(self.load_adapter, self.cell, load["requests_per_s"])

    def _note_load_host(self) -> None:
        """What the second machine did meanwhile, under the limits that hold for this one."""
        if isinstance(self.load, loading.Remote) and self.load.cpu is not None:
            self.record["load_from"]["cpu"] = self.load.cpu
            name = self.load.machine
            reasons, flags = judge.quiet(self.context.plan.limits, self.load.cpu)
            self.reasons += [replace(each, text=f"{name}: {each.text}") for each in reasons]
            self.flags += [f"{name}: {flag}" for flag in flags]

    def _living(self) -> list[int]:
        """The processes of ours that run now."""
        children = (self.serving.child, self.tracer)
        own = [child.pid for child in children if child and child.returncode is None]
        return own + (self.load.pids if self.load is not None else [])

    def _duration_s(self) -> int:
        return self.cell.load_parameters["duration_s"]

    def _scratch(self, step: str) -> Path:
        return self.directory / f"scratch-{step}"

    def _drive_load(self, step: str, duration_s: int) -> None:
        """Run the load generator to its end, watching the server and the tracer."""
        adapter = self.load_adapter
        scratch = self._scratch(step)
        scratch.mkdir()
        log = self.directory / "load.txt" if step == "measure" else scratch / "load.txt"
        parameters, body_bytes = self.cell.load_parameters, self.cell.body_bytes
        order = loading.Order(adapter, parameters, body_bytes, duration_s, self.serving.url)
        self.load = loading.start(self.context, order, scratch, log)
        daemon = self.runtime.daemon if self.runtime is not None else None
        load, watched = self.load, [c for c in (self.serving.child, self.tracer, daemon) if c]
        self.context.loop.until(
            lambda: load.ended() or any(child.returncode is not None for child in watched),
            duration_s + adapter.overrun_s,
            _SAMPLE_S,
        )
        for child in watched:
            child.require_alive()
        load.check()
        if not load.ended():
            load.stop(1.0)
            limit_s = duration_s + adapter.overrun_s
            raise TrialError("load-hung", f"the load did not end within {limit_s:g} s")

    def _collect_load(self, step: str) -> dict[str, Any]:
        """What the load that has ended reported, by its adapter."""
        if self.load is None:
            raise AssertionError("the step before starts it")
        scratch, said = self._scratch(step), self.load.said()
        result: dict[str, Any] = self.context.load_module(self.load_adapter).collect(
            scratch, said.returncode, said.out, said.err
        )
        self.load.stop(1.0)
        shutil.rmtree(scratch)
        return result

    # ---- stopping ------------------------------------------------------------------------

    def _stop(self) -> None:
        """Stop what runs, load first, then tracer, then server; never raises on the way."""
        # A run that is interrupted must have ended everything within 5 s, whatever ignores signals.
        most_s = _HURRIED_STOP_S if self.context.loop.interrupted else float("inf")
        with self.context.loop.shielded():
            if self.load is not None:
                self.load.stop(_LOAD_STOP_S)
            if self.runtime is not None:
                self.runtime.before_stop([c for c in (self.serving.child, self.tracer) if c])
            if self.tracer is not None and self.tracer_adapter is not None:
                adapter = self.tracer_adapter
                self.tracer.stop(adapter.stop_signal, min(adapter.stop_timeout_s, most_s))
                end = tracing.message(self.tracer, "end")
                if end is not None:
                    self.record["end"] = end
            self.serving.stop(most_s)
            self.reasons += self.serving.end_stragglers()
            if self.runtime is not None:
                self.runtime.stop(most_s)
                self.record["runtime"] = self.runtime.record
            self._clear_scratch()
            self.context.leftovers.remove()

    def _check_logs(self) -> None:
        """A log that could not be written is no trial's fault: the host cannot go on."""
        daemon = self.runtime.daemon if self.runtime is not None else None
        for part in (self.serving.child, self.tracer, self.load, daemon):
            if part is not None and part.log_error is not None:
                raise part.log_error

    def _clear_scratch(self) -> None:
        """Keep the text of a load that failed, and nothing else of its working files."""
        for step in ("warm-up", "measure"):
            scratch = self._scratch(step)
            text = scratch / "load.txt"
            if text.exists() and not (self.directory / "load.txt").exists():
                text.rename(self.directory / "load.txt")
            # What cannot be removed is of no trial's record, and no reason to lose one.
            shutil.rmtree(scratch, ignore_errors=True)
        self.serving.clear()

    def _tuning(self) -> dict[str, Any] | None:
        """Which CPUs each part got, and how many open files; None where the run does not tune."""
        if not self.context.plan.tune:
            return None
        with self._on_cpus_of("load"):
            cpus = self.record["cpus"]
        return {"cpus": cpus, "file_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0]}

    def as_json(self, number: int, block: int, attempt: int, position: int) -> dict[str, Any]:
        """The trial's record (schema in the reference)."""
        record = self.record
        elapsed_s = sum(
            part["elapsed_s"] or 0.0
            for part in (record.get("warm_up"), record.get("load"))
            if part is not None
        )
        attestation = record.get("attestation")
        return {
            "schema": 1,
            "trial": self.name,
            "number": number,
            "block": block,
            "attempt": attempt,
            "position": position,
            "cell": asdict(self.cell),
            "plan_sha256": self.context.plan.plan_sha256,
            "times": {
                "started_utc": record["started_utc"],
                "started_monotonic_ns": record["started_monotonic_ns"],
                "wall_s": record["wall_s"],
                "load_elapsed_s": elapsed_s,
                "clock_jump_s": record["clock_jump_s"],
                "steps": self.steps,
            },
            "load": record.get("load"),
            "load_from": record.get("load_from"),
            "warm_up": record.get("warm_up"),
            "cpu": record.get("cpu"),
            "noise": record.get("noise"),
            "tuning": self._tuning(),
            "hits": record.get("hits"),
            "tracer": {"attached": record.get("attached"), "end": record.get("end")},
            "runtime": record.get("runtime"),
            "server_user": record.get("server_user"),
            "attestation": attestation,
            "answer": record.get("answer"),
            "verdict": {
                "valid": not self.reasons,
                "reasons": [asdict(reason) for reason in self.reasons],
                "flags": self.flags,
            },
        }
