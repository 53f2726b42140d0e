"""Reads a bundle: every part is what the index says, or nothing of it is used.

Standard library only, as ``tools/bootstrap.py`` needs it. A bundle comes from elsewhere: its names
are taken only as the index's form allows, its members only as plain files, its sizes only as far as
the index announced them.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from uplab.bundle import index as indexes
from uplab.bundle import zstd
from uplab.bundle.index import Index, Part, Refused

_INDEX_MAX_BYTES = 1 << 24
_CHUNK_BYTES = 1 << 20
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.DIRTYPE: "a directory",
}

#: Is told the bytes that are done and those that there are.
Progress = Callable[[int, int], None]


def _silent(_done: int, _all: int) -> None:
    """Nobody wants to know."""


def unpack(
    bundle: Path,
    into: Path,
    *,
    accept: Callable[[Index], None],
    take: Callable[[Part], bool] = lambda _part: True,
    whole: bool = True,
    progress: Progress = _silent,
) -> Index:
    """Check a bundle and lay its parts down.

    Args:
        bundle: the file.
        into: a directory that is not there yet; it is there afterwards only if all was well.
        accept: is called with the index before anything else is read; raises Refused.
        take: which parts to lay down; the others are checked only.
        whole: check all parts; otherwise end when those that are taken have come.
        progress: is told how far it is.

    Returns:
        the index, whose parts are all in order.

    Raises:
        Refused: the message says why, and what to do.
        OSError: the file cannot be read, or the disk is full.
    """
    part = into.with_name(f".{into.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with explained(bundle):
            found = _unpack(bundle, part, accept, take, whole, progress)
        # Mostly there is none; the rename says what is in the way.
        shutil.rmtree(into, ignore_errors=True)
        part.rename(into)
        return found
    finally:
        # Mostly renamed by now; after a failure its reason matters more.
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def explained(bundle: Path) -> Iterator[None]:
    """Say of which file, that nothing happened, and how to get a better one."""
    try:
        yield
    except Refused as error:
        raise Refused(
            f"{bundle} is not used: {error.message}; nothing was changed. "
            "On a connected machine, run: ./invoke lab.bundle --out lab.tar.zst"
        ) from error


def _unpack(
    bundle: Path,
    into: Path,
    accept: Callable[[Index], None],
    take: Callable[[Part], bool],
    whole: bool,
    progress: Progress,
) -> Index:
    into.mkdir(parents=True, mode=0o700)
    with zstd.reading(bundle) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                found = _index(tar)
                accept(found)
                (into / indexes.NAME).write_bytes(indexes.as_json(found))
                _parts(tar, found, into, take, whole, progress)
        except tarfile.TarError as error:
            raise Refused(f"it is no tar archive, or cut off ({error})") from error
        # To its end: what decompresses sees only there that something is missing.
        while whole and stream.read(_CHUNK_BYTES):
            continue
    return found


def _index(tar: tarfile.TarFile) -> Index:
    member = tar.next()
    if member is None or member.name != indexes.NAME:
        raise Refused(f"it does not begin with {indexes.NAME}: it is no bundle of uplab")
    return indexes.parse(_content(tar, member, _INDEX_MAX_BYTES).read())


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, limit_bytes: int) -> IO[bytes]:
    """The content of a plain file that is no longer than a limit; Refused otherwise."""
    stream = tar.extractfile(member) if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) else None
    if stream is None or member.issparse():
        what = _KINDS.get(member.type, "no plain file")
        raise Refused(f"{member.name!r} in it is {what}")
    if member.size > limit_bytes:
        raise Refused(f"{member.name!r} in it is longer than {limit_bytes} bytes")
    return stream


def _parts(
    tar: tarfile.TarFile,
    found: Index,
    into: Path,
    take: Callable[[Part], bool],
    whole: bool,
    progress: Progress,
) -> None:
    """Check the parts as they come, lay down those that are taken; Refused where one differs."""
    expected = {part.path: part for part in found.parts}
    wanted = {part.path for part in found.parts if whole or take(part)}
    all_bytes = sum(expected[path].bytes for path in wanted)
    done_bytes = 0
    while wanted and (member := tar.next()) is not None:
        part = expected.pop(member.name, None)
        if part is None:
            raise Refused(f"its {indexes.NAME} names no part {member.name!r}, or it came twice")
        if part.path not in wanted:
            continue
        stream = _content(tar, member, part.bytes)
        _check(part, stream, into / part.path if take(part) else None)
        wanted.discard(part.path)
        done_bytes += part.bytes
        progress(done_bytes, all_bytes)
    if wanted:
        first = min(wanted)
        raise Refused(f"{first} is missing in it ({len(wanted)} of {len(found.parts)} parts are)")
    if whole and (more := tar.next()) is not None:
        raise Refused(f"its {indexes.NAME} names no part {more.name!r}, or it came twice")


def _check(part: Part, stream: IO[bytes], target: Path | None) -> None:
    """Read a part to its end and write it where it belongs; Refused where it is another one."""
    digest = hashlib.sha256()
    size = 0
    with _writing(target) as write:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            write(chunk)
    if (size, digest.hexdigest()) != (part.bytes, part.sha256):
        raise Refused(
            f"{part.path} in it has {size} bytes and the sha256 {digest.hexdigest()}, "
            f"its {indexes.NAME} says {part.bytes} and {part.sha256}"
        )


@contextmanager
def _writing(target: Path | None) -> Iterator[Callable[[bytes], object]]:
    if target is None:
        yield len
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        yield file.write
