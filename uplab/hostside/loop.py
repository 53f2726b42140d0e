"""One thread that waits for everything at once: output, the end of a process, signals, time.

Signals are acted on only inside :meth:`Loop.pump`, so no step can be torn between starting a
process and noting it for the clean-up.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from uplab.hostside.errors import Interrupted

#: How often a polled callback is called: at 30 MB/s a pipe of 1 MiB has room for three times that.
_POLL_S = 0.01


class Loop:
    """Waits on file descriptors and calls what was registered for them.

    Used as a context manager: while it is open, SIGINT, SIGTERM and SIGHUP are noted and raised
    as :class:`Interrupted` at the next wait.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._polled: list[Callable[[], None]] = []
        self._signal: int | None = None
        self._shield = 0
        self._handlers: dict[int, signal.Handlers | Callable[..., object] | int | None] = {}
        self._read_fd = self._write_fd = -1
        self._old_wakeup = -1

    def __enter__(self) -> Loop:
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_wakeup = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._handlers[number] = signal.signal(number, self._note)
        self.add(self._read_fd, self._drain_wakeups)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_wakeup)
        self.remove(self._read_fd)
        os.close(self._read_fd)
        os.close(self._write_fd)
        self._selector.close()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._signal = self._signal or number

    def _drain_wakeups(self) -> None:
        os.read(self._read_fd, 4096)

    def add(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever ``descriptor`` becomes readable."""
        self._selector.register(descriptor, selectors.EVENT_READ, callback)

    def remove(self, descriptor: int) -> None:
        """Forget a descriptor; it must not be closed before."""
        self._selector.unregister(descriptor)

    def poll(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` every few milliseconds: for a descriptor that is always readable.

        Waking up for each of a hundred thousand short lines a second would cost a core.
        """
        self._polled.append(callback)

    def no_poll(self, callback: Callable[[], None]) -> None:
        """Do not call it any more."""
        self._polled.remove(callback)

    @property
    def interrupted(self) -> bool:
        """Whether a signal asked to stop."""
        return self._signal is not None

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """While open, an interruption waits: for cleaning up, which is bounded in time."""
        self._shield += 1
        try:
            yield
        finally:
            self._shield -= 1

    def pump(self, timeout_s: float) -> None:
        """Handle what is ready, or wait for it at most ``timeout_s``.

        Raises:
            Interrupted: a signal arrived (not inside :meth:`shielded`).
        """
        self._check()
        most_s = min(timeout_s, _POLL_S) if self._polled else timeout_s
        for key, _ in self._selector.select(max(most_s, 0.0)):
            # One that was called before may have waited in here itself, and had this one forgotten.
            if self._selector.get_map().get(key.fd) is key:
                key.data()
        for callback in list(self._polled):
            if callback in self._polled:
                callback()
        self._check()

    def _check(self) -> None:
        if self._signal is not None and not self._shield:
            raise Interrupted(self._signal)

    def until(self, condition: Callable[[], bool], timeout_s: float, step_s: float = 1.0) -> bool:
        """Pump until ``condition()`` holds.

        Args:
            condition: asked after everything that happens, and every ``step_s``.
            timeout_s: the longest wait.
            step_s: shorter for conditions that no descriptor announces.

        Returns:
            whether the condition held in time.
        """
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            self.pump(min(left_s, step_s))
        return True
