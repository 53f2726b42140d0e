"""The agent on a second machine: it drives a load there, for one run on another host, and ends.

It holds this machine's lock, so that no run of its own and no second agent is here meanwhile. It
does one thing: start the loads that it was made for, with parameters in their ranges, against the
server's address. Who asks for it must know its token.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from uplab.hostside import (
    agents,
    children,
    errors,
    fingerprint,
    frames,
    launch,
    lock,
    netlink,
    store,
    usage,
)
from uplab.hostside.agents import Task
from uplab.hostside.children import Child, Ledger
from uplab.hostside.control import Process
from uplab.hostside.decode import build
from uplab.hostside.errors import HostError, Interrupted, TrialError
from uplab.hostside.frames import FrameError, Frames, Message
from uplab.hostside.loading import Order, Place
from uplab.hostside.loop import Loop
from uplab.hostside.rundir import write_json

#: How long it waits for the run: for its first connection, and for the next after one was lost.
LINGER_S = 90.0
#: How long it loads on without having heard of the run.
SILENCE_S = 10.0
_HANDSHAKE_S = 1.0
_REACH_S = 3.0
_SEND_S = 10.0
_BEAT_S = 1.0
_STOP_S = 0.5
_MOST_FILE_BYTES = 24 << 20


def serve(places: launch.Places, run_id: str, unpack: Callable[[Path], None]) -> int:
    """Be the agent of a run until its end; out: the exit code.

    Args:
        places: of this machine.
        run_id: of the run that it was started for.
        unpack: writes the adapters' files into a folder.
    """
    folder = agents.folder_of(places.state, run_id)
    try:
        with ExitStack() as stack:
            agent = _prepare(stack, places, folder, unpack)
            try:
                agent.run()
            except Interrupted:
                agent.end_load()
        agents.forget(folder)
    except (HostError, OSError) as error:
        code = error.exit_code if isinstance(error, HostError) else errors.HOST
        with suppress(OSError):
            write_json(folder / "failed.json", {"code": code, "said": str(error)})
        return code
    return errors.OK


def _prepare(
    stack: ExitStack, places: launch.Places, folder: Path, unpack: Callable[[Path], None]
) -> _Agent:
    """Hold the lock, listen, say so."""
    task = build(Task, json.loads((folder / "task.json").read_text()))
    stack.enter_context(lock.hold(places.state, task.run_id))
    loop = stack.enter_context(Loop())
    ledger = Ledger(places.state / "children.json")
    ledger.end_leftovers()
    installed = store.load_for(places.root, task.artifacts)
    adapters = folder / "adapters"
    unpack(adapters)
    try:
        listener = stack.enter_context(socket.create_server((task.address, task.port)))
    except OSError as error:
        raise HostError(
            f"{task.address} is no address of this machine that can be listened on "
            f"({error.strerror}). Put the one that the server's host reaches it by into the "
            "inventory: uplab_address"
        ) from error
    token = secrets.token_bytes(32)
    noted = {
        "port": listener.getsockname()[1],
        "token": token.hex(),
        "process": asdict(Process.own(None)),
    }
    agent = _Agent(task, Place(installed, adapters, loop, ledger), listener, token, folder)
    stack.callback(agent.close)
    write_json(folder / "ready.json", noted)
    return agent


@dataclass
class _Driven:
    """A load that runs, and what was used when it began."""

    child: Child
    scratch: Path
    log: Path
    before: usage.Snapshot
    stop_signal: str


@dataclass
class _Agent:
    task: Task
    place: Place
    listener: socket.socket
    token: bytes
    folder: Path
    frames: Frames | None = None
    load: _Driven | None = None
    over: bool = False
    heard_s: float = field(default_factory=time.monotonic)
    beat_s: float = 0.0

    def run(self) -> None:
        """Serve one connection after the other, until the run is over or is not heard of."""
        self.listener.setblocking(False)
        self.place.loop.add(self.listener.fileno(), self._on_connection)
        while not self.over:
            self.place.loop.pump(_BEAT_S / 2)
            self._look_after_load()
            silent_s = time.monotonic() - self.heard_s
            if self.frames is None and silent_s > LINGER_S:
                return

    def close(self) -> None:
        """Let go of what the loop knows, and end a load."""
        with self.place.loop.shielded():
            self.end_load()
        self._hang_up()

    def _look_after_load(self) -> None:
        load, now_s = self.load, time.monotonic()
        if load is None:
            return
        if load.child.ended:
            self._report(load)
        elif self.frames is None or now_s - self.heard_s > SILENCE_S:
            self._hang_up()
            self.end_load()
        elif now_s - self.beat_s >= _BEAT_S:
            self.beat_s = now_s
            self._send({"event": "beat"})

    # ---- connections -----------------------------------------------------------------------

    def _on_connection(self) -> None:
        """Somebody connects; who knows the token takes the place of who was here before."""
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return
        try:
            connection.settimeout(_HANDSHAKE_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ours = frames.challenge()
            connection.sendall(ours)
            answered = frames.receive_exactly(connection, frames.ANSWER_BYTES)
            connection.sendall(frames.prove(self.token, ours, answered))
        except OSError as error:
            print(f"refused a connection: {error}", flush=True)
            connection.close()
            return
        self._hang_up()
        self.end_load()
        # While the load ended, yet another one may have come.
        self._hang_up()
        _keep_alive(connection)
        connection.settimeout(_SEND_S)
        self.frames = Frames.of(connection, self.token, ours, answered, agent=True)
        self.heard_s = time.monotonic()
        self.place.loop.add(connection.fileno(), self._on_readable)

    def _hang_up(self) -> None:
        """Forget the connection; always before a load is ended.

        That waits in the loop, where the end of a connection is readable while it is known.
        """
        if self.frames is not None:
            self.place.loop.remove(self.frames.connection.fileno())
            self.frames.connection.close()
            self.frames = None

    def _on_readable(self) -> None:
        received_ns = time.time_ns()
        if self.frames is None:
            return
        try:
            for message, _ in self.frames.take():
                self.heard_s = time.monotonic()
                self._on_message(message, received_ns)
        except (OSError, ValueError) as error:
            print(f"the connection is gone: {error}", flush=True)
            self._hang_up()
            self.end_load()

    def _send(self, message: Message, data: bytes = b"") -> None:
        if self.frames is None:
            return
        try:
            self.frames.send(message, data)
        except OSError as error:
            print(f"the connection is gone: {error}", flush=True)
            self._hang_up()

    # ---- what it does ----------------------------------------------------------------------

    def _on_message(self, message: Message, received_ns: int) -> None:
        what = message.get("do")
        if what == "echo":
            self._send({"received_ns": received_ns, "answered_ns": time.time_ns()})
        elif what == "describe":
            link = netlink.link_to(self.task.server_address)
            self._send({"link": link, "fingerprint": fingerprint.take(self.place.store)})
        elif what == "reach":
            self._send(_reach(self.task.server_address, message.get("port")))
        elif what == "start":
            self._send(self._start(message))
        elif what == "stop":
            self.end_load()
            self._send({"stopped": True})
        elif what == "bye":
            self.end_load()
            self._send({"bye": True})
            self.over = True
        elif what != "beat":
            raise FrameError(f"asked for {what!r}")

    def _start(self, message: Message) -> Message:
        self.end_load()
        try:
            order = self._order(message)
            scratch = self.folder / "scratch"
            scratch.mkdir(mode=0o700)
            before = usage.snapshot([])
            child = self.place.start(order, scratch, self.folder / "load.txt")
        except TrialError as error:
            self._clear()
            return {"error": error.text, "code": error.code}
        except (ValueError, KeyError, TypeError) as error:
            return {"error": f"refused: {error}", "code": "not-started"}
        signal_name = order.adapter.stop_signal
        self.load = _Driven(child, scratch, self.folder / "load.txt", before, signal_name)
        self.beat_s = time.monotonic()
        return {"pid": child.pid}

    def _order(self, message: Message) -> Order:
        """What is asked for, where it is what this agent was made for.

        Raises:
            KeyError, TypeError, ValueError: it is not.
        """
        adapter = self.task.loads[str(message["load"])]
        parameters = {str(name): int(value) for name, value in message["parameters"].items()}
        duration_s = int(message["duration_s"])
        for name, value in (*parameters.items(), ("duration_s", duration_s)):
            known = adapter.parameters[name]
            if not known.minimum <= value <= known.maximum:
                raise ValueError(f"{name} is {value}")
        url = urlsplit(str(message["url"]))
        if url.scheme not in ("http", "https") or url.hostname != self.task.server_address:
            raise ValueError(f"the load is for {self.task.server_address} alone")
        return Order(adapter, parameters, int(message["body_bytes"]), duration_s, url.geturl())

    def _report(self, load: _Driven) -> None:
        """Send what a load that has ended left, and forget it."""
        after = usage.snapshot([])
        used = usage.usage(load.before, after, [], [], None)
        cpu = {name: used[name] for name in _CPU_NAMES} | {"agent_s": used["hostside_s"]}
        load.child.stop(load.stop_signal, _STOP_S)
        parts = {":out": bytes(load.child.text["out"]), ":err": bytes(load.child.text["err"])}
        parts[":log"] = _content(load.log, children.LOG_CAP_BYTES)
        left = _MOST_FILE_BYTES
        for path in sorted(load.scratch.iterdir()):
            parts[path.name] = _content(path, left)
            left -= len(parts[path.name])
        entries = [
            {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in parts.items()
        ]
        self._clear()
        ended = {"event": "ended", "returncode": load.child.returncode, "parts": entries}
        self._send({**ended, "cpu": cpu}, b"".join(parts.values()))

    def end_load(self) -> None:
        """End a load, if there is one, and forget what it left."""
        if self.load is not None:
            self.load.child.stop(self.load.stop_signal, _STOP_S)
        self._clear()

    def _clear(self) -> None:
        self.load = None
        # A load that outlived its end may still write there, which is no reason for ours.
        shutil.rmtree(self.folder / "scratch", ignore_errors=True)
        (self.folder / "load.txt").unlink(missing_ok=True)


_CPU_NAMES = ("window_s", "cores", "load_s", "busy_s", "steal_s", "foreign_pct", "steal_pct")


def _content(path: Path, most_bytes: int) -> bytes:
    """A file's bytes, or as many of them as there is room for."""
    if path.is_symlink() or not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(most_bytes)


def _reach(address: str, port: Any) -> Message:
    """Whether a port of the server's can be connected to from here."""
    try:
        return {"connect_us": netlink.connect_us(address, int(port), _REACH_S)}
    except (OSError, ValueError, TypeError) as error:
        return {"connect_us": None, "error": str(error)}


def _keep_alive(connection: socket.socket) -> None:
    """Have the kernel notice within 40 s that the other machine is gone, in silence too."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, 10),
        (socket.TCP_KEEPINTVL, 5),
        (socket.TCP_KEEPCNT, 6),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
