"""A line that can be cut: between a client and a server, for tests of lost connections."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_READ_BYTES = 1 << 16
ADDRESS = "127.0.0.1"


class Proxy:
    """Passes bytes between those who connect and a port.

    Args:
        target: address and port of the server.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listening = socket.create_server((ADDRESS, 0))
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._left: int | None = None
        self.down = False
        self.connections = 0
        self._begin(self._accept)

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listening.getsockname()[1]
        return port

    def cut(self, after_bytes: int | None = None) -> None:
        """Cut every connection; or only once the server has sent so many bytes more."""
        if after_bytes is None:
            self._cut()
        else:
            self._left = after_bytes

    def close(self) -> None:
        """Cut all, listen no more."""
        self.down = True
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._cut()
        for thread in self._threads:
            thread.join()

    def _begin(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _cut(self) -> None:
        with self._lock:
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if self.down:
                client.close()
                continue
            self.connections += 1
            server = socket.create_connection(self._target)
            with self._lock:
                self._open += [client, server]
            self._begin(self._pass, client, server, False)
            self._begin(self._pass, server, client, True)

    def _pass(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_READ_BYTES):
                if counted and self._left is not None:
                    data, self._left = data[: self._left], self._left - len(data)
                sink.sendall(data)
                if counted and self._left is not None and self._left <= 0:
                    self._left = None
                    self._cut()
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def running(target: tuple[str, int]) -> Iterator[Proxy]:
    """A proxy before a port."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
