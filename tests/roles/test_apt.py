"""Further sources of Debian packages: the key by its fingerprint, the files by what is wanted."""

from __future__ import annotations

import base64
import hashlib
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BODY = b"\x04" + b"\x65\x00\x00\x00" + b"\x01" + b"\x00\x08\xff" + b"\x00\x02\x03"
FINGERPRINT = hashlib.sha1(b"\x99\x00\x0c" + BODY).hexdigest().upper()
#: The archive's own key, as https://ftp-master.debian.org/keys.html prints it.
DEBIAN_12 = "B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8"


def armored(data: bytes) -> bytes:
    body = base64.encodebytes(data).decode()
    text = f"-----BEGIN PGP PUBLIC KEY BLOCK-----\nComment: x\n\n{body}=AAAA\n"
    return f"{text}-----END PGP PUBLIC KEY BLOCK-----\n".encode()


def packet(body: bytes, tag: int = 6, newer: bool = False) -> bytes:
    if newer:
        return bytes([0xC0 | tag, len(body)]) + body
    return bytes([0x80 | tag << 2 | 1]) + len(body).to_bytes(2, "big") + body


@pytest.fixture
def apt(uplab_packages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, with a host's files in a directory of the test."""
    shared = uplab_packages.StoreError.__module__.rpartition(".")[0]
    module = importlib.import_module(f"{shared}.uplab_apt")
    files = importlib.import_module(f"{shared}.uplab_apt_files")
    monkeypatch.setattr(files, "MAIN", tmp_path / "sources.list")
    monkeypatch.setattr(files, "PARTS", tmp_path / "sources")
    release = tmp_path / "os-release"
    release.write_text('NAME="Debian"\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n')
    (tmp_path / "sources").mkdir()
    monkeypatch.setattr(module, "SOURCES", tmp_path / "sources")
    monkeypatch.setattr(module, "KEYRINGS", tmp_path / "keyrings")
    monkeypatch.setattr(module, "OS_RELEASE", release)
    return module


def wanted(tmp_path: Path, **changes: str) -> dict[str, str]:
    key = tmp_path / "key.asc"
    if not key.exists():
        key.write_bytes(armored(packet(BODY)))
    return {
        "name": "llvm",
        "uri": "https://packages.example.invalid/{codename}/",
        "suite": "llvm-{codename}-{release}",
        "key_url": f"file://{key}",
        "key_fingerprint": FINGERPRINT,
        **changes,
    }


def test_a_source_comes_with_its_key(apt: ModuleType, tmp_path: Path) -> None:
    source = apt.wanted_source(wanted(tmp_path), {})
    assert not source.is_there()
    source.write()
    assert source.is_there()
    lines = (tmp_path / "sources" / "uplab-llvm.sources").read_text().splitlines()
    assert "URIs: https://packages.example.invalid/bookworm/" in lines
    assert "Suites: llvm-bookworm-12" in lines
    assert f"Signed-By: {tmp_path}/keyrings/uplab-llvm.asc" in lines
    assert apt.stale_files([source]) == []
    assert len(apt.stale_files([])) == 2


def test_a_mirror_takes_the_place_of_the_address(apt: ModuleType, tmp_path: Path) -> None:
    mirrors = {"https://packages.example.invalid/": "https://mirror.example.invalid/x/"}
    source = apt.wanted_source(wanted(tmp_path), mirrors)
    assert "URIs: https://mirror.example.invalid/x/bookworm/\n" in source.text


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (armored(packet(BODY[:-1] + b"\x05")), "the pin says"),
        (armored(packet(BODY) + packet(BODY[:-1] + b"\x05")), "the pin says"),
        (armored(packet(b"x", tag=13)), "holds the key of nobody"),
        (armored(packet(b"\x03" + BODY[1:])), "another version than 4"),
        (armored(packet(BODY)[:-3]), "cut off"),
        (b"<html>not found</html>\n", "holds no OpenPGP key"),
    ],
    ids=["another", "one-more", "none", "old-version", "cut-off", "page"],
)
def test_another_key_is_not_kept(apt: ModuleType, tmp_path: Path, key: bytes, message: str) -> None:
    (tmp_path / "key.asc").write_bytes(key)
    source = apt.wanted_source(wanted(tmp_path), {})
    with pytest.raises(apt.StoreError, match=message):
        source.write()
    assert list((tmp_path / "sources").iterdir()) == []
    assert list((tmp_path / "keyrings").iterdir()) == []


def test_a_key_that_cannot_be_had_names_the_way_out(apt: ModuleType, tmp_path: Path) -> None:
    source = apt.wanted_source(wanted(tmp_path, key_url="file:///nonexistent"), {})
    with pytest.raises(apt.StoreError, match=r"uplab_mirrors\.apt"):
        source.write()


def test_packets_of_both_formats_are_read(apt: ModuleType) -> None:
    assert apt.fingerprints(armored(packet(BODY, newer=True))) == [FINGERPRINT]
    both = packet(BODY) + packet(b"a user", tag=13, newer=True)
    assert apt.fingerprints(armored(both)) == [FINGERPRINT]


def test_a_key_of_debians_has_the_fingerprint_that_debian_prints(
    apt: ModuleType, debian_keys: list[bytes]
) -> None:
    found = [print_ for key in debian_keys for print_ in apt.fingerprints(key)]
    assert DEBIAN_12 in found


@pytest.fixture
def debian_keys() -> list[bytes]:
    """The keys of Debian's archive on this machine, armored."""
    plain = Path("/etc/apt/trusted.gpg.d").glob("debian-archive-*.asc")
    binary = Path("/usr/share/keyrings").glob("debian-archive-*automatic.gpg")
    keys = [path.read_bytes() for path in sorted(plain)]
    keys += [armored(path.read_bytes()) for path in sorted(binary)]
    assert keys
    return keys


def test_packages_go_by_the_release(apt: ModuleType) -> None:
    assert apt.for_release({}) == []
    assert apt.for_release({"12": ["a"], "13": ["b"]}) == ["a"]
    with pytest.raises(apt.StoreError, match="no packages are named for Debian 12, only for"):
        apt.for_release({"13": ["b"]})


def act(module: ModuleType, record: Path, check: bool, **more: Any) -> dict[str, Any]:
    parameters = {
        "names": ["dpkg"],
        "record": str(record),
        "cache": str(record.parent / "cache"),
        "kept": str(record.parent / "kept"),
        "lists_max_age_s": 86400,
        "lock_timeout_s": 10,
        **more,
    }
    result = module.act(parameters, check, print)
    assert isinstance(result, dict)
    return result


@pytest.mark.usefixtures("apt")
def test_sources_come_and_go_with_what_is_wanted(
    uplab_packages: ModuleType, tmp_path: Path
) -> None:
    record = tmp_path / "packages.json"
    source = wanted(tmp_path)
    assert act(uplab_packages, record, check=True, sources=[source])["changed"]
    assert list((tmp_path / "sources").iterdir()) == []
    assert act(uplab_packages, record, check=False, sources=[source])["changed"]
    assert len(list((tmp_path / "sources").iterdir())) == 1
    assert not act(uplab_packages, record, check=False, sources=[source])["changed"]
    # Somebody else's source stays.
    (tmp_path / "sources" / "other.sources").write_text("Types: deb\n")
    gone = act(uplab_packages, record, check=False)
    assert gone["changed"]
    assert "uplab-llvm.sources" in gone["diff"]["before"]
    assert [path.name for path in (tmp_path / "sources").iterdir()] == ["other.sources"]
    assert list((tmp_path / "keyrings").iterdir()) == []
    assert not act(uplab_packages, record, check=False)["changed"]
