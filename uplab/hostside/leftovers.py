"""Files outside the run directory that a trial makes: noted before, removed after, also by others.

bpftime keeps its shared memory in ``/dev/shm`` and small files in ``/tmp``, and both outlive their
processes; so does the folder in ``/dev/shm`` that a server gets. What is ours is known by a note
that is written before the file can be there: no file is removed because of its name, so another
program's stays.
"""

from __future__ import annotations

import shutil
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
        self._add({str(path) for path in paths})

    def note_folder(self, path: Path) -> None:
        """Note a folder that is about to be made; it goes with all that is in it."""
        self._add({f"{path}/"})

    def _add(self, entries: set[str]) -> None:
        new = entries - self._noted
        if new:
            self._noted |= new
            self._write()

    def remove(self) -> None:
        """Remove all that is noted."""
        if self._noted:
            _remove_noted(self._noted)
            self._noted.clear()
            self._write()

    def remove_earlier(self) -> list[str]:
        """Remove what an earlier hostside noted and did not remove.

        Returns:
            the paths that were there.
        """
        there = _remove_noted(path for path in notes.read(self._path) if isinstance(path, str))
        self._path.unlink(missing_ok=True)
        return there

    def _write(self) -> None:
        notes.write(self._path, sorted(self._noted))


def _remove_noted(paths: Iterable[str]) -> list[str]:
    """Remove files and folders; out: the ones that were there."""
    there = []
    for path in sorted(paths):
        with suppress(OSError):
            if path.endswith("/"):
                # It may be another user's: nothing that it leads to elsewhere is touched.
                shutil.rmtree(path.rstrip("/"))
            else:
                Path(path).unlink()
            there.append(path)
    return there
