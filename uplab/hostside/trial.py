"""One trial: every mode goes through the same steps.

fence, start, ready, attach, attached, warm up, measure, check, stop, fence. Each wait is for a
condition, with a limit; whatever happens, what was started is stopped.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from uplab.hostside import (
    answer,
    attest,
    bpftime,
    cpuplan,
    histogram,
    judge,
    loading,
    noise,
    procfs,
    series,
    serveruser,
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
from uplab.hostside.spec import UNTRACED_MODES, Cell, LoadAdapter, ServerAdapter, TracerAdapter
from uplab.hostside.templates import Scalar, fill, fill_argv
from uplab.hostside.witness import Scene, Witness

_SAMPLE_S = 1.0
_LOAD_STOP_S = 0.5
_HURRIED_STOP_S = 1.5
_FENCE_TIMEOUT_S = 3.0
_DEATH_S = 0.2
LOOPBACK = "127.0.0.1"


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
    loan: serveruser.Loan | None = None
    server: Child | None = None
    tracer: Child | None = None
    load: Load | None = None
    witness: Witness | None = None
    runtime: bpftime.Runtime | None = None
    watch: noise.Watch = field(default_factory=noise.Watch)

    @property
    def name(self) -> str:
        """The name that the trial's directory will have."""
        return self.directory.name.removeprefix(PART_PREFIX)

    @property
    def server_adapter(self) -> ServerAdapter:
        """The adapter of the cell's server."""
        return self.context.plan.adapters.servers[self.cell.server]

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

    def values(self, programs: Mapping[str, Any]) -> dict[str, Scalar]:
        """What the templates of an adapter may name."""
        values: dict[str, Scalar] = {"root": str(self.context.store.root)}
        values |= {name: str(self.context.store.path(ref)) for name, ref in programs.items()}
        values |= {"body_bytes": self.cell.body_bytes}
        return values

    @property
    def server_values(self) -> dict[str, Scalar]:
        """What the server's templates may name."""
        adapter, loan = self.server_adapter, self.loan
        folders = {
            "adapter": str(loan.adapter if loan else self._server_files),
            "scratch": str(loan.scratch if loan else self._scratch("server")),
        }
        load_from = self.context.plan.load_from
        folders["address"] = load_from.server_address if load_from else LOOPBACK
        lent = loan.lent if loan else {}
        return self.values(adapter.programs) | lent | self.cell.server_parameters | folders

    @property
    def _server_files(self) -> Path:
        return self.context.adapters / "servers" / self.server_adapter.name

    @property
    def url(self) -> str:
        """Where the server answers."""
        return fill(self.server_adapter.url, self.server_values)

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
            self._fence_after()
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
            self._fence_before()
        with self._step("start"), self._on_cpus_of("server"):
            self.runtime = self._make_runtime()
            self._start_server()
        with self._step("ready"):
            self._wait_ready()
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
            self._answers["after"] = self._check_answer("after")
            # The last chance to stop before this trial counts.
            self.context.loop.pump(0.0)

    @property
    def _answers(self) -> dict[str, Any]:
        answers: dict[str, Any] = self.record.setdefault("answer", {})
        return answers

    def _fence_before(self) -> None:
        """Nobody may listen where the server will."""
        port = self.cell.server_parameters.get("port")
        if port is not None and self._answers_on(port):
            owner = ", ".join(procfs.listeners(port)) or "another process"
            raise TrialError("port-in-use", f"port {port} is in use by {owner}")

    def _answers_on(self, port: int) -> bool:
        """Whether something accepts connections where the server does, or will."""
        with socket.socket() as probe:
            probe.settimeout(0.2)
            return probe.connect_ex((str(self.server_values["address"]), port)) == 0

    def _make_runtime(self) -> bpftime.Runtime | None:
        """What traces in userspace, where the cell does."""
        adapter, options = self.tracer_adapter, self.cell.runtime
        if adapter is None or options is None:
            return None
        return bpftime.Runtime(self.context, self.cell, options, adapter, self.directory)

    def _start_server(self) -> None:
        adapter = self.server_adapter
        restrict = self._lend_to_server()
        values = self.server_values
        self.server = Child(
            self.context.loop,
            self.context.ledger,
            "server",
            fill_argv(adapter.argv, values, {}),
            self.directory / "server.log",
            {name: fill(text, values) for name, text in adapter.env.items()} | self._runtime_env,
            restrict,
            self.loan.user.uid if self.loan else None,
        )

    def _lend_to_server(self) -> list[str]:
        """Give the server its folder, and a user of its own; out: what makes it that user's."""
        if self.server_adapter.user == "root" or os.geteuid() != 0:
            self._scratch("server").mkdir()
            return []
        context = self.context
        self.loan = serveruser.lend(
            serveruser.draw(),
            self.server_adapter,
            context.store,
            self._server_files,
            context.leftovers,
        )
        return self.loan.user.options(self.cell.server_parameters.get("port"))

    def _wait_ready(self) -> None:
        """Its own line, then a right answer."""
        server, adapter = _must(self.server), self.server_adapter
        pattern = re.compile(adapter.ready_line)
        seen: list[str] = [line for line in server.lines if pattern.search(line)]
        server.on_line = lambda line: seen.append(line) if pattern.search(line) else None
        self.context.loop.until(lambda: bool(seen) or server.ended, adapter.ready_timeout_s)
        server.on_line = None
        if not seen:
            if server.ended:
                raise TrialError("server-died", f"server died before ready: {server.death()}")
            raise TrialError(
                "server-not-ready", f"server was not ready within {adapter.ready_timeout_s:g} s"
            )
        self._answers["before"] = self._check_answer("before")
        self._note_user(server)

    def _note_user(self, server: Child) -> None:
        """Who the server really runs as, beside what its adapter asks for."""
        asked = self.server_adapter.user
        seen = serveruser.seen(procfs.descendants(server.pid))
        self.record["server_user"] = {"asked": asked, "seen": seen}
        self.flags += serveruser.flags(asked, seen)

    def _check_answer(self, when: str) -> dict[str, Any]:
        server = _must(self.server)
        self._require_alive(server)
        return answer.check(self.url, self.server_adapter.answer, self.cell.body_bytes, when)

    def _start_tracer(self, adapter: TracerAdapter) -> Witness:
        server = _must(self.server)
        values = self.values(adapter.programs) | {"pid": server.pid}
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
                server_adapter=self.server_adapter,
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
            server, tracer = _must(self.server), _must(self.tracer)
            user = self.loan.user if self.loan else None
            self.runtime.attach(server, tracer, traced.expected, user)

    def _attest(self, when: str) -> None:
        server = _must(self.server)
        self._require_alive(server)
        if self.witness is not None:
            evidence, against = self.witness.look(when)
        else:
            evidence = attest.attest(procfs.descendants(server.pid), [])
            against = judge.evidence(evidence, [], when)
        if evidence.problems:
            # A process that is ending has no memory any more: that it died is the reason.
            self.context.loop.until(lambda: server.returncode is not None, _DEATH_S)
            self._require_alive(server)
        attestation = self.record.setdefault("attestation", {})
        attestation |= {"grade": evidence.grade, when: evidence.as_json()}
        if self.runtime is not None and against:
            more = self.runtime.complaint(server)
            against = [replace(against[0], text=against[0].text + more), *against[1:]]
        if self.runtime is not None and when == "after":
            self.reasons += self.runtime.bystanders([server, _must(self.tracer)])
        self.reasons += against

    def _run_measurement(self) -> None:
        server = _must(self.server)
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
        children = (self.server, self.tracer)
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
        order = loading.Order(adapter, parameters, body_bytes, duration_s, self.url)
        self.load = loading.start(self.context, order, scratch, log)
        daemon = self.runtime.daemon if self.runtime is not None else None
        load, watched = self.load, [c for c in (self.server, self.tracer, daemon) if c]
        self.context.loop.until(
            lambda: load.ended() or any(child.returncode is not None for child in watched),
            duration_s + adapter.overrun_s,
            _SAMPLE_S,
        )
        for child in watched:
            self._require_alive(child)
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

    def _require_alive(self, child: Child) -> None:
        """Raise when a process that must live has ended."""
        if child.returncode is not None:
            self.context.loop.until(lambda: child.ended, 1.0)
            raise TrialError(f"{child.name}-died", f"{child.name} died: {child.death()}")

    # ---- stopping ------------------------------------------------------------------------

    def _stop(self) -> None:
        """Stop what runs, load first, then tracer, then server; never raises on the way."""
        # A run that is interrupted must have ended everything within 5 s, whatever ignores signals.
        most_s = _HURRIED_STOP_S if self.context.loop.interrupted else float("inf")
        with self.context.loop.shielded():
            if self.load is not None:
                self.load.stop(_LOAD_STOP_S)
            if self.runtime is not None:
                self.runtime.before_stop([c for c in (self.server, self.tracer) if c])
            if self.tracer is not None and self.tracer_adapter is not None:
                adapter = self.tracer_adapter
                self.tracer.stop(adapter.stop_signal, min(adapter.stop_timeout_s, most_s))
                end = tracing.message(self.tracer, "end")
                if end is not None:
                    self.record["end"] = end
            if self.server is not None:
                server_adapter = self.server_adapter
                timeout_s = min(server_adapter.stop_timeout_s, most_s)
                self.server.stop(server_adapter.stop_signal, timeout_s)
            self._end_stragglers()
            if self.runtime is not None:
                self.runtime.stop(most_s)
                self.record["runtime"] = self.runtime.record
            self._clear_scratch()
            self.context.leftovers.remove()

    def _end_stragglers(self) -> None:
        """End what the server started outside of its session: its user is nobody else's."""
        if self.loan is not None and self.server is not None:
            user, since_ticks = self.loan.user, self.server.start_ticks
            text = serveruser.end_stragglers(self.context.loop, user, since_ticks)
            if text is not None:
                self.reasons.append(Reason("left-behind", text))

    def _check_logs(self) -> None:
        """A log that could not be written is no trial's fault: the host cannot go on."""
        daemon = self.runtime.daemon if self.runtime is not None else None
        for part in (self.server, self.tracer, self.load, daemon):
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
        shutil.rmtree(self._scratch("server"), ignore_errors=True)

    def _fence_after(self) -> None:
        """The port is free again and no process of the trial lives."""
        port = self.cell.server_parameters.get("port")
        started = self.server is not None and self.server.returncode is not None
        if (
            port is None
            or not started
            or any(reason.code == "port-in-use" for reason in self.reasons)
        ):
            return
        with self.context.loop.shielded():
            free = self.context.loop.until(
                lambda: not self._answers_on(port), _FENCE_TIMEOUT_S, 0.02
            )
        if not free:
            text = f"port {port} still answers after the server was stopped"
            self.reasons.append(Reason("left-behind", text))

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


def _must(child: Child | None) -> Child:
    if child is None:
        raise AssertionError("the step before starts it")
    return child
