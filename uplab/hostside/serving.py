"""The server of a trial: its port is free, it is started, answers rightly, and leaves nothing."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uplab.hostside import answer, procfs, serveruser
from uplab.hostside.children import Child
from uplab.hostside.context import Context
from uplab.hostside.errors import TrialError
from uplab.hostside.judge import Reason
from uplab.hostside.spec import Cell, ServerAdapter
from uplab.hostside.templates import Scalar, fill, fill_argv

_FENCE_TIMEOUT_S = 3.0
LOOPBACK = "127.0.0.1"


def values_of(context: Context, cell: Cell, programs: Mapping[str, Any]) -> dict[str, Scalar]:
    """What the templates of any adapter may name."""
    values: dict[str, Scalar] = {"root": str(context.store.root)}
    values |= {name: str(context.store.path(ref)) for name, ref in programs.items()}
    values |= {"body_bytes": cell.body_bytes}
    return values


@dataclass
class Serving:
    """The server of one trial, from the fence before it to the fence after it.

    Args:
        context: of the run.
        cell: what is measured.
        directory: of the trial; gets the server's log.
        loan: what the server was lent of the store, with a user of its own.
        child: its process, once it is started.
    """

    context: Context
    cell: Cell
    directory: Path
    loan: serveruser.Loan | None = None
    child: Child | None = None

    @property
    def adapter(self) -> ServerAdapter:
        """The adapter of the cell's server."""
        return self.context.plan.adapters.servers[self.cell.server]

    @property
    def values(self) -> dict[str, Scalar]:
        """What the server's templates may name."""
        loan = self.loan
        folders = {
            "adapter": str(loan.adapter if loan else self._files),
            "scratch": str(loan.scratch if loan else self._scratch),
        }
        load_from = self.context.plan.load_from
        folders["address"] = load_from.server_address if load_from else LOOPBACK
        values = values_of(self.context, self.cell, self.adapter.programs)
        return values | (loan.lent if loan else {}) | self.cell.server_parameters | folders

    @property
    def _files(self) -> Path:
        return self.context.adapters / "servers" / self.adapter.name

    @property
    def _scratch(self) -> Path:
        return self.directory / "scratch-server"

    @property
    def url(self) -> str:
        """Where the server answers."""
        return fill(self.adapter.url, self.values)

    def fence_before(self) -> None:
        """Nobody may listen where the server will."""
        port = self.cell.server_parameters.get("port")
        if port is not None and self._answers_on(port):
            owner = ", ".join(procfs.listeners(port)) or "another process"
            raise TrialError("port-in-use", f"port {port} is in use by {owner}")

    def _answers_on(self, port: int) -> bool:
        """Whether something accepts connections where the server does, or will."""
        with socket.socket() as probe:
            probe.settimeout(0.2)
            return probe.connect_ex((str(self.values["address"]), port)) == 0

    def start(self, env: Mapping[str, str]) -> None:
        """Start it; ``env`` comes on top of its adapter's."""
        restrict = self._lend()
        values = self.values
        self.child = Child(
            self.context.loop,
            self.context.ledger,
            "server",
            fill_argv(self.adapter.argv, values, {}),
            self.directory / "server.log",
            {**{name: fill(text, values) for name, text in self.adapter.env.items()}, **env},
            restrict,
            self.loan.user.uid if self.loan else None,
        )

    def _lend(self) -> list[str]:
        """Give the server its folder, and a user of its own; out: what makes it that user's."""
        if self.adapter.user == "root" or os.geteuid() != 0:
            self._scratch.mkdir()
            return []
        context = self.context
        self.loan = serveruser.lend(
            serveruser.draw(), self.adapter, context.store, self._files, context.leftovers
        )
        return self.loan.user.options(self.cell.server_parameters.get("port"))

    def wait_ready(self) -> None:
        """Wait for its own line.

        Raises:
            TrialError: it died before, or took too long.
        """
        server, adapter = self.running, self.adapter
        pattern = re.compile(adapter.ready_line)
        seen: list[str] = [line for line in server.lines if pattern.search(line)]
        server.on_line = lambda line: seen.append(line) if pattern.search(line) else None
        self.context.loop.until(lambda: bool(seen) or server.ended, adapter.ready_timeout_s)
        server.on_line = None
        if seen:
            return
        if server.ended:
            raise TrialError("server-died", f"server died before ready: {server.death()}")
        raise TrialError(
            "server-not-ready", f"server was not ready within {adapter.ready_timeout_s:g} s"
        )

    def check_answer(self, when: str) -> dict[str, Any]:
        """What it answers, which must be right; TrialError where it is not."""
        self.running.require_alive()
        return answer.check(self.url, self.adapter.answer, self.cell.body_bytes, when)

    def user(self) -> tuple[dict[str, Any], list[str]]:
        """Who the server really runs as, beside what its adapter asks for; and flags."""
        asked = self.adapter.user
        seen = serveruser.seen(procfs.descendants(self.running.pid))
        return {"asked": asked, "seen": seen}, serveruser.flags(asked, seen)

    @property
    def running(self) -> Child:
        """Its process; an error of ours before it is started."""
        if self.child is None:
            raise AssertionError("the step before starts it")
        return self.child

    def stop(self, most_s: float) -> None:
        """End it; in at most so many seconds, whatever its adapter grants."""
        if self.child is not None:
            timeout_s = min(self.adapter.stop_timeout_s, most_s)
            self.child.stop(self.adapter.stop_signal, timeout_s)

    def end_stragglers(self) -> list[Reason]:
        """End what it started outside of its session: its user is nobody else's."""
        if self.loan is None or self.child is None:
            return []
        text = serveruser.end_stragglers(self.context.loop, self.loan.user, self.child.start_ticks)
        return [] if text is None else [Reason("left-behind", text)]

    def clear(self) -> None:
        """Remove its working files."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def fence_after(self) -> list[Reason]:
        """After it has ended, its port is free again."""
        port = self.cell.server_parameters.get("port")
        if port is None or self.child is None or self.child.returncode is None:
            return []
        with self.context.loop.shielded():
            free = self.context.loop.until(
                lambda: not self._answers_on(port), _FENCE_TIMEOUT_S, 0.02
            )
        if free:
            return []
        return [Reason("left-behind", f"port {port} still answers after the server was stopped")]
