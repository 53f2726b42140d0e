"""Whether somebody set the wall clock while something was measured.

uplab's own durations come from the monotonic clock. A load generator may time itself by the wall
clock, and then a clock that is set meanwhile is in its figures.
"""

from __future__ import annotations

import time

#: What is less may be a pause between two readings. Slewing (NTP) moves both clocks alike.
_NOTICEABLE_S = 0.1
_READINGS = 5


class Clock:
    """Compares the wall clock with the monotonic one, from when it is made."""

    def __init__(self) -> None:
        self._offset_ns = _offset_ns()

    def jump_s(self) -> float | None:
        """By how much the wall clock was set since then, in seconds; None where it was not.

        A machine that slept looks alike: its monotonic clock stood still.
        """
        jump_s = (_offset_ns() - self._offset_ns) / 1e9
        return round(jump_s, 3) if abs(jump_s) >= _NOTICEABLE_S else None


def _offset_ns() -> int:
    """How far the wall clock is ahead of the monotonic one, by the quickest of some readings."""
    readings = []
    for _ in range(_READINGS):
        before_ns = time.monotonic_ns()
        wall_ns = time.time_ns()
        after_ns = time.monotonic_ns()
        readings.append((after_ns - before_ns, wall_ns - (before_ns + after_ns) // 2))
    return min(readings)[1]
