"""A host behind SSH: Fabric connects, and nobody whose key is not known is spoken to.

hostside travels on the standard input of the host's own Python and is run from memory: a question
leaves no file on a host, also where the connection is lost in the middle of it.
"""

from __future__ import annotations

import errno
import json
import logging
import shlex
import socket
import subprocess
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko
from fabric import Config, Connection

from uplab.errors import HostError, UplabError
from uplab.inventory import flags
from uplab.remote import PROBE, Facts, Query, Take, exit_code, parse_facts, reason_against
from uplab.sshconfig import Endpoint, HostKey, known_keys

#: Whether a tracer starts on a host is found out by starting it, which takes some a minute or two.
_ANSWER_TIMEOUT_S = 300
#: For answers that are long: gigabytes over a slow line.
_RECEIVE_TIMEOUT_S = 4 * 3600
_AUTH_TIMEOUT_S = 30
_CLOSE_TIMEOUT_S = 5
_ANSWER_CAP_BYTES = 64 << 20
_READ_BYTES = 1 << 16
#: In the order of preference; a server has one key of each kind at most.
_KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa")

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

# Without a handler, Python itself would print paramiko's log lines, tracebacks and all.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


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
            _close(link.opened)
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
                _close(link.opened)

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
                _close(link.opened)

    def _link(self) -> _Link:
        opened: list[Connection] = []
        try:
            key = _open(self.name, self.endpoint, opened)
            return _Link(opened, self._facts(opened[-1], key))
        except BaseException:
            _close(opened)
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
    channel = connection.transport.open_session(timeout=_AUTH_TIMEOUT_S)
    with channel:
        # Longer than the command itself may take, so that it is the one to end.
        channel.settimeout(_ANSWER_TIMEOUT_S + _AUTH_TIMEOUT_S)
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
            channel.settimeout(out.silence_s or _ANSWER_TIMEOUT_S + _AUTH_TIMEOUT_S)
            while data := channel.recv(_READ_BYTES):
                out.take(data)
        reader.join(_AUTH_TIMEOUT_S)
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


# ---- connecting ----------------------------------------------------------------------------------


