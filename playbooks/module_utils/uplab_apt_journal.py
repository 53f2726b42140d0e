# SPDX-License-Identifier: Apache-2.0
"""Originals of apt's files in which uplab switched a source off: kept, and put back.

Below ``{root}/apt-sources``::

    journal.json     {"schema": 1, "files": {PATH: {"original": NAME, "original_sha256": "...",
                     "written_sha256": "...", "mode": 420, "uid": 0, "gid": 0}}}
    NAME             the bytes that PATH had, as in sources.list.d-pve-enterprise.list

``original_sha256`` and ``written_sha256`` are of the file before and after, ``mode``, ``uid`` and
``gid`` of the original.
A file that is not what was written any more belongs to whoever changed it, and is left alone.
:func:`restore` is all that a teardown needs.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.uplab_apt_files import SourceFile
from ansible.module_utils.uplab_host import pretty, read_json, sync_directory, write_atomically

_SCHEMA = 1
_JOURNAL = "journal.json"


@dataclass(frozen=True)
class Restored:
    """What became of a file: ``state`` is restored, unchanged, altered (by others) or gone."""

    path: str
    state: str
    original: str


def switch_off(directory: Path, files: list[SourceFile]) -> None:
    """Write changed files in place of the host's, whose originals are kept first."""
    directory.mkdir(parents=True, exist_ok=True)
    for file in files:
        before, status = file.path.read_bytes(), file.path.stat()
        name = f"{file.path.parent.name}-{file.path.name}"
        after = file.text.encode("utf-8", "surrogateescape")
        owner = (status.st_mode & 0o7777, status.st_uid, status.st_gid)
        _write(directory / name, before, (0o644, 0, 0))
        entry = {
            "original": name,
            "original_sha256": _sha256(before),
            "written_sha256": _sha256(after),
            **dict(zip(("mode", "uid", "gid"), owner, strict=True)),
        }
        # Noted before it is done: after a power loss in between there is nothing to put back.
        _note(directory, {**_entries(directory), str(file.path): entry})
        _write(file.path, after, owner)


def restorable(directory: Path) -> list[SourceFile]:
    """The originals of the files that are still as uplab wrote them."""
    found = []
    for name, entry in _entries(directory).items():
        path = Path(name)
        if path.is_file() and _sha256(path.read_bytes()) == entry["written_sha256"]:
            data = (directory / entry["original"]).read_bytes()
            found.append(SourceFile(path, data.decode("utf-8", "surrogateescape")))
    return found


def restore(directory: Path) -> list[Restored]:
    """Put the originals back where nobody else has changed the file since.

    What was put back, or never changed, is forgotten; the journal goes with its last file.

    Raises:
        OSError: a file cannot be written.
    """
    entries = _entries(directory)
    done = []
    for name, entry in list(entries.items()):
        path, original = Path(name), directory / entry["original"]
        seen = _sha256(path.read_bytes()) if path.is_file() else None
        if seen == entry["written_sha256"]:
            _write(path, original.read_bytes(), (entry["mode"], entry["uid"], entry["gid"]))
            state = "restored"
        elif seen == entry["original_sha256"]:
            state = "unchanged"
        else:
            state = "altered" if seen else "gone"
        done.append(Restored(name, state, str(original)))
        if state in ("restored", "unchanged"):
            del entries[name]
            _note(directory, entries)
            original.unlink(missing_ok=True)
    if done and not entries:
        (directory / _JOURNAL).unlink()
        directory.rmdir()
    return done


def _entries(directory: Path) -> dict[str, dict[str, Any]]:
    found = (read_json(directory / _JOURNAL) or {}).get("files", {})
    return dict(found)


def _note(directory: Path, entries: dict[str, dict[str, Any]]) -> None:
    write_atomically(directory / _JOURNAL, pretty({"schema": _SCHEMA, "files": entries}))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(path: Path, data: bytes, owner: tuple[int, int, int]) -> None:
    """Write a file whole or not at all, with its mode, user and group."""
    # apt warns of files in its directory with names that it does not know, but not of hidden ones.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchown(stream.fileno(), owner[1], owner[2])
            os.fchmod(stream.fileno(), owner[0])
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync_directory(path.parent)
