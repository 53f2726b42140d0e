"""Reads the tar of a transfer to its end: every byte is what its index says, or it is refused.

Nothing is unpacked here: the host that the builds are for does that, from the same bytes.
"""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from typing import IO

from uplab.hostside.transfer import INDEX
from uplab.transfer.index import INDEX_MAX_BYTES, Entry, Index, Refused, parse

_CHUNK_BYTES = 1 << 20
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}


def check(path: Path) -> Index:
    """Read all of a tar; returns its index, whose files are all in it, once and unaltered.

    Raises:
        Refused: something else is in it, or something is missing.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        try:
            # Not tarfile's own seeking: what is skipped would not have been looked at.
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                index = _index(tar)
                left = {
                    f"{entry.name}/{name}": (entry, name)
                    for entry in index.entries
                    for name in (*entry.folders, *entry.files, *entry.links)
                }
                while (member := tar.next()) is not None:
                    _check(tar, member, left)
        except tarfile.TarError as error:
            raise Refused(f"it is no tar archive, or damaged ({error})") from error
    if left:
        raise Refused(f"it is cut off: {min(left)} is missing ({len(left)} in all)")
    return index


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _index(tar: tarfile.TarFile) -> Index:
    member = tar.next()
    if member is None or member.name != INDEX:
        raise Refused(f"it does not begin with {INDEX}")
    stream = _content(tar, member)
    if member.size > INDEX_MAX_BYTES:
        raise Refused(f"its {INDEX} is longer than {INDEX_MAX_BYTES} bytes")
    return parse(stream.read())


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    """The content of a plain file; Refused for anything else."""
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
    stream = tar.extractfile(member) if plain else None
    if stream is None:
        raise Refused(f"{member.name!r} in it is {_KINDS.get(member.type, 'no plain file')}")
    return stream


def _check(
    tar: tarfile.TarFile, member: tarfile.TarInfo, left: dict[str, tuple[Entry, str]]
) -> None:
    """See that a member is the next one of those that are left, and all that it must be."""
    entry, name = left.pop(member.name, (None, ""))
    if entry is None:
        raise Refused(f"its {INDEX} names no {member.name!r}, or it came twice")
    if name in entry.links:
        if not member.issym() or member.linkname != entry.links[name]:
            raise Refused(f"{member.name} in it is not the link that its {INDEX} names")
    elif name in entry.files:
        _check_file(tar, member, entry.files[name].sha256, entry.files[name].bytes)
    elif not member.isdir():
        raise Refused(f"{member.name} in it is not the folder that its {INDEX} names")


def _check_file(tar: tarfile.TarFile, member: tarfile.TarInfo, sha256: str, size: int) -> None:
    stream = _content(tar, member)
    if member.size != size:
        raise Refused(f"{member.name} in it has {member.size} bytes, its {INDEX} says {size}")
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK_BYTES):
        digest.update(chunk)
    if digest.hexdigest() != sha256:
        raise Refused(
            f"{member.name} in it has the sha256 {digest.hexdigest()}, its {INDEX} says {sha256}"
        )
