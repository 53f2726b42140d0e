"""uplab/hostside/transfer.py: which builds are given away, and what is said of them."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.unit.transfer.builds import CHECKOUT, make, request, tar_of
from uplab.hostside import __main__ as hostside
from uplab.hostside import libraries, transfer
from uplab.hostside.errors import HostError


def entry(root: Path, component: str = "lab") -> dict[str, Any]:
    (found,) = transfer.index(root, request(component))["entries"]
    assert isinstance(found, dict)
    return found


def test_an_index_says_all_of_a_build(tmp_path: Path) -> None:
    prefix = make(tmp_path)
    index = transfer.index(tmp_path, request())
    assert (index["schema"], index["kind"], index["host"]) == (1, "uplab-entries", "r720")
    assert index["checkout_sha256"] == CHECKOUT
    assert index["debian"] in Path("/etc/os-release").read_text()
    (found,) = index["entries"]
    assert found["record"]["prefix"] == str(prefix)
    assert found["folders"] == ["bin", "share", "share/empty"]
    assert found["links"] == {"share/program": "../bin/lab", "share/all": "../bin"}
    assert {name: file["mode"] for name, file in found["files"].items()} == {
        "bin/lab": 0o755,
        "share/notes": (prefix / "share" / "notes").stat().st_mode & 0o755,
    }
    assert found["libraries"] == {"libc.so.6": "libc6"}
    assert [int(part) for part in found["glibc"].split(".")] >= [2, 2]


def test_the_tar_holds_the_index_first_and_links_last(tmp_path: Path) -> None:
    prefix = make(tmp_path)
    data = tar_of(tmp_path)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
        assert names[0] == "index.json"
        kinds = [tar.getmember(name).type for name in names[1:]]
        assert kinds == sorted(kinds, key=[tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.SYMTYPE].index)
        program = tar.extractfile(f"{prefix.name}/bin/lab")
        assert program is not None
        assert program.read() == (prefix / "bin" / "lab").read_bytes()
    assert tar_of(tmp_path) == data


def test_files_of_packages_and_adopted_ones_are_not_given_away(tmp_path: Path) -> None:
    make(tmp_path, "lab", source="distro")
    make(tmp_path, "own", source="path")
    make(tmp_path, "elsewhere", prefix="/usr/lib/llvm-15", source="upstream")
    make(tmp_path, "good")
    names = ("lab", "own", "elsewhere", "good", "no-such")
    index = transfer.index(tmp_path, request(*names))
    assert [entry["record"]["component"] for entry in index["entries"]] == ["good"]
    assert transfer.index(tmp_path, request("no-such"))["entries"] == []
    assert transfer.index(tmp_path / "nothing", request())["entries"] == []


def test_a_hard_link_is_sent_as_a_file(tmp_path: Path) -> None:
    prefix = make(tmp_path)
    os.link(prefix / "bin" / "lab", prefix / "bin" / "twin")
    with tarfile.open(fileobj=io.BytesIO(tar_of(tmp_path))) as tar:
        assert tar.getmember(f"{prefix.name}/bin/twin").isreg()


def test_a_mode_that_lets_others_write_or_become_root_is_not_sent(tmp_path: Path) -> None:
    prefix = make(tmp_path)
    (prefix / "bin" / "lab").chmod(0o6777)
    assert entry(tmp_path)["files"]["bin/lab"]["mode"] == 0o755


@pytest.mark.parametrize("name", ["bin/lab", "share/notes"])
def test_a_build_that_was_altered_is_not_given_away(tmp_path: Path, name: str) -> None:
    prefix = make(tmp_path)
    (prefix / name).write_text("altered")
    with pytest.raises(HostError, match=f"lab: {prefix}/{name} is not what its record says. Run: "):
        transfer.index(tmp_path, request())
    (prefix / name).unlink()
    with pytest.raises(HostError, match="is not what its record says"):
        transfer.index(tmp_path, request())


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../other", "../bin/../../x", "..//../x", "all/../../../x"]
)
def test_a_link_out_of_a_build_stops_it(tmp_path: Path, target: str) -> None:
    prefix = make(tmp_path)
    (prefix / "share" / "link").symlink_to(target)
    with pytest.raises(HostError, match="out of its own build"):
        transfer.index(tmp_path, request())


@pytest.mark.parametrize("target", ["x", "../bin/lab", "..", "a/b", "../share"])
def test_links_inside_of_a_build(target: str) -> None:
    assert transfer.stays_inside("share/link", target)


@pytest.mark.parametrize("target", ["", "/", "a//b", "../..", "a/../b", "../share/../bin"])
def test_links_that_may_lead_out_of_a_build(target: str) -> None:
    """A step up after a step down may go through another link, so that is none of ours."""
    assert not transfer.stays_inside("share/link", target)


def test_something_that_is_no_file_stops_it(tmp_path: Path) -> None:
    prefix = make(tmp_path)
    os.mkfifo(prefix / "bin" / "pipe")
    with pytest.raises(HostError, match="bin/pipe is neither file, folder nor link"):
        transfer.index(tmp_path, request())


def test_a_library_that_no_package_brings_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = make(tmp_path)
    monkeypatch.setattr(libraries, "cached", dict)
    with pytest.raises(HostError, match=f"{prefix}/bin/lab needs libc.so.6, which is not here"):
        transfer.index(tmp_path, request())
    library = tmp_path / "libc.so.6"
    library.touch()
    monkeypatch.setattr(libraries, "cached", lambda: {"libc.so.6": library})
    with pytest.raises(
        HostError, match=r"needs libc\.so\.6 .*, which belongs to no Debian package"
    ):
        transfer.index(tmp_path, request())


def test_a_library_of_the_build_itself_is_no_package_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = make(tmp_path)
    (prefix / "libc.so.6").write_text("its own")
    monkeypatch.setattr(libraries, "cached", dict)
    assert entry(tmp_path)["libraries"] == {}


def test_hostside_writes_the_mark_before_the_tar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    make(tmp_path)
    monkeypatch.setattr("sys.argv", ["hostside", "--root", str(tmp_path), "store-export"])
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(request())))
    mask = os.umask(0)
    try:
        assert hostside.main() == 0
    finally:
        os.umask(mask)
    assert capfdbinary.readouterr().out == transfer.MARK + tar_of(tmp_path)
