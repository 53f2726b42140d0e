"""uplab/box/needs.py: packages are installed by apt, and said before."""

import os
from pathlib import Path

import pytest

from uplab.box import needs
from uplab.box.steps import Steps
from uplab.errors import EXIT_HOST, GateError, HostError

PROGRAMS = {"no-such-box-tool": "box-package", "sh": "dash"}


class Heard(Steps):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for apt-get, first on the path; it does what its file says."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "apt-get"


def write(program: Path, text: str) -> None:
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)


def test_nothing_is_done_where_all_is_there(apt: Path) -> None:
    write(apt, "exit 1")
    heard = Heard()
    needs.require_programs(heard, {"sh": "dash"})
    assert heard.lines == []


def test_what_is_missing_is_installed_and_nothing_else(apt: Path, tmp_path: Path) -> None:
    tool = tmp_path / "no-such-box-tool"
    write(apt, f'echo "$@" > {tmp_path}/asked; : > {tool}; chmod +x {tool}')
    heard = Heard()
    needs.require_programs(heard, PROGRAMS)
    words = (tmp_path / "asked").read_text().split()
    assert words[0] == "install"
    assert words[-1] == "box-package"
    assert {"--yes", "--no-upgrade", "--no-remove"} <= set(words)
    assert len(heard.lines) == 1
    assert heard.lines[0].startswith("installing what a box needs: apt-get install")


def test_a_machine_without_package_lists_fetches_them(apt: Path, tmp_path: Path) -> None:
    tool, lists = tmp_path / "no-such-box-tool", tmp_path / "lists"
    update = f'[ "$1" != update ] || : > {lists}'
    write(apt, f"{update}; [ -e {lists} ] || exit 100\n: > {tool}; chmod +x {tool}")
    needs.require_programs(Steps(), PROGRAMS)
    assert tool.exists()


@pytest.mark.parametrize("code", [0, 100])
def test_apt_that_does_not_help_is_told_with_the_next_command(apt: Path, code: int) -> None:
    write(apt, f"echo 'E: the reason' >&2; exit {code}")
    with pytest.raises(GateError) as caught:
        needs.require_programs(Steps(), PROGRAMS)
    assert caught.value.message.startswith(
        "apt could not install box-package: E: the reason. Run: apt-get update && apt-get install"
    )


def test_a_machine_without_apt_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        GateError, match="a box lacks box-package, dash, and there is no apt-get here"
    ):
        needs.require_programs(Steps(), PROGRAMS)


def test_anybody_but_root_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostError) as caught:
        needs.require_root()
    assert caught.value.exit_code == EXIT_HOST
    assert "Run: sudo ./invoke lab.box up" in caught.value.message
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    needs.require_root()
