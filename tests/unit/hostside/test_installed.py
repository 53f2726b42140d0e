"""uplab/hostside/installed.py: every artifact is read again, and what differs is told."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from uplab.hostside import installed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with one component of two files."""
    prefix = tmp_path / "store" / "lab-123456789abc"
    artifacts: dict[str, Any] = {}
    for name in ("bin/a", "bin/b"):
        path = prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the program {name}")
        data = path.read_bytes()
        artifacts[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    record = {
        "component": "lab",
        "hash": "123456789abc",
        "source": "build",
        "version": "1.0",
        "prefix": str(prefix),
        "artifacts": artifacts,
        "built_utc": "2026-11-22T13:00:00Z",
        "build_s": 1.5,
    }
    (tmp_path / "current").mkdir()
    (tmp_path / "current" / "lab").symlink_to(prefix)
    (tmp_path / "store" / "lab-123456789abc.json").write_text(json.dumps(record))
    manifest = {"digest": "d", "pins": {"lab": {"version": "1.0"}}, "components": {"lab": record}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def problems(root: Path) -> list[str]:
    found: list[str] = installed.look(root)["components"]["lab"]["problems"]
    return [problem.replace(str(root), "ROOT") for problem in found]


def test_what_is_as_recorded_has_no_problems(root: Path) -> None:
    answer = installed.look(root)
    assert (answer["set_up"], answer["digest"]) == (True, "d")
    assert answer["pins"] == {"lab": {"version": "1.0"}}
    lab = answer["components"]["lab"]
    assert lab["problems"] == []
    assert (lab["files"], lab["bytes"], lab["version"]) == (2, 34, "1.0")
    assert (lab["built_utc"], lab["build_s"]) == ("2026-11-22T13:00:00Z", 1.5)


def test_builds_of_another_host_say_whose_they_are(root: Path) -> None:
    assert installed.look(root)["left_out"] == []
    assert installed.look(root)["components"]["lab"]["from"] is None
    path = root / "store" / "lab-123456789abc.json"
    record = {**json.loads(path.read_text()), "from": {"host": "r720"}}
    path.write_text(json.dumps(record))
    manifest = json.loads((root / "manifest.json").read_text())
    manifest |= {"components": {"lab": record}, "left_out": ["golang"]}
    (root / "manifest.json").write_text(json.dumps(manifest))
    answer = installed.look(root)
    assert answer["left_out"] == ["golang"]
    assert answer["components"]["lab"]["from"] == {"host": "r720"}
    assert answer["components"]["lab"]["problems"] == []


def test_a_host_that_was_never_set_up(tmp_path: Path) -> None:
    answer = installed.look(tmp_path)
    assert (answer["set_up"], answer["digest"], answer["components"]) == (False, None, {})


def test_a_file_of_other_bytes_is_told_with_both_digests(root: Path) -> None:
    path = root / "store/lab-123456789abc/bin/b"
    path.write_text("the program bin/B")
    (problem,) = problems(root)
    assert problem.startswith("ROOT/store/lab-123456789abc/bin/b: sha256 is ")
    assert "the record says " in problem


def test_a_file_that_is_missing_is_told(root: Path) -> None:
    (root / "store/lab-123456789abc/bin/a").unlink()
    assert problems(root) == ["ROOT/store/lab-123456789abc/bin/a: No such file or directory"]


def test_a_link_elsewhere_or_missing_is_told(root: Path) -> None:
    link = root / "current" / "lab"
    link.unlink()
    assert problems(root) == ["ROOT/current/lab is missing"]
    link.symlink_to("/elsewhere")
    (problem,) = problems(root)
    assert problem.startswith("ROOT/current/lab leads to /elsewhere, not to ")


def test_a_record_that_is_gone_or_another_is_told(root: Path) -> None:
    path = root / "store" / "lab-123456789abc.json"
    path.write_text("{}")
    assert problems(root) == ["ROOT/store/lab-123456789abc.json differs from the manifest"]
    path.unlink()
    (problem,) = problems(root)
    assert "cannot be read (FileNotFoundError)" in problem


def test_a_record_without_files_is_told(root: Path) -> None:
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["components"]["lab"]["artifacts"] = {}
    (root / "manifest.json").write_text(json.dumps(manifest))
    assert "its record names no file" in problems(root)


def test_a_damaged_manifest_is_an_error(root: Path) -> None:
    (root / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        installed.look(root)
