"""uplab/checkup.py: the controller's lines, the host's, and how both are shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uplab import checkup, provision
from uplab.checkup import Checkup, Line
from uplab.errors import HostError, UplabError, UsageError
from uplab.remote import Become, Facts

ROOT = Path(__file__).parents[2]
GOOD = {"check": "btf", "state": "ok", "seen": "there", "wanted": "there", "mend": ""}
ROOT_THERE = Facts("ED25519 SHA256:x", "root", "root", "3.11.2")


class Host:
    """A host that answers as a test says."""

    name = "local"
    python = "/usr/bin/python3"

    def __init__(self, facts: Facts | UplabError, lines: list[Any] | UplabError) -> None:
        self._facts = facts
        self._lines = lines
        self.asked: list[tuple[str, dict[str, Any], bool]] = []

    def facts(self) -> Facts:
        if isinstance(self._facts, UplabError):
            raise self._facts
        return self._facts

    def ask(self, command: str, request: dict[str, Any], *, become: bool = True) -> dict[str, Any]:
        self.asked.append((command, request, become))
        if isinstance(self._lines, UplabError):
            raise self._lines
        return {"lines": self._lines}


Check = Callable[..., Checkup]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Check:
    def run(host: Host) -> Checkup:
        monkeypatch.setattr(provision, "host_for", lambda *_: host)
        return checkup.run(ROOT, "local")

    return run


def line(found: Checkup, name: str) -> Line:
    (only,) = [entry for entry in found.lines if entry.check == name]
    return only


def test_the_controller_s_lines_come_first(check: Check) -> None:
    host = Host(ROOT_THERE, [GOOD])
    found = check(host)
    assert [entry.check for entry in found.lines] == ["ssh", "become", "python", "btf"]
    assert {entry.state for entry in found.lines} == {"ok"}
    assert line(found, "ssh").seen == "as root, its key ED25519 SHA256:x"
    assert found.exit_code == 0
    ((command, request, become),) = host.asked
    assert (command, become, request["host"]) == ("checkup", True, "local")
    assert {cell["server"] for cell in request["cells"]} == {"https", "http"}
    assert "servers" in request["components"]
    json.dumps(request)


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_any_failed_line_is_exit_code_1(check: Check, state: str, code: int) -> None:
    assert check(Host(ROOT_THERE, [GOOD, {**GOOD, "state": state}])).exit_code == code


def test_a_host_that_cannot_be_reached_is_one_line(check: Check) -> None:
    error = HostError(
        "host local: nothing listens on 192.0.2.1:22. There, run: systemctl start ssh"
    )
    found = check(Host(error, []))
    assert found.lines == (
        Line(
            "ssh",
            "fail",
            "nothing listens on 192.0.2.1:22",
            "the host lets us in",
            "There, run: systemctl start ssh",
        ),
    )
    assert (found.answered, found.exit_code) == (False, 4)


def test_a_host_without_python_says_so_and_what_else_is_known(check: Check) -> None:
    host = Host(Facts("k", "root", "root", None), [GOOD])
    found = check(host)
    assert [(entry.check, entry.state) for entry in found.lines] == [
        ("ssh", "ok"),
        ("become", "ok"),
        ("python", "fail"),
    ]
    assert line(found, "python").seen == "no Python at /usr/bin/python3"
    assert line(found, "python").mend == "There, run: apt-get install python3"
    assert (found.exit_code, host.asked) == (4, [])


@pytest.mark.parametrize("become", ["no-sudo", "sudo-refused"])
def test_without_root_all_else_is_looked_at_too(check: Check, become: Become) -> None:
    host = Host(Facts("k", "lab", become, "3.11.2"), [GOOD])
    found = check(host)
    assert line(found, "become").state == "fail"
    assert line(found, "btf").state == "ok"
    assert found.exit_code == 1
    assert host.asked[0][2] is False


def test_a_hostside_that_fails_is_a_line(check: Check) -> None:
    found = check(Host(ROOT_THERE, HostError("host local: it was lost. Run: x")))
    assert line(found, "hostside").seen == "it was lost"
    assert found.exit_code == 4


def test_what_comes_from_a_host_is_not_trusted(check: Check) -> None:
    evil = {**GOOD, "seen": "a\x1b[2J\nb", "mend": 7}
    found = check(Host(ROOT_THERE, [evil, "text", {"state": "odd"}, None, {**GOOD, "more": 1}]))
    assert [entry.seen for entry in found.lines if entry.check == "btf"] == ["a?[2J?b", "there"]


def test_an_unknown_host_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no host 'lokal'"):
        checkup.run(ROOT, "lokal")


# --- how it looks ---------------------------------------------------------------------------------

SHOWN = Checkup(
    "r730",
    (
        Line("btf", "ok", "there", "there"),
        Line("governor", "warn", "powersave", "performance", "echo performance > x"),
        Line("store", "fail", "not installed: x", "every one", "invoke lab.setup --host r730"),
        Line("platform", "warn", "é", "bare metal", "Measure elsewhere"),
    ),
    answered=True,
)


def test_each_line_has_mark_seen_wanted_and_what_mends_it() -> None:
    assert checkup.as_text(SHOWN, "utf-8").splitlines() == [
        "✓ btf       there",
        "! governor  powersave; wanted: performance. There, run: echo performance > x",
        "✗ store     not installed: x; wanted: every one. Run: invoke lab.setup --host r730",
        "! platform  é; wanted: bare metal. Measure elsewhere",
        "r730: 1 ok, 2 to look at, 1 failed",
    ]


def test_a_terminal_without_the_marks_gets_others() -> None:
    text = checkup.as_text(SHOWN, "ascii")
    assert text.isascii()
    assert text.splitlines()[0] == "ok btf       there"
    assert text.splitlines()[2].startswith("x  store")


def test_json_has_all_of_it() -> None:
    decoded = json.loads(checkup.as_json(SHOWN))
    assert (decoded["host"], decoded["exit_code"], decoded["answered"]) == ("r730", 1, True)
    assert decoded["lines"][1] == {
        "check": "governor",
        "state": "warn",
        "seen": "powersave",
        "wanted": "performance",
        "mend": "echo performance > x",
    }
