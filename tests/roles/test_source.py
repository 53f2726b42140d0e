"""The lookup plugin uplab_source: digests and archives of sources on the controller."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest
from ansible.errors import AnsibleError
from ansible.plugins.loader import lookup_loader

from tests.roles.plays import PLAYBOOKS


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "a").mkdir(parents=True)
    (top / "a" / "main.go").write_text("package main\n")
    (top / "a" / "README.md").write_text("words\n")
    (top / "Makefile").write_text("all:\n")
    return top


def digest(module: ModuleType, tree: Path, exclude: list[str] | None = None) -> bytes:
    files = module.source_files(tree, ["*"], exclude or [])
    packed = module.pack(files)
    assert isinstance(packed, bytes)
    return packed


def test_times_do_not_count(uplab_source: ModuleType, tree: Path) -> None:
    before = digest(uplab_source, tree)
    os.utime(tree / "Makefile", (1, 1))
    (tree / "a").chmod(0o700)
    assert digest(uplab_source, tree) == before


@pytest.mark.parametrize("change", ["content", "name", "executable"])
def test_what_a_build_sees_counts(uplab_source: ModuleType, tree: Path, change: str) -> None:
    before = digest(uplab_source, tree)
    if change == "content":
        (tree / "Makefile").write_text("all: x\n")
    elif change == "name":
        (tree / "Makefile").rename(tree / "makefile")
    else:
        (tree / "Makefile").chmod(0o755)
    assert digest(uplab_source, tree) != before


def test_excluded_files_do_not_count(uplab_source: ModuleType, tree: Path) -> None:
    before = digest(uplab_source, tree, ["*.md"])
    (tree / "a" / "README.md").write_text("other words\n")
    assert digest(uplab_source, tree, ["*.md"]) == before


def test_includes_limit_the_tree(uplab_source: ModuleType, tree: Path) -> None:
    files = uplab_source.source_files(tree, ["a/*"], [])
    assert [name for name, _ in files] == ["a/README.md", "a/main.go"]


def test_a_link_is_refused(uplab_source: ModuleType, tree: Path) -> None:
    (tree / "secret").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match="symbolic link"):
        uplab_source.source_files(tree, ["*"], [])


def test_nothing_to_build_is_refused(uplab_source: ModuleType, tree: Path) -> None:
    with pytest.raises(ValueError, match="holds no file"):
        uplab_source.source_files(tree, ["none/*"], [])
    with pytest.raises(ValueError, match="is not a directory"):
        uplab_source.source_files(tree / "absent", ["*"], [])


def test_as_ansible_calls_it(tree: Path) -> None:
    lookup_loader.add_directory(str(PLAYBOOKS / "lookup_plugins"))
    lookup = lookup_loader.get("uplab_source")
    (sha256,) = lookup.run([str(tree)], exclude=["*.md"])
    (archive,) = lookup.run([str(tree)], exclude=["*.md"], want="archive")
    assert len(sha256) == 64
    assert len(archive) > 64
    with pytest.raises(AnsibleError, match="is not a directory"):
        lookup.run([str(tree / "absent")])
