"""uplab/hostside/elfneeds.py: what a file needs, by readelf's word."""

import re
import struct
import subprocess
from pathlib import Path

import pytest

from uplab.hostside import elfneeds

SOURCE = """
#include <math.h>
#include <stdio.h>
int main(int count, char **words) { printf("%f", pow(count, count)); }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("needs")
    (path / "a.c").write_text(SOURCE)
    flags = {
        "plain": ["-Wl,--no-as-needed", "-lm"],
        "runpath": ["-lm", "-Wl,-rpath,$ORIGIN/../lib:/opt/there"],
        "static": ["-static", "-lm"],
        "object": ["-c"],
    }
    for name, words in flags.items():
        subprocess.run(["gcc", "-o", name, "a.c", *words], cwd=path, check=True)
    return path


def readelf(path: Path) -> tuple[tuple[str, ...], elfneeds.Version]:
    """The libraries and the newest glibc, as readelf has them."""
    argv = ["readelf", "--wide", "--dynamic", "--version-info", str(path)]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\)\s+Shared library: \[(.*)\]", text)
    required = text.partition("Version needs section")[2]
    versions = map(elfneeds.version, re.findall(r"Name: GLIBC_([0-9.]+)", required))
    return tuple(needed), max(versions, default=())


@pytest.mark.parametrize("program", ["plain", "runpath", "/usr/bin/true", "/usr/bin/ssh"])
def test_libraries_and_versions_are_readelf_s(folder: Path, program: str) -> None:
    needs = elfneeds.read(folder / program)
    assert needs is not None
    assert (needs.libraries, needs.glibc) == readelf(folder / program)
    assert needs.glibc >= (2, 2)
    assert "libc.so.6" in needs.libraries


def test_folders_that_a_program_names(folder: Path) -> None:
    needs = elfneeds.read(folder / "runpath")
    assert needs is not None
    assert needs.folders == ("$ORIGIN/../lib", "/opt/there")


@pytest.mark.parametrize("name", ["static", "object", "a.c", "empty"])
def test_what_is_not_linked_dynamically_needs_nothing(folder: Path, name: str) -> None:
    (folder / "empty").touch()
    assert elfneeds.read(folder / name) is None


@pytest.mark.parametrize("keep", [16, 70, 0x300, 2000])
def test_a_file_that_is_cut_short_is_told(folder: Path, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "short"
    path.write_bytes((folder / "plain").read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"^{path} is cut short or damaged: "):
        elfneeds.read(path)


def test_an_address_outside_of_the_file_is_told(folder: Path, tmp_path: Path) -> None:
    data = bytearray((folder / "plain").read_bytes())
    (program_at,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    for index in range(count):
        if struct.unpack_from("<I", data, program_at + index * size) == (1,):
            struct.pack_into("<Q", data, program_at + index * size + 32, 0)
    path = tmp_path / "odd"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="nothing of the file lies at 0x"):
        elfneeds.read(path)


def test_versions_compare_as_versions() -> None:
    assert elfneeds.version("2.4") < elfneeds.version("2.34") < elfneeds.version("2.34.1")
