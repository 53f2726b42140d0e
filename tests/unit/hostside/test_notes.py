"""uplab/hostside/notes.py: lists that outlive a crash."""

from pathlib import Path

import pytest

from uplab.hostside import notes


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    for entries in (["a"], [], [{"pid": 7}, "b"]):
        notes.write(path, entries)
        assert notes.read(path) == entries
    assert [entry.name for entry in tmp_path.iterdir()] == ["list.json"]


def test_nothing_was_written(tmp_path: Path) -> None:
    assert notes.read(tmp_path / "list.json") == []


@pytest.mark.parametrize("text", ["", "[1", "null", "{}", "7"])
def test_what_is_no_list_is_empty(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    assert notes.read(path) == []
