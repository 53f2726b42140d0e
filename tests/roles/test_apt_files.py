"""apt's files of sources in both forms: other addresses, or none; every other byte stays."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LINES = """\
# deb http://old.example/debian bookworm main
deb http://deb.example/debian bookworm main contrib # first
deb [arch=amd64 signed-by=/k.gpg]  http://deb.example/debian bookworm-updates main
  deb-src http://other.example/ ./
deb cdrom:[Debian 12 _Bookworm_]/ bookworm main

not a source at all http://deb.example/debian
"""
STANZAS = """\
# Modernized from /etc/apt/sources.list
Types: deb deb-src
URIs: http://deb.example/debian
# a comment in between
 http://other.example/debian
Suites: bookworm
Components: main

Enabled: NO
Types: deb
URIs: http://deb.example/debian
Suites: sid

Types: deb
enabled: yes
uris:\thttp://deb.example/debian/
Suites: bookworm-updates"""


@pytest.fixture
def files(uplab_packages: ModuleType) -> ModuleType:
    shared = uplab_packages.StoreError.__module__.rpartition(".")[0]
    return importlib.import_module(f"{shared}.uplab_apt_files")


def changed(files: ModuleType, name: str, text: str, change: Any) -> str:
    path = Path(f"/etc/apt/sources.list.d/{name}")
    result = files.SourceFile(path, text).changed(change)
    assert result.path == path
    assert isinstance(result.text, str)
    return result.text


def to_mirror(uri: str) -> str | None:
    return uri.replace("http://deb.example/", "https://mirror.example/")


def without(uri: str) -> str | None:
    return None if uri.startswith("http://deb.example/") else uri


def test_addresses_in_lines_are_replaced(files: ModuleType) -> None:
    text = changed(files, "a.list", LINES, to_mirror)
    assert text == LINES.replace(
        "deb http://deb.example/debian bookworm", "deb https://mirror.example/debian bookworm"
    ).replace("]  http://deb.example/", "]  https://mirror.example/")


def test_lines_are_switched_off(files: ModuleType) -> None:
    text = changed(files, "a.list", LINES, without)
    before, after = LINES.splitlines(), text.splitlines()
    off = [number for number, line in enumerate(after) if line != before[number]]
    assert off == [1, 2]
    assert all(after[number] == f"# Switched off by uplab: {before[number]}" for number in off)


def test_addresses_in_stanzas_are_replaced(files: ModuleType) -> None:
    text = changed(files, "a.sources", STANZAS, to_mirror)
    assert text.splitlines()[2] == "URIs: https://mirror.example/debian"
    assert text.splitlines()[-2] == "uris:\thttps://mirror.example/debian/"
    # What was off before is not touched.
    assert text.count("https://mirror.example/") == 2
    assert text.count("http://deb.example/") == 1


def test_a_stanza_without_an_address_is_switched_off(files: ModuleType) -> None:
    first, second, third = changed(files, "a.sources", STANZAS, without).split("\n\n")
    assert "URIs: \n# a comment in between\n http://other.example/debian\nSuites" in first
    assert "Enabled" not in first
    assert second == STANZAS.split("\n\n")[1]
    assert third.splitlines() == [
        "Types: deb",
        "Enabled: no",
        "uris:\thttp://deb.example/debian/",
        "Suites: bookworm-updates",
    ]


def test_a_continued_address_goes_without_ending_the_stanza(files: ModuleType) -> None:
    text = "Types: deb\nURIs: http://other.example/\n http://deb.example/debian\nSuites: x\n"
    expected = "Types: deb\nURIs: http://other.example/\nSuites: x\n"
    assert changed(files, "a.sources", text, without) == expected


@pytest.mark.parametrize(("name", "text"), [("a.list", LINES), ("a.sources", STANZAS)])
def test_nothing_changes_where_nothing_is_to_change(
    files: ModuleType, name: str, text: str
) -> None:
    assert changed(files, name, text, lambda uri: uri) == text
    off = changed(files, name, text, without)
    assert changed(files, name, off, without) == off


def test_what_is_off_is_not_active(files: ModuleType) -> None:
    active = files.SourceFile(Path("a.sources"), STANZAS).active().split()
    assert "sid" not in active
    assert "comment" not in active
    assert "bookworm-updates" in active
    assert "old.example" not in files.SourceFile(Path("a.list"), LINES).active()


def test_the_host_s_files_are_read_byte_for_byte(
    files: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    monkeypatch.setattr(files, "MAIN", tmp_path / "sources.list")
    monkeypatch.setattr(files, "PARTS", parts)
    assert files.read_sources() == []
    (tmp_path / "sources.list").write_bytes(b"# caf\xe9\r\ndeb http://a.example x main\r\n")
    for name in ("b.sources", "a.list", "c.list.save", "d.bak"):
        (parts / name).write_text("#\n")
    found = files.read_sources()
    assert [file.path.name for file in found] == ["sources.list", "a.list", "b.sources"]
    assert [file.is_part() for file in found] == [False, True, True]
    data = found[0].text.encode("utf-8", "surrogateescape")
    assert data == (tmp_path / "sources.list").read_bytes()


def test_the_longest_prefix_names_the_mirror(files: ModuleType) -> None:
    mirrors = {"http://a/": "http://m/", "http://a/b/": "file:///b/"}
    assert files.mirrored("http://a/c", mirrors) == "http://m/c"
    assert files.mirrored("http://a/b/c", mirrors) == "file:///b/c"
    assert files.mirrored("http://x/", mirrors) == "http://x/"
