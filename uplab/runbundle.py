"""A run in one file for a reviewer: logs, plan, pins, fingerprint, checksums and the report.

A zip, because every machine can open one:

    README.md       how to check it, with uplab and without
    bundle.json     which run it is, who made the bundle, whether it was redacted
    SHA256SUMS      over all other files of the bundle
    <run id>/       the run directory, its own SHA256SUMS and its report

The same run gives the same content, and under one version of zlib the same file. A bundle may come
from anywhere, so what is read is checked first: its form, its names, its sizes.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from uplab import __version__, checksums
from uplab.checksums import SUMS_FILE
from uplab.errors import UsageError
from uplab.fields import Fields
from uplab.hostside import sums

INDEX, README = "bundle.json", "README.md"
SCHEMA = 1
SUFFIX = ".zip"
#: What a bundle may hold when it is unpacked; beyond it, it is refused.
MAX_BYTES = 8 << 30
MAX_FILE_BYTES = 1 << 30
MAX_FILES = 2_000_000

_NO_TIME = (1980, 1, 1, 0, 0, 0)
_PLAIN_FILE = (stat.S_IFREG | 0o644) << 16
_LOCAL_BYTES = 30
# Of the form, not of uplab: 2.0, and 1980-01-01 as its directory holds a day.
_VERSION, _FIRST_DAY = 20, 1 << 5 | 1
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,200}")
_README = """# {run_id}

A run of uplab {version}: what was planned and with what (`run.json`), the host (`host.json`), every
step (`events.jsonl`), every trial with its logs and evidence (`trials/`), and the report made from
them (`report/`).
{redacted}
With uplab: `./invoke report.verify BUNDLE` names every file that was changed, is missing or was
added; `./invoke report.replay BUNDLE` makes the report again and compares it byte by byte.

Without: `unzip BUNDLE && sha256sum -c --quiet SHA256SUMS`, and in the folder `{run_id}` the same
with the checksums that the host wrote when it had measured.
"""
_REDACTED = """
It is redacted: names, users, addresses and serial numbers were replaced, the figures were not. What
was replaced, and of which run, stands in `run.json` under `redacted`.
"""


@dataclass(frozen=True, slots=True)
class Index:
    """What a bundle says of itself. `redacted` is what run.json holds under that name, or None."""

    run_id: str
    uplab_version: str
    redacted: Mapping[str, Any] | None


# ---------------------------------------------------------------------------------------- writing


def write(run_dir: Path, report_files: Mapping[str, bytes], out: Path) -> str:
    """Pack a run directory and its report; out: the sha256 of the bundle's SHA256SUMS.

    In: a run whose files match its SHA256SUMS, and the derived files by their path inside
    `report/`. Raises UsageError where the file cannot be written.
    """
    content = _Content(run_dir, report_files)
    files = content.with_index()
    part = out.with_name(f".part-{out.name}")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name in sorted(files):
                archive.writestr(_member(name), files[name]())
        if part.stat().st_size > zipfile.ZIP64_LIMIT:
            raise UsageError(f"{run_dir} is too large for a bundle of {zipfile.ZIP64_LIMIT} bytes")
        part.replace(out)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return hashlib.sha256(files[SUMS_FILE]()).hexdigest()


class _Content:
    """The files of a bundle, each as a function that reads it: a run may be large."""

    def __init__(self, run_dir: Path, report_files: Mapping[str, bytes]) -> None:
        document = Fields.of_file(run_dir / "run.json", run_dir)
        self._run_id = document.text("run_id")
        self._redacted = document.mapping("redacted") or None
        if _FOLDER.fullmatch(self._run_id) is None:
            raise UsageError(f"{run_dir}: {self._run_id!r} is no name for a folder")
        names = [*checksums.list_files(run_dir), SUMS_FILE]
        self._files: dict[str, Callable[[], bytes]] = {
            f"{self._run_id}/{name}": (run_dir / name).read_bytes for name in names
        }
        for name, data in report_files.items():
            self._files[f"{self._run_id}/{sums.DERIVED}/{name}"] = partial(bytes, data)

    def with_index(self) -> dict[str, Callable[[], bytes]]:
        """All files, those about the bundle too."""
        index = {
            "schema": SCHEMA,
            "run_id": self._run_id,
            "uplab_version": __version__,
            "redacted": self._redacted,
        }
        readme = _README.format(
            run_id=self._run_id,
            version=__version__,
            redacted=_REDACTED if self._redacted else "",
        )
        files = dict(self._files)
        written = json.dumps(index, indent=1, sort_keys=True) + "\n"
        files[INDEX] = partial(bytes, written.encode())
        files[README] = partial(bytes, readme.encode())
        lines = [f"{hashlib.sha256(files[each]()).hexdigest()}  {each}\n" for each in sorted(files)]
        return files | {SUMS_FILE: partial(bytes, "".join(lines).encode())}


def _member(name: str) -> zipfile.ZipInfo:
    """A plain file of nobody's, of no time."""
    member = zipfile.ZipInfo(name, _NO_TIME)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.create_system = 3
    member.external_attr = _PLAIN_FILE
    return member


