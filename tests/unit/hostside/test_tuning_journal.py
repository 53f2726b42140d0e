"""uplab/hostside/tuning_journal.py: whole, synced, root's alone, refused where damaged."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from uplab.hostside.tuning_journal import (
    DamagedError,
    Entry,
    Journal,
    Left,
    Noted,
    journal_of,
    parse,
)

ENTRY = Entry("aslr", "/proc/sys/kernel/randomize_va_space", "2", "0", "2026-01-01T00:00:00Z", "b")
NOTED = Noted("run-1", (ENTRY,), (Left(ENTRY, "1", "2026-01-01T00:00:01Z"),))
GOOD: dict[str, Any] = {
    "schema": 1,
    "run_id": "r",
    "entries": [vars(ENTRY)],
    "left": [],
}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "lib" / "tuning.json")


def test_what_was_saved_is_loaded(journal: Journal) -> None:
    assert journal.load() == Noted()
    journal.save(NOTED)
    assert journal.load() == NOTED
    assert [path.name for path in journal.path.parent.iterdir()] == ["tuning.json"]


def test_it_lies_beside_the_runs() -> None:
    assert journal_of(Path("/var/lib/uplab/runs")) == Path("/var/lib/uplab/tuning.json")


def test_nobody_else_can_read_or_write_it(journal: Journal) -> None:
    before = os.umask(0)
    try:
        journal.save(NOTED)
    finally:
        os.umask(before)
    about = journal.path.stat()
    assert stat.S_IMODE(about.st_mode) == 0o600
    assert about.st_uid == os.geteuid()
    assert stat.S_IMODE(journal.path.parent.stat().st_mode) == 0o700


def test_with_nothing_to_say_the_file_goes(journal: Journal) -> None:
    journal.save(NOTED)
    journal.save(Noted("run-1"))
    assert not journal.path.exists()
    journal.save(Noted("run-1"))


def test_it_is_synced_before_it_is_there_and_its_folder_after(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((path.name, journal.path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    journal.save(NOTED)
    assert synced == [(".part-tuning.json", False), ("lib", True)]


def test_a_part_that_a_crash_left_is_in_nobody_s_way(journal: Journal, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("keep")
    journal.path.parent.mkdir()
    (journal.path.parent / ".part-tuning.json").symlink_to(victim)
    journal.save(NOTED)
    assert journal.load() == NOTED
    assert victim.read_text() == "keep"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "\xff",
        json.dumps({**GOOD, "schema": 2}),
        json.dumps({**GOOD, "run_id": 7}),
        json.dumps({key: value for key, value in GOOD.items() if key != "left"}),
        json.dumps({**GOOD, "more": 1}),
        json.dumps({**GOOD, "entries": {}}),
        json.dumps({**GOOD, "entries": [1]}),
        json.dumps({**GOOD, "entries": [{"path": "/sys/kernel/x"}]}),
        json.dumps({**GOOD, "entries": [{**vars(ENTRY), "old": 2}]}),
        json.dumps({**GOOD, "entries": [{**vars(ENTRY), "path": "/etc/shadow"}]}),
        json.dumps({**GOOD, "entries": [{**vars(ENTRY), "path": "/sys/kernel/../../etc/shadow"}]}),
        json.dumps({**GOOD, "left": [{"entry": vars(ENTRY), "found": None, "utc": ""}]}),
    ],
)
def test_what_is_no_journal_is_refused_and_stays(journal: Journal, text: str) -> None:
    journal.path.parent.mkdir()
    journal.path.write_bytes(text.encode("latin-1"))
    journal.path.chmod(0o600)
    with pytest.raises(DamagedError) as caught:
        journal.load()
    said = str(caught.value)
    assert said.startswith(f"{journal.path} is damaged (")
    assert said.endswith(f"then run: mv {journal.path} {journal.path}.damaged")
    assert journal.path.read_bytes() == text.encode("latin-1")


def test_the_good_one_is_taken() -> None:
    assert parse(json.dumps(GOOD)) == Noted("r", (ENTRY,))


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o602])
def test_one_that_others_can_reach_is_refused(journal: Journal, mode: int) -> None:
    journal.save(NOTED)
    journal.path.chmod(mode)
    with pytest.raises(DamagedError, match="others than root"):
        journal.load()


def test_one_of_another_user_is_refused(journal: Journal) -> None:
    journal.save(NOTED)
    os.chown(journal.path, 65534, -1)
    with pytest.raises(DamagedError, match=f"not a file of user {os.geteuid()}"):
        journal.load()


def test_a_link_is_refused(journal: Journal, tmp_path: Path) -> None:
    journal.save(NOTED)
    journal.path.rename(tmp_path / "elsewhere")
    journal.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="is damaged"):
        journal.load()
