"""Wait for a host on which another run goes on, and take one's turn.

It is asked again and again who holds the host's lock; of several who wait, the one that asks first
when it is free begins. A host is planned for only while nobody measures there: the other run's
server has its port, and cells would seem to be not available.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from uplab.errors import HostError, UplabError
from uplab.progress import duration_in_words
from uplab.remote import Host
from uplab.view import View

if TYPE_CHECKING:
    from uplab.hostside.spec import Plan

_POLL_S = 2.0
T = TypeVar("T")


class Queue:
    """One command's place before a host.

    Args:
        host: which.
        most_s: how long to wait in all; None is not at all, and then nothing here asks the host.
        view: where it is told for whom we wait.
        clock, sleep: for tests.
    """

    def __init__(
        self,
        host: Host,
        most_s: float | None,
        view: View,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._host = host
        self._left_s = most_s
        self._most_s = most_s
        self._view = view
        self._clock = clock
        self._sleep = sleep

    def until_free(self) -> None:
        """Return when no run goes on there.

        Raises:
            HostError: it is not free after all the time there is; with who is there.
        """
        if self._left_s is None or self._most_s is None:
            return
        told, began_s = "", self._clock()
        while holder := self._holder():
            left_s = self._left_s - (self._clock() - began_s)
            if left_s <= 0:
                raise HostError(
                    f"host {self._host.name}: run {holder} still goes on after --wait "
                    f"{duration_in_words(self._most_s)}. Run: invoke bench.status "
                    f"--host {self._host.name}"
                )
            if holder != told:
                told = holder
                self._view.say(
                    f"host {self._host.name} is busy: run {holder} goes on; waiting up to "
                    f"{duration_in_words(left_s)}"
                )
            self._sleep(min(_POLL_S, left_s))
        self._left_s = max(self._left_s - (self._clock() - began_s), 0.0)

    def planned(self, plan: Callable[[], Plan]) -> Plan:
        """Make a plan while nobody measures there; errors as of :meth:`until_free`."""
        while True:
            self.until_free()
            made = plan()
            if self._left_s is None or self._holder() is None:
                return made

    def started(self, start: Callable[[], T]) -> T:
        """Start a run; where somebody was quicker, wait again. Errors as of :meth:`until_free`."""
        while True:
            try:
                return start()
            except UplabError:
                # It failed for something else where nobody is there.
                if self._left_s is None or self._holder() is None:
                    raise
            self.until_free()

    def _holder(self) -> str | None:
        """The run that goes on there; None where none does."""
        found = self._host.ask("runs", {}).get("running")
        return found if isinstance(found, str) else None
