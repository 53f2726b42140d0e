"""uplab/box/record.py: what is noted of a box, and processes that are named for good."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.box import handmade
from uplab.box import record
from uplab.box.record import Box, Process
from uplab.errors import HostError, UsageError


@pytest.fixture
def box(tmp_path: Path) -> Box:
    this = Process.of(os.getpid())
    changes = {"started_utc": "2026-01-01T00:00:00+00:00", "leader": this, "owner": this}
    boxes = record.boxes_folder(tmp_path)
    made = handmade.box(boxes, "box7", cgroups=("/sys/fs/cgroup/x",), **changes)
    made.folder.mkdir(parents=True)
    return made


def test_what_was_noted_is_read_back(box: Box, tmp_path: Path) -> None:
    assert record.read(tmp_path, "box7") is None
    record.write(box)
    assert record.read(tmp_path, "box7") == box
    assert record.read_all(tmp_path) == [box]
    assert list(box.folder.iterdir()) == [box.folder / "box.json"]


def test_boxes_are_listed_by_number(box: Box, tmp_path: Path) -> None:
    for name in ("box10", "box9"):
        other = replace(box, name=name, folder=box.folder.with_name(name))
        other.folder.mkdir()
        record.write(other)
    record.write(box)
    (box.folder.parent / "box8").mkdir()
    (box.folder.parent / "box7-console.log").touch()
    assert [found.name for found in record.read_all(tmp_path)] == ["box7", "box9", "box10"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "name": "x"}'])
def test_a_record_that_cannot_be_read_is_no_missing_one(
    box: Box, tmp_path: Path, text: str
) -> None:
    """It names processes: to take it for nothing would leave them running."""
    (box.folder / "box.json").write_text(text)
    with pytest.raises(HostError, match=r"box7/box\.json cannot be read"):
        record.read(tmp_path, "box7")


@pytest.mark.parametrize("name", ["", "box", "box0", "box01", "box255", "box1000", "1", "../box1"])
def test_other_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no name of a box: they are box1 to box254"):
        record.read(tmp_path, name)


def test_each_box_has_an_address_of_its_own() -> None:
    addresses = {record.address(f"box{number}") for number in range(1, 255)}
    assert len(addresses) == 254
    assert "127.77.0.7" in addresses


def test_a_process_is_known_by_its_start_too(box: Box) -> None:
    us = Process.of(os.getpid())
    assert us.lives()
    assert not replace(us, start_ticks=us.start_ticks + 1).lives()
    assert box.is_up()
    assert not replace(box, boot_id="another boot").is_up()
    assert not replace(box, leader=None).is_up()
    assert not replace(box, state=record.STARTING).is_up()


def test_a_zombie_has_ended() -> None:
    with subprocess.Popen(["true"]) as process:
        noted = Process.of(process.pid)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not noted.lives()
    assert not noted.lives()
    with pytest.raises(HostError, match="ended at once"):
        Process.of(noted.pid)


def test_the_record_is_json_for_people_too(box: Box) -> None:
    record.write(box)
    entry = json.loads((box.folder / "box.json").read_text())
    assert entry["leader"] == {
        "pid": os.getpid(),
        "start_ticks": Process.of(os.getpid()).start_ticks,
    }
