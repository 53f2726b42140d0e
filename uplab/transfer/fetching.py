"""Brings a transfer here, from a host or out of a file, and checks all of it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from uplab import adapters, playbook, provision
from uplab.errors import GateError, HostError, UplabError, UsageError
from uplab.hostside.transfer import MARK
from uplab.transfer import archive
from uplab.transfer.index import INDEX_MAX_BYTES, MAX_BYTES, Index, Refused

FOLDER = Path(".uplab") / "transfer"
#: All files, and what a tar and its index add to them.
_LIMIT_BYTES = MAX_BYTES + 4 * INDEX_MAX_BYTES
#: A login shell that prints more than this by itself is something else.
_NOISE_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Transfer:
    """Finished builds in a tar here, all of it checked.

    Args:
        path: of the tar.
        sha256: of the tar.
        index: what is in it.
    """

    path: Path
    sha256: str
    index: Index


def checkout_sha256(project: Path) -> str:
    """The digest of everything in a checkout that builds are made from: roles, pins, sources."""
    return playbook.digest(project, {})


def from_host(
    project: Path, name: str, components: Sequence[str], chosen: Path | None = None
) -> Transfer:
    """The builds that a host has of some components.

    Raises:
        UsageError: no such host.
        GateError: it was set up by another checkout than this, so its builds would be others.
        HostError: it cannot be reached, or sends what is not taken.
    """
    if not provision.is_current(project, name, chosen):
        raise GateError(
            f"host {name} is not up to date with this checkout, so its builds are not those that "
            f"it would make now. Run: invoke lab.setup --host {shlex.quote(name)}"
        )
    host = provision.connect(project, name, adapters.load([project]), chosen)
    checkout = checkout_sha256(project)
    request = {"components": list(components), "host": name, "checkout_sha256": checkout}
    try:
        return _arrived(
            project, name, lambda out: host.receive("store-export", request, _AfterMark(name, out))
        )
    except Refused as error:
        raise HostError(
            f"host {name}: what it sends is not taken: {error}; nothing was changed. "
            f"Run: invoke lab.status --host {shlex.quote(name)}"
        ) from error


def from_file(project: Path, path: Path) -> Transfer:
    """The builds in a file that ``lab.export`` has written.

    Raises:
        UsageError: it cannot be read, is none, damaged, or of another checkout.
    """
    try:
        return _arrived(project, path.name, lambda out: _unpack(path, out))
    except (Refused, UsageError) as error:
        raise UsageError(
            f"{path} is not used: {error}; nothing was changed. "
            f"Make it again: invoke lab.export --host HOST --out {path.name}"
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _arrived(project: Path, name: str, fill: Callable[[IO[bytes]], None]) -> Transfer:
    """Let a tar be written, check it, and keep it under its digest in place of older ones."""
    folder = project / FOLDER
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    with _part(folder / f".{stem}.{os.getpid()}.part") as part:
        with part.open("wb") as out:
            fill(out)
        index = archive.check(part)
        if index.checkout_sha256 != checkout_sha256(project):
            raise Refused("it was made by a checkout with other roles, pins or sources than this")
        digest = archive.sha256_of(part)
        path = folder / f"{stem}-{digest[:12]}.tar"
        part.replace(path)
    for old in folder.glob(f"{stem}-????????????.tar"):
        if old != path:
            old.unlink(missing_ok=True)
    return Transfer(path, digest, index)


@contextmanager
def _part(path: Path) -> Iterator[Path]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield path
    finally:
        path.unlink(missing_ok=True)


@dataclass
class _AfterMark:
    """Takes what a host sends, from the mark on; refuses more than any transfer is long."""

    host: str
    out: IO[bytes]
    size_bytes: int = 0
    before: bytearray | None = field(default_factory=bytearray)

    def __call__(self, chunk: bytes) -> None:
        """Take the next part.

        Raises:
            HostError: it is none of ours, too long, or cannot be written.
        """
        if self.before is not None:
            self.before += chunk
            _, found, rest = bytes(self.before).partition(MARK)
            if not found:
                if len(self.before) > _NOISE_BYTES:
                    raise HostError(f"host {self.host}: it sends something else than builds")
                return
            self.before, chunk = None, rest
        self.size_bytes += len(chunk)
        if self.size_bytes > _LIMIT_BYTES:
            raise HostError(f"host {self.host}: it sends more than {_LIMIT_BYTES} bytes")
        try:
            self.out.write(chunk)
        except OSError as error:
            raise UplabError(f"{FOLDER} cannot be written: {error.strerror}") from error


def _unpack(path: Path, out: IO[bytes]) -> None:
    from uplab.bundle import zstd

    size_bytes = 0
    with zstd.reading(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            size_bytes += len(chunk)
            if size_bytes > _LIMIT_BYTES:
                raise Refused(f"it is longer than {_LIMIT_BYTES} bytes")
            out.write(chunk)


def export(transfer: Transfer, out: Path) -> None:
    """Write a transfer into a file for ``lab.setup --from``, whole or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    import zstandard

    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with transfer.path.open("rb") as tar, part.open("wb") as raw:
            how = zstandard.ZstdCompressor(threads=-1, write_checksum=True)
            with how.stream_writer(raw, closefd=False) as stream:
                shutil.copyfileobj(tar, stream, _CHUNK_BYTES)
            raw.flush()
            os.fsync(raw.fileno())
        part.replace(out)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
