"""uplab/restore.py: what hosts answer to lab.restore, and how it is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from uplab import provision, restore
from uplab.errors import HostError, UplabError, UsageError
from uplab.restore import Restored

ROOT = Path(__file__).parents[2]
ENTRY = {"knob": "aslr", "path": "/proc/x", "old": "2", "new": "0", "utc": "", "boot_id": ""}
LEFT = {"entry": ENTRY, "found": "1", "utc": ""}
NOTHING: dict[str, Any] = {
    "run_id": "",
    "put_back": [],
    "left": [],
    "failed": [],
    "after_reboot": False,
    "earlier": [],
}


class Host:
    """A host that answers as a test says."""

    def __init__(self, name: str, answer: dict[str, Any] | UplabError) -> None:
        self.name = name
        self.answer = answer

    def ask(self, command: str, request: dict[str, Any]) -> dict[str, Any]:
        assert (command, request) == ("restore", {})
        if isinstance(self.answer, UplabError):
            raise self.answer
        return self.answer


def text(**changes: Any) -> str:
    return restore.as_text([Restored("r720", {**NOTHING, **changes})])


def test_each_host_is_asked_whatever_the_others_say(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = {
        "r720": Host("r720", HostError("host r720: this host is busy: run r1 holds it")),
        "r730": Host("r730", NOTHING),
    }
    monkeypatch.setattr(provision, "host_for", lambda _project, name, *_: hosts[name])
    done = restore.run(ROOT, list(hosts))
    assert [each.exit_code for each in done] == [4, 0]
    assert restore.as_text(done) == (
        "r720: this host is busy: run r1 holds it\nr730: no run left it tuned"
    )
    decoded = json.loads(restore.as_json(done))["hosts"]
    assert [entry["host"] for entry in decoded] == ["r720", "r730"]
    assert decoded[0]["error"] == "this host is busy: run r1 holds it"


def test_what_was_put_back_left_and_refused_is_told() -> None:
    failed = {"entry": ENTRY, "reason": "Operation not permitted"}
    assert text(run_id="r1", put_back=[ENTRY], left=[LEFT], failed=[failed]).splitlines() == [
        "r720: left tuned by run r1",
        "  put back: /proc/x 0 -> 2",
        "  left: /proc/x is 1: somebody changed it after uplab did (2 -> 0)",
        "  could not be put back: /proc/x to 2 (Operation not permitted)",
    ]


def test_a_reboot_and_what_was_left_before_are_told() -> None:
    assert (
        text(run_id="r1", after_reboot=True) == "r720: left tuned by run r1, before its last boot"
    )
    assert text(earlier=[LEFT]).splitlines()[1].startswith("  left: /proc/x is 1")


def test_what_could_not_be_put_back_is_exit_code_1() -> None:
    failed = {"entry": ENTRY, "reason": "x"}
    assert Restored("r720", {**NOTHING, "run_id": "r1", "failed": [failed]}).exit_code == 1
    assert Restored("r720", {**NOTHING, "run_id": "r1", "left": [LEFT]}).exit_code == 0


def test_a_host_s_text_cannot_move_the_cursor() -> None:
    assert "\x1b" not in text(run_id="r1\x1b[2J")


@pytest.mark.parametrize("wrong", [None, 7, "text", [7], [{"entry": 7}], {"a": 1}])
def test_an_answer_of_another_form_is_shown_and_is_no_crash(wrong: Any) -> None:
    names = ("put_back", "left", "failed", "earlier")
    assert text(run_id="r1", **dict.fromkeys(names, wrong)).startswith("r720: left tuned by run r1")


def test_an_unknown_host_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no host 'lokal'"):
        restore.run(ROOT, ["lokal"])
