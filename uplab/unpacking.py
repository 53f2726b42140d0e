"""Write the files of a pack while it arrives; see ``hostside.pack`` for what a pack is.

Nothing in a pack is trusted: it holds files that were asked for, each as it was described before,
or it is refused. It is unpacked in a thread of its own, so that the line, the processor and the
disk do not wait for each other.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import queue
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from uplab.errors import HostError, UplabError
from uplab.hostside import pack, press
from uplab.lines import Lines

if TYPE_CHECKING:
    from hashlib import _Hash

NAME_BYTES = 4096
_FRAME_BYTES = 2 * NAME_BYTES
#: What is unpacked at once: however much a few bytes become, memory holds no more of it.
_OUT_BYTES = 1 << 20
#: Far more than any press here needs of earlier data.
_WINDOW_BYTES = 8 << 20
#: Parts of some tens of KiB that may wait between the line and the disk.
_WAITING = 128
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Entry:
    """A file of a run, as the host describes it."""

    name: str
    size: int
    sha256: str


class Refused(HostError):
    """What arrives is not taken, or cannot be kept: trying again would not help."""


@dataclass
class Arrived:
    """Counts the files that arrived whole."""

    files: int = 0


def explained(part: Path, error: OSError) -> str:
    """Why a run cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{part.parent} has no room for the run; what arrived is kept in {part}"
    return f"{part} cannot be written: {error}"


class Unpacking:
    """Takes a pack in parts, and has written them all when it is left.

    Args:
        part: the directory that the files get into; it is there.
        wanted: by name; those that arrive whole are taken out.
        arrived: counts them.

    Raises:
        Refused: when it is called or left: it is no pack of these files, or they cannot be kept.
        UplabError: when it is called: the host sends something else.
    """

    def __init__(self, part: Path, wanted: dict[str, Entry], arrived: Arrived) -> None:
        self.wanted = wanted
        self._part = part
        self._lines = Lines(pack.MARK)
        self._chunks: queue.Queue[bytes] = queue.Queue(_WAITING)
        self._failure: Refused | None = None
        self._files = _Files(part, wanted, arrived)
        self._thread = threading.Thread(target=self._work, name="unpacking", daemon=True)

    def __enter__(self) -> Unpacking:
        self._thread.start()
        return self

    def __call__(self, chunk: bytes) -> None:
        """Take the next part; waits where the disk is slower than the line."""
        if self._failure is not None:
            raise self._failure
        data = self._lines.after_mark(chunk)
        if data:
            self._chunks.put(data)

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _at: TracebackType | None,
    ) -> None:
        self._chunks.put(b"")
        self._thread.join()
        # It says more than the lost connection that it may have led to.
        if self._failure is not None and (error is None or isinstance(error, UplabError)):
            raise self._failure from error

    def _work(self) -> None:
        source = _Source(self._chunks.get)
        try:
            self._unpack(source)
        except Refused as failure:
            self._failure = failure
        except OSError as error:
            self._failure = Refused(explained(self._part, error))
        finally:
            self._files.close()
            source.drain()

    def _unpack(self, source: _Source) -> None:
        stream = _unpressed(source)
        while data := stream.read(_OUT_BYTES):
            self._files.take(data)


# ---- the compressed stream -----------------------------------------------------------------------


class _Source:
    """What arrives, as a stream that is read."""

    def __init__(self, next_chunk: Callable[[], bytes]) -> None:
        self._next = next_chunk
        self._rest = b""
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, as many as there are (-1: whatever came); empty at the end."""
        if not self._rest and not self._ended:
            self._rest = self._next()
            self._ended = not self._rest
        if size < 0 or size >= len(self._rest):
            given, self._rest = self._rest, b""
        else:
            given, self._rest = self._rest[:size], self._rest[size:]
        return given

    def line(self, most: int) -> bytes:
        """The first line, without its end; what came instead, where there is none so early."""
        while b"\n" not in self._rest and len(self._rest) < most and not self._ended:
            more = self._next()
            self._ended = not more
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def drain(self) -> None:
        """Take the rest, so that nobody waits with it."""
        while not self._ended:
            self._ended = not self._next()


class _Stream(Protocol):
    """Uncompressed bytes."""

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; empty at the end, also where it was cut off.

        Raises:
            Refused: it is damaged.
        """


