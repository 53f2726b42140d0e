"""What a dynamically linked file asks of the machine that runs it: libraries, and how new a glibc.

Format: System V ABI, "Dynamic Linking", and the GNU extension for versions of symbols. Only 64-bit
little-endian files are read, which is what amd64 Linux runs.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 1, 5, 15, 29
_DT_VERNEED, _DT_VERNEEDNUM = 0x6FFFFFFE, 0x6FFFFFFF
_GLIBC = re.compile(rb"GLIBC_([0-9]+(?:\.[0-9]+)+)")

Version = tuple[int, ...]


@dataclass(frozen=True)
class Needs:
    """What one file needs.

    Args:
        libraries: names of shared libraries.
        folders: where it looks for them before the system's own places, as written there.
        glibc: the newest version of glibc whose symbols it uses; () where it uses none.
    """

    libraries: tuple[str, ...]
    folders: tuple[str, ...]
    glibc: Version


def read(path: Path) -> Needs | None:
    """The needs of a file; None for one that is not dynamically linked, or no ELF-64 file at all.

    Raises:
        ValueError: it is cut short or damaged.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(6) != b"\x7fELF\x02\x01":
            return None
        file.seek(0)
        data = file.read()
    try:
        return _needs(data)
    except (struct.error, IndexError, ValueError) as error:
        raise ValueError(f"{path} is cut short or damaged: {error}") from error


def version(text: str) -> Version:
    """A version as numbers, which compare as versions do; ValueError unless it is only numbers."""
    return tuple(int(part) for part in text.split("."))


@dataclass(frozen=True)
class _Image:
    """The bytes of a file, and where in it the addresses lie."""

    data: bytes
    loads: tuple[tuple[int, int, int], ...]

    def at(self, address: int) -> int:
        """The place in the file of an address; struct.error where it is in no segment."""
        for start, size, offset in self.loads:
            if start <= address < start + size:
                return offset + address - start
        raise struct.error(f"nothing of the file lies at {address:#x}")

    def text(self, offset: int) -> bytes:
        """A text that ends with a zero byte."""
        return self.data[offset : self.data.index(b"\0", offset)]


def _needs(data: bytes) -> Needs | None:
    (program_at,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    loads, dynamic = [], None
    for index in range(count):
        kind, _, offset, address, _, in_file = struct.unpack_from(
            "<IIQQQQ", data, program_at + index * size
        )
        if kind == _PT_LOAD:
            loads.append((address, in_file, offset))
        elif kind == _PT_DYNAMIC:
            dynamic = data[offset : offset + in_file]
            if len(dynamic) != in_file:
                raise struct.error("its dynamic section is not whole")
    if dynamic is None:
        return None
    image = _Image(data, tuple(loads))
    tags = [(tag, value) for tag, value in struct.iter_unpack("<qQ", dynamic) if tag]
    single = dict(tags)
    strings = image.at(single[_DT_STRTAB]) if _DT_STRTAB in single else 0

    def named(*wanted: int) -> tuple[str, ...]:
        return tuple(image.text(strings + v).decode() for tag, v in tags if tag in wanted)

    folders = ":".join(named(_DT_RUNPATH) or named(_DT_RPATH))
    glibc = max(_glibc(image, single, strings), default=())
    return Needs(named(_DT_NEEDED), tuple(filter(None, folders.split(":"))), glibc)


def _glibc(image: _Image, tags: dict[int, int], strings: int) -> Iterator[Version]:
    """The versions of glibc that the file's symbols ask for."""
    if _DT_VERNEED not in tags:
        return
    at = image.at(tags[_DT_VERNEED])
    for _ in range(tags.get(_DT_VERNEEDNUM, 0)):
        _, count, _, first, following = struct.unpack_from("<HHIII", image.data, at)
        inner = at + first
        for _ in range(count):
            _, _, _, name, further = struct.unpack_from("<IHHII", image.data, inner)
            found = _GLIBC.fullmatch(image.text(strings + name))
            if found:
                yield version(found[1].decode())
            inner += further
        at += following
