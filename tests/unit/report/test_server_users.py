"""Who the servers ran as: read from a run's trials, and said in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.runs import make_run, write_json
from uplab import results
from uplab.errors import UsageError
from uplab.hostside import sums
from uplab.report import markdown, model, sentences


def entry(uid: int, *capabilities: str, processes: int = 1) -> dict[str, Any]:
    return {"processes": processes, "uids": [uid] * 4, "capabilities": list(capabilities)}


def run_with(directory: Path, users: dict[str, Any]) -> Path:
    """A run of one block whose servers ran as told; one that is not named says nothing of it."""
    make_run(directory, modes=("none", "none-again"), blocks=1, sums=False)
    for path in directory.glob("trials/*/trial.json"):
        trial = json.loads(path.read_text())
        trial["server_user"] = users.get(trial["cell"]["server"])
        write_json(path, trial)
    sums.write(directory)
    return directory


def said(directory: Path, seen: list[dict[str, Any]], asked: str = "own") -> str:
    users = {"https": {"asked": asked, "seen": seen}}
    return sentences.servers_users(results.load(run_with(directory, users)))


@pytest.mark.parametrize(
    ("asked", "seen", "text"),
    [
        ("own", [entry(60706)], "an unprivileged user, without any capability"),
        (
            "own",
            [entry(60706), entry(60706, "net_bind_service", processes=2)],
            "an unprivileged user, with net_bind_service",
        ),
        ("own", [entry(60706), entry(0, "all")], "root, unasked"),
        ("root", [entry(0, "all"), entry(33)], "root, as its adapter asks"),
        ("root", [entry(33)], "an unprivileged user, without any capability"),
    ],
)
def test_one_line_says_who_it_was(
    tmp_path: Path, asked: str, seen: list[dict[str, Any]], text: str
) -> None:
    assert said(tmp_path / "run", seen, asked) == f"https: {text}"


def test_the_line_is_in_the_report_and_only_where_it_is_known(tmp_path: Path) -> None:
    users = {"https": {"asked": "own", "seen": [entry(7)]}, "http": {"asked": "root", "seen": []}}
    report = model.build(results.load(run_with(tmp_path / "run", users)))
    line = "- **Servers ran as**: https: an unprivileged user, without any capability"
    assert line in markdown.render(report).splitlines()
    older = model.build(results.load(run_with(tmp_path / "older", {})))
    assert "Servers ran as" not in markdown.render(older)


def test_trials_that_differ_are_not_made_equal(tmp_path: Path) -> None:
    users = {"https": {"asked": "own", "seen": [entry(7)]}}
    directory = run_with(tmp_path / "run", users)
    path = next(directory.glob("trials/*-https-none-12B-b01/trial.json"))
    trial = json.loads(path.read_text())
    trial["server_user"]["seen"] = [entry(0)]
    write_json(path, trial)
    sums.write(directory)
    text = "https: an unprivileged user, without any capability or root, unasked"
    assert sentences.servers_users(results.load(directory)) == text


@pytest.mark.parametrize(
    "broken",
    [
        {"asked": "somebody", "seen": []},
        {"asked": "own", "seen": [{"processes": 0, "uids": [], "capabilities": []}]},
        {"asked": "own", "seen": [{"processes": 1, "uids": 0, "capabilities": []}]},
        {"asked": "own", "seen": [{"processes": 1, "uids": [0], "capabilities": 7}]},
        {"asked": "own", "seen": "nobody"},
    ],
)
def test_what_is_no_such_record_is_refused_with_its_place(
    tmp_path: Path, broken: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=r"/trial\.json"):
        results.load(run_with(tmp_path / "run", {"https": broken}))
