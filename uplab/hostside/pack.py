"""Give the files of a run away: a list with digests, and then those that are asked for.

A pack is a line that names how it is compressed, and then one compressed stream of
``{"name": ..., "size": ...}`` as a line of JSON and that many bytes, file after file. It can hold
nothing but files, so there is nothing else to be refused.

There may be a hundred thousand files, so paths are texts here, and each system call counts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from uplab.hostside import press, sums
from uplab.hostside.errors import USAGE, HostError
from uplab.hostside.rundir import PART_PREFIX
from uplab.hostside.runs import seal

#: Comes first: what a login shell prints by itself is not part of it.
MARK = b"--- uplab files ---\n"
_READ_BYTES = 1 << 18
#: Small files are compressed and written together.
_BATCH_BYTES = 1 << 18


def write_list(run: Path, out: IO[bytes]) -> None:
    """Write the mark, a line of JSON (``name``, ``size``, ``sha256``) per file, ``{"files": N}``.

    A run that was cut off is made whole first.

    Raises:
        HostError: the run goes on.
    """
    seal(run)
    known = _known_digests(run)
    names = sorted(sums.files(run))
    if (run / sums.NAME).exists():
        names.append(sums.NAME)
    out.write(MARK)
    for name in names:
        entry = {
            "name": name,
            "size": os.lstat(f"{run}/{name}").st_size,
            "sha256": known.get(name) or _sha256(run / name),
        }
        out.write(json.dumps(entry).encode() + b"\n")
    out.write(json.dumps({"files": len(names)}).encode() + b"\n")
    out.flush()


def _known_digests(run: Path) -> dict[str, str]:
    """What SHA256SUMS says; empty without it."""
    try:
        text = (run / sums.NAME).read_text()
    except FileNotFoundError:
        return {}
    # A name with a line break fills two lines, and is no name that anybody takes.
    pairs = (line.partition("  ") for line in text.split("\n"))
    return {name: digest for digest, _, name in pairs}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_pack(run: Path, names: Sequence[str], out: IO[bytes]) -> None:
    """Write the mark, then a pack of some files of a run.

    Raises:
        HostError: a name that is none of the run's.
        OSError: a file cannot be read, or nobody reads the pack.
    """
    pressing = press.best()
    out.write(MARK + f"{pressing.name}\n".encode())
    for batch in _batches(chunk for name in names for chunk in _framed(run, name)):
        out.write(pressing.compress(batch))
    out.write(pressing.flush())
    out.flush()


def _batches(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in larger parts."""
    waiting: list[bytes] = []
    size = 0
    for chunk in chunks:
        waiting.append(chunk)
        size += len(chunk)
        if size >= _BATCH_BYTES:
            yield b"".join(waiting)
            waiting.clear()
            size = 0
    yield b"".join(waiting)


def _framed(run: Path, name: str) -> Iterator[bytes]:
    if not name or name.startswith("/") or any(map(_is_no_part_of_a_run, name.split("/"))):
        raise HostError(f"{name!r} is no file of a run", USAGE)
    descriptor = os.open(f"{run}/{name}", os.O_RDONLY | os.O_NOFOLLOW)
    try:
        left = os.fstat(descriptor).st_size
        yield json.dumps({"name": name, "size": left}).encode() + b"\n"
        while left:
            chunk = os.read(descriptor, min(left, _READ_BYTES))
            if not chunk:
                raise HostError(f"{run / name} became shorter while it was read")
            left -= len(chunk)
            yield chunk
    finally:
        os.close(descriptor)


def _is_no_part_of_a_run(part: str) -> bool:
    return part == ".." or part.startswith(PART_PREFIX)
