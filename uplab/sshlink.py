"""Connections to SSH servers, by Fabric; nobody whose key is not known is spoken to."""

from __future__ import annotations

import errno
import logging
import shlex
import socket
import subprocess
from collections.abc import Collection
from typing import Any

import paramiko
from fabric import Config, Connection

from uplab.errors import HostError
from uplab.sshconfig import Endpoint, HostKey, known_keys

_AUTH_TIMEOUT_S = 30
_CLOSE_TIMEOUT_S = 5
#: In the order of preference; a server has one key of each kind at most.
_KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa")

# Without a handler, Python itself would print paramiko's log lines, tracebacks and all.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


def close(opened: list[Connection]) -> None:
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


def reach(name: str, endpoint: Endpoint, opened: list[Connection]) -> HostKey:
    """Connect to a server, by way of its jump; adds what was opened, the server's own last."""
    policy = _KnownOrRefused(name, endpoint)
    _connect(name, endpoint, policy, opened)
    if policy.key is None:
        raise AssertionError("no server is spoken to before its key was seen")
    return policy.key


def _connect(
    name: str,
    endpoint: Endpoint,
    policy: _KnownOrRefused | _OnlyLook,
    opened: list[Connection],
) -> None:
    """As reach, with another idea of which keys are good."""
    if endpoint.jump is not None:
        reach(name, endpoint.jump, opened)
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
            _connect(name, endpoint, policy, opened)
        except _Looked:
            if policy.key is not None:
                found.setdefault(policy.key.base64, policy.key)
        finally:
            close(opened)
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
