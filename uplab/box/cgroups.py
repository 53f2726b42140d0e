"""The control groups of a box: its processes cannot leave them, so they name exactly what is its.

On a pure v2 machine there is one hierarchy; on a hybrid one systemd keeps its tree twice, in
``systemd`` (v1, by name) and in ``unified`` (v2).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable
from pathlib import Path

from uplab.errors import HostError

ROOT = Path("/sys/fs/cgroup")
_POLL_S = 0.01
_LIMIT_S = 5.0


def hierarchies(root: Path = ROOT) -> list[Path]:
    """Where a container's systemd needs a group of its own.

    Raises:
        HostError: no hierarchy that systemd could use is mounted.
    """
    if (root / "cgroup.controllers").exists():
        return [root]
    names = ("systemd", "unified")
    found = [root / name for name in names if (root / name / "cgroup.procs").exists()]
    if not found:
        raise HostError(
            f"a box needs control groups, and {root} holds neither v2 nor systemd's hierarchy. "
            f"Run: mount -t cgroup2 none {root}"
        )
    return found


def processes(groups: Iterable[str]) -> set[int]:
    """The PIDs of all processes in some groups and below them."""
    found: set[int] = set()
    for group in groups:
        # Groups come and go while a box runs: os.walk passes over one that is gone.
        for folder, _, _ in os.walk(group):
            try:
                found.update(int(pid) for pid in Path(folder, "cgroup.procs").read_text().split())
            except OSError as error:
                # One went since, or is a group of threads, which lists no processes.
                if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
                    raise
    return found


def make(groups: Iterable[str]) -> None:
    """Make the groups; each is new, because its name is used once."""
    for group in groups:
        Path(group).mkdir()


def remove(groups: Iterable[str]) -> None:
    """Remove groups that hold no process any more, and all groups below them.

    Raises:
        HostError: one cannot be removed.
    """
    for group in groups:
        for folder, _, _ in os.walk(group, topdown=False):
            _remove_one(Path(folder))


def _remove_one(group: Path) -> None:
    deadline_s = time.monotonic() + _LIMIT_S
    while True:
        try:
            group.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            # The kernel takes a moment to let go of a group whose last process was just reaped.
            if error.errno != errno.EBUSY or time.monotonic() >= deadline_s:
                raise HostError(f"{group} cannot be removed: {error.strerror}") from error
        time.sleep(_POLL_S)
