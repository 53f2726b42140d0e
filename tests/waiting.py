"""Waiting for what comes true by itself, on a machine of whatever speed."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Nothing that comes at all takes as long, however slow the machine is.
LIMIT_S = 120.0
_POLL_S = 0.005


def wait_for(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Returns once a condition holds; the test fails where it does not."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, "it never came true"
        time.sleep(_POLL_S)
