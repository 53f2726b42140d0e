"""uplab/hostside/checkup.py: every check gives its lines, whatever happens to the others."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.hostside.machines import machine
from tests.unit.hostside.test_check_lab import PLACES, REQUEST
from uplab.hostside import check_machine, checkup
from uplab.hostside.system import Line, System

ROOT = Path(__file__).parents[3]


def test_every_line_has_all_of_its_fields(tmp_path: Path) -> None:
    found = checkup.run(machine(tmp_path), PLACES, REQUEST)
    assert len(found) > 30
    assert len({line["check"] for line in found}) == len(found)
    for line in found:
        assert sorted(line) == ["check", "mend", "seen", "state", "wanted"]
        assert line["state"] in ("ok", "warn", "fail")
        assert line["seen"], line
        assert line["wanted"], line
        assert bool(line["mend"]) == (line["state"] != "ok"), line


def test_all_that_fails_is_told_and_not_only_the_first(tmp_path: Path) -> None:
    files: dict[str, str | None] = {
        "etc/os-release": None,
        "sys/kernel/btf/vmlinux": None,
        "proc/filesystems": "",
        "proc/meminfo": None,
    }
    system = machine(tmp_path, files, is_root=False, listeners=lambda _port: ["x (pid 1)"])
    found = checkup.run(system, PLACES, REQUEST)
    failed = [line["check"] for line in found if line["state"] == "fail"]
    assert failed == [
        "distribution",
        "btf",
        "tracefs",
        "perf-event-paranoid",
        "memory",
        "port-446",
    ]


def test_a_check_that_fails_itself_becomes_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_system: System) -> list[Line]:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(check_machine, "CHECKS", (broken, check_machine.memory))
    found = {line["check"]: line for line in checkup.run(machine(tmp_path), PLACES, REQUEST)}
    assert found["broken"]["state"] == "fail"
    assert found["broken"]["seen"] == (
        "the check itself failed: ZeroDivisionError: division by zero"
    )
    assert found["memory"]["state"] == "ok"


@pytest.mark.parametrize("reading", ["refusal", "output", "listeners", "synchronised", "free"])
def test_no_reading_that_breaks_ends_the_preflight(tmp_path: Path, reading: str) -> None:
    def broken(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    readings: dict[str, Any] = {reading: broken}
    found = checkup.run(machine(tmp_path, **readings), PLACES, REQUEST)
    assert len(found) > 25
    (tmp_path / "etc/pve").mkdir()
    found = checkup.run(machine(tmp_path, **readings), PLACES, REQUEST)
    assert any("Permission denied" in line["seen"] for line in found)


def test_an_empty_machine_gives_lines_too(tmp_path: Path) -> None:
    system = replace(machine(tmp_path), root=tmp_path / "nothing")
    found = checkup.run(system, PLACES, REQUEST)
    assert len(found) > 25
    assert "fail" in {line["state"] for line in found}


def test_every_check_is_in_the_reference(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "reference" / "preflight.md").read_text()
    rows = re.findall(r"^\| (`[a-z].*?) \| (.*) \| (.*) \|$", text, re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`([a-z0-9-]+)", row[0])}
    ours = {line["check"] for line in checkup.run(machine(tmp_path), PLACES, REQUEST)}
    ours = {"mode-" if name.startswith("mode-") else name for name in ours}
    # The controller's, and the port of the second server.
    assert documented == ours | {"ssh", "become", "python", "port-447"}
