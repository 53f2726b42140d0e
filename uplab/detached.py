"""A run that lives on its host alone: start it, follow it through lost connections, stop it."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Any

from uplab.errors import EXIT_HOST, HostError, UplabError, UsageError
from uplab.hostside.follow import MARK
from uplab.inventory import flags
from uplab.lines import Lines
from uplab.remote import Host

#: hostside says something every 5 s.
_SILENCE_S = 20.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
#: How long a host may be away before following it is given up; the run does not depend on it.
PATIENCE_S = 1800.0

Event = dict[str, Any]


@dataclass(frozen=True)
class End:
    """How a run ended.

    Args:
        code: hostside's exit code.
        said: its reason, one line; empty where there is none to give.
    """

    code: int
    said: str


def patience(minutes: float | None) -> float:
    """How long a host may be away; in: what the flag says, None for the default.

    Raises:
        UsageError: no such time.
    """
    if minutes is None:
        return PATIENCE_S
    if not 0 <= minutes < inf:
        raise UsageError(f"--away-minutes {minutes:g}: at least 0")
    return 60.0 * minutes


def pauses() -> Iterator[float]:
    """Seconds to wait before each further attempt to reach a host: 1, 2, 4 ... 30, 30."""
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


@dataclass
class DetachedRun:
    """A run on a host, started by us or by somebody else.

    Args:
        host: where.
        run_id: its name.
        told: is called with a line for the user whenever the connection is lost or back.
        patience_s: how long the host may be away.
    """

    host: Host
    run_id: str
    told: Callable[[str], None]
    patience_s: float = PATIENCE_S
    _offset: int = 0

    def follow(self, take: Callable[[Event], None]) -> End:
        """Give each event away once, in order, until the run has ended.

        May be called again after it was left by an exception: it goes on after the last event.

        Raises:
            HostError: the host was away for too long; the run may go on there.
            UplabError: there is no such run.
            what ``take`` raises.
        """
        tries, since_s = pauses(), time.monotonic()
        while True:
            stream = _Stream(take)
            try:
                self._receive(stream)
                lost = HostError(f"host {self.host.name}: it stopped sending events")
            except HostError as error:
                lost = error
            if stream.failure is not None:
                raise stream.failure
            if stream.end is not None:
                return stream.end
            if stream.heard:
                tries, since_s = pauses(), time.monotonic()
            if time.monotonic() - since_s > self.patience_s:
                raise HostError(f"{lost.message}. The run may go on there. {self.way_back()}")
            pause_s = next(tries)
            self.told(f"{lost.message}. The run goes on; trying again in {pause_s:g} s")
            time.sleep(pause_s)

    def _receive(self, stream: _Stream) -> None:
        request = {"run_id": self.run_id, "from": self._offset}
        try:
            self.host.receive("follow", request, stream, silence_s=_SILENCE_S)
        finally:
            self._offset += stream.bytes_taken

    def stop(self) -> dict[str, Any]:
        """Let it end by itself, keeping the finished trials; see ``hostside.runs.stop``."""
        return patiently(lambda: self.host.ask("stop", {"run_id": self.run_id}), self.told)

    def way_back(self) -> str:
        """How to come back to it."""
        host = flags(self.host.name, self.host.chosen)
        return f"Run: invoke bench.follow {host} --run {shlex.quote(self.run_id)}"


def start(host: Host, plan: dict[str, Any], told: Callable[[str], None]) -> DetachedRun:
    """Start a run on a host; asked again after a lost answer, it is not started twice.

    Raises:
        HostError: the host cannot be reached, or says that it started another run.
        UplabError: the run does not start, with hostside's reason and exit code.
    """
    answer = patiently(lambda: host.ask("launch", {"plan": plan}), told)
    if answer.get("run_id") != plan["run_id"]:
        said = str(answer.get("run_id"))[:200]
        raise HostError(f"host {host.name}: asked to start {plan['run_id']}, it started {said!r}")
    return DetachedRun(host, plan["run_id"], told)


def patiently(
    ask: Callable[[], dict[str, Any]], told: Callable[[str], None], attempts: int = 5
) -> dict[str, Any]:
    """Ask until the answer comes through; for questions that may be asked twice.

    Raises:
        HostError: the connection was lost each time.
        UplabError: what hostside refused.
    """
    for left, pause_s in zip(range(attempts - 1, -1, -1), pauses(), strict=False):
        try:
            return ask()
        except HostError as error:
            if not left:
                raise
            told(f"{error.message}; trying again in {pause_s:g} s")
            time.sleep(pause_s)
    raise AssertionError("the last attempt returns or raises")


@dataclass
class _Stream:
    """Takes what ``hostside follow`` writes.

    ``heard`` says whether anything came, ``bytes_taken`` how long the events were that were given
    away, ``failure`` is what the taker raised where it must not be taken for a lost connection.
    """

    take: Callable[[Event], None]
    end: End | None = None
    heard: bool = False
    bytes_taken: int = 0
    failure: OSError | UplabError | None = None
    _lines: Lines = field(default_factory=lambda: Lines(MARK))

    def __call__(self, chunk: bytes) -> None:
        for line in self._lines.take(chunk):
            self.heard = True
            self._on_line(line)

    def _on_line(self, line: bytes) -> None:
        event = _decoded(line)
        name = event.get("event")
        if name == "followed":
            self.end = End(_whole(event.get("code")), str(event.get("said", "")))
        elif name == "lost":
            self.end = End(EXIT_HOST, str(event.get("reason", "")))
        elif name != "heartbeat":
            # Counted first: what its taker fails at is not given to it again.
            self.bytes_taken += len(line) + 1
            if name is not None:
                self._give(event)

    def _give(self, event: Event) -> None:
        try:
            self.take(event)
        except (OSError, UplabError) as failure:
            self.failure = failure
            raise


def _decoded(line: bytes) -> Event:
    """An event; an empty one for what is none, such as a line cut off by a full disk."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _whole(code: Any) -> int:
    return code if isinstance(code, int) else EXIT_HOST
