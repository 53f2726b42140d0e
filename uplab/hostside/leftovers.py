"""Files outside the run directory that a trial makes: noted before, removed after, also by others.

bpftime keeps its shared memory in ``/dev/shm`` and small files in ``/tmp``, and both outlive their
processes. What is ours is known by a note that is written before the file can be there: no file is
removed because of its name, so another program's stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from uplab.hostside import notes


class Leftovers:
    """The paths that are ours now, in a file that outlives a crash."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._noted: set[str] = set()

    def note(self, paths: Iterable[Path]) -> None:
        """Note files that are about to be made, or that one of our processes made."""
        new = {str(path) for path in paths} - self._noted
        if new:
            self._noted |= new
            self._write()

    def remove(self) -> None:
        """Remove all that is noted."""
        if self._noted:
            _unlink(self._noted)
            self._noted.clear()
            self._write()

    def remove_earlier(self) -> list[str]:
        """Remove what an earlier hostside noted and did not remove.

        Returns:
            the paths that were there.
        """
        there = _unlink(path for path in notes.read(self._path) if isinstance(path, str))
        self._path.unlink(missing_ok=True)
        return there

    def _write(self) -> None:
        notes.write(self._path, sorted(self._noted))


def _unlink(paths: Iterable[str]) -> list[str]:
    """Remove files; out: the ones that were there."""
    there = []
    for path in sorted(paths):
        with suppress(OSError):
            Path(path).unlink()
            there.append(path)
    return there
