"""uplab/transfer/archive.py: a tar is read to its end, and each byte is what its index says."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.transfer.builds import Members, make, member, members, pack, tar_of, with_index
from uplab.transfer import archive
from uplab.transfer.index import Refused


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    root = tmp_path_factory.mktemp("root")
    make(root)
    return tar_of(root)


def name_of(data: bytes, end: str) -> str:
    (found,) = [info.name for info, _ in members(data) if info.name.endswith(end)]
    return found


def refusal(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(Refused) as caught:
        archive.check(path)
    assert sorted(os.listdir(tmp_path)) == before
    return str(caught.value)


def test_what_a_host_sends_is_in_order(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "good.tar"
    path.write_bytes(good)
    index = archive.check(path)
    assert index.components == ["lab"]
    assert len(archive.sha256_of(path)) == 64


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_a_tar_that_is_cut_off(tmp_path: Path, good: bytes, part: float) -> None:
    message = refusal(tmp_path, good[: int(len(good.rstrip(b"\0")) * part)])
    assert "cut off" in message or "damaged" in message or "begin" in message


def test_a_tar_that_ends_between_two_files(tmp_path: Path, good: bytes) -> None:
    message = refusal(tmp_path, pack(members(good)[:-1]))
    assert message == f"it is cut off: {name_of(good, 'share/program')} is missing (1 in all)"


@pytest.mark.parametrize("data", [b"", b"\0" * 10240, b"no tar" * 1000, b"\x1f\x8b" * 600])
def test_no_tar_at_all(tmp_path: Path, data: bytes) -> None:
    message = refusal(tmp_path, data)
    assert message == "it does not begin with index.json" or message.startswith("it is no tar")


def test_an_index_that_comes_later_or_is_no_file(tmp_path: Path, good: bytes) -> None:
    first, *rest = members(good)
    assert refusal(tmp_path, pack([*rest, first])) == "it does not begin with index.json"
    link = member("index.json", kind=tarfile.SYMTYPE, linkname="/etc/passwd")
    assert refusal(tmp_path, pack([*link, *rest])) == "'index.json' in it is no plain file"


def test_an_index_that_is_too_long(
    tmp_path: Path, good: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "INDEX_MAX_BYTES", 100)
    assert "its index.json is longer than 100 bytes" in refusal(tmp_path, good)


@pytest.mark.parametrize(
    "name", ["../../evil", "/etc/cron.d/evil", "lab-000000000000/evil", "evil", "index.json"]
)
def test_a_file_that_the_index_does_not_name(tmp_path: Path, good: bytes, name: str) -> None:
    evil = member(name, b"evil")
    assert f"names no {name!r}, or it came twice" in refusal(tmp_path, pack(members(good) + evil))


def test_a_file_that_comes_twice(tmp_path: Path, good: bytes) -> None:
    entries = members(good)
    twice = [entry for entry in entries if entry[0].name.endswith("bin/lab")]
    assert "or it came twice" in refusal(tmp_path, pack(entries + twice))


def changed(data: bytes, end: str, change: Callable[[Members], Members]) -> bytes:
    """The same tar with one member changed."""
    entries: Members = []
    for entry in members(data):
        entries += change([entry]) if entry[0].name.endswith(end) else [entry]
    return pack(entries)


def test_a_file_with_other_content(tmp_path: Path, good: bytes) -> None:
    data = changed(good, "share/notes", lambda e: [(e[0][0], b"evil!\n")])
    assert "share/notes in it has the sha256 " in refusal(tmp_path, data)
    data = changed(good, "share/notes", lambda e: [(e[0][0], b"longer than it was\n")])
    assert "share/notes in it has 19 bytes, its index.json says 6" in refusal(tmp_path, data)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.LNKTYPE, "is a hard link"),
        (tarfile.SYMTYPE, "is no plain file"),
        (tarfile.CHRTYPE, "is a device"),
        (tarfile.BLKTYPE, "is a device"),
        (tarfile.FIFOTYPE, "is a named pipe"),
        (tarfile.DIRTYPE, "is no plain file"),
        (tarfile.GNUTYPE_SPARSE, "is "),
    ],
)
def test_something_else_in_the_place_of_a_file(
    tmp_path: Path, good: bytes, kind: bytes, words: str
) -> None:
    name = name_of(good, "bin/lab")
    evil = member(name, kind=kind, linkname="/etc/passwd")
    message = refusal(tmp_path, changed(good, "bin/lab", lambda _: evil))
    assert words in message or "damaged" in message


def test_a_link_or_a_folder_that_is_something_else(tmp_path: Path, good: bytes) -> None:
    name = name_of(good, "share/program")
    elsewhere = member(name, kind=tarfile.SYMTYPE, linkname="/etc/passwd")
    words = "is not the link that its index.json names"
    assert words in refusal(tmp_path, changed(good, "share/program", lambda _: elsewhere))
    assert words in refusal(tmp_path, changed(good, "share/program", lambda _: member(name, b"x")))
    name = name_of(good, "share/empty")
    link = member(name, kind=tarfile.SYMTYPE, linkname="/etc")
    words = "is not the folder that its index.json names"
    assert words in refusal(tmp_path, changed(good, "share/empty", lambda _: link))


def test_an_index_that_is_not_ours_is_refused_before_the_files_are_read(
    tmp_path: Path, good: bytes
) -> None:
    data = with_index(good, lambda index: index.update(schema=9))
    assert refusal(tmp_path, data).startswith("its index.json is not ours (schema: ")