def _close(opened: list[Connection]) -> None:
    """Close connections, the last one first, and see their threads off."""
    for connection in reversed(opened):
        transport = connection.client.get_transport()
        connection.client.close()
        if transport is not None:
            transport.join(_CLOSE_TIMEOUT_S)
            if isinstance(transport.sock, paramiko.ProxyCommand):
                _end(transport.sock.process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a ProxyCommand; paramiko sends it a signal and neither waits nor closes its pipes."""
    with process:
        process.terminate()
        try:
            process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _open(name: str, endpoint: Endpoint, opened: list[Connection]) -> HostKey:
    """Connect to a server, by way of its jump; adds what was opened, the server's own last."""
    policy = _KnownOrRefused(name, endpoint)
    _reach(name, endpoint, policy, opened)
    if policy.key is None:
        raise AssertionError("no server is spoken to before its key was seen")
    return policy.key


def _reach(
    name: str,
    endpoint: Endpoint,
    policy: _KnownOrRefused | _OnlyLook,
    opened: list[Connection],
) -> None:
    """As _open, with another idea of which keys are good."""
    if endpoint.jump is not None:
        _open(name, endpoint.jump, opened)
    connection = Connection(
        endpoint.address,
        user=endpoint.user,
        port=endpoint.port,
        # An empty one: what the user's says, `ssh -G` has told already.
        config=Config(ssh_config=paramiko.SSHConfig()),
        gateway=opened[-1] if endpoint.jump is not None else endpoint.proxy_command,
        connect_timeout=endpoint.timeout_s,
        connect_kwargs={
            "key_filename": list(endpoint.key_files),
            "look_for_keys": False,
            "password": endpoint.password,
            "banner_timeout": endpoint.timeout_s,
            "auth_timeout": _AUTH_TIMEOUT_S,
            "transport_factory": policy.transport,
        },
    )
    connection.client.set_missing_host_key_policy(policy)
    opened.append(connection)
    try:
        connection.open()
    except (paramiko.SSHException, OSError, EOFError, ValueError) as error:
        raise HostError(f"host {name}: {_explained(endpoint, error)}") from error


def _transport(sock: Any, first: Collection[str], options: dict[str, Any]) -> paramiko.Transport:
    """A transport that asks for a key of some kinds first, where the server has one."""
    transport = paramiko.Transport(sock, **options)
    security = transport.get_security_options()
    security.key_types = tuple(
        sorted(security.key_types, key=lambda algorithm: _kind_of(algorithm) not in first)
    )
    # paramiko puts them last; with them each packet passes through OpenSSL once instead of twice.
    security.ciphers = tuple(sorted(security.ciphers, key=lambda name: "gcm" not in name))
    return transport


class _KnownOrRefused(paramiko.MissingHostKeyPolicy):
    """Accepts exactly the keys that known_hosts has, by OpenSSH's own rules.

    paramiko's client is given no keys, so it asks here for every one: by itself it looks at the
    first known key only, and knows neither patterns nor revoked keys.
    """

    def __init__(self, name: str, endpoint: Endpoint) -> None:
        self._name = name
        self._endpoint = endpoint
        self._known = known_keys(endpoint.known_hosts, endpoint.key_name)
        self.key: HostKey | None = None

    def transport(self, sock: Any, **options: Any) -> paramiko.Transport:
        """A transport that asks for a key of a kind that is known."""
        kinds = {key.kind for key in self._known if not key.revoked}
        return _transport(sock, kinds, options)

    def missing_host_key(
        self, _client: paramiko.SSHClient, _hostname: str, key: paramiko.PKey
    ) -> None:
        """Raise HostError unless the key is known."""
        shown = HostKey(key.get_name(), key.get_base64())
        same = [known for known in self._known if known.base64 == shown.base64]
        valid = [known for known in self._known if not known.revoked]
        where = f"host {self._name}: {self._endpoint.place}"
        if any(known.revoked for known in same):
            raise HostError(f"{where} shows the key {shown.short}, which {same[0].where} revokes")
        if same:
            self.key = shown
            return
        if valid:
            old = valid[0]
            remove = shlex.join(["ssh-keygen", "-R", self._endpoint.key_name, "-f", old.where])
            raise HostError(
                f"{where} shows another key than before: {shown.short}, but {old.where} has "
                f"{old.short}. Somebody may be in between; only if the host was installed anew, "
                f"run: {remove}"
            )
        raise HostError(
            f"{where} shows an unknown key: {shown.short}. Compare it with the host's own "
            f"(there: ssh-keygen -lf /etc/ssh/ssh_host_{shown.short.split()[0].lower()}_key.pub); "
            f"if it is the same, accept it. Run: {self._endpoint.command()} true"
        )


class _Looked(Exception):
    """The server's key was seen; that was all."""


class _OnlyLook(paramiko.MissingHostKeyPolicy):
    """Takes the server's key and goes: nothing is said to it, and nobody logs in."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.key: HostKey | None = None

    def transport(self, sock: Any, **options: Any) -> paramiko.Transport:
        """A transport that asks for a key of one kind."""
        return _transport(sock, {self._kind}, options)

    def missing_host_key(
        self, _client: paramiko.SSHClient, _hostname: str, key: paramiko.PKey
    ) -> None:
        """Raise _Looked."""
        self.key = HostKey(key.get_name(), key.get_base64())
        raise _Looked


def offered_keys(name: str, endpoint: Endpoint) -> list[HostKey]:
    """The keys that a server shows, the preferred one first; nothing of it is trusted.

    Raises:
        HostError: it cannot be reached.
    """
    found: dict[str, HostKey] = {}
    for kind in _KINDS:
        policy = _OnlyLook(kind)
        opened: list[Connection] = []
        try:
            _reach(name, endpoint, policy, opened)
        except _Looked:
            if policy.key is not None:
                found.setdefault(policy.key.base64, policy.key)
        finally:
            _close(opened)
    return list(found.values())


def _kind_of(algorithm: str) -> str:
    """The kind of key that a signature algorithm is made with."""
    return "ssh-rsa" if algorithm.startswith("rsa-sha2-") else algorithm


def _explained(endpoint: Endpoint, error: Exception) -> str:
    """What went wrong while connecting, where, and what to do about it."""
    place = f"{endpoint.address}:{endpoint.port}"
    if isinstance(error, socket.gaierror):
        return f"the name {endpoint.address} has no address ({error.strerror}). Mend ansible_host"
    if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError):
        error = next(iter(error.errors.values()), error)
    if isinstance(error, paramiko.PasswordRequiredException):
        return f"a key for {endpoint.place} is locked by a passphrase. Run: ssh-add"
    if isinstance(error, paramiko.AuthenticationException) or "No authentication" in str(error):
        tried = ", ".join(endpoint.key_files) or "no key file here, agent only"
        command = endpoint.command("ssh-copy-id")
        return f"{endpoint.place} refuses to log us in (tried: {tried}). Run: {command}"
    if isinstance(error, TimeoutError):
        return f"no answer from {place} within {endpoint.timeout_s} s. Run: ping {endpoint.address}"
    if isinstance(error, ConnectionRefusedError) or _errno(error) == errno.ECONNREFUSED:
        return f"nothing listens on {place} (connection refused). There, run: systemctl start ssh"
    if isinstance(error, OSError) and error.strerror:
        return f"{place} cannot be reached: {error.strerror}. Run: ping {endpoint.address}"
    return f"{place} does not speak SSH as we do: {error}. Run: {endpoint.command()} -v true"


def _errno(error: Exception) -> int | None:
    return error.errno if isinstance(error, OSError) else None
