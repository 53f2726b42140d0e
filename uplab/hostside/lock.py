"""One run at a time on a host; the lock names who holds it and does not outlive it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from uplab.hostside.errors import HostError
from uplab.hostside.rundir import utc_now


@contextmanager
def hold(state: Path, run_id: str) -> Iterator[None]:
    """Hold the host's lock; the kernel lets go of it when this process ends, however it ends.

    Args:
        state: hostside's directory under ``/run``, made when it is missing.
        run_id: named to whoever comes second.

    Raises:
        HostError: another run holds it, or the directory cannot be made.
    """
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (state / "lock").open("a+")
    except OSError as error:
        raise HostError(f"{state}: {error.strerror}; measuring takes root on this host") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise HostError(
                f"this host is busy: {_holder(file.read())} holds {file.name}"
            ) from None
        file.seek(0)
        file.truncate()
        file.write(json.dumps({"run_id": run_id, "pid": os.getpid(), "since_utc": utc_now()}))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _holder(text: str) -> str:
    try:
        entry = json.loads(text)
        return f"run {entry['run_id']} (pid {entry['pid']}, since {entry['since_utc']})"
    except (ValueError, KeyError, TypeError):
        return "another run"
