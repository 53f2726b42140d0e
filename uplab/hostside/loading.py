"""The load of a trial, on this host or on a second machine, and what it brings back.

Wherever it runs, it is started from the same templates, and what it left is read here by the same
adapter.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from uplab.hostside.children import Child, Ledger
from uplab.hostside.context import Context
from uplab.hostside.errors import TrialError
from uplab.hostside.far import Far, Lost
from uplab.hostside.loop import Loop
from uplab.hostside.spec import LoadAdapter
from uplab.hostside.store import Store
from uplab.hostside.templates import Scalar, fill, fill_argv

#: A second machine says something every second while it loads.
SILENCE_S = 10.0
LOST = "load-lost"


@dataclass(frozen=True)
class Order:
    """What is to be driven: a load with its parameters, for so long, against a server."""

    adapter: LoadAdapter
    parameters: Mapping[str, int]
    body_bytes: int
    duration_s: int
    url: str


@dataclass(frozen=True)
class Place:
    """Where a load runs: its programs and files, and what waits for it."""

    store: Store
    adapters: Path
    loop: Loop
    ledger: Ledger

    def start(self, order: Order, scratch: Path, log: Path) -> Child:
        """Start a load; what it writes goes to ``log``, its files to the folder ``scratch``.

        Raises:
            TrialError: it cannot be started.
        """
        adapter = order.adapter
        values: dict[str, Scalar] = {"root": str(self.store.root)}
        values |= {name: str(self.store.path(ref)) for name, ref in adapter.programs.items()}
        values |= {"body_bytes": order.body_bytes, **order.parameters}
        values |= {"duration_s": order.duration_s, "url": order.url, "scratch": str(scratch)}
        values |= {"adapter": str(self.adapters / "loads" / adapter.name)}
        return Child(
            self.loop,
            self.ledger,
            "load",
            fill_argv(adapter.argv, values, {}),
            log,
            {name: fill(text, values) for name, text in adapter.env.items()},
        )


@dataclass(frozen=True)
class Said:
    """What a load that has ended said: its exit code and its two streams."""

    returncode: int
    out: str
    err: str


class Load(Protocol):
    """A load that was started."""

    @property
    def log_error(self) -> OSError | None:
        """Why its log could not be written; None where it could."""

    @property
    def pids(self) -> list[int]:
        """Its processes on this host that run now."""

    def ended(self) -> bool:
        """Whether there is nothing more to wait for."""

    def check(self) -> None:
        """Raise TrialError where it ended in another way than by itself."""

    def said(self) -> Said:
        """What it said, once it ended; its files are in its scratch folder then."""

    def stop(self, timeout_s: float) -> None:
        """End it; nothing happens where it has ended."""


@dataclass
class Near:
    """A load on this host."""

    child: Child
    stop_signal: str

    @property
    def log_error(self) -> OSError | None:
        """Why its log could not be written."""
        return self.child.log_error

    @property
    def pids(self) -> list[int]:
        """Itself, while it runs."""
        return [self.child.pid] if self.child.returncode is None else []

    def ended(self) -> bool:
        """Whether it ended and all that it wrote was read."""
        return self.child.ended

    def check(self) -> None:
        """However it ended, its adapter says what that means."""

    def said(self) -> Said:
        """Its exit code and streams."""
        if self.child.returncode is None:
            raise AssertionError("the program has ended")
        text = {key: bytes(data).decode(errors="replace") for key, data in self.child.text.items()}
        return Said(self.child.returncode, text["out"], text["err"])

    def stop(self, timeout_s: float) -> None:
        """End it and what it started."""
        self.child.stop(self.stop_signal, timeout_s)


class Remote:
    """A load on a second machine, driven through its agent.

    Args:
        far: the connection to the agent.
        order: what is driven.
        scratch: where the load's files are put once it has ended.
        log: where its text is put.

    Raises:
        TrialError: it could not be started, or the connection is gone.
    """

    pids: list[int]
    log_error: OSError | None = None

    def __init__(self, far: Far, order: Order, scratch: Path, log: Path) -> None:
        self.pids = []
        self.cpu: dict[str, Any] | None = None
        self.machine = far.where
        self._far = far
        self._scratch, self._log = scratch, log
        self._said: Said | None = None
        self._failure: TrialError | None = None
        self._beat_s = self._heard_s = time.monotonic()
        try:
            answer, _ = far.ask(
                "start",
                load=order.adapter.name,
                parameters=dict(order.parameters),
                body_bytes=order.body_bytes,
                duration_s=order.duration_s,
                url=order.url,
            )
        except Lost as error:
            raise TrialError(LOST, str(error)) from error
        if "error" in answer:
            raise TrialError(str(answer.get("code", "not-started")), str(answer["error"]))
        far.watch(self._on_message)

    def ended(self) -> bool:
        """Whether it ended, or is lost; asked every second at least, so that the agent hears us."""
        now_s = time.monotonic()
        if self._said is None and self._failure is None:
            try:
                self._far.raise_lost()
                if now_s - self._heard_s > SILENCE_S:
                    self._far.drop(f"it was silent for {SILENCE_S:g} s")
                if now_s - self._beat_s >= 1.0:
                    self._beat_s = now_s
                    self._far.tell("beat")
            except Lost as error:
                self._failure = TrialError(LOST, str(error))
        return self._said is not None or self._failure is not None

    def _on_message(self, message: dict[str, Any], data: bytes) -> None:
        self._heard_s = time.monotonic()
        if message.get("event") != "ended":
            return
        try:
            self._said = self._unpack(message, data)
            self.cpu = dict(message["cpu"])
        except (KeyError, TypeError, ValueError) as error:
            self._failure = TrialError(LOST, f"{self._far.where}: no report ({error!r})")
        except OSError as error:
            self.log_error = error
            self._failure = TrialError("load", f"its files could not be written ({error})")

    def _unpack(self, message: dict[str, Any], data: bytes) -> Said:
        """Put its files where a load on this host would have left them."""
        parts = {}
        for entry in message["parts"]:
            name, size = str(entry["name"]), int(entry["bytes"])
            parts[name], data = data[:size], data[size:]
            if hashlib.sha256(parts[name]).hexdigest() != entry["sha256"]:
                raise ValueError(f"{name} is not what was sent")
        out, err, log = (parts.pop(name) for name in (":out", ":err", ":log"))
        self._log.write_bytes(log)
        for name, content in parts.items():
            if Path(name).name != name or name.startswith("."):
                raise ValueError(f"a file {name!r}")
            (self._scratch / name).write_bytes(content)
        text = out.decode(errors="replace"), err.decode(errors="replace")
        return Said(int(message["returncode"]), *text)

    def check(self) -> None:
        """Raise TrialError where it was lost, or could not be started."""
        if self._failure is not None:
            raise self._failure

    def said(self) -> Said:
        """What it said there."""
        if self._said is None:
            raise AssertionError("it has ended")
        return self._said

    def stop(self, timeout_s: float) -> None:
        """Have it ended there; how long that takes is not waited for."""
        self._far.watch(None)
        if self._said is None and self._failure is None:
            self._failure = TrialError(LOST, "it was stopped")
            self._far.stop_load(timeout_s)


def start(context: Context, order: Order, scratch: Path, log: Path) -> Load:
    """Start the load of a trial where it belongs.

    Raises:
        TrialError: it cannot be started.
    """
    if context.far is not None:
        return Remote(context.far, order, scratch, log)
    place = Place(context.store, context.adapters, context.loop, context.ledger)
    return Near(place.start(order, scratch, log), order.adapter.stop_signal)


def way_to(far: Far, port: int | None) -> dict[str, Any]:
    """What is between the load and a server that is ready.

    Args:
        far: the way to the load's machine.
        port: of the server; None where it has none.

    Returns:
        as ``Far.timing``, and ``connect_us``, how long a TCP connection to the server takes.

    Raises:
        TrialError: the server is not reached, or the load's machine is lost.
    """
    try:
        found = far.timing()
        took_us, reason = (None, "") if port is None else far.reach(port)
    except Lost as error:
        raise TrialError(LOST, str(error)) from error
    if port is not None and took_us is None:
        text = f"{far.where} does not reach port {port} of the server: {reason}"
        raise TrialError("load-unreachable", text)
    return {**found, "connect_us": took_us, "cpu": None}
