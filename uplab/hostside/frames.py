"""Messages between a run and the agent that drives its load on a second machine.

Both know a token that was made for this one run and came to them over SSH. A connection begins
with a challenge from either side; what follows is authenticated, message by message, with a key
that is drawn from both challenges, so that nothing can be forged, altered, left out or sent again.
It is not encrypted: what is said is a load's parameters and its figures.

A message is JSON and, after it, bytes that it describes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

#: A histogram is some 100 KB; a text that floods is cut before.
MOST_BYTES = 64 << 20
_NONCE_BYTES = 32
_MAC_BYTES = 32
_HEAD = struct.Struct(">II32s")
_READ_BYTES = 1 << 18

Message = dict[str, Any]


class FrameError(OSError):
    """The other side does not know the token, or its messages were altered on the way."""


def _mac(key: bytes, *parts: bytes) -> bytes:
    return hmac.digest(key, b"".join(parts), hashlib.sha256)


def challenge() -> bytes:
    """What the agent sends first."""
    return secrets.token_bytes(_NONCE_BYTES)


#: How long the answer to a challenge is, and the agent's answer to it.
ANSWER_BYTES = _NONCE_BYTES + _MAC_BYTES
PROOF_BYTES = _MAC_BYTES
CHALLENGE_BYTES = _NONCE_BYTES


def answer(token: bytes, theirs: bytes) -> bytes:
    """The run's answer to the agent's challenge: a challenge of its own, and a proof."""
    ours = challenge()
    return ours + _mac(token, b"run", theirs, ours)


def prove(token: bytes, ours: bytes, answered: bytes) -> bytes:
    """The agent's proof, once the run's was looked at.

    Raises:
        FrameError: the run does not know the token.
    """
    theirs, proof = answered[:_NONCE_BYTES], answered[_NONCE_BYTES:]
    if not hmac.compare_digest(proof, _mac(token, b"run", ours, theirs)):
        raise FrameError("it does not know the token")
    return _mac(token, b"agent", theirs, ours)


def check_proof(token: bytes, theirs: bytes, answered: bytes, proof: bytes) -> None:
    """Look at the agent's proof; FrameError where it does not know the token."""
    ours = answered[:_NONCE_BYTES]
    if not hmac.compare_digest(proof, _mac(token, b"agent", ours, theirs)):
        raise FrameError("it does not know the token")


@dataclass
class Frames:
    """One end of a connection whose both ends have shown that they know the token.

    Args:
        connection: set to a timeout by whoever waits on it.
        key: of this connection, see :meth:`of`.
        agent: whether this is the agent's end.
    """

    connection: socket.socket
    key: bytes
    agent: bool
    _sent: int = 0
    _received: int = 0
    _rest: bytearray = field(default_factory=bytearray)

    @classmethod
    def of(
        cls, connection: socket.socket, token: bytes, ours: bytes, answered: bytes, *, agent: bool
    ) -> Frames:
        """After the handshake: the agent's challenge, and the run's answer to it."""
        return cls(connection, _mac(token, b"key", ours, answered), agent)

    def send(self, message: Message, data: bytes = b"") -> None:
        """Send a message and bytes with it; OSError where the connection is gone."""
        text = json.dumps(message).encode()
        mac = self._seal(self.agent, self._sent, len(text), text, data)
        self._sent += 1
        self.connection.sendall(_HEAD.pack(len(text), len(data), mac) + text + data)

    def receive(self) -> tuple[Message, bytes]:
        """Wait for one message, with the connection's timeout.

        Raises:
            FrameError: it is not from the other side.
            OSError: the connection is gone, or nothing came in time.
        """
        while (found := self._next()) is None:
            self._read()
        return found

    def take(self) -> Iterator[tuple[Message, bytes]]:
        """The messages that are whole, after reading once; raises as :meth:`receive`."""
        self._read()
        while (found := self._next()) is not None:
            yield found

    def _read(self) -> None:
        data = self.connection.recv(_READ_BYTES)
        if not data:
            raise ConnectionResetError("the other side ended the connection")
        self._rest += data

    def _next(self) -> tuple[Message, bytes] | None:
        """A whole message of what was read; None where there is none yet."""
        if len(self._rest) < _HEAD.size:
            return None
        text_bytes, data_bytes, mac = _HEAD.unpack(self._rest[: _HEAD.size])
        whole = _HEAD.size + text_bytes + data_bytes
        if whole > MOST_BYTES:
            raise FrameError(f"a message of {whole} bytes")
        if len(self._rest) < whole:
            return None
        text = bytes(self._rest[_HEAD.size : _HEAD.size + text_bytes])
        data = bytes(self._rest[_HEAD.size + text_bytes : whole])
        wanted = self._seal(not self.agent, self._received, text_bytes, text, data)
        if not hmac.compare_digest(mac, wanted):
            raise FrameError("a message was altered on its way")
        self._received += 1
        del self._rest[:whole]
        message = json.loads(text)
        if not isinstance(message, dict):
            raise FrameError("a message that is none")
        return message, data

    def _seal(self, agent: bool, number: int, text_bytes: int, text: bytes, data: bytes) -> bytes:
        head = b"a" if agent else b"r"
        return _mac(self.key, head, struct.pack(">QI", number, text_bytes), text, data)


def receive_exactly(connection: socket.socket, count: int) -> bytes:
    """So many bytes of a handshake; OSError where they do not come."""
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionResetError("the other side ended the connection")
        data += part
    return data
