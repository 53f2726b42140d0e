"""uplab/hostside/press.py: compressed streams that others can read."""

import ctypes
import os
import random
import zlib
from pathlib import Path

import pytest
import zstandard

from uplab.hostside import press
from uplab.hostside.errors import HostError

LINES = b"".join(b"%d GET / 200 12 bytes\n" % number for number in range(40_000))
CONTENTS = {
    "nothing": [],
    "empty parts": [b"", b"", b"x", b""],
    "logs": [LINES],
    "noise": [os.urandom(3_000_000), b"", os.urandom(100)],
    "many": [LINES[at : at + 977] for at in range(0, len(LINES), 977)],
}


def pressed(one: press.Press, parts: list[bytes]) -> bytes:
    return b"".join([*map(one.compress, parts), one.flush()])


def zstd() -> press.Press:
    library = press._library()
    assert library is not None, "dpkg and systemd stand on libzstd"
    return press.Zstd(library)


@pytest.mark.parametrize("parts", CONTENTS.values(), ids=CONTENTS)
def test_zstd_is_read_by_others(parts: list[bytes]) -> None:
    done = pressed(zstd(), parts)
    assert zstandard.ZstdDecompressor().decompressobj().decompress(done) == b"".join(parts)


@pytest.mark.parametrize("parts", CONTENTS.values(), ids=CONTENTS)
def test_zlib_is_read_by_others(parts: list[bytes]) -> None:
    assert zlib.decompress(pressed(press.Zlib(), parts)) == b"".join(parts)


@pytest.mark.parametrize("make", [zstd, press.Zlib])
def test_logs_become_much_smaller(make: type[press.Press]) -> None:
    chance = random.Random(1)
    log = b"".join(
        b"%d REQUEST pid=%d len=%d\n" % (number * 100, chance.randrange(9), chance.randrange(300))
        for number in range(50_000)
    )
    assert len(pressed(make(), [log])) < len(log) / 3


def test_the_library_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert press.best().name == press.ZSTD
    monkeypatch.setattr(press, "_library", lambda: None)
    assert press.best().name == press.ZLIB


@pytest.mark.parametrize("name", ["libuplab-no-such.so.1", "libc.so.6"])
def test_no_library_or_one_that_is_too_old_is_none(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(press, "_LIBRARY", name)
    press._library.cache_clear()
    try:
        assert press.best().name == press.ZLIB
    finally:
        press._library.cache_clear()


def test_what_the_library_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(press, "_COMPRESSION_LEVEL", 99_999)
    with pytest.raises(HostError, match=r"zstd: .*[Pp]arameter"):
        zstd()


def test_no_memory_is_held_once_it_is_done() -> None:
    """Contexts take megabytes each."""
    before = resident_bytes()
    for _ in range(200):
        pressed(zstd(), [LINES[:300_000]])
    assert resident_bytes() - before < 60 << 20


def resident_bytes() -> int:
    assert ctypes.sizeof(ctypes.c_void_p) == 8
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
