"""Bring a run directory here: unpack what a host sent without trusting it, and verify it."""

from __future__ import annotations

import errno
import io
import shutil
import tarfile
from pathlib import Path, PurePosixPath

from uplab.errors import HostError, UplabError

#: One run is at most this large; what a host sends beyond it is refused.
MAX_RUN_BYTES = 8 << 30
MAX_FILES = 2_000_000


def unpack(data: bytes, into: Path) -> None:
    """Unpack a run's tar into a new directory.

    Only regular files and directories with plain relative names are taken; modes, owners and
    links are not.

    Raises:
        HostError: a name that leads outside, a link or device, or more than the caps allow.
    """
    into.mkdir(parents=True)
    total = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as archive:
            for count, member in enumerate(archive):
                name = PurePosixPath(member.name)
                # tarfile drops the slash at the end of a folder's name: of "/" nothing is left.
                leads_outside = name.is_absolute() or ".." in name.parts or not member.name
                if leads_outside or not (member.isfile() or member.isdir()):
                    raise HostError(f"the host sent {member.name!r}, which no run directory holds")
                total += member.size
                if total > MAX_RUN_BYTES or count > MAX_FILES:
                    raise HostError(
                        f"the host sent more than {MAX_RUN_BYTES} bytes or {MAX_FILES} files"
                    )
                try:
                    _unpack_member(archive, member, into / name)
                except (OSError, ValueError) as error:
                    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                        raise HostError(f"{into} has no room for the run") from error
                    raise HostError(f"the host sent {member.name!r}: {error}") from error
    except tarfile.TarError as error:
        raise HostError(f"the run that the host sent is damaged: {error}") from error


def _unpack_member(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source = archive.extractfile(member)
    if source is None:
        raise HostError(f"the host sent {member.name!r} without content")
    with source, target.open("xb") as out:
        shutil.copyfileobj(source, out)


def receive(data: bytes, results: Path, run_id: str) -> Path:
    """Unpack a run aside, check its SHA256SUMS, and give it its place.

    Args:
        data: the tar.
        results: the directory of all runs.
        run_id: the run's name.

    Returns:
        the run directory.

    Raises:
        HostError: what arrived is not what the host signed off, each file named.
    """
    from uplab import checksums

    part = results / f".part-{run_id}"
    if part.exists():
        shutil.rmtree(part)
    results.mkdir(parents=True, exist_ok=True)
    unpack(data, part)
    try:
        wrong = checksums.differences(part) if (part / checksums.SUMS_FILE).exists() else []
    except UplabError as error:
        raise HostError(f"run {run_id} arrived damaged: {error.message}") from error
    if wrong:
        raise HostError(f"run {run_id} arrived damaged: {'; '.join(wrong[:5])}")
    final = results / run_id
    try:
        part.rename(final)
    except OSError as error:
        raise HostError(f"{final} cannot be made: {error.strerror}; is the run here?") from error
    return final
