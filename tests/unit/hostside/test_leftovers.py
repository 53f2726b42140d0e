"""uplab/hostside/leftovers.py: what a trial makes elsewhere goes, also after a crash."""

import json
from pathlib import Path

import pytest

from uplab.hostside.leftovers import Leftovers


def test_what_was_noted_is_removed(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "mine-too"
    leftovers = Leftovers(tmp_path / "leftovers.json")
    leftovers.note([mine])
    for path in (mine, other):
        path.write_text("")
    leftovers.remove()
    assert not mine.exists()
    assert other.exists()
    assert json.loads((tmp_path / "leftovers.json").read_text()) == []


def test_the_next_start_removes_what_a_crash_left(tmp_path: Path) -> None:
    made, never_made = tmp_path / "made", tmp_path / "never-made"
    Leftovers(tmp_path / "leftovers.json").note([made, never_made])
    made.write_text("")
    again = Leftovers(tmp_path / "leftovers.json")
    assert again.remove_earlier() == [str(made)]
    assert not made.exists()
    assert again.remove_earlier() == []


@pytest.mark.parametrize("text", ["", "{", "null", "7", "{}", '[1, null, {"a": 2}]'])
def test_a_damaged_note_removes_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "leftovers.json").write_text(text)
    assert Leftovers(tmp_path / "leftovers.json").remove_earlier() == []
    assert not (tmp_path / "leftovers.json").exists()


def test_a_folder_is_no_file_of_ours(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    leftovers = Leftovers(tmp_path / "leftovers.json")
    leftovers.note([folder])
    leftovers.remove()
    assert folder.is_dir()


def test_a_folder_goes_with_all_that_is_in_it_and_nothing_it_leads_to(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine / "deep", other):
        folder.mkdir(parents=True)
        (folder / "file").write_text("")
    (mine / "link").symlink_to(other)
    leftovers = Leftovers(tmp_path / "leftovers.json")
    leftovers.note_folder(mine)
    leftovers.remove()
    assert not mine.exists()
    assert (other / "file").exists()


def test_a_link_in_the_place_of_a_folder_leads_nowhere(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "mine").symlink_to(other)
    Leftovers(tmp_path / "leftovers.json").note_folder(tmp_path / "mine")
    assert Leftovers(tmp_path / "leftovers.json").remove_earlier() == []
    assert other.is_dir()