# ---------------------------------------------------------------------------------------- reading


class Bundle:
    """An open bundle whose form is sound: plain files of plain names, and nothing between them."""

    def __init__(self, path: Path, raw: Any, members: Mapping[str, zipfile.ZipInfo]) -> None:
        self.path = path
        self._raw = raw
        self._members = members

    @property
    def names(self) -> list[str]:
        """The files in it, sorted."""
        return sorted(self._members)

    def read(self, name: str) -> bytes:
        """A file's content. Raises UsageError where it is damaged, or not of its size."""
        member = self._members[name]
        self._raw.seek(member.header_offset + _LOCAL_BYTES + _name_bytes(member))
        data: bytes = self._raw.read(member.compress_size)
        if member.compress_type == zipfile.ZIP_DEFLATED:
            data = self._inflated(name, data, member.file_size)
        if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
            raise self._damaged(name)
        return data

    def _inflated(self, name: str, data: bytes, size: int) -> bytes:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            content = inflater.decompress(data, size + 1)
        except zlib.error as error:
            raise self._damaged(name) from error
        # What stands behind the end of a stream, no reader of zips ever shows.
        if not inflater.eof or inflater.unused_data:
            raise self._damaged(name)
        return content

    def _damaged(self, name: str) -> UsageError:
        return UsageError(f"{self.path}: {name} in it is damaged")

    def index(self) -> Index:
        """What the bundle says of itself. Raises UsageError where that has not its form."""
        place = f"{self.path}, {INDEX}"
        if INDEX not in self._members:
            raise UsageError(f"{self.path} holds no {INDEX}, so it is no bundle of a run")
        try:
            fields = Fields(json.loads(self.read(INDEX)), place)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{place} is not valid JSON") from error
        fields.check_schema(SCHEMA)
        run_id = fields.text("run_id")
        if _FOLDER.fullmatch(run_id) is None:
            raise fields.wrong("run_id", "the name of a run")
        return Index(run_id, fields.text("uplab_version"), fields.mapping("redacted") or None)

    def extract(self, into: Path) -> Path:
        """Write the files into a new folder; out: the run directory in it."""
        for name in self.names:
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as stream:
                stream.write(self.read(name))
        return into / self.index().run_id


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """A bundle to read. Raises UsageError for what is none, or has not the form of one."""
    try:
        with path.open("rb") as raw, zipfile.ZipFile(raw) as archive:
            yield Bundle(path, raw, _checked(path, archive))
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise UsageError(f"{path} is no bundle, or damaged: {error}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def is_bundle(path: Path) -> bool:
    """Whether a path is a file rather than a run directory."""
    return path.is_file()


def _checked(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by name. Raises UsageError for anything that a bundle of ours does not hold."""
    members: dict[str, zipfile.ZipInfo] = {}
    infos = archive.infolist()
    if len(infos) > MAX_FILES or sum(info.file_size for info in infos) > MAX_BYTES:
        raise UsageError(f"{path} holds more than {MAX_FILES} files or {MAX_BYTES} bytes")
    for info in infos:
        problem = _problem(info)
        if problem is None and info.filename in members:
            problem = "came twice"
        if problem is not None:
            raise UsageError(f"{path}: {info.filename!r} in it {problem}")
        members[info.filename] = info
    stray = _stray_bytes(archive, infos)
    if stray is not None:
        raise UsageError(f"{path}: {stray}")
    return members


def _problem(info: zipfile.ZipInfo) -> str | None:
    """What is wrong with a member; None where it is a plain file of a plain name."""
    # zipfile cuts a name at a zero byte, and turns this system's separator; the original tells.
    name = info.orig_filename
    parts = name.split("/")
    if name != info.filename or not name.isprintable() or "\\" in name:
        return "has a name that holds a control character or a backslash"
    if any(part in ("", ".", "..") for part in parts) or ":" in parts[0]:
        return "leads outside, or is a folder"
    if not _is_plain(info):
        return "is no plain file as uplab packs it"
    if info.file_size > MAX_FILE_BYTES:
        return f"is larger than {MAX_FILE_BYTES} bytes"
    return None


def _is_plain(info: zipfile.ZipInfo) -> bool:
    """A regular file, not encrypted, of no time and with nothing attached."""
    wanted = _member(info.filename)
    attributes = ("date_time", "create_system", "external_attr", "internal_attr", "compress_type")
    same = all(getattr(info, each) == getattr(wanted, each) for each in attributes)
    only_utf8 = info.flag_bits & ~0x800 == 0
    return same and only_utf8 and not info.extra and not info.comment


def _stray_bytes(archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo]) -> str | None:
    """Where the file holds bytes that belong to no member; None where it holds none."""
    raw = archive.fp
    assert raw is not None
    at = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        header = info.FileHeader()
        raw.seek(info.header_offset)
        if info.header_offset != at or raw.read(len(header)) != header:
            return f"bytes before {info.filename!r}, or in its header, that uplab did not write"
        at += len(header) + info.compress_size
    raw.seek(at)
    if archive.start_dir != at or raw.read() != _directory(infos, at):
        return "its directory, or bytes around it, are not as uplab writes them"
    return None


def _directory(infos: list[zipfile.ZipInfo], at: int) -> bytes:
    """The directory of a zip and its end, as they have to be, for files that end at a byte.

    The form is that of .ZIP's APPNOTE, 4.3.12 to 4.3.16.
    """
    entries = b"".join(_entry(info) for info in infos)
    count, size, end = len(infos), len(entries), b""
    if count > zipfile.ZIP_FILECOUNT_LIMIT:
        end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, at)
        end += struct.pack("<4sLQL", b"PK\6\7", 0, at + size, 1)
        count = min(count, 0xFFFF)
    return entries + end + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, at, 0)


def _entry(info: zipfile.ZipInfo) -> bytes:
    name = info.filename.encode()
    versions = (_VERSION | info.create_system << 8, _VERSION, info.flag_bits, info.compress_type)
    sizes = (info.CRC, info.compress_size, info.file_size)
    # No extra field, no comment, on the first disk.
    lengths = (len(name), 0, 0, 0, info.internal_attr)
    place = (info.external_attr, info.header_offset)
    fixed = (*versions, 0, _FIRST_DAY, *sizes, *lengths, *place)
    return struct.pack("<4s6H3L5H2L", b"PK\1\2", *fixed) + name


def _name_bytes(info: zipfile.ZipInfo) -> int:
    return len(info.filename.encode())
