"""uplab/hostside/elf.py: where symbols lie, by nm's word, and files that no linker makes."""

import struct
import subprocess
from pathlib import Path

import pytest

from uplab.hostside import elf

SOURCE = """
/* Its code is a text that occurs once in the file: that is where its offset must lead. */
__asm__(".text\\n.globl marked\\n.type marked, @function\\n"
        "marked: .ascii \\"UPLAB-MARK\\"\\n.size marked, .-marked\\n");
__asm__(".text\\n.globl \\"crypto/tls.(*Conn).Read\\"\\n"
        ".type \\"crypto/tls.(*Conn).Read\\", @function\\n"
        "\\"crypto/tls.(*Conn).Read\\": ret\\n.size \\"crypto/tls.(*Conn).Read\\", 1\\n");
int a_variable = 1;
static __attribute__((noinline, used)) int quiet(int x) { return x * 3 + a_variable; }
int my_function(int x) { return quiet(x) - 1; }
int main(void) { return my_function(2); }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("elf")
    (path / "a.c").write_text(SOURCE)
    for name, flags in (("fixed", ["-no-pie"]), ("pie", ["-pie", "-fPIE"])):
        argv = ["gcc", "-O1", *flags, "-Wl,-z,noexecstack", "-o", name, "a.c"]
        subprocess.run(argv, cwd=path, check=True)
    subprocess.run(["strip", "-o", "stripped", "fixed"], cwd=path, check=True)
    return path


def nm(path: Path) -> dict[str, tuple[int, int]]:
    """Name -> (address, size), as nm has them."""
    text = subprocess.run(["nm", "-S", path], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=3) for line in text.splitlines()]
    return {row[3]: (int(row[0], 16), int(row[1], 16)) for row in rows if len(row) == 4}


@pytest.mark.parametrize("program", ["fixed", "pie"])
def test_addresses_and_sizes_are_nm_s(folder: Path, program: str) -> None:
    names = ["main", "my_function", "quiet", "marked", "crypto/tls.(*Conn).Read"]
    found = elf.symbols(folder / program, names)
    known = nm(folder / program)
    assert sorted(found) == sorted(names)
    for name, symbol in found.items():
        assert symbol.name == name
        assert (symbol.address, symbol.size_bytes) == known[name]


@pytest.mark.parametrize("program", ["fixed", "pie"])
def test_the_offset_leads_to_the_code_in_the_file(folder: Path, program: str) -> None:
    data = (folder / program).read_bytes()
    symbol = elf.symbols(folder / program, ["marked"])["marked"]
    assert data.count(b"UPLAB-MARK") == 1
    assert data.index(b"UPLAB-MARK") == symbol.offset


def test_a_name_is_the_whole_name_and_a_function(folder: Path) -> None:
    wanted = ["function", "my_func", "a_variable", "marke", ""]
    assert elf.symbols(folder / "fixed", wanted) == {}
    assert elf.symbols(folder / "fixed", []) == {}


def test_a_stripped_binary_has_none(folder: Path) -> None:
    assert elf.symbols(folder / "stripped", ["main"]) == {}


# --- files that no linker made --------------------------------------------------------------------

CODE_AT, CODE_BYTES, BASE = 0x1000, 0x100, 0x400000


def image(symbols: dict[str, int], *, tables_at: int = 0x2000) -> bytes:
    """An ELF file with its section headers in front, as Go's linker lays them out."""
    strings, table = b"\0", bytes(24)
    for name, address in symbols.items():
        table += struct.pack("<IBBHQQ", len(strings), 2, 0, 1, address, 1)
        strings += name.encode() + b"\0"
    section_at = 64 + 56
    sections = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (0, 2, 0, 0, tables_at, len(table), 2, 1, 8, 24),
        (0, 3, 0, 0, tables_at + len(table), len(strings), 0, 0, 1, 0),
    ]
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, BASE, 64, section_at, 0, 64, 56, 1, 64, 3, 0)
    data = header + struct.pack(
        "<IIQQQQQQ", 1, 5, CODE_AT, BASE, BASE, CODE_BYTES, CODE_BYTES, 0x1000
    )
    data += b"".join(struct.pack("<IIQQQQIIQQ", *section) for section in sections)
    return data.ljust(tables_at, b"\0") + table + strings


def test_a_handmade_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(image({"main.main": BASE + 0x20, "outside": BASE + CODE_BYTES}))
    assert elf.symbols(path, ["main.main", "outside"]) == {
        "main.main": elf.Symbol("main.main", BASE + 0x20, CODE_AT + 0x20, 1)
    }


@pytest.mark.parametrize("kept_bytes", [63, 100, 200, 0x1F00, 0x2010, 0x2020, 0x2030, 0x2034])
def test_a_file_that_is_cut_short_is_refused_wherever_it_is_cut(
    tmp_path: Path, kept_bytes: int
) -> None:
    """A cut file must not pass for a stripped one: the reason would name the wrong cause."""
    path = tmp_path / "cut"
    whole = image({"main.main": BASE + 0x20})
    assert kept_bytes < len(whole)
    path.write_bytes(whole[:kept_bytes])
    with pytest.raises(ValueError, match=f"{path} is cut short or damaged"):
        elf.symbols(path, ["main.main"])


def test_a_section_that_names_a_section_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    whole = bytearray(image({"main.main": BASE}))
    struct.pack_into("<I", whole, 64 + 56 + 64 + 40, 99)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="cut short or damaged"):
        elf.symbols(path, ["main.main"])


@pytest.mark.parametrize(
    "data", [b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(60), b"\x7fELF\x02\x02" + bytes(60)]
)
def test_what_is_no_64_bit_little_endian_elf_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{path} is not an ELF-64 little-endian file"):
        elf.symbols(path, ["main"])


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"{path} is not an ELF-64"):
        elf.symbols(path, ["main"])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        elf.symbols(tmp_path / "nothing", ["main"])


def test_a_program_without_a_loader_is_static(tmp_path: Path) -> None:
    source = tmp_path / "main.c"
    source.write_text("int main(void) { return 0; }")
    for name, flags in (("static", ["-static"]), ("dynamic", [])):
        argv = ["gcc", *flags, "-o", str(tmp_path / name), str(source)]
        subprocess.run(argv, check=True)
    assert elf.is_static(tmp_path / "static")
    assert not elf.is_static(tmp_path / "dynamic")


@pytest.mark.parametrize(
    "content", [b"", b"#!/bin/sh\n", b"\x7fELF\x02\x01", b"\x7fELF\x01\x01" * 20]
)
def test_what_is_no_elf_file_is_not_static(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert not elf.is_static(path)
