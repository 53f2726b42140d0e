"""uplab/hostside/check_tuning.py: a host that was left tuned is shown, and what mends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.hostside.machines import machine
from uplab.hostside.check_tuning import left_tuned
from uplab.hostside.system import Line, System
from uplab.hostside.tuning_journal import Entry, Journal, Left, Noted

RUNS = Path("/var/lib/uplab/runs")
ASLR = Entry("aslr", "/proc/sys/kernel/randomize_va_space", "2", "0", "2026-01-01T00:00:00Z", "b")


def checked(system: System, noted: Noted | None = None) -> Line:
    if noted is not None:
        Journal(system.path("/var/lib/uplab/tuning.json")).save(noted)
    (line,) = left_tuned(system, RUNS, "r720")
    assert line.check == "left-tuned"
    return line


def test_a_host_that_nobody_tuned(tmp_path: Path) -> None:
    line = checked(machine(tmp_path))
    assert (line.state, line.seen, line.mend) == ("ok", "none", "")


def test_a_host_that_was_left_tuned(tmp_path: Path) -> None:
    line = checked(machine(tmp_path), Noted("run-1", (ASLR,)))
    assert (line.state, line.mend) == ("fail", "invoke lab.restore --host r720")
    assert line.seen == "/proc/sys/kernel/randomize_va_space 0 (was 2), by run run-1"


def test_many_values_are_counted(tmp_path: Path) -> None:
    line = checked(machine(tmp_path), Noted("run-1", (ASLR,) * 8))
    assert line.seen.endswith("and 3 more, by run run-1")


def test_a_value_that_somebody_else_changed(tmp_path: Path) -> None:
    line = checked(machine(tmp_path), Noted("run-1", (), (Left(ASLR, "1", ""),)))
    assert line.state == "warn"
    assert line.seen == (
        "changed by somebody else during run run-1, so left: "
        "/proc/sys/kernel/randomize_va_space 1 (was 2)"
    )
    assert line.mend.endswith("rm /var/lib/uplab/tuning.json")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}'])
def test_a_damaged_journal_is_told(tmp_path: Path, text: str) -> None:
    system = machine(tmp_path, {"var/lib/uplab/tuning.json": text})
    line = checked(system)
    assert line.state == "fail"
    assert line.seen.startswith("/var/lib/uplab/tuning.json is damaged (")
    assert line.mend.startswith("invoke lab.restore --host r720 ")


def test_a_journal_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path) -> None:
    system = machine(tmp_path)
    system.path("/var/lib/uplab/tuning.json").mkdir(parents=True)
    line = checked(system)
    assert (line.state, line.mend) == ("warn", "Become root")
    assert line.seen == "/var/lib/uplab/tuning.json: Is a directory"
