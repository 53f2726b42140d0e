"""A host behind SSH: Fabric connects, and nobody whose key is not known is spoken to.

hostside travels on the standard input of the host's own Python and is run from memory: a question
leaves no file on a host, also where the connection is lost in the middle of it.
"""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko
from fabric import Connection

from uplab import sshlink
from uplab.errors import HostError, UplabError
from uplab.inventory import flags
from uplab.remote import PROBE, Facts, Query, Take, exit_code, parse_facts, reason_against
from uplab.sshconfig import Endpoint, HostKey

#: Whether a tracer starts on a host is found out by starting it, which takes some a minute or two.
_ANSWER_TIMEOUT_S = 300
#: For answers that are long: gigabytes over a slow line.
_RECEIVE_TIMEOUT_S = 4 * 3600
#: For the connection itself, beside what goes on at its other end.
_GRACE_S = 30
_ANSWER_CAP_BYTES = 64 << 20
_READ_BYTES = 1 << 16

#: Runs a zipapp from memory. In: its size and how many seconds it may take, then its arguments;
#: on standard input the zipapp, then what it reads itself. Quotes and backslashes are avoided:
#: this text goes through the login shell of the host.
_BOOT = """
import os, runpy, signal, sys
size = int(sys.argv[1])
signal.alarm(int(sys.argv[2]))
data = sys.stdin.buffer.read(size)
if len(data) != size:
    sys.exit("hostside did not arrive whole")
memory = os.memfd_create("uplab-hostside")
with open(memory, "wb", closefd=False) as file:
    file.write(data)
sys.argv = ["/proc/self/fd/%d" % memory, *sys.argv[3:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Answer:
    """How a command on the host ended; ``code`` is None where that was not told."""

    code: int | None
    stdout: bytes
    stderr: str


@dataclass(frozen=True)
class _Link:
    """A connection, the jumps before it, and what its end offers."""

    opened: list[Connection]
    facts: Facts

    @property
    def connection(self) -> Connection:
        """The one to the host itself."""
        return self.opened[-1]

    def lives(self) -> bool:
        """Whether it can still be used, as far as is known here."""
        transport = self.connection.client.get_transport()
        return transport is not None and transport.is_active()


@dataclass
class _Kept:
    """A connection that waits for the next command, while somebody holds the host."""

    holders: int = 0
    waiting: list[_Link] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> _Link | None:
        """The one that waits; None where there is none that lives."""
        with self.lock:
            link = self.waiting.pop() if self.waiting else None
        if link is not None and not link.lives():
            sshlink.close(link.opened)
            return None
        return link

    def give(self, link: _Link) -> bool:
        """Let one wait; out: whether there is anybody to wait for."""
        with self.lock:
            wanted = self.holders > 0 and not self.waiting and link.lives()
            if wanted:
                self.waiting.append(link)
        return wanted


@dataclass(frozen=True)
class SshHost:
    """A host that is reached over SSH, as root or through ``sudo -n``.

    Args:
        name: in the inventory.
        endpoint: how it is reached.
        zipapp: hostside, on this machine.
        options: of hostside, before its command.
        python: of the host.
        chosen: the inventory that it is named in, where that is somebody's own.
    """

    name: str
    endpoint: Endpoint
    zipapp: Path
    options: tuple[str, ...] = ()
    python: str = "/usr/bin/python3"
    chosen: Path | None = None
    _kept: _Kept = field(default_factory=_Kept, init=False, repr=False, compare=False)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, one command after the other goes over the same connection while it lives."""
        with self._kept.lock:
            self._kept.holders += 1
        try:
            yield
        finally:
            with self._kept.lock:
                self._kept.holders -= 1
                left: list[_Link] = []
                if not self._kept.holders:
                    left, self._kept.waiting = self._kept.waiting, []
            for link in left:
                sshlink.close(link.opened)

    @contextmanager
    def _linked(self) -> Iterator[_Link]:
        """A connection for one command."""
        link = self._kept.take() or self._link()
        kept = False
        try:
            yield link
            kept = self._kept.give(link)
        finally:
            if not kept:
                sshlink.close(link.opened)

    def _link(self) -> _Link:
        opened: list[Connection] = []
        try:
            key = sshlink.reach(self.name, self.endpoint, opened)
            return _Link(opened, self._facts(opened[-1], key))
        except BaseException:
            sshlink.close(opened)
            raise

    def facts(self) -> Facts:
        """Connect, and look what is needed to work there.

        Raises:
            HostError: it cannot be reached, or not trusted, or does not let us in.
        """
        with self._linked() as link:
            return link.facts

    def inspect(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run ``hostside inspect``.

        Raises:
            HostError: it cannot be reached, has no Python or no root for us, or does not answer.
        """
        return self.ask("inspect", request)

    def ask(self, command: str, request: Query, *, become: bool = True) -> dict[str, Any]:
        """Run a command of hostside that answers in JSON.

        Args:
            command: its name.
            request: JSON on its standard input.
            become: as root; without it, as whoever logs in.

        Raises:
            HostError: as for :meth:`inspect`.
            UplabError: hostside refused, with its reason and exit code.
        """
        with self._linked() as link:
            answer = self._call(link, command, request, become=become)
        return self._decoded(command, answer)

    def receive(
        self, command: str, request: Query, take: Take, *, silence_s: float | None = None
    ) -> None:
        """Run a command of hostside, as root, whose answer is long.

        Args:
            command: its name.
            request: JSON on its standard input.
            take: is called with each part of what it writes; what it raises ends the command.
            silence_s: how long nothing may come before the connection counts as lost; None is
                longer than any command takes.

        Raises:
            HostError: as for :meth:`inspect`.
            UplabError: hostside refused, with its reason and exit code.
        """
        with self._linked() as link:
            out = _Output(take, silence_s)
            answer = self._call(link, command, request, become=True, out=out)
        self._require_success(command, answer)

    def _call(
        self,
        link: _Link,
        command: str,
        request: dict[str, Any],
        *,
        become: bool,
        out: _Output | None = None,
    ) -> Answer:
        """Send hostside there and let it run one command."""
        against = reason_against(link.facts, self.python, become=become)
        if against:
            raise HostError(f"host {self.name}: {against}")
        prefix = ["sudo", "-n", "--"] if become and link.facts.become == "sudo" else []
        zipapp = self.zipapp.read_bytes()
        limit_s = _ANSWER_TIMEOUT_S if out is None else _RECEIVE_TIMEOUT_S
        numbers = [str(len(zipapp)), str(limit_s)]
        argv = [*prefix, self.python, "-I", "-c", _BOOT, *numbers, *self.options, command]
        return self._execute(link.connection, argv, zipapp + json.dumps(request).encode(), out)

    def _facts(self, connection: Connection, key: HostKey) -> Facts:
        answer = self._execute(connection, ["sh", "-c", PROBE, "uplab", self.python], b"")
        try:
            return parse_facts(answer.stdout.decode(errors="replace"), key.short)
        except ValueError as error:
            said = (answer.stderr.strip().splitlines() or [str(error)])[-1]
            command = self.endpoint.command()
            raise HostError(
                f"host {self.name}: {self.endpoint.place} lets us in but runs no command: {said}. "
                f"Run: {command} id"
            ) from error

    def _execute(
        self,
        connection: Connection,
        argv: Sequence[str],
        stdin: bytes,
        out: _Output | None = None,
    ) -> Answer:
        """Run one command to its end; every word of it reaches it as it is."""
        try:
            return _execute(connection, argv, stdin, out)
        except TimeoutError:
            limit_s = (out.silence_s if out else None) or _ANSWER_TIMEOUT_S
            raise HostError(
                f"host {self.name}: {self.endpoint.place} did not answer within {limit_s:g} s"
            ) from None
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._lost(str(error)) from error

    def _lost(self, how: str) -> HostError:
        why = f" ({how})" if how else ""
        return HostError(
            f"host {self.name}: the connection to {self.endpoint.place} was lost{why}. "
            f"Run: invoke lab.check {flags(self.name, self.chosen)}"
        )

    def _require_success(self, command: str, answer: Answer) -> None:
        if answer.code is None:
            raise self._lost(f"hostside {command} did not end by itself")
        if answer.code != 0:
            said = answer.stderr.strip().splitlines()
            reason = said[-1] if said else f"hostside {command} ended with {answer.code}"
            raise UplabError(f"host {self.name}: {reason}", exit_code=exit_code(answer.code))

    def _decoded(self, command: str, answer: Answer) -> dict[str, Any]:
        self._require_success(command, answer)
        # A login shell may print something of its own before.
        last = answer.stdout.splitlines()[-1:] or [b""]
        try:
            decoded = json.loads(last[0])
        except ValueError:
            decoded = None
        if not isinstance(decoded, dict):
            raise HostError(f"host {self.name}: hostside answered {last[0][:200]!r}")
        return decoded


@dataclass(frozen=True)
class _Output:
    """Who takes what a command writes as it comes, and how long it may be silent."""

    take: Take
    silence_s: float | None


def _execute(
    connection: Connection,
    argv: Sequence[str],
    stdin: bytes,
    out: _Output | None = None,
) -> Answer:
    """As SshHost._execute, with the errors of paramiko."""
    channel = connection.transport.open_session(timeout=_GRACE_S)
    with channel:
        # Longer than the command itself may take, so that it is the one to end.
        channel.settimeout(_ANSWER_TIMEOUT_S + _GRACE_S)
        channel.exec_command(shlex.join(argv))
        said: list[bytes] = []
        reader = threading.Thread(target=_read, args=(channel.recv_stderr, said), daemon=True)
        reader.start()
        # A command that ends before it has read everything says why in its exit code and stderr.
        with suppress(OSError):
            channel.sendall(stdin)
            channel.shutdown_write()
        printed: list[bytes] = []
        if out is None:
            _read(channel.recv, printed)
        else:
            channel.settimeout(out.silence_s or _ANSWER_TIMEOUT_S + _GRACE_S)
            while data := channel.recv(_READ_BYTES):
                out.take(data)
        reader.join(_GRACE_S)
        code = channel.recv_exit_status()
    stderr = b"".join(said).decode(errors="replace")
    return Answer(None if code < 0 else code, b"".join(printed), stderr)


def _read(receive: Any, into: list[bytes]) -> None:
    """Read a stream to its end, or to more than any answer has."""
    size_bytes = 0
    with suppress(TimeoutError):
        while (data := receive(_READ_BYTES)) and size_bytes <= _ANSWER_CAP_BYTES:
            into.append(data)
            size_bytes += len(data)
