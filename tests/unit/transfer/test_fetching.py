"""uplab/transfer/fetching.py: what comes from a host or a file is checked before it is kept."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests import sshd
from tests.unit.transfer.builds import make, member, members, pack, request, tar_of
from uplab import adapters, hostzip, provision
from uplab.errors import EXIT_GATE, EXIT_HOST, EXIT_USAGE, UplabError, UsageError
from uplab.hostside.transfer import MARK
from uplab.remote import Host, LocalHost
from uplab.ssh import SshHost
from uplab.sshconfig import endpoint
from uplab.transfer import fetching
from uplab.transfer.fetching import FOLDER

ROOT = Path(__file__).resolve().parents[3]
CHECKOUT = request()["checkout_sha256"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    with sshd.running(tmp_path_factory.mktemp("sshd")) as started:
        yield started


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make(tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of the digest that the builds are of, whose hosts are up to date."""
    monkeypatch.setattr(fetching, "checkout_sha256", lambda _: CHECKOUT)
    monkeypatch.setattr(provision, "is_current", lambda *_: True)
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


Connect = Callable[[Path], Host]


@pytest.fixture(params=["local", "ssh"])
def connect(
    request: pytest.FixtureRequest, root: Path, server: sshd.Server, monkeypatch: pytest.MonkeyPatch
) -> Connect:
    """Make ``h1`` a host with this zipapp: this machine, or one behind SSH."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)

    def become(zipapp: Path) -> Host:
        options = ("--root", str(root))
        host: Host = LocalHost("h1", zipapp, options)
        if request.param == "ssh":
            host = SshHost("h1", endpoint("h1", server.variables()), zipapp, options)
        monkeypatch.setattr(provision, "connect", lambda *_: host)
        return host

    return become


@pytest.fixture
def zipapp(tmp_path: Path) -> Path:
    return hostzip.write(adapters.load([ROOT]), tmp_path / "zipapp")


def saying(tmp_path: Path, code: str) -> Path:
    """A hostside of somebody else's."""
    with zipfile.ZipFile(tmp_path / "odd.pyz", "w") as archive:
        archive.writestr("__main__.py", f"import os, sys, time\n{code}\n")
    return tmp_path / "odd.pyz"


def kept(project: Path) -> list[str]:
    folder = project / FOLDER
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_builds_come_from_a_host(project: Path, connect: Connect, zipapp: Path, root: Path) -> None:
    connect(zipapp)
    found = fetching.from_host(project, "h1", ["lab", "no-such"])
    assert found.index.components == ["lab"]
    assert found.index.host == "h1"
    assert kept(project) == [found.path.name] == [f"h1-{found.sha256[:12]}.tar"]
    assert len(found.path.read_bytes()) == len(tar_of(root))
    again = fetching.from_host(project, "h1", ["lab"])
    assert again == found
    make(root, "more")
    newer = fetching.from_host(project, "h1", ["lab", "more"])
    assert kept(project) == [newer.path.name] != [found.path.name]


def test_what_a_login_shell_prints_is_left_out(
    project: Path, connect: Connect, tmp_path: Path, root: Path
) -> None:
    (tmp_path / "data").write_bytes(b"Welcome!\n" + MARK + tar_of(root))
    connect(saying(tmp_path, f"os.write(1, open({str(tmp_path / 'data')!r}, 'rb').read())"))
    assert fetching.from_host(project, "h1", ["lab"]).index.components == ["lab"]


def refusal(project: Path) -> UplabError:
    with pytest.raises(UplabError) as caught:
        fetching.from_host(project, "h1", ["lab"])
    assert kept(project) == []
    assert "\n" not in caught.value.message
    return caught.value


def test_a_host_that_sends_something_else_is_refused(
    project: Path, connect: Connect, tmp_path: Path, root: Path
) -> None:
    evil = pack([*members(tar_of(root)), *member("../evil", b"evil")])
    (tmp_path / "data").write_bytes(MARK + evil)
    connect(saying(tmp_path, f"os.write(1, open({str(tmp_path / 'data')!r}, 'rb').read())"))
    error = refusal(project)
    assert error.exit_code == EXIT_HOST
    assert error.message.startswith("host h1: what it sends is not taken: its index.json names no")
    assert "nothing was changed" in error.message


def test_a_host_that_refuses_says_why(
    project: Path, connect: Connect, zipapp: Path, root: Path
) -> None:
    connect(zipapp)
    (root / "store" / next(iter(root.glob("store/lab-*/"))).name / "bin" / "lab").write_text("x")
    error = refusal(project)
    assert error.exit_code == EXIT_HOST
    assert error.message.startswith("host h1: lab: ")
    assert "is not what its record says" in error.message


