"""A whole run on the host: blocks of trials into a run directory."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from uplab.hostside import errors, fingerprint, goprograms, hitcost, lock, store, sums
from uplab.hostside.children import Ledger
from uplab.hostside.context import Context
from uplab.hostside.control import Control, boot_id
from uplab.hostside.errors import HostError, Interrupted
from uplab.hostside.far import Far, Lost, Way
from uplab.hostside.leftovers import Leftovers
from uplab.hostside.loop import Loop
from uplab.hostside.order import block_order
from uplab.hostside.rundir import Events, TrialDirectory, utc_now, write_json
from uplab.hostside.settings import Settings
from uplab.hostside.spec import Cell, Plan
from uplab.hostside.trial import Trial
from uplab.hostside.tuning import Tuning
from uplab.hostside.tuning_journal import journal_of

_FREE_BYTES = 64 << 20
_RESERVE = ".part-reserve"
_RESERVE_BYTES = 8 << 20
_TRACEFS = Path("/sys/kernel/tracing")


@dataclass
class _Progress:
    """What was done so far; it becomes run.json."""

    number: int = 0
    valid: int = 0
    repeats_left: int = 0
    hit_cost: list[dict[str, Any]] = field(default_factory=list)


class Run:
    """Measures a plan into a directory.

    Args:
        plan: what to measure.
        out: the run directory; made here.
        root: of the store.
        state: hostside's directory under ``/run``.
        adapters: the folder with the adapters' files.
        follow: print the events on stdout too.
        kernel: the root below which the kernel's settings and counters lie.
    """

    def __init__(
        self,
        plan: Plan,
        out: Path,
        root: Path,
        state: Path,
        adapters: Path,
        *,
        follow: bool,
        kernel: Path = Path("/"),
    ) -> None:
        self._plan = plan
        self._out = out
        self._root = root
        self._state = state
        self._adapters = adapters
        self._follow = follow
        self._kernel = kernel
        self._tuning = Tuning(Settings(kernel), journal_of(out.parent))
        self._progress = _Progress(plan.earlier.number, repeats_left=plan.repeat.per_run)
        self._started_utc = utc_now()
        self._host: dict[str, Any] = {"before": None, "after": None}
        self._load_from: dict[str, Any] | None = None

    def run(self) -> int:
        """Measure everything; out: the exit code.

        Raises:
            HostError: nothing could be started (busy, no root, no room, other artifacts).
        """
        with ExitStack() as stack:
            stack.enter_context(lock.hold(self._state, self._plan.run_id))
            loop = stack.enter_context(Loop())
            ledger = Ledger(self._state / "children.json")
            leftovers = Leftovers(self._state / "leftovers.json")
            ended = ledger.end_leftovers()
            removed = leftovers.remove_earlier()
            self._check_others()
            restored = self._tuning.restore()
            installed = store.load_for(self._root, self._plan.artifacts)
            self._make_out()
            events = Events(self._out / "events.jsonl", follow=self._follow)
            stack.callback(events.close)
            if ended:
                events.emit("leftovers-ended", processes=ended)
            if removed:
                events.emit("leftovers-removed", files=removed)
            if restored.anything:
                events.emit("tuning-restored", **restored.as_json())
            context = Context(
                self._plan, installed, loop, ledger, events, self._adapters, leftovers
            )
            context.kernel = self._kernel
            context.far = far = self._connect(loop)
            if far is not None:
                stack.callback(far.close)
            return self._run(context, events)

    def _connect(self, loop: Loop) -> Far | None:
        """The way to the second machine, where the load is on one.

        Raises:
            HostError: there is none.
        """
        load_from = self._plan.load_from
        if load_from is None:
            return None
        agent = Control(self._out).take_load_agent()
        if agent is None:
            raise HostError(f"nobody started an agent on load host {load_from.name}")
        way = Way(load_from.name, load_from.address, *agent)
        far = Far(way, loop, self._plan.run_id)
        far.require()
        try:
            self._load_from = {**asdict(load_from), **far.describe()}
        except Lost as error:
            raise HostError(str(error)) from error
        return far

    def _run(self, context: Context, events: Events) -> int:
        outcome, error, code = "running", None, errors.OK
        self._write_run(outcome, error)
        try:
            tuned = self._tuning.hold(self._plan.run_id, events.emit)
            with (
                _tracefs(wanted=self._needs_tracefs()),
                tuned if self._plan.tune else nullcontext() as context.cpus,
            ):
                self._host["before"] = fingerprint.take(context.store)
                write_json(self._out / "host.json", self._host)
                self._progress.hit_cost = hitcost.draw(context, self._state / "hit-cost.log")
                events.emit("hit-cost", costs=self._progress.hit_cost)
                self._write_run(outcome, error)
                self._blocks(context, events)
                outcome = "complete"
        except Interrupted as stop:
            outcome, error, code = "interrupted", str(stop), errors.INTERRUPTED
        except HostError as failure:
            outcome, error, code = "failed", str(failure), failure.exit_code
        except OSError as failure:
            if failure.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            outcome, code = "failed", errors.HOST
            error = f"disk full: {self._out} ({failure.strerror})"
        with context.loop.shielded():
            try:
                self._finish(context, events, outcome, error)
            except OSError as failure:
                raise HostError(f"{self._out} could not be finished: {failure}") from failure
        if error is not None and code == errors.HOST:
            raise HostError(error)
        return code

    def _finish(self, context: Context, events: Events, outcome: str, error: str | None) -> None:
        """The record of the end, and the checksums over all; a full disk has room for them."""
        (self._out / _RESERVE).unlink()
        self._host["after"] = fingerprint.take(context.store)
        write_json(self._out / "host.json", self._host)
        self._write_run(outcome, error)
        events.emit(
            "run-end",
            outcome=outcome,
            error=error,
            trials=self._progress.number - self._plan.earlier.number,
            valid=self._progress.valid,
        )
        sums.write(self._out)

    # ---- before the first trial ------------------------------------------------------------

    def _check_others(self) -> None:
        """Other programs are altered only where that was asked for."""
        others = goprograms.touched(self._plan.cells, self._plan.adapters)
        if others is not None and not self._plan.header.get("touch_others"):
            raise HostError(goprograms.refusal(others), errors.USAGE)

    def _make_out(self) -> None:
        self._out.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        free = shutil.disk_usage(self._out.parent).free
        if free < _FREE_BYTES:
            raise HostError(
                f"disk full: {self._out.parent} has {free >> 20} MiB free, "
                f"a run needs {_FREE_BYTES >> 20} MiB"
            )
        # A run that was launched finds its directory made, with nothing in it but its control.
        self._out.mkdir(mode=0o700, exist_ok=True)
        (self._out / "trials").mkdir(mode=0o700)
        with (self._out / _RESERVE).open("wb") as reserve:
            os.posix_fallocate(reserve.fileno(), 0, _RESERVE_BYTES)

    def _needs_tracefs(self) -> bool:
        tracers = self._plan.adapters.tracers
        return any(
            "tracefs" in tracers[cell.tracer].modes[cell.mode].needs
            for cell in self._plan.cells
            if cell.tracer is not None
        )

    # ---- blocks ----------------------------------------------------------------------------

    def _blocks(self, context: Context, events: Events) -> None:
        earlier = self._plan.earlier
        done = frozenset(earlier.skip)
        for block in range(1, self._plan.blocks + 1):
            first = attempt = earlier.attempts.get(str(block), 1)
            skip = done
            while not self._block(context, events, block, attempt, skip):
                repeats = attempt - first
                if repeats >= self._plan.repeat.per_block or not self._progress.repeats_left:
                    break
                self._progress.repeats_left -= 1
                attempt += 1
                # Again means the whole block: its trials are compared with each other.
                skip = frozenset()
                events.emit("block-again", block=block, attempt=attempt)

    def _block(
        self, context: Context, events: Events, block: int, attempt: int, skip: frozenset[str]
    ) -> bool:
        """Measure every cell once, but those to skip; out: whether all trials were valid."""
        cells = {cell.id: cell for cell in self._plan.cells}
        all_valid = True
        for position, cell_id in enumerate(block_order(self._plan.seed, block, cells), start=1):
            if f"{block}/{cell_id}" in skip:
                continue
            verdict = self._trial(context, events, cells[cell_id], (block, attempt, position))
            all_valid = all_valid and verdict["valid"]
        return all_valid

    def _trial(
        self, context: Context, events: Events, cell: Cell, place: tuple[int, int, int]
    ) -> dict[str, Any]:
        block, attempt, position = place
        self._progress.number += 1
        again = f"-a{attempt}" if attempt > 1 else ""
        name = f"{self._progress.number:04d}-{cell.id}-b{block:02d}{again}"
        events.emit(
            "trial-start",
            trial=name,
            number=self._progress.number,
            block=block,
            attempt=attempt,
            position=position,
            cell=cell.id,
        )
        directory = TrialDirectory(self._out / "trials", name)
        trial = Trial(context, cell, directory.path)
        try:
            trial.run()
            record = trial.as_json(self._progress.number, block, attempt, position)
            directory.keep(record)
        except BaseException:
            directory.drop()
            raise
        verdict: dict[str, Any] = record["verdict"]
        self._progress.valid += verdict["valid"]
        events.emit(
            "trial-end",
            trial=name,
            cell=cell.id,
            verdict=verdict,
            requests_per_s=(record["load"] or {}).get("requests_per_s"),
            wall_s=record["times"]["wall_s"],
        )
        return verdict

    def _write_run(self, outcome: str, error: str | None) -> None:
        """run.json, from the controller's header and what happened here."""
        write_json(
            self._out / "run.json",
            {
                **self._plan.header,
                "schema": 1,
                "run_id": self._plan.run_id,
                "seed": self._plan.seed,
                "blocks": self._plan.blocks,
                "warm_up_s": self._plan.warm_up_s,
                "plan_sha256": self._plan.plan_sha256,
                "boot_id": boot_id(),
                "artifacts": self._plan.artifacts,
                "tuning": self._tuning.record,
                "load_from": self._load_from,
                "hit_cost": self._progress.hit_cost,
                "started_utc": self._started_utc,
                "ended_utc": None if outcome == "running" else utc_now(),
                "outcome": outcome,
                "error": error,
                "trials_planned": len(self._plan.cells) * self._plan.blocks,
                "provenance": "measured",
            },
        )


@contextmanager
def _tracefs(*, wanted: bool) -> Iterator[None]:
    """Mount tracefs for the run where it is wanted and nobody did; put it back as it was."""
    if not wanted or (_TRACEFS / "events").exists() or not _TRACEFS.is_dir():
        yield
        return
    mounted = subprocess.run(
        ["mount", "-t", "tracefs", "nodev", str(_TRACEFS)], check=False, capture_output=True
    )
    try:
        yield
    finally:
        if mounted.returncode == 0:
            _unmount(time.monotonic() + 1.0)


def _unmount(deadline_s: float) -> None:
    """A tracer that just ended may hold a file there for a moment."""
    while os.path.ismount(_TRACEFS):
        done = subprocess.run(["umount", str(_TRACEFS)], check=False, capture_output=True)
        if done.returncode == 0 or time.monotonic() > deadline_s:
            return
