"""The little of ELF that evidence needs: where a symbol lies in the file.

Format: System V ABI, "ELF-64 Object File Format". Only 64-bit little-endian files are read,
which is what amd64 Linux runs.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PT_LOAD = 1
_PT_INTERP = 3
_SHT_SYMTAB = 2
#: What a library shows to others; all that is left of its symbols where it was stripped.
_SHT_DYNSYM = 11
_STT_FUNC = 2


@dataclass(frozen=True)
class Symbol:
    """A function: its address as linked, its offset in the file, its length."""

    name: str
    address: int
    offset: int
    size_bytes: int


def is_static(path: Path) -> bool:
    """Whether a program names no dynamic loader, so that no library can come into it.

    False for what is no ELF-64 file (a script's interpreter is somebody else's); OSError where it
    cannot be read.
    """
    with path.open("rb") as file:
        header = file.read(64)
        if header[:6] != b"\x7fELF\x02\x01" or len(header) < 64:
            return False
        (at,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        file.seek(at)
        table = file.read(size * count)
    kinds = [struct.unpack_from("<I", table, n) for n in range(0, len(table), size)]
    return (_PT_INTERP,) not in kinds


def symbols(path: Path, names: Iterable[str]) -> dict[str, Symbol]:
    """Look up functions in the symbol table of a binary.

    Args:
        path: an ELF-64 file.
        names: the full names, such as ``crypto/tls.(*Conn).Read``.

    Returns:
        the ones that were found; all are missing where the binary is stripped.

    Raises:
        ValueError: not an ELF-64 little-endian file, or one that is cut short.
        OSError: the file cannot be read.
    """
    wanted = {name.encode(): name for name in names}
    if not path.stat().st_size:
        raise ValueError(f"{path} is not an ELF-64 little-endian file: it is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError(f"{path} is not an ELF-64 little-endian file")
        try:
            return _symbols(data, wanted)
        except (struct.error, IndexError) as error:
            raise ValueError(f"{path} is cut short or damaged: {error}") from error


def _symbols(data: mmap.mmap, wanted: dict[bytes, str]) -> dict[str, Symbol]:
    """Walk the symbol table once; compare names in place, without decoding all of them."""
    (program_at, section_at) = struct.unpack_from("<QQ", data, 32)
    (_, program_size, program_count, section_size, section_count, _) = struct.unpack_from(
        "<HHHHHH", data, 52
    )
    loads = []
    for index in range(program_count):
        kind, _, offset, address, _, size = struct.unpack_from(
            "<IIQQQQ", data, program_at + index * program_size
        )
        if kind == _PT_LOAD:
            loads.append((address, size, offset))
    sections = [
        struct.unpack_from("<IIQQQQIIQQ", data, section_at + index * section_size)
        for index in range(section_count)
    ]
    found: dict[str, Symbol] = {}
    for section in sections:
        if section[1] not in (_SHT_SYMTAB, _SHT_DYNSYM):
            continue
        table = _content(data, section)
        strings = _content(data, sections[section[6]])
        starts = {at: name for name in wanted for at in _occurrences(strings, name)}
        for name_at, info, _, _, address, size in struct.iter_unpack("<IBBHQQ", table):
            name = starts.get(name_at)
            if name is None or info & 0xF != _STT_FUNC:
                continue
            for load_address, load_size, load_offset in loads:
                if load_address <= address < load_address + load_size:
                    offset = load_offset + address - load_address
                    found[wanted[name]] = Symbol(wanted[name], address, offset, size)
    return found


def _content(data: mmap.mmap, section: tuple[int, ...]) -> bytes:
    """The bytes of a section; struct.error where the file ends before it does."""
    offset, size = section[4], section[5]
    content = data[offset : offset + size]
    if len(content) != size:
        raise struct.error(f"a section of {size} bytes at {offset:#x} is not whole")
    return content


def _occurrences(strings: bytes, name: bytes) -> list[int]:
    """Where a whole name may start in a string table (tails of longer names included)."""
    needle = name + b"\0"
    positions = []
    at = strings.find(needle)
    while at != -1:
        positions.append(at)
        at = strings.find(needle, at + 1)
    return positions
