"""uplab/box/commands.py: what lab.box prints."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.box import handmade
from uplab.box import Wish, commands, record
from uplab.box.record import Box, Process
from uplab.box.steps import Steps
from uplab.errors import UsageError


@pytest.fixture
def box(tmp_path: Path) -> Box:
    started_utc = "2026-01-02T03:04:05+00:00"
    return handmade.box(tmp_path, "box1", started_utc=started_utc, leader=Process.of(os.getpid()))


def test_each_box_has_a_line(box: Box) -> None:
    other = replace(box, name="box10", suite="trixie", leader=None)
    starting = replace(box, name="box11", state=record.STARTING, own_address="198.18.1.11")
    assert commands.table([box, other, starting]) == [
        "box    state     release   network  address      port  started",
        "box1   up        bookworm  shared   127.77.0.1   22    2026-01-02T03:04:05+00:00",
        "box10  ended     trixie    shared   127.77.0.10  22    2026-01-02T03:04:05+00:00",
        "box11  starting  bookworm  own      198.18.1.11  22    2026-01-02T03:04:05+00:00",
    ]


def test_no_boxes_are_told_with_the_next_command() -> None:
    assert commands.table([]) == ["there are no boxes. Run: ./invoke lab.box up"]


def test_the_command_to_log_in_names_the_settings(box: Box, tmp_path: Path) -> None:
    assert commands.login(box) == f"ssh -F {tmp_path}/ssh_config box1"


def test_another_action_is_refused(tmp_path: Path) -> None:
    actions = "up, down, reset, restart, list"
    with pytest.raises(UsageError, match=rf"lab\.box takes {actions}, not 'start'"):
        commands.act(tmp_path, "start", [], Wish(), Steps())