def _unpressed(source: _Source) -> _Stream:
    named = source.line(_FRAME_BYTES).decode(errors="replace")
    if named == press.ZSTD:
        return _Unzstd(source)
    if named == press.ZLIB:
        return _Unzlib(source)
    if named:
        raise Refused(f"the pack is compressed by {named[:200]!r}")
    # Cut off before anything came.
    return _Unzlib(source)


class _Unzlib:
    def __init__(self, source: _Source) -> None:
        self._source = source
        self._inflate: Any = zlib.decompressobj()

    def read(self, size: int) -> bytes:
        while True:
            try:
                out: bytes = self._inflate.decompress(self._given(), size)
            except zlib.error as error:
                raise Refused(f"the pack is damaged ({error})") from error
            if out or self._at_end:
                return out

    def _given(self) -> bytes:
        # It may hold more than it gave, also when it has read everything.
        tail: bytes = self._inflate.unconsumed_tail
        given = tail or self._source.read()
        self._at_end = not given
        return given


class _Unzstd:
    def __init__(self, source: _Source) -> None:
        # Here, because nothing else of a run needs it.
        import zstandard

        unpress = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
        self._error = zstandard.ZstdError
        self._stream = unpress.stream_reader(cast(IO[bytes], source), read_size=1 << 18)

    def read(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except self._error as error:
            raise Refused(f"the pack is damaged ({error})") from error


# ---- the files -----------------------------------------------------------------------------------


class _Files:
    """Writes uncompressed frames; there may be a hundred thousand, so each system call counts."""

    def __init__(self, part: Path, wanted: dict[str, Entry], arrived: Arrived) -> None:
        self._part = part
        self._wanted = wanted
        self._arrived = arrived
        self._folders: set[str] = set()
        self._frame = b""
        self._entry: Entry | None = None
        self._descriptor: int | None = None
        self._left = 0
        self._digest: _Hash = hashlib.sha256()

    def take(self, data: bytes) -> None:
        """Take further bytes.

        Raises:
            Refused: they are none of the files that are wanted.
            OSError: they cannot be written.
        """
        at = 0
        while at < len(data):
            at = self._begin(data, at) if self._entry is None else self._write(data, at)

    def close(self) -> None:
        """Close the file that is being written; one that is not whole is asked for again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _begin(self, data: bytes, at: int) -> int:
        """Read the line before a file; out: where what comes after it begins."""
        end = data.find(b"\n", at, at + _FRAME_BYTES)
        self._frame += data[at : end if end >= 0 else at + _FRAME_BYTES + 1]
        if len(self._frame) > _FRAME_BYTES:
            raise Refused("the pack holds something else than files")
        if end < 0:
            return len(data)
        entry, self._frame = self._described(self._frame), b""
        self._descriptor = self._created(entry.name)
        self._entry, self._left, self._digest = entry, entry.size, hashlib.sha256()
        self._end_if_whole()
        return end + 1

    def _described(self, frame: bytes) -> Entry:
        """The entry that a frame announces."""
        try:
            announced = json.loads(frame)
            entry = self._wanted[announced["name"]]
            same = announced["size"] == entry.size
        except (ValueError, KeyError, TypeError):
            raise Refused(f"the pack holds {frame[:200]!r}, which was not asked for") from None
        if not same:
            raise Refused(f"{entry.name} is not as long as the host said")
        return entry

    def _created(self, name: str) -> int:
        path = f"{self._part}/{name}"
        folder = path.rpartition("/")[0]
        if folder not in self._folders:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._folders.add(folder)
        try:
            return os.open(path, _NEW_FILE, 0o666)
        except FileExistsError:
            # From an earlier attempt; a link is replaced and never followed.
            Path(path).unlink()
            return os.open(path, _NEW_FILE, 0o666)

    def _write(self, data: bytes, at: int) -> int:
        if self._descriptor is None:
            raise AssertionError("a file that was begun is open until it is whole")
        now = memoryview(data)[at : at + self._left]
        self._digest.update(now)
        self._left -= len(now)
        at += len(now)
        while now:
            now = now[os.write(self._descriptor, now) :]
        self._end_if_whole()
        return at

    def _end_if_whole(self) -> None:
        if self._left or self._entry is None:
            return
        self.close()
        if self._digest.hexdigest() != self._entry.sha256:
            raise Refused(f"{self._entry.name} is not the file that the host described")
        del self._wanted[self._entry.name]
        self._entry = None
        self._arrived.files += 1
