"""One at a time: boxes, the base, the inventory have locks that do not outlive their holders."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from uplab.box.steps import Steps
from uplab.errors import HostError

LIMIT_S = 900.0
_POLL_S = 0.05


@contextmanager
def hold(boxes: Path, what: str, steps: Steps, limit_s: float = LIMIT_S) -> Iterator[None]:
    """Hold the lock of a box, of ``base`` or of ``inventory``.

    Args:
        boxes: the folder of all boxes; made when it is missing.
        what: is locked.
        steps: told when somebody else holds it.
        limit_s: how long to wait for them; 0 for not at all.

    Raises:
        HostError: it is still held after that.
    """
    folder = boxes / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / what).open("a+") as file:
        _wait(file.fileno(), folder / what, what, steps, limit_s)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _wait(descriptor: int, path: Path, what: str, steps: Steps, limit_s: float) -> None:
    deadline_s = time.monotonic() + limit_s
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = path.read_text().strip() or "unknown"
        if time.monotonic() >= deadline_s:
            raise HostError(f"{what} is busy: process {holder} holds {path}")
        if not told:
            steps.say(f"waiting for process {holder}, which works on {what}")
            told = True
        time.sleep(_POLL_S)
