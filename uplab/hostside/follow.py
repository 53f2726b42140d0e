"""Give a run's events away as they come, from any point, as often as somebody asks."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import IO, Any

from uplab.hostside.control import Control
from uplab.hostside.runs import ended

#: Comes before the events: what a login shell prints by itself is none of them.
MARK = b"--- uplab events ---\n"
_POLL_S = 0.25
_BEAT_S = 5.0
_READ_BYTES = 1 << 18


def follow(run: Path, start: int, out: IO[bytes]) -> None:
    """Write the mark, the events from byte ``start`` on, and at the end of the run how it ended.

    In between a line ``{"event": "heartbeat"}`` says every few seconds that the connection is
    alive, also where nothing happens. The last line is ``{"event": "followed", "code", "said"}``,
    or ``{"event": "lost", "reason"}`` where the run's process is gone without having said its end.

    Args:
        run: the run directory.
        start: 0, or where a follower was before: a multiple of whole lines.
        out: where to.

    Raises:
        OSError: nobody reads any more, or the events cannot be read.
    """
    control = Control(run)
    out.write(MARK)
    descriptor = os.open(control.events, os.O_RDONLY)
    try:
        os.lseek(descriptor, start, os.SEEK_SET)
        end = _until_the_end(control, descriptor, out)
    finally:
        os.close(descriptor)
    _write(out, end)


def _until_the_end(control: Control, descriptor: int, out: IO[bytes]) -> dict[str, Any]:
    rest = b""
    beat_s = time.monotonic()
    out.flush()
    while True:
        # Asked before the last of the events are read: what was written before the end is there.
        end = ended(control)
        while data := os.read(descriptor, _READ_BYTES):
            whole, newline, rest = (rest + data).rpartition(b"\n")
            out.write(whole + newline)
            out.flush()
            beat_s = time.monotonic()
        if end is not None:
            return end
        if time.monotonic() - beat_s >= _BEAT_S:
            _write(out, {"event": "heartbeat"})
            beat_s = time.monotonic()
        time.sleep(_POLL_S)


def _write(out: IO[bytes], line: dict[str, Any]) -> None:
    out.write(json.dumps(line).encode() + b"\n")
    out.flush()
