"""Does a tracer start on this host at all? It is started once, with nobody to trace.

What stops a tracer is often known to itself alone: a limit, the kernel's verifier, a library that
is too old. So it is asked instead of guessed at, before a run is planned, and its own last line is
the reason. The answer is kept below ``/run``, so for as long as this kernel runs.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uplab.hostside.children import Child, Ledger
from uplab.hostside.errors import TrialError
from uplab.hostside.foreign import wait_ready
from uplab.hostside.loop import Loop
from uplab.hostside.spec import FileRef, TracerAdapter
from uplab.hostside.store import Store
from uplab.hostside.templates import fill

_ANSWERS = "self-tests.json"
_LOCK = "self-tests.lock"
_LEDGER = "self-tests-children.json"
#: Who mends what stopped a tracer is not told the old answer for long.
_REFUSAL_KEPT_S = 300.0


@dataclass
class SelfTests:
    """Starts tracers and remembers what came of it.

    Args:
        store: what is installed.
        state: hostside's directory below ``/run``.
        adapters: gives the folder with the adapters' files; called only where it is needed.
        start: whether a tracer may be started; else what nobody knows yet is in ``untested``.
    """

    store: Store
    state: Path
    adapters: Callable[[], Path]
    start: bool = True
    untested: set[str] = field(default_factory=set)

    def refusal(self, tracer: TracerAdapter) -> str | None:
        """Why a tracer does not start here; None where it does, or has no test.

        In: an adapter whose programs are there. Only root can tell.
        """
        if not tracer.self_test or os.geteuid() != 0:
            return None
        folder = self.adapters() / "tracers" / tracer.name
        key = _key(tracer, self.store, folder)
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._alone():
            known = _known(self._read().get(key))
            if known is None and not self.start:
                self.untested.add(tracer.name)
                return None
            if known is None:
                known = self._start(tracer, folder)
                self._keep(key, known)
        reason = known["reason"]
        return None if reason is None else f"{tracer.name} does not start here: {reason}"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else starts a tracer, or writes the answers, meanwhile."""
        with (self.state / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self) -> dict[str, Any]:
        try:
            answers = json.loads((self.state / _ANSWERS).read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return answers if isinstance(answers, dict) else {}

    def _keep(self, key: str, answer: dict[str, Any]) -> None:
        """Remember an answer; one that is only for want of time is none."""
        if answer["kept_s"] == 0:
            return
        part = self.state / f"{_ANSWERS}.part"
        part.write_text(json.dumps({**self._read(), key: answer}))
        part.replace(self.state / _ANSWERS)

    def _start(self, tracer: TracerAdapter, folder: Path) -> dict[str, Any]:
        """Start it, wait until it says that it is ready, and end it."""
        values = {"root": str(self.store.root), "adapter": str(folder)}
        values |= {name: str(self.store.path(ref)) for name, ref in tracer.programs.items()}
        argv = [fill(part, values) for part in tracer.self_test]
        env = {name: fill(text, values) for name, text in tracer.env.items() if "{pid}" not in text}
        ledger = Ledger(self.state / _LEDGER)
        ledger.end_leftovers()
        log = self.state / "self-test.log"
        with Loop() as loop:
            try:
                child = Child(loop, ledger, "tracer", argv, log, env)
            except TrialError as error:
                return _answer(error.text, _REFUSAL_KEPT_S)
            try:
                return _watch(tracer, child, loop)
            finally:
                child.stop(tracer.stop_signal, tracer.stop_timeout_s)
                log.unlink()


def _watch(tracer: TracerAdapter, child: Child, loop: Loop) -> dict[str, Any]:
    """What a tracer that was started came to."""
    try:
        wait_ready(loop, child, tracer.ready_line or "", tracer.attached_timeout_s)
    except TrialError as error:
        if child.returncode == 0:
            return _answer(None, None)
        if error.code == "tracer-died":
            return _answer(child.death() + _cause(tracer, child), _REFUSAL_KEPT_S)
        last = f", last line: {child.lines[-1]}" if child.lines else ""
        text = f"not ready within {tracer.attached_timeout_s:g} s{last}"
        return _answer(text + _cause(tracer, child), 0)
    return _answer(None, None)


def _answer(reason: str | None, kept_s: float | None) -> dict[str, Any]:
    """What is remembered: the reason, and for how long (None: as long as this kernel runs)."""
    return {"reason": reason, "kept_s": kept_s, "monotonic_s": time.monotonic()}


def _known(answer: Any) -> dict[str, Any] | None:
    """A remembered answer that still holds."""
    if not isinstance(answer, dict):
        return None
    kept_s = answer.get("kept_s")
    if kept_s is not None and time.monotonic() - answer["monotonic_s"] > kept_s:
        return None
    return answer


def _cause(tracer: TracerAdapter, child: Child) -> str:
    """What to do about it, where the tracer's output shows a cause that its adapter knows."""
    said = b"".join(child.text.values()).decode(errors="replace")
    for cause in tracer.causes:
        if re.search(cause.line, said):
            return f" ({cause.text})"
    return ""


def _key(tracer: TracerAdapter, store: Store, folder: Path) -> str:
    """What the answer depends on: the programs, the adapter, this boot of this kernel, a limit."""
    matter = {
        "programs": {name: _sha256(ref, store) for name, ref in tracer.programs.items()},
        "files": {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in tracer.files},
        "self_test": tracer.self_test,
        "ready_line": tracer.ready_line,
        "env": tracer.env,
        "causes": [cause.text for cause in tracer.causes],
        "kernel": platform.release(),
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text(),
        "locked_memory": resource.getrlimit(resource.RLIMIT_MEMLOCK),
    }
    return hashlib.sha256(json.dumps(matter, sort_keys=True).encode()).hexdigest()


def _sha256(ref: FileRef, store: Store) -> str:
    return f"{store.path(ref)} {store.sha256(ref)}"
