"""uplab/unpacking.py: files out of a pack while it arrives, and nothing else out of it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from uplab.errors import HostError, UplabError
from uplab.hostside import pack, press
from uplab.unpacking import Arrived, Entry, Refused, Unpacking

FILES = {
    "run.json": b"{}\n",
    "trials/0001/server.log": b"",
    "trials/0001/tracer.log": b"one line\n" * 40_000,
    "trials/0002/load.hist": os.urandom(2_500_000),
    "trials/0002/größer": b"\n\n",
}
PRESSES: dict[str, Callable[[bytes], bytes]] = {
    press.ZLIB: zlib.compress,
    press.ZSTD: lambda data: zstandard.ZstdCompressor().compress(data),
}


def entry(name: str, data: bytes) -> Entry:
    return Entry(name, len(data), hashlib.sha256(data).hexdigest())


def wanted(files: dict[str, bytes]) -> dict[str, Entry]:
    return {name: entry(name, data) for name, data in files.items()}


def framed(files: dict[str, bytes]) -> bytes:
    """The content of a pack."""
    return b"".join(
        json.dumps({"name": name, "size": len(data)}).encode() + b"\n" + data
        for name, data in files.items()
    )


def packed(content: bytes, kind: str = press.ZLIB) -> bytes:
    return pack.MARK + kind.encode() + b"\n" + PRESSES[kind](content)


def parts(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def there(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() or path.is_symlink()
    }


def unpack(folder: Path, expected: dict[str, Entry], chunks: Iterable[bytes]) -> Arrived:
    arrived = Arrived()
    with Unpacking(folder, expected, arrived) as unpacking:
        for chunk in chunks:
            unpacking(chunk)
    return arrived


@pytest.mark.parametrize("size", [1 << 20, 32_768, 4_093])
@pytest.mark.parametrize("kind", PRESSES)
def test_files_arrive_in_parts_of_any_size(tmp_path: Path, kind: str, size: int) -> None:
    expected = wanted(FILES)
    arrived = unpack(tmp_path, expected, parts(b"motd\n" + packed(framed(FILES), kind), size))
    assert there(tmp_path) == FILES
    assert expected == {}
    assert arrived.files == len(FILES)


def test_byte_by_byte(tmp_path: Path) -> None:
    files = {"a": b"x" * 40, "b/c": b"", "b/d": b"{}\n"}
    unpack(tmp_path, wanted(files), parts(packed(framed(files), press.ZSTD), 1))
    assert there(tmp_path) == files


@pytest.mark.parametrize("without_zstd", [False, True])
def test_what_hostside_packs_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_zstd: bool
) -> None:
    if without_zstd:
        monkeypatch.setattr(press, "_library", lambda: None)
    source, into = tmp_path / "run", tmp_path / "into"
    into.mkdir()
    for name, data in FILES.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    out = io.BytesIO()
    pack.write_pack(source, sorted(FILES), out)
    named = out.getvalue().removeprefix(pack.MARK).partition(b"\n")[0].decode()
    assert named == (press.ZLIB if without_zstd else press.ZSTD)
    unpack(into, wanted(FILES), parts(out.getvalue(), 30_000))
    assert there(into) == FILES


@pytest.mark.parametrize("kind", PRESSES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.999])
def test_of_a_pack_that_is_cut_off_the_whole_files_count(
    tmp_path: Path, kind: str, share: float
) -> None:
    expected = wanted(FILES)
    data = packed(framed(FILES), kind)
    arrived = unpack(tmp_path, expected, parts(data[: int(share * len(data))], 10_000))
    assert arrived.files == len(FILES) - len(expected)
    assert expected
    found = there(tmp_path)
    assert all(found[name] == FILES[name] for name in FILES.keys() - expected.keys())


def test_from_an_earlier_attempt_a_file_is_replaced_and_a_link_not_followed(tmp_path: Path) -> None:
    into, outside = tmp_path / "into", tmp_path / "outside"
    into.mkdir()
    outside.write_bytes(b"mine")
    (into / "run.json").write_bytes(b"half")
    (into / "link").symlink_to(outside)
    files = {"run.json": b"{}\n", "link": b"theirs"}
    unpack(into, wanted(files), [packed(framed(files))])
    assert there(into) == files
    assert outside.read_bytes() == b"mine"


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (framed({"other": b"x"}), "which was not asked for"),
        (framed({"../a": b"x"}), "which was not asked for"),
        (framed({"a": b"xx"}), "a is not as long as the host said"),
        (framed({"a": b"y"}), "a is not the file that the host described"),
        (framed({"a": b"x"}) * 2, "which was not asked for"),
        (b"[]\n", "which was not asked for"),
        (b"null\n", "which was not asked for"),
        (b"\n", "which was not asked for"),
        (b'{"name": "a"}\n', "which was not asked for"),
        (b'{"name": ["a"], "size": 1}\n', "which was not asked for"),
        (b"x" * 10_000, "something else than files"),
        (b"x" * 8_190 + b"\nx", "which was not asked for"),
        (b"\xff\xfe\n", "which was not asked for"),
    ],
)
@pytest.mark.parametrize("kind", PRESSES)
def test_what_is_no_pack_of_these_files(
    tmp_path: Path, kind: str, content: bytes, said: str
) -> None:
    for size in (1 << 20, 700):
        with pytest.raises(Refused, match=said):
            unpack(tmp_path, wanted({"a": b"x"}), parts(packed(content, kind), size))
        assert set(there(tmp_path)) <= {"a"}


@pytest.mark.parametrize("kind", PRESSES)
def test_a_damaged_stream(tmp_path: Path, kind: str) -> None:
    data = bytearray(packed(framed(FILES), kind))
    at = len(pack.MARK) + len(kind) + 1
    data[at : at + 40] = b"\x00" * 40
    with pytest.raises(Refused, match="the pack is damaged"):
        unpack(tmp_path, wanted(FILES), parts(bytes(data), 1000))


@pytest.mark.parametrize("name", [b"brotli", b"\x1b[2J", b"z" * 20_000])
def test_a_compression_that_is_not_known(tmp_path: Path, name: bytes) -> None:
    with pytest.raises(Refused, match="the pack is compressed by"):
        unpack(tmp_path, wanted(FILES), [pack.MARK, name, b"\n", b"x" * 30_000])


def test_something_else_than_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UplabError, match="something else than was asked for"):
        unpack(tmp_path, wanted(FILES), [b"x" * 100_000])


@pytest.mark.parametrize("kind", PRESSES)
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, kind: str) -> None:
    """A quarter of a gigabyte in a few bytes: memory never holds more than a part of it."""
    bomb = packed(bytes(1 << 28), kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Refused, match="something else than files"):
        unpack(tmp_path, wanted({"a": b"x"}), parts(bomb, 32_768))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_a_window_of_gigabytes_is_refused(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, compression_level=1)
    content = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = content.compress(framed(FILES)) + content.flush()
    with pytest.raises(Refused, match="the pack is damaged"):
        unpack(tmp_path, wanted(FILES), [pack.MARK + b"zstd\n" + data])


# --- failures here --------------------------------------------------------------------------------


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "trials").write_text("a file where a folder has to be")
    with pytest.raises(Refused, match="cannot be written"):
        unpack(tmp_path, wanted(FILES), parts(packed(framed(FILES)), 50_000))


def test_nobody_waits_for_a_writer_that_failed(tmp_path: Path) -> None:
    """Far more arrives after the failure than may wait."""
    noise = {"a": os.urandom(8_000_000)}
    with pytest.raises(Refused):
        unpack(tmp_path, wanted({"b": b""}), parts(packed(framed(noise)), 10_000))
    assert all(thread.name != "unpacking" for thread in threading.enumerate())


def unpack_and_raise(folder: Path, chunk: bytes, error: BaseException) -> None:
    with Unpacking(folder, wanted(FILES), Arrived()) as unpacking:
        unpacking(chunk)
        raise error


def test_a_lost_connection_is_told_as_such(tmp_path: Path) -> None:
    data = packed(framed(FILES))
    with pytest.raises(HostError, match="it is gone"):
        unpack_and_raise(tmp_path, data[: len(data) // 2], HostError("it is gone"))
    assert all(thread.name != "unpacking" for thread in threading.enumerate())


def test_a_disk_that_is_full_says_more_than_the_connection_that_ends(tmp_path: Path) -> None:
    (tmp_path / "trials").write_text("")
    with pytest.raises(Refused, match="cannot be written"):
        unpack_and_raise(tmp_path, packed(framed(FILES)), HostError("it is gone"))


def test_ctrl_c_is_not_covered_up(tmp_path: Path) -> None:
    (tmp_path / "trials").write_text("")
    with pytest.raises(KeyboardInterrupt):
        unpack_and_raise(tmp_path, packed(framed(FILES)), KeyboardInterrupt())


SMALL = {"a": b"x" * 600, "b/c": b"y" * 5}


@settings(max_examples=60)
@given(st.sampled_from(sorted(PRESSES)), st.integers(0, 300), st.binary(min_size=1, max_size=30))
def test_no_damage_leads_to_a_file_that_is_none(kind: str, at: int, damage: bytes) -> None:
    data = bytearray(packed(framed(SMALL), kind))
    data[at : at + len(damage)] = damage
    expected = wanted(SMALL)
    with tempfile.TemporaryDirectory() as folder:
        with suppress(UplabError):
            unpack(Path(folder), expected, [bytes(data)])
        found = there(Path(folder))
    assert found.keys() <= SMALL.keys()
    assert all(found[name] == SMALL[name] for name in SMALL.keys() - expected.keys())