def test_a_host_that_sends_without_end_is_cut_short(
    project: Path, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_LIMIT_BYTES", 1 << 20)
    connect(saying(tmp_path, f"os.write(1, {MARK!r})\nwhile True: os.write(1, bytes(1 << 16))"))
    assert "it sends more than 1048576 bytes" in refusal(project).message


def test_a_host_that_never_comes_to_the_point(
    project: Path, connect: Connect, tmp_path: Path
) -> None:
    connect(saying(tmp_path, "while True: os.write(1, bytes(1 << 16))"))
    assert "it sends something else than builds" in refusal(project).message
    connect(saying(tmp_path, "print('hello')"))
    assert "it is no tar archive, or damaged (empty file)" in refusal(project).message


def test_a_full_disk_is_told(
    project: Path, connect: Connect, zipapp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(zipapp)

    class Full(io.BytesIO):
        def write(self, _data: object) -> int:
            raise OSError(28, "No space left on device")

    take = fetching._AfterMark
    monkeypatch.setattr(fetching, "_AfterMark", lambda name, _out: take(name, Full()))
    assert "cannot be written: No space left on device" in refusal(project).message


def test_a_host_that_is_behind_is_not_asked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "is_current", lambda *_: False)
    monkeypatch.setattr(provision, "connect", lambda *_: pytest.fail("it was asked"))
    error = refusal(project)
    assert error.exit_code == EXIT_GATE
    assert error.message.endswith("Run: invoke lab.setup --host h1")


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def file(project: Path, zipapp: Path, root: Path, tmp_path: Path, monkeypatch: Any) -> Path:
    """Builds in a file, as lab.export writes it."""
    host = LocalHost("h1", zipapp, ("--root", str(root)))
    monkeypatch.setattr(provision, "connect", lambda *_: host)
    fetching.export(fetching.from_host(project, "h1", ["lab"]), tmp_path / "builds.tar.zst")
    for path in (project / FOLDER).iterdir():
        path.unlink()
    return tmp_path / "builds.tar.zst"


def file_refusal(project: Path, file: Path) -> str:
    with pytest.raises(UsageError) as caught:
        fetching.from_file(project, file)
    assert caught.value.exit_code == EXIT_USAGE
    assert kept(project) == []
    return caught.value.message


def test_builds_come_out_of_a_file(project: Path, file: Path) -> None:
    found = fetching.from_file(project, file)
    assert found.index.components == ["lab"]
    assert kept(project) == [f"builds.tar.zst-{found.sha256[:12]}.tar"]
    with tarfile.open(found.path) as tar:
        assert tar.getnames()[0] == "index.json"


def test_the_same_builds_make_the_same_file(project: Path, file: Path, tmp_path: Path) -> None:
    fetching.export(fetching.from_file(project, file), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == file.read_bytes()
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_file_that_is_cut_off_or_altered(project: Path, file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    for data in (whole[:-40], whole[: len(whole) // 2], whole[:100], b"", b"no such thing"):
        (tmp_path / "bad").write_bytes(data)
        message = file_refusal(project, tmp_path / "bad")
        assert message.startswith(f"{tmp_path}/bad is not used: ")
        assert "nothing was changed" in message
        assert "invoke lab.export" in message


def test_a_file_of_another_checkout(
    project: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "checkout_sha256", lambda _: "d" * 64)
    message = file_refusal(project, file)
    assert "it was made by a checkout with other roles, pins or sources than this" in message


def test_a_file_of_something_else(project: Path, tmp_path: Path) -> None:
    bundle = pack(member("index.json", b'{"kind": "uplab-bundle", "schema": 1, "parts": []}'))
    (tmp_path / "lab.tar.zst").write_bytes(zstandard.compress(bundle))
    message = file_refusal(project, tmp_path / "lab.tar.zst")
    assert "it holds no finished builds, as lab.export writes them" in message


def test_a_file_that_grows_without_end(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_LIMIT_BYTES", 1 << 20)
    (tmp_path / "bomb").write_bytes(zstandard.compress(bytes(1 << 24)))
    assert "it is longer than 1048576 bytes" in file_refusal(project, tmp_path / "bomb")


def test_a_file_that_cannot_be_written(project: Path, file: Path, tmp_path: Path) -> None:
    found = fetching.from_file(project, file)
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        fetching.export(found, tmp_path / "no" / "such" / "folder")
    before = file.read_bytes()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="cannot be written: Is a directory"):
        fetching.export(found, tmp_path / "folder")
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_the_digest_of_a_checkout_is_of_what_builds_are_made_from(tmp_path: Path) -> None:
    (tmp_path / "roles").mkdir()
    before = fetching.checkout_sha256(tmp_path)
    (tmp_path / "roles" / "main.yml").write_text("x")
    after = fetching.checkout_sha256(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "x.md").write_text("x")
    assert before != after == fetching.checkout_sha256(tmp_path)
