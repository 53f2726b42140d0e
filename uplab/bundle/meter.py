"""How far something long is, and when it ends as far as can be told."""

from __future__ import annotations

import time

from uplab.box.steps import Steps

_MIB = 1 << 20
#: What came in less time than this says nothing about the rest.
_LEARNING_S = 0.5


def left(began_s: float, done: int, total: int) -> str:
    """A clause about the time that the rest takes; empty as long as nothing can be said."""
    spent_s = time.monotonic() - began_s
    if done <= 0 or spent_s <= _LEARNING_S:
        return ""
    return f", about {spent_s * max(total - done, 0) / done:.0f} s left"


class Meter:
    """Shows bytes done, bytes in all and the time left.

    Args:
        steps: shows it.
        what: is going on.
        all_bytes: that there are.
    """

    def __init__(self, steps: Steps, what: str, all_bytes: int = 0) -> None:
        self._steps, self._what, self._all_bytes = steps, what, all_bytes
        self._began_s = time.monotonic()

    def show(self, done_bytes: int) -> None:
        """Say that so many bytes are done."""
        self.progress(done_bytes, self._all_bytes)

    def progress(self, done_bytes: int, all_bytes: int) -> None:
        """Say that so many bytes of so many are done."""
        text = f"{self._what}: {done_bytes / _MIB:,.0f} of {all_bytes / _MIB:,.0f} MiB"
        self._steps.now(text + left(self._began_s, done_bytes, all_bytes))
