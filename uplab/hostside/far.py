"""The run's end of the way to a second machine, whose agent drives the load there.

The agent lives for this run alone. A connection that was lost in the middle of a trial costs that
trial; before the next one it is made again, for as long as the agent is patient.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from uplab.hostside import frames, netlink
from uplab.hostside.errors import HostError
from uplab.hostside.frames import Frames
from uplab.hostside.loop import Loop

#: How long the agent goes on without us; we try for less.
PATIENCE_S = 60.0
_TIMEOUT_S = 5.0
_POLL_S = 0.5
_EXCHANGES = 16

Watcher = Callable[[dict[str, Any], bytes], None]


class Lost(Exception):
    """The connection to the agent is gone; ``str()`` says why."""


@dataclass(frozen=True)
class Way:
    """Where an agent listens, and the token that it was started with."""

    name: str
    address: str
    port: int
    token: bytes


class Far:
    """A connection to an agent.

    Args:
        way: to it.
        loop: of the run.
        run_id: for messages.
    """

    def __init__(self, way: Way, loop: Loop, run_id: str) -> None:
        self.where = f"load host {way.name}"
        self._way = way
        self._loop = loop
        self._run_id = run_id
        self._frames: Frames | None = None
        self._watcher: Watcher | None = None
        self._gone: str | None = None

    # ---- the connection ------------------------------------------------------------------

    def require(self) -> None:
        """See that there is a connection that works; where there is none, for a while.

        Raises:
            HostError: there is none: the run cannot go on.
            Interrupted: a signal came.
        """
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                if self._frames is None:
                    self.connect()
                self.ask("echo")
                return
            except Lost as error:
                dead = isinstance(error.__cause__, ConnectionRefusedError)
                if dead or time.monotonic() > deadline_s:
                    again = f"Run: invoke bench.resume {self._run_id}"
                    raise HostError(f"{error}. Its agent is gone. {again}") from error
            self._loop.until(lambda: False, _POLL_S)

    def connect(self) -> None:
        """Connect and show each other that both know the token; raises Lost."""
        way = self._way
        try:
            connection = socket.create_connection((way.address, way.port), timeout=_TIMEOUT_S)
        except OSError as error:
            raise Lost(f"{self.where}: {way.address} port {way.port}: {error}") from error
        try:
            # A message is small and waited for.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            theirs = frames.receive_exactly(connection, frames.CHALLENGE_BYTES)
            answered = frames.answer(way.token, theirs)
            connection.sendall(answered)
            proof = frames.receive_exactly(connection, frames.PROOF_BYTES)
            frames.check_proof(way.token, theirs, answered, proof)
        except OSError as error:
            connection.close()
            raise Lost(f"{self.where}: {error}") from error
        self._frames = Frames.of(connection, way.token, theirs, answered, agent=False)
        self._gone = None

    def drop(self, reason: str) -> None:
        """Give the connection up; raises Lost."""
        self._close(reason)
        self.raise_lost()

    def _close(self, reason: str) -> None:
        self.watch(None)
        self._gone = f"{self.where}: {reason}"
        if self._frames is not None:
            self._frames.connection.close()
            self._frames = None

    def raise_lost(self) -> None:
        """Raise Lost where the connection is gone."""
        if self._frames is None:
            raise Lost(self._gone or f"{self.where}: no connection")

    def leave(self) -> None:
        """End the connection, and nothing else."""
        self._close("it was left")

    def close(self) -> None:
        """Say that the run is over: the agent ends."""
        with suppress(Lost):
            self.ask("bye")
        self._close("the run is over")

    # ---- messages ------------------------------------------------------------------------

    def tell(self, what: str) -> None:
        """Say something that is not answered; raises Lost."""
        self.raise_lost()
        if self._frames is None:
            raise AssertionError("it is not lost")
        try:
            self._frames.send({"do": what})
        except OSError as error:
            self._close(str(error))
            raise Lost(f"{self.where}: {error}") from error

    def ask(self, what: str, **more: Any) -> tuple[dict[str, Any], float]:
        """Ask and wait for the answer; what it says of a load meanwhile is passed over.

        Returns:
            the answer, and how long it took in seconds.

        Raises:
            Lost: no answer came.
        """
        self.raise_lost()
        if self._frames is None:
            raise AssertionError("it is not lost")
        self.watch(None)
        try:
            began_s = time.monotonic()
            self._frames.send({"do": what, **more})
            message: dict[str, Any] = {"event": None}
            while "event" in message:
                message, _ = self._frames.receive()
            return message, time.monotonic() - began_s
        except (OSError, ValueError) as error:
            self._close(str(error))
            raise Lost(f"{self.where}: {error}") from error

    def watch(self, watcher: Watcher | None) -> None:
        """Give what the agent says by itself to a watcher, while the loop is waited in."""
        if self._frames is None or (watcher is None) == (self._watcher is None):
            self._watcher = watcher
            return
        if watcher is None:
            self._loop.remove(self._frames.connection.fileno())
        else:
            self._loop.add(self._frames.connection.fileno(), self._on_readable)
        self._watcher = watcher

    def _on_readable(self) -> None:
        if self._frames is None:
            return
        try:
            for message, data in self._frames.take():
                if self._watcher is not None:
                    self._watcher(message, data)
        except (OSError, ValueError) as error:
            self._close(str(error))

    def stop_load(self, timeout_s: float) -> None:
        """Have the load ended there; where that does not work, the agent does it by itself."""
        if self._frames is None:
            return
        self._frames.connection.settimeout(max(timeout_s, 0.5))
        with suppress(Lost):
            self.ask("stop")
        if self._frames is not None:
            self._frames.connection.settimeout(_TIMEOUT_S)

    # ---- what is between the two ---------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """The second machine and the way to it, for ``run.json``.

        Raises:
            Lost: no answer came.
        """
        answer, _ = self.ask("describe")
        return {
            "link": {"host": netlink.link_to(self._way.address), "load_host": answer["link"]},
            **self.timing(),
            "load_host": answer["fingerprint"],
        }

    def timing(self) -> dict[str, Any]:
        """Round-trip time of a message, and what the other's clock is ahead of ours.

        The offset is that of the quickest exchange, as NTP has it: half of its round trip, less
        what the agent itself took, is the most that it can be wrong by.

        Returns:
            ``rtt_us`` (``min``, ``median``, ``exchanges``), ``clock`` (``offset_s``,
            ``uncertainty_s``).

        Raises:
            Lost: no answer came.
        """
        seen = []
        for _ in range(_EXCHANGES):
            sent_ns = time.time_ns()
            answer, _took_s = self.ask("echo")
            back_ns = time.time_ns()
            received_ns, answered_ns = int(answer["received_ns"]), int(answer["answered_ns"])
            away_ns = (back_ns - sent_ns) - (answered_ns - received_ns)
            offset_ns = ((received_ns - sent_ns) + (answered_ns - back_ns)) / 2
            seen.append((away_ns, offset_ns))
        best_ns, offset_ns = min(seen)
        return {
            "rtt_us": {
                "min": best_ns / 1e3,
                "median": statistics.median(away_ns for away_ns, _ in seen) / 1e3,
                "exchanges": len(seen),
            },
            "clock": {"offset_s": offset_ns / 1e9, "uncertainty_s": best_ns / 2e9},
        }

    def reach(self, port: int) -> tuple[float | None, str]:
        """How long a TCP connection from there to a port of the server's takes.

        Returns:
            microseconds, None where it does not come, with the reason.

        Raises:
            Lost: no answer came.
        """
        answer, _ = self.ask("reach", port=port)
        if answer.get("connect_us") is None:
            return None, str(answer.get("error"))
        return float(answer["connect_us"]), ""
