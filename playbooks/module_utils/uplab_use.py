# SPDX-License-Identifier: Apache-2.0
"""What forbids to remove anything now: builds and runs by their locks, a host left tuned, users."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shlex import quote
from typing import Any

from ansible.module_utils.uplab_host import StoreError, read_json

PROC = Path("/proc")
LOCK = ".lock-"
#: hostside's lock and its ledger of the processes that it started, below its directory in /run.
RUN_LOCK = "lock"
LEDGER = "children.json"
#: hostside's journal of the settings that a run changed, beside the folder of runs.
TUNING = "tuning.json"


@contextmanager
def alone(root: Path, state: Path) -> Iterator[None]:
    """Hold the locks of all builds and of runs, so that none begins meanwhile.

    Args:
        root: of the store.
        state: hostside's directory below ``/run``.

    Raises StoreError where a build or a run is under way.
    """
    with ExitStack() as stack:
        for path in sorted((root / "store").glob(f"{LOCK}*")):
            component = path.name.removeprefix(LOCK)
            text = f"a build of {component} is under way ({root}/log/{component}.log)"
            stack.enter_context(taken(path, text))
        path = state / RUN_LOCK
        if path.exists():
            stack.enter_context(taken(path, f"{run_of(path)} is under way"))
        yield


@contextmanager
def taken(path: Path, busy: str) -> Iterator[None]:
    """Hold one lock; raises StoreError with ``busy`` where somebody else does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"{busy}; nothing was removed. Wait for its end and run this again"
            ) from error
        yield
    finally:
        os.close(descriptor)


def run_of(lock: Path) -> str:
    """The run that a lock of hostside's names."""
    holder = read_json(lock) or {}
    return f"run {holder['run_id']} (pid {holder.get('pid')})" if "run_id" in holder else "a run"


def refuse_tuned(spool: Path, host: str) -> None:
    """Raise StoreError while settings that a run changed are not put back.

    Args:
        spool: the folder of runs.
        host: its name in the inventory.
    """
    journal = spool.parent / TUNING
    if not os.path.lexists(journal):
        return
    try:
        noted = json.loads(journal.read_text(encoding="utf-8"))
        left, run = len(noted["entries"]), str(noted["run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        # What cannot be read may name any number of them; lab.restore says what to do.
        found = f"{journal} is damaged"
    else:
        found = f"run {run} left this host tuned (settings to put back: {left})" if left else ""
    if found:
        raise StoreError(
            f"{found}; nothing was removed. Run: invoke lab.restore --host {quote(host)}"
        )


def left_running(state: Path) -> list[str]:
    """The processes that a run started, noted and did not end: ``name (pid)``."""
    try:
        noted = json.loads((state / LEDGER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    entries = [entry for entry in noted if isinstance(entry, dict)]
    return [f"{e.get('name')} (pid {e.get('pid')})" for e in entries if lives(e)]


def lives(entry: dict[str, Any]) -> bool:
    """Whether the process of the ledger still runs, and is not another one of its number."""
    try:
        text = (PROC / str(entry.get("pid")) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[19] == str(entry.get("start_ticks"))


def users(top: Path) -> dict[Path, list[str]]:
    """The files below a directory that processes use, each with them as ``name (pid)``.

    A process uses what it runs, has mapped or open, and where it stands.  This process does not
    count, nor do those of containers that have another directory in that place.
    """
    below = top.resolve()
    found: dict[Path, list[str]] = {}
    for process in PROC.iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        paths = {path for path in used_by(process, str(below)) if path.is_relative_to(below)}
        if paths and has_it_there(process, below):
            for path in paths:
                found.setdefault(path, []).append(f"{name_of(process)} (pid {process.name})")
    return found


def used_by(process: Path, hint: str) -> Iterator[Path]:
    """Every path that a process uses, those that ``hint`` is no part of left out of the maps."""
    links = [process / name for name in ("exe", "cwd", "root")]
    try:
        links += (process / "fd").iterdir()
        maps = (process / "maps").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        # It ended, or is the kernel's own.
        maps = ""
    for link in links:
        try:
            yield link.readlink()
        except OSError:
            continue
    for line in maps.split("\n") if hint in maps else ():
        words = line.split(maxsplit=5)
        if len(words) > 5:
            yield Path(words[5])


def has_it_there(process: Path, below: Path) -> bool:
    """Whether a path means the same directory to a process as to us."""
    try:
        return (process / "root" / below.relative_to("/")).samefile(below)
    except OSError:
        return False


def name_of(process: Path) -> str:
    """The name of a process."""
    try:
        return (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "a process that has ended"
