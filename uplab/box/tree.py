"""A digest over a whole file system, quick enough to take at each use of a base."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path


def tree_sha256(root: Path) -> str:
    """A digest over names, kinds, owners, modes, sizes and times of all files below a folder.

    It takes a tenth of a second where the contents would take many; what changes a file's content
    without changing any of these is no accident. OSError where the folder is not there.
    """
    digest = hashlib.sha256()
    for line in _tree(root, ""):
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _tree(folder: Path, below: str) -> Iterator[str]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        seen = entry.stat(follow_symlinks=False)
        name = f"{below}/{entry.name}"
        line = f"{name}\0{seen.st_mode}\0{seen.st_uid}\0{seen.st_gid}\0"
        if stat.S_ISDIR(seen.st_mode):
            yield f"{line}\n"
            yield from _tree(Path(entry.path), name)
        elif stat.S_ISLNK(seen.st_mode):
            yield f"{line}{Path(entry.path).readlink()}\n"
        else:
            yield f"{line}{seen.st_size}\0{seen.st_mtime_ns}\n"
