"""The module uplab_import: a build of another host is in the store whole or not at all."""

from __future__ import annotations

import copy
import fcntl
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.roles.conftest import load
from tests.roles.plays import PLAYBOOKS
from tests.unit.transfer.builds import make, member, members, pack, tar_of, with_index

KERNEL = {"btf_sha256": "b" * 64}


@pytest.fixture(scope="module")
def uplab_import() -> ModuleType:
    return load(PLAYBOOKS / "library" / "uplab_import.py")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, Any]]:
    """What another host sends, and its records."""
    root = tmp_path_factory.mktemp("r720")
    make(root, "lab")
    make(root, "other")
    manifest = json.loads((root / "manifest.json").read_text())
    return tar_of(root, "lab", "other"), manifest["components"]


@dataclass
class Target:
    """A host that builds come to."""

    module: ModuleType
    root: Path
    data: bytes
    records: dict[str, Any]
    entries: dict[str, dict[str, Any]]

    def act(self, check: bool = False, **changes: Any) -> dict[str, Any]:
        archive = self.root / "cache" / "from.tar"
        archive.parent.mkdir(exist_ok=True)
        archive.write_bytes(self.data)
        parameters = {
            "root": str(self.root),
            "state": "present",
            "target": "h1",
            "source": "r720",
            "debian": self.module.host_debian(),
            "entries": self.entries,
            "archive": str(archive),
            "sha256": hashlib.sha256(self.data).hexdigest(),
        }
        result = self.module.act({**parameters, **changes}, check)
        assert isinstance(result, dict)
        return result

    def refusal(self, **changes: Any) -> str:
        before = self.entries_there()
        with pytest.raises(self.module.StoreError) as caught:
            self.act(**changes)
        assert self.entries_there() == before
        return str(caught.value)

    def entries_there(self) -> list[str]:
        """What the store holds, locks aside."""
        names = [path.name for path in (self.root / "store").iterdir()]
        return sorted(name for name in names if not name.startswith(".lock-"))

    def prefix(self, component: str = "lab") -> Path:
        return self.root / "store" / f"{component}-{self.entries[component]['hash']}"

    def record(self, component: str = "lab") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(Path(f"{self.prefix(component)}.json").read_text())
        return found


@pytest.fixture
def target(uplab_import: ModuleType, made: tuple[bytes, dict[str, Any]], root: Path) -> Target:
    data, records = made
    entries = {
        name: {
            "hash": record["hash"],
            "artifacts_sha256": uplab_import.artifacts_sha256(record["artifacts"]),
            "architecture": os.uname().machine,
            "kernel": {},
            "glibc": "2.17",
            "packages": ["libc6"],
        }
        for name, record in records.items()
    }
    return Target(uplab_import, root, data, records, entries)


