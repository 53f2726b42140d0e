# SPDX-License-Identifier: Apache-2.0
"""Removing files of uplab's: never through a link, never into another file system, and counted."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils.uplab_host import StoreError

MOUNTS = Path("/proc/self/mountinfo")
#: What os.stat counts blocks in, whatever the file system's own are.
BLOCK_BYTES = 512


@dataclass
class Sweep:
    """What was removed so far, or with ``check`` what would be; nothing happens then."""

    check: bool
    removed: list[str] = field(default_factory=list)
    freed_bytes: int = 0

    def remove(self, path: Path) -> None:
        """Remove a file, a link, or a directory with all that is in it; absent is well.

        Raises StoreError where another file system is mounted in it, and OSError.
        """
        try:
            with opened(path.parent) as parent:
                self.entry(parent, path.name, path, os.fstat(parent).st_dev)
        except FileNotFoundError:
            return
        self.removed.append(str(path))

    def remove_empty(self, path: Path, without: frozenset[str]) -> None:
        """Remove a directory if nothing is in it but, with ``check``, what would be gone by now."""
        if not path.is_dir() or path.is_symlink():
            return
        if set(os.listdir(path)) - (without if self.check else frozenset()):
            return
        if not self.check:
            path.rmdir()
        self.removed.append(str(path))

    def entry(self, parent: int, name: str, shown: Path, device: int) -> None:
        """Remove an entry of an open directory."""
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            self.directory(parent, name, shown, device)
        elif not self.check:
            os.unlink(name, dir_fd=parent)
        # A file with another name elsewhere keeps its blocks.
        if stat.S_ISDIR(status.st_mode) or status.st_nlink == 1:
            self.freed_bytes += status.st_blocks * BLOCK_BYTES

    def directory(self, parent: int, name: str, shown: Path, device: int) -> None:
        """Remove a directory of an open directory with all that is in it."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=parent)
        try:
            if os.fstat(descriptor).st_dev != device:
                raise StoreError(f"{shown} is another file system. Run: umount {shown}")
            for below in os.listdir(descriptor):
                self.entry(descriptor, below, shown / below, device)
        finally:
            os.close(descriptor)
        if not self.check:
            os.rmdir(name, dir_fd=parent)

    def result(self) -> dict[str, Any]:
        """The part of a module's result that says what was removed."""
        before = "".join(f"{path}\n" for path in self.removed)
        return {
            "changed": bool(self.removed),
            "removed": self.removed,
            "freed_bytes": self.freed_bytes,
            "diff": {"before": before, "after": ""},
        }


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A directory, open for as long as a block runs; FileNotFoundError where there is none."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def mount_points() -> list[Path]:
    """Where file systems are mounted, as this process sees it (proc(5), mountinfo)."""
    lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    fields = (line.split(" ")[4] for line in lines)
    return [Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), name)) for name in fields]


def refuse_mounts(root: Path) -> None:
    """Raise StoreError where something is mounted below a directory."""
    real = root.resolve()
    below = sorted({str(path) for path in mount_points() if real in path.parents})
    if below:
        names = " ".join(below)
        raise StoreError(f"{names}: mounted below {root}; nothing was removed. Run: umount {names}")
