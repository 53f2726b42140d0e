"""What lab.teardown and lab.gc say of what they did, and what they ask before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from uplab import gc, playbook, provision, removal, teardown
from uplab.errors import GateError, UsageError
from uplab.outcome import Outcome, Result
from uplab.teardown import Wish

NOTHING: dict[str, Any] = {
    "changed": False,
    "set_up": True,
    "removed": [],
    "freed_bytes": 0,
    "kept": [],
}
GONE = {**NOTHING, "changed": True, "removed": ["/opt/uplab/store"], "freed_bytes": 3 << 20}


class Plays:
    """Ansible, that answers what a test says, and what it was asked to do."""

    def __init__(self, log: Path) -> None:
        self.answers: dict[str, tuple[str, dict[str, Any]]] = {"box1": ("changed", GONE)}
        self.log = log
        self.argvs: list[list[str]] = []

    def collect(self, _project: Path, argv: list[str], *, stock: bool) -> Outcome:
        assert stock is False
        self.argvs.append(argv)
        results = [
            Result(host, "", "Remove it", "uplab_remove", state, result, 1.0)
            for host, (state, result) in self.answers.items()
        ]
        failed = any(state == "failed" for state, _ in self.answers.values())
        return Outcome(2 if failed else 0, results, self.log)

    @property
    def variables(self) -> dict[str, Any]:
        """Of the last play."""
        argv = self.argvs[-1]
        value = json.loads(argv[argv.index("--extra-vars") + 1])
        assert isinstance(value, dict)
        return value


@pytest.fixture
def plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plays:
    made = Plays(tmp_path / "log")
    monkeypatch.setattr(playbook, "collect", made.collect)
    monkeypatch.setattr(provision, "require_ready", lambda _project, _name, _chosen: None)
    return made


def test_what_went_is_said_by_host(plays: Plays, tmp_path: Path) -> None:
    packages = [f"package{number}" for number in range(20)]
    kept = [{"path": "/etc/apt/x.list", "why": "changed since"}]
    more = {"packages_removed": packages, "restored": ["/etc/apt/pve.list"], "kept": kept}
    plays.answers = {"box1": ("changed", {**GONE, **more}), "box2": ("ok", NOTHING)}
    report = teardown.run(tmp_path, Wish(["box1", "box2"], packages=True, runs=True))
    assert plays.variables == {"uplab_remove_packages": True, "uplab_remove_runs": True}
    assert "box1,box2" in plays.argvs[0]
    assert plays.argvs[0][1].endswith("/playbooks/teardown.yml")
    assert teardown.as_text(report).splitlines() == [
        "box1: removed 3.0 MiB, paths: 1",
        "  /opt/uplab/store",
        "  /etc/apt/pve.list: put back as it was before uplab",
        "  Debian packages that setup had added: 20",
        f"    {' '.join(packages[:10])}",
        f"    {' '.join(packages[10:19])}",
        f"    {packages[19]}",
        "  kept /etc/apt/x.list: changed since",
        "box2: nothing to remove",
    ]
    decoded = json.loads(removal.as_json(report))
    assert decoded["hosts"][0]["packages_removed"] == packages
    assert decoded["hosts"][0]["kept"] == kept
    assert decoded["problems"] == []


def test_what_stays_comes_with_the_command_that_removes_it(plays: Plays, tmp_path: Path) -> None:
    left = {"set_up": False, "packages": ["wrk"], "runs": ["/var/lib/uplab/runs/a"]}
    plays.answers = {"box1": ("ok", {**NOTHING, **left})}
    assert teardown.as_text(teardown.run(tmp_path, Wish(["box1"]))).splitlines() == [
        "box1: uplab is not set up there; nothing was changed",
        "  Debian packages that setup added and that stay: 1. "
        "Run: invoke lab.teardown --host box1 --packages",
        "    wrk",
        "  runs that nobody has collected stay: /var/lib/uplab/runs/a. "
        "Run: invoke lab.teardown --host box1 --runs",
    ]


def test_check_mode_says_would(plays: Plays, tmp_path: Path) -> None:
    plays.answers = {"box1": ("changed", {**GONE, "restored": ["/etc/apt/pve.list"]})}
    report = teardown.run(tmp_path, Wish(["box1"]), check=True)
    assert "--check" in plays.argvs[0]
    assert "box1: would remove 3.0 MiB, paths: 1\n" in teardown.as_text(report)
    assert "/etc/apt/pve.list: would be put back" in teardown.as_text(report)


def test_a_refusal_is_an_error_and_hides_no_other_host(plays: Plays, tmp_path: Path) -> None:
    plays.answers["box2"] = ("failed", {"msg": "in use by\n  \x1b[2Jcat"})
    report = teardown.run(tmp_path, Wish(["box1", "box2"]))
    assert "box1: removed 3.0 MiB" in teardown.as_text(report)
    with pytest.raises(GateError, match=r"^box2: Remove it: in use by \?\[2Jcat$"):
        report.require_success()


def test_nobody_to_ask_takes_yes(plays: Plays, tmp_path: Path) -> None:
    wish = Wish(["box1", "box2"], packages=True)
    with pytest.raises(UsageError) as caught:
        teardown.confirm(tmp_path, wish, None)
    assert "Run: invoke lab.teardown --host box1,box2 --packages --yes" in caught.value.message
    assert plays.argvs == []


@pytest.mark.parametrize(("answer", "agreed"), [("yes", True), ("y", False), ("", False)])
def test_only_a_yes_is_one(
    plays: Plays, tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: str, agreed: bool
) -> None:
    asked: list[str] = []

    def ask(text: str) -> str:
        asked.append(capsys.readouterr().out + text)
        return answer

    if agreed:
        teardown.confirm(tmp_path, Wish(["box1"]), ask)
    else:
        with pytest.raises(GateError, match="nothing was removed: it was not confirmed"):
            teardown.confirm(tmp_path, Wish(["box1"]), ask)
    assert all("--check" in argv for argv in plays.argvs)
    shown = "box1: would remove 3.0 MiB, paths: 1\n  /opt/uplab/store\nRemove this? Type yes: "
    assert asked == [shown]


def test_nothing_to_remove_is_nothing_to_ask(plays: Plays, tmp_path: Path) -> None:
    plays.answers = {"box1": ("ok", NOTHING)}
    teardown.confirm(tmp_path, Wish(["box1"]), lambda text: pytest.fail(text))


def test_a_host_that_refuses_is_told_before_anybody_is_asked(plays: Plays, tmp_path: Path) -> None:
    plays.answers = {"box1": ("failed", {"msg": "a build of wrk is under way"})}
    with pytest.raises(GateError, match="a build of wrk is under way"):
        teardown.confirm(tmp_path, Wish(["box1"]), lambda text: pytest.fail(text))


def test_gc_says_what_it_freed_and_kept(plays: Plays, tmp_path: Path) -> None:
    kept = [{"path": "/opt/uplab/store/wrk-0", "why": "in use by wrk (pid 7)"}]
    nowhere = {**NOTHING, "set_up": False}
    plays.answers = {"box1": ("changed", {**GONE, "kept": kept}), "box2": ("ok", nowhere)}
    report = gc.run(tmp_path, ["box1", "box2"], keep_days=3, cache=True)
    assert plays.variables == {"uplab_keep_days": 3, "uplab_remove_cache": True}
    assert gc.as_text(report).splitlines() == [
        "box1: removed 3.0 MiB, paths: 1",
        "  /opt/uplab/store",
        "  kept /opt/uplab/store/wrk-0: in use by wrk (pid 7)",
        "box2 is not set up; nothing to remove",
    ]


def test_days_are_not_negative(plays: Plays, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--keep-days is -1; wanted: 0 or more days"):
        gc.run(tmp_path, ["box1"], keep_days=-1)
    assert plays.argvs == []
