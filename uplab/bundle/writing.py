"""Writes a bundle: the same bytes for the same parts."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from uplab.bundle import index as indexes
from uplab.bundle.index import Index
from uplab.bundle.reading import Progress
from uplab.errors import UsageError

#: Most parts are compressed already: a higher level only takes longer.
_LEVEL = 3
_CHUNK_BYTES = 1 << 20


def write(out: Path, found: Index, files: Mapping[str, Path], progress: Progress) -> None:
    """Write a bundle, whole or not at all.

    Args:
        out: the file; an older one is replaced when the new one is whole.
        found: the index.
        files: that hold the parts, by the parts' paths.
        progress: is told how far it is.

    Raises:
        UsageError: there is no such directory, or it cannot be written to.
    """
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    all_bytes = sum(part.bytes for part in found.parts)
    done_bytes = 0
    try:
        with _compressing(part) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
            data = indexes.as_json(found)
            tar.addfile(_member(indexes.NAME, len(data)), io.BytesIO(data))
            for entry in found.parts:
                with files[entry.path].open("rb") as content:
                    tar.addfile(_member(entry.path, entry.bytes), content)
                done_bytes += entry.bytes
                progress(done_bytes, all_bytes)
        part.replace(out)
    except (FileNotFoundError, PermissionError) as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _member(name: str, size_bytes: int) -> tarfile.TarInfo:
    """A plain file of nobody's, of no time."""
    member = tarfile.TarInfo(name)
    member.size = size_bytes
    member.mode = 0o644
    return member


@contextmanager
def _compressing(path: Path) -> Iterator[IO[bytes]]:
    # Of the controller's environment: what only reads a bundle does without it.
    import zstandard

    # With any number of threads but none the bytes are the same.
    how = zstandard.ZstdCompressor(
        level=_LEVEL, threads=max(1, os.cpu_count() or 1), write_checksum=True
    )
    with path.open("wb") as raw:
        with how.stream_writer(raw, closefd=False) as stream:
            yield stream
        raw.flush()
        os.fsync(raw.fileno())