def tree(prefix: Path) -> dict[str, tuple[int, bytes | str]]:
    """Everything below a prefix: mode, and content or where a link leads."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in sorted(prefix.rglob("*")):
        name, mode = str(path.relative_to(prefix)), path.lstat().st_mode & 0o7777
        if path.is_symlink():
            found[name] = (0, str(path.readlink()))
        else:
            found[name] = (mode, b"" if path.is_dir() else path.read_bytes())
    return found


def test_a_build_arrives_as_it_was(target: Target) -> None:
    result = target.act()
    assert (result["changed"], result["missing"]) == (True, ["lab", "other"])
    for component, sent in target.records.items():
        prefix, record = target.prefix(component), target.record(component)
        assert tree(prefix) == tree(Path(sent["prefix"]))
        copied = record.pop("from")
        assert copied["host"] == "r720"
        assert copied["copied_utc"] >= record["built_utc"]
        assert record == {**sent, "prefix": str(prefix)}
        assert (target.root / "current" / component).readlink() == prefix
        assert {str(prefix), str(target.root / "current" / component)} <= set(result["paths"])
    assert len(target.entries_there()) == 4


def test_the_second_time_nothing_changes_and_no_archive_is_needed(target: Target) -> None:
    target.act()
    before = target.record()
    result = target.act(archive=None, sha256=None)
    assert (result["changed"], result["missing"], result["paths"]) == (False, [], [])
    assert target.record() == before


def test_check_mode_and_the_first_look_write_nothing(target: Target) -> None:
    assert target.act(check=True, archive="/no/such")["changed"]
    looked = target.act(state="checked", archive=None)
    assert (looked["changed"], looked["missing"]) == (False, ["lab", "other"])
    assert target.entries_there() == []
    target.act()
    assert not target.act(check=True)["changed"]
    assert target.act(state="checked")["missing"] == []


def test_a_link_that_leads_elsewhere_is_set_right(target: Target) -> None:
    target.act()
    link = target.root / "current" / "lab"
    link.unlink()
    link.symlink_to("/usr")
    result = target.act(archive=None)
    assert (result["changed"], result["paths"]) == (True, [str(link)])
    assert link.readlink() == target.prefix()


def test_the_host_s_own_build_of_the_same_bytes_stays(target: Target) -> None:
    target.act()
    own = {**target.record(), "built_utc": "2026-01-01T00:00:00Z"}
    del own["from"]
    Path(f"{target.prefix()}.json").write_text(json.dumps(own))
    assert not target.act(archive=None)["changed"]
    assert target.record() == own


@pytest.mark.parametrize("what", ["altered", "without a record", "of other bytes"])
def test_another_build_of_the_same_inputs_is_replaced(target: Target, what: str) -> None:
    target.act()
    good = tree(target.prefix())
    record = Path(f"{target.prefix()}.json")
    (target.prefix() / "share" / "notes").write_text("other\n")
    if what == "without a record":
        record.unlink()
    elif what == "of other bytes":
        said = target.record()
        digest = hashlib.sha256(b"other\n").hexdigest()
        said["artifacts"]["share/notes"] = {"sha256": digest, "bytes": 6}
        record.write_text(json.dumps(said))
    result = target.act()
    assert (result["changed"], result["missing"]) == (True, ["lab"])
    assert tree(target.prefix()) == good
    assert len(target.entries_there()) == 4


# --- what cannot run here -------------------------------------------------------------------------


def set_fact(key: str, value: Any) -> Callable[[Target], None]:
    return lambda target: target.entries["lab"].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_fact("architecture", "aarch64"), "lab: it is for aarch64, this host is x86_64"),
        (set_fact("glibc", "9.41"), "lab: it needs glibc 9.41, this host has 2."),
        (set_fact("kernel", KERNEL), "lab: it was compiled for the kernel of r720, and this host"),
        (set_fact("kernel", {"release": "4.0"}), "this host runs another one"),
    ],
)
@pytest.mark.parametrize("state", ["checked", "present"])
def test_a_build_that_cannot_run_here_is_refused(
    target: Target, change: Callable[[Target], None], words: str, state: str
) -> None:
    change(target)
    message = target.refusal(state=state)
    assert words in message
    assert message.startswith("h1 cannot use what r720 has built: ")
    assert message.endswith("Have it built there: invoke lab.setup --host h1")


def test_all_reasons_are_told_at_once(target: Target) -> None:
    target.entries["lab"] |= {"architecture": "aarch64", "glibc": "9.9"}
    target.entries["other"] |= {"kernel": KERNEL}
    message = target.refusal()
    assert message.count("lab: ") == 2
    assert message.count("other: ") == 1


def test_the_same_kernel_is_no_other(target: Target, uplab_host: ModuleType) -> None:
    target.entries["lab"]["kernel"] = uplab_host.kernel_interface()
    assert target.act()["changed"]


def test_libraries_of_another_release_are_refused(target: Target) -> None:
    # glibc is the same library in every release; others have other names.
    assert target.act(state="checked", debian="99")["missing"] == ["lab", "other"]
    target.entries["lab"]["packages"] = ["libc6", "libzydis4.0"]
    message = target.refusal(debian="99")
    assert "lab: it needs libzydis4.0 of Debian 99, this host is Debian " in message
    assert target.act(state="checked")["missing"] == ["lab", "other"]


@pytest.mark.parametrize(("older", "newer"), [("2.4", "2.36"), ("2.36", "2.36.1"), ("2.9", "2.10")])
def test_versions_compare_as_versions(uplab_import: ModuleType, older: str, newer: str) -> None:
    assert uplab_import.version(older) < uplab_import.version(newer)


# --- what is not the archive that was checked -----------------------------------------------------


def test_another_archive_than_announced(target: Target) -> None:
    assert "was announced. Run it again" in target.refusal(sha256="0" * 64)
    assert "not here yet, and no archive is named: lab, other" in target.refusal(archive=None)


def changed_index(target: Target, change: Callable[[dict[str, Any]], None]) -> None:
    """Another index of ``lab``, under a digest of its own: as if the controller had not looked."""
    target.data = with_index(target.data, lambda index: change(index["entries"][0]))


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "../../current/evil", ".", ""])
@pytest.mark.parametrize("kind", ["files", "folders", "links"])
def test_a_name_that_leads_elsewhere_is_not_written(target: Target, name: str, kind: str) -> None:
    def change(entry: dict[str, Any]) -> None:
        if kind == "folders":
            entry["folders"].insert(0, name)
        elif kind == "links":
            entry["links"] = {name: "lab"}
        else:
            entry["files"] = {name: entry["files"]["bin/lab"], **entry["files"]}

    changed_index(target, change)
    assert "leads elsewhere" in target.refusal()


def test_a_link_out_of_the_build_is_not_made(target: Target) -> None:
    changed_index(target, lambda entry: entry["links"].update({"share/program": "/etc/passwd"}))
    assert "leads to /etc/passwd, out of the build" in target.refusal()


def test_a_file_that_arrives_otherwise(target: Target) -> None:
    changed_index(target, lambda entry: entry["files"]["bin/lab"].update(sha256="0" * 64))
    assert "bin/lab arrived with the sha256" in target.refusal()


def test_a_device_or_link_in_the_place_of_a_file(target: Target) -> None:
    name = f"{target.prefix().name}/bin/lab"
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        good = target.data
        evil = member(name, kind=kind, linkname="/etc/passwd")
        rest = [entry for entry in members(good) if entry[0].name != name]
        target.data = pack([*rest, *evil])
        assert "is no plain file" in target.refusal()
        target.data = good


def test_modes_give_no_more_than_reading_and_running(target: Target) -> None:
    changed_index(target, lambda entry: entry["files"]["bin/lab"].update(mode=0o6777))
    target.act()
    assert (target.prefix() / "bin" / "lab").stat().st_mode & 0o7777 == 0o755


def test_a_build_that_the_archive_does_not_hold(target: Target) -> None:
    target.entries["lab"]["hash"] = "0" * 12
    assert "holds no lab-000000000000" in target.refusal()


def test_an_archive_that_is_cut_off(target: Target) -> None:
    target.data = target.data[: len(target.data) // 2]
    with pytest.raises((tarfile.TarError, KeyError)):
        target.act()
    assert target.entries_there() == []


def test_no_build_runs_meanwhile(target: Target) -> None:
    with (target.root / "store" / ".lock-lab").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "lab: another build of it is running" in target.refusal()
    leftover = target.root / "store" / ".part-lab-000000000000"
    leftover.mkdir()
    target.act()
    assert not leftover.exists()


def test_a_full_disk_leaves_the_old_build(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    target.act()
    before = tree(target.prefix())
    newer = copy.deepcopy(target.entries)
    newer["lab"]["artifacts_sha256"] = "0" * 64

    def full(_tar: tarfile.TarFile, _name: str, path: Path, _mode: int) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(target.module, "copy", full)
    with pytest.raises(OSError, match="No space left on device"):
        target.act(entries=newer)
    assert tree(target.prefix()) == before
    assert target.record()["hash"] == target.entries["lab"]["hash"]
    assert len(target.entries_there()) == 4


def test_it_runs_as_a_module(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ansible's own way in: arguments as JSON, one JSON answer."""
    from ansible.module_utils import basic

    arguments = {
        "root": str(target.root),
        "state": "checked",
        "target": "h1",
        "source": "r720",
        "entries": target.entries,
        "_ansible_remote_tmp": str(target.root),
        "_ansible_keep_remote_files": False,
    }
    data = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode()
    monkeypatch.setattr(basic, "_ANSIBLE_ARGS", data)
    monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy")
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    with pytest.raises(SystemExit):
        target.module.main()
    assert json.loads(out.getvalue())["missing"] == ["lab", "other"]
