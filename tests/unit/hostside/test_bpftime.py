"""uplab/hostside/bpftime.py: its files and its environment (its processes: tests/system)."""

from pathlib import Path

import pytest

from uplab.hostside import bpftime
from uplab.hostside.spec import Cell, FileRef, Loader, RuntimeOptions
from uplab.hostside.store import Store

STORE = Store(Path("/opt/uplab"), {"components": {"bpftime": {"prefix": "/opt/uplab/store/b"}}})


def cell(options: RuntimeOptions | None, loader: Loader | None) -> Cell:
    return Cell("c", "s", "userspace-uprobe", "t", 12, "l", {}, loader=loader, runtime=options)


def test_an_untraced_cell_needs_nothing_of_it() -> None:
    assert bpftime.refs(cell(None, None)) == []


@pytest.mark.parametrize(
    ("loader", "own"),
    [("syscall-server", "libbpftime-syscall-server.so"), ("daemon", "bpftime_daemon")],
)
def test_a_loader_needs_its_own_program(loader: Loader, own: str) -> None:
    refs = bpftime.refs(cell(RuntimeOptions(), loader))
    assert refs == [
        FileRef(component="bpftime", file=name) for name in ("bpftime", "libbpftime-agent.so", own)
    ]


def test_a_prefix_takes_the_place_of_the_store_s_build() -> None:
    options = RuntimeOptions(bpftime_prefix="/srv/b")
    assert {ref.path for ref in bpftime.refs(cell(options, "daemon"))} == {
        "/srv/b/bpftime",
        "/srv/b/libbpftime-agent.so",
        "/srv/b/bpftime_daemon",
    }
    assert bpftime.folder(options, STORE) == Path("/srv/b")
    assert bpftime.folder(RuntimeOptions(), STORE) == Path("/opt/uplab/store/b")


def test_the_environment_names_the_memory_and_its_size() -> None:
    env = bpftime.environment(RuntimeOptions(shm_mb=100), "uplab-x")
    assert env["BPFTIME_GLOBAL_SHM_NAME"] == "uplab-x"
    assert env["BPFTIME_SHM_MEMORY_MB"] == "100"
    assert "BPFTIME_DISABLE_JIT" not in env
    assert "BPFTIME_DISABLE_JIT" in bpftime.environment(RuntimeOptions(jit=False), "uplab-x")


def test_no_two_trials_share_memory() -> None:
    names = {bpftime.new_name() for _ in range(100)}
    assert len(names) == 100
    assert {bpftime.memory(name).parent for name in names} == {Path("/dev/shm")}
