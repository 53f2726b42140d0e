"""uplab/box/cgroups.py: where a box's groups belong, on every kind of machine."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from uplab.box import cgroups
from uplab.errors import HostError


def test_a_machine_with_v2_alone_has_one_hierarchy(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").touch()
    assert cgroups.hierarchies(tmp_path) == [tmp_path]


def test_a_hybrid_machine_has_two(tmp_path: Path) -> None:
    for name in ("systemd", "unified", "memory"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").touch()
    assert cgroups.hierarchies(tmp_path) == [tmp_path / "systemd", tmp_path / "unified"]


def test_a_machine_without_either_is_told(tmp_path: Path) -> None:
    (tmp_path / "unified").mkdir()
    with pytest.raises(HostError, match=r"holds neither v2 nor .* Run: mount -t cgroup2 none"):
        cgroups.hierarchies(tmp_path)


def test_processes_of_groups_below_count(tmp_path: Path) -> None:
    inner = tmp_path / "payload" / "system.slice"
    inner.mkdir(parents=True)
    (tmp_path / "cgroup.procs").write_text("1\n")
    (tmp_path / "payload" / "cgroup.procs").write_text("")
    (inner / "cgroup.procs").write_text("2\n3\n")
    assert cgroups.processes([str(tmp_path), str(tmp_path / "gone")]) == {1, 2, 3}


def test_groups_that_come_and_go_meanwhile_are_passed_over(tmp_path: Path) -> None:
    ends = threading.Event()
    (tmp_path / "cgroup.procs").write_text("1\n")

    def come_and_go() -> None:
        while not ends.is_set():
            (tmp_path / "a" / "b").mkdir(parents=True)
            shutil.rmtree(tmp_path / "a")

    with ThreadPoolExecutor(1) as others:
        going = others.submit(come_and_go)
        try:
            seen = [cgroups.processes([str(tmp_path)]) for _ in range(2_000)]
        finally:
            ends.set()
        going.result()
    assert all(found == {1} for found in seen)


def test_groups_are_removed_from_below_and_twice_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    cgroups.remove([str(tmp_path / "a")])
    assert not (tmp_path / "a").exists()
    cgroups.remove([str(tmp_path / "a")])


def test_a_group_that_cannot_be_removed_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    with pytest.raises(HostError, match="a cannot be removed: Directory not empty"):
        cgroups.remove([str(tmp_path / "a")])


def test_this_machine_has_one_for_a_box() -> None:
    assert all((folder / "cgroup.procs").exists() for folder in cgroups.hierarchies())
