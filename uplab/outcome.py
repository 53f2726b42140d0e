"""What the tasks of a playbook returned, as the callback plugin ``uplab_results`` reports it."""

from __future__ import annotations

import json
import os
import select
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from uplab.errors import GateError

_POLL_S = 0.1
_CHUNK_BYTES = 1 << 16
_LOG_LINES_SHOWN = 12


@dataclass(frozen=True)
class Result:
    """What a task did on a host.

    ``state`` is ok, changed, failed, ignored (failed, and the play went on), skipped or
    unreachable; ``result`` is what the task's module returned.
    """

    host: str
    role: str
    task: str
    action: str
    state: str
    result: dict[str, Any]
    duration_s: float


@dataclass(frozen=True)
class Outcome:
    """What a run of a playbook did; ``log`` is the file that holds Ansible's own output."""

    code: int
    results: list[Result]
    log: Path

    def of(self, action: str) -> Iterator[Result]:
        """The results of a module that did something."""
        return (r for r in self.results if r.action == action and r.state in ("ok", "changed"))


def read(process: subprocess.Popen[bytes], pipe: FileIO) -> Iterator[Result]:
    """The results as they come, until the program has ended and all is read.

    Not until the pipe is closed: a connection that is kept for the next play may hold it.
    """
    os.set_blocking(pipe.fileno(), False)
    rest = b""
    while True:
        ended = process.poll() is not None
        ready, _, _ = select.select([pipe], [], [], 0 if ended else _POLL_S)
        chunk = (pipe.read(_CHUNK_BYTES) or b"") if ready else b""
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield Result(**json.loads(line))
        if ready and not chunk:
            process.wait()
            return
        if ended and not ready:
            return


def problems(outcome: Outcome) -> list[str]:
    """Why a run failed: ``host: task: message`` for each task that did; [] where none did.

    Where no task failed and the run did, the last lines of its output, which say it.
    """
    found = [
        f"{result.host}: {result.task}: {message(result.result)}"
        for result in outcome.results
        if result.state in ("failed", "unreachable")
    ]
    if found or outcome.code == 0:
        return found
    said = outcome.log.read_text(errors="replace").strip().splitlines()[-_LOG_LINES_SHOWN:]
    return ["\n".join([f"ansible-playbook ended with {outcome.code}", *said])]


def message(result: Mapping[str, Any]) -> str:
    """What a failed task says in its result."""
    return str(result.get("msg") or result.get("stderr") or "it gave no reason").strip()


def require_success(outcome: Outcome, what: str) -> None:
    """Raise GateError naming every failed task, unless the run went well."""
    found = problems(outcome)
    if found:
        raise GateError(f"{what} failed: {'; '.join(found)}. Ansible's own output: {outcome.log}")
