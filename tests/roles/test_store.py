"""The module uplab_store: directories, records of Debian's files, the manifest."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def test_layout_makes_and_mends(uplab_store: ModuleType, tmp_path: Path) -> None:
    root, paths = tmp_path / "new", {"./": "0755", "tls/": "0700"}
    assert uplab_store.layout(root, paths, check=True)["changed"]
    assert not root.exists()
    assert uplab_store.layout(root, paths, check=False)["changed"]
    assert (root / "tls").stat().st_mode & 0o777 == 0o700
    assert not uplab_store.layout(root, paths, check=False)["changed"]
    (root / "tls").chmod(0o777)
    result = uplab_store.layout(root, paths, check=False)
    assert result["diff"] == {"before": f"{root}/tls 0777\n", "after": f"{root}/tls 0700\n"}
    assert (root / "tls").stat().st_mode & 0o777 == 0o700


def test_layout_refuses_what_is_in_the_way(uplab_store: ModuleType, root: Path) -> None:
    (root / "file").write_text("")
    with pytest.raises(uplab_store.StoreError, match="wanted a directory"):
        uplab_store.layout(root, {"file/": "0755"}, check=False)
    (root / "link").symlink_to("/tmp")
    with pytest.raises(uplab_store.StoreError, match="is in the way"):
        uplab_store.layout(root, {"link/": "0755"}, check=False)
    with pytest.raises(uplab_store.StoreError, match="is missing"):
        uplab_store.layout(root, {"absent": "0600"}, check=False)


@pytest.mark.parametrize("text", ["relative/path", "/", ""])
def test_root_must_be_a_real_place(uplab_host: ModuleType, text: str) -> None:
    with pytest.raises(uplab_host.StoreError, match="wanted: an absolute path"):
        uplab_host.absolute_root(text)


def test_hash_depends_on_the_content_alone(uplab_host: ModuleType) -> None:
    value = {"b": [1, 2], "a": "x"}
    assert uplab_host.hash12(value) == uplab_host.hash12({"a": "x", "b": [1, 2]})
    assert uplab_host.hash12(value) != uplab_host.hash12({"a": "x", "b": [2, 1]})
    assert len(uplab_host.hash12(value)) == 12


def test_a_torn_record_counts_as_absent(uplab_host: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    assert uplab_host.read_json(path) is None
    path.write_text('{"schema": 1, "compo')
    assert uplab_host.read_json(path) is None
    path.write_text("[1]")
    assert uplab_host.read_json(path) is None


def test_a_failed_write_leaves_the_old_file(
    uplab_host: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    uplab_host.write_atomically(path, "old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(uplab_host.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        uplab_host.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_damages_names_file_and_both_digests(uplab_host: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "x").write_text("x")
    wanted = uplab_host.artifact(tmp_path / "bin" / "x")
    record = {"prefix": str(tmp_path), "artifacts": {"bin/x": wanted}}
    assert uplab_host.damages(record) == []
    (tmp_path / "bin" / "x").write_text("y")
    (line,) = uplab_host.damages(record)
    assert str(tmp_path / "bin" / "x") in line
    assert wanted["sha256"] in line
    (tmp_path / "bin" / "x").unlink()
    assert "No such file" in uplab_host.damages(record)[0]
    assert uplab_host.damages({"prefix": str(tmp_path), "artifacts": {}})


def test_debian_files_are_recorded_where_they_lie(uplab_store: ModuleType, root: Path) -> None:
    """Dash is on every Debian host, at the same place as any other command of a package."""
    assert uplab_store.register(root, "shell", ["dash"], check=True)["changed"]
    assert not list((root / "store").iterdir())
    first = uplab_store.register(root, "shell", ["dash"], check=False)
    assert first["changed"]
    record = first["record"]
    assert record["source"] == "distro"
    assert record["version"] == uplab_store.dpkg_versions()["dash"]
    assert record["artifacts"]["bin/dash"]["bytes"] > 0
    assert (root / "current" / "shell").readlink() == Path(record["prefix"])
    assert json.loads((root / "store" / f"shell-{first['hash']}.json").read_text()) == record
    assert not uplab_store.register(root, "shell", ["dash"], check=False)["changed"]


def test_the_record_of_an_older_version_goes(uplab_store: ModuleType, root: Path) -> None:
    first = uplab_store.register(root, "shell", ["dash"], check=False)
    old = {**first["record"], "hash": "0" * 12, "version": "0"}
    stale = root / "store" / f"shell-{'0' * 12}.json"
    stale.write_text(json.dumps(old))
    assert uplab_store.register(root, "shell", ["dash"], check=False)["changed"]
    assert not stale.exists()


def test_an_altered_file_of_a_package_is_refused(uplab_store: ModuleType, root: Path) -> None:
    first = uplab_store.register(root, "shell", ["dash"], check=False)
    path = root / "store" / f"shell-{first['hash']}.json"
    record = json.loads(path.read_text())
    record["artifacts"]["bin/dash"]["sha256"] = "0" * 64
    path.write_text(json.dumps(record))
    with pytest.raises(uplab_store.StoreError, match="apt-get install --reinstall dash"):
        uplab_store.register(root, "shell", ["dash"], check=False)


def test_files_that_lie_elsewhere_are_compared_with_their_records(
    uplab_store: ModuleType, root: Path, tmp_path: Path
) -> None:
    first = uplab_store.register(root, "shell", ["dash"], check=False)
    tracer = tmp_path / "tracer"
    tracer.write_text("tracer\n")
    uplab_store.adopt(root, "own", {"bin/tracer": str(tracer)}, "", check=False)
    assert uplab_store.compared(root) == {
        "shell": {"files": 1, "differs": []},
        "own": {"files": 1, "differs": []},
    }
    path = root / "store" / f"shell-{first['hash']}.json"
    record = json.loads(path.read_text())
    record["artifacts"]["bin/dash"]["sha256"] = "0" * 64
    path.write_text(json.dumps(record))
    tracer.unlink()
    before = sorted((root / "store").iterdir())
    found = uplab_store.compared(root)
    (differs,) = found["shell"]["differs"]
    assert (differs["file"], differs["old_sha256"]) == ("bin/dash", "0" * 64)
    assert differs["new_sha256"] == first["record"]["artifacts"]["bin/dash"]["sha256"]
    (gone,) = found["own"]["differs"]
    assert (gone["old_bytes"], gone["new_sha256"]) == (7, None)
    assert sorted((root / "store").iterdir()) == before


def test_a_missing_command_is_predicted_or_refused(uplab_store: ModuleType, root: Path) -> None:
    predicted = uplab_store.register(root, "x", ["no-such-command"], check=True)
    assert predicted["changed"]
    with pytest.raises(uplab_store.StoreError, match="no command no-such-command"):
        uplab_store.register(root, "x", ["no-such-command"], check=False)


def test_a_file_of_no_package_is_refused(
    uplab_store: ModuleType, root: Path, tmp_path: Path
) -> None:
    program = tmp_path / "own"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    with pytest.raises(uplab_store.StoreError, match="belongs to no Debian package"):
        uplab_store.register(root, "own", [str(program)], check=False)


def manifest(module: ModuleType, root: Path, digest: str | None, **pins: Any) -> bool:
    changed = module.manifest(root, digest, pins, check=False)["changed"]
    assert isinstance(changed, bool)
    return changed


def test_manifest_changes_only_with_its_content(uplab_store: ModuleType, root: Path) -> None:
    uplab_store.register(root, "shell", ["dash"], check=False)
    pins = {"shell": {"policy": "distro", "packages": ["dash", "no-such-package"]}}
    assert uplab_store.manifest(root, None, pins, check=True)["changed"]
    assert not (root / "manifest.json").exists()
    assert manifest(uplab_store, root, "d1", **pins)
    seen = json.loads((root / "manifest.json").read_text())
    version = uplab_store.dpkg_versions()["dash"]
    assert seen["digest"] == "d1"
    assert seen["pins"]["shell"]["packages"] == {"dash": version, "no-such-package": None}
    assert seen["components"]["shell"]["version"] == version
    assert seen["written_utc"].endswith("Z")
    assert not manifest(uplab_store, root, "d1", **pins)
    assert manifest(uplab_store, root, None, **pins)
    assert json.loads((root / "manifest.json").read_text())["digest"] is None


def test_manifest_names_packages_that_are_still_there(uplab_store: ModuleType, root: Path) -> None:
    (root / "packages.json").write_text(json.dumps({"added": ["dash", "purged-since"]}))
    manifest(uplab_store, root, None)
    seen = json.loads((root / "manifest.json").read_text())
    assert seen["packages_added"] == ["dash"]


def test_a_build_without_a_record_is_not_in_the_manifest(
    uplab_store: ModuleType, root: Path
) -> None:
    prefix = root / "store" / f"x-{'1' * 12}"
    prefix.mkdir()
    (root / "current" / "x").symlink_to(prefix)
    manifest(uplab_store, root, None)
    assert json.loads((root / "manifest.json").read_text())["components"] == {}
