"""uplab/transfer/stages.py: who is set up when, and with what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.transfer.builds import make, tar_of
from uplab import inventory
from uplab.errors import UsageError
from uplab.transfer import archive, fetching, stages
from uplab.transfer.fetching import Transfer
from uplab.transfer.stages import Stage

PINS: dict[str, Any] = {
    "lab": {"policy": "own", "needs": ["compiler"]},
    "agent": {"policy": "build"},
    "tool": {"policy": "distro"},
    "compiler": {"policy": "distro"},
}
WANTED = {"uplab_components": ["compiler", "lab", "tool"], "uplab_pins": PINS}
HOSTS = {
    "r720": WANTED,
    "h1": WANTED,
    "h2": {**WANTED, "uplab_components": ["agent", "lab", "unknown"]},
    "bare": {**WANTED, "uplab_components": ["compiler"]},
}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A host r720 with a build of ``lab``; what is asked of it or its file."""
    make(tmp_path / "root")
    path = tmp_path / "r720.tar"
    path.write_bytes(tar_of(tmp_path / "root"))
    transfer = Transfer(path, archive.sha256_of(path), archive.check(path))
    found: list[list[str]] = []

    def from_host(_project: Path, name: str, wanted: list[str], _chosen: Path | None) -> Transfer:
        found.append([name, *wanted])
        return transfer

    def from_file(_project: Path, file: Path) -> Transfer:
        found.append([str(file)])
        return transfer

    monkeypatch.setattr(fetching, "from_host", from_host)
    monkeypatch.setattr(fetching, "from_file", from_file)
    monkeypatch.setattr(inventory, "hosts", lambda *_: HOSTS)
    return found


def names(tmp_path: Path, chosen: list[str], source: str | None) -> list[list[str]]:
    return [stage.names for stage in stages.stages(tmp_path, chosen, source)]


def test_without_a_source_all_hosts_are_set_up_as_ever(
    tmp_path: Path, asked: list[list[str]]
) -> None:
    assert list(stages.stages(tmp_path, ["h1", "r720"], None)) == [Stage(["h1", "r720"])]
    assert list(stages.stages(tmp_path, [], None)) == []
    assert list(stages.stages(tmp_path, [], "r720")) == []
    assert asked == []


def test_the_source_comes_first_and_is_asked_when_it_is_done(
    tmp_path: Path, asked: list[list[str]]
) -> None:
    going = stages.stages(tmp_path, ["h1", "r720", "h2"], "r720")
    assert next(going) == Stage(["r720"])
    assert asked == []
    last = next(going)
    assert last.names == ["h1", "h2"]
    # Neither what only builds others, nor a name without a pin.
    assert asked == [["r720", "agent", "lab", "tool"]]
    assert list(going) == []
    assert names(tmp_path, ["r720"], "r720") == [["r720"]]


def test_the_playbook_is_told_what_a_host_must_know(tmp_path: Path, asked: list[list[str]]) -> None:
    (stage,) = stages.stages(tmp_path, ["h1"], "r720")
    assert asked == [["r720", "lab", "tool"]]
    (given,) = stage.extra.values()
    assert list(stage.extra) == ["uplab_from"]
    record = json.loads((tmp_path / "root" / "manifest.json").read_text())["components"]["lab"]
    entry = given["entries"]["lab"]
    assert (given["host"], given["archive"]) == ("r720", str(tmp_path / "r720.tar"))
    assert entry["hash"] == record["hash"]
    assert entry["architecture"] == record["inputs"]["architecture"]
    assert entry["packages"] == ["libc6"]
    assert entry["kernel"] == {}
    # It goes onto a command line.
    assert len(json.dumps(stage.extra)) < 1000
    (line,) = stage.news
    assert line.startswith("lab 1.0 of r720: ")


def test_what_the_source_lacks_is_built_and_said(tmp_path: Path, asked: list[list[str]]) -> None:
    (stage,) = stages.stages(tmp_path, ["h1", "h2"], "r720")
    assert stage.names == ["h1", "h2"]
    assert len(asked) == 1
    assert stage.news[1:] == ["h2 builds agent itself: r720 has none"]


def test_a_file_is_taken_where_no_host_has_its_name(
    tmp_path: Path, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("builds", "r720"):
        (tmp_path / name).touch()
        assert names(tmp_path, ["h1"], name) == [["h1"]]
    assert asked == [["builds"], ["r720", "lab", "tool"]]


def test_neither_a_host_nor_a_file(tmp_path: Path, asked: list[list[str]]) -> None:
    with pytest.raises(UsageError, match=r"no host 'r270' .*; did you mean r720\?"):
        names(tmp_path, ["h1"], "r270")
    assert asked == []


def test_a_source_without_anything_that_is_wanted(tmp_path: Path, asked: list[list[str]]) -> None:
    with pytest.raises(UsageError, match="r720 has no finished builds of anything"):
        names(tmp_path, ["bare"], "r720")
    assert asked == [["r720"]]


def test_a_host_s_builds_go_into_a_file(tmp_path: Path, asked: list[list[str]]) -> None:
    said = stages.export(tmp_path, "r720", tmp_path / "out.tar.zst")
    assert said.startswith(f"{tmp_path}/out.tar.zst: lab of r720, ")
    assert asked == [["r720", "lab", "agent", "tool"]]
    assert (tmp_path / "out.tar.zst").read_bytes()[:4] == b"\x28\xb5\x2f\xfd"
