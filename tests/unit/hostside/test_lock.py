"""uplab/hostside/lock.py: one run at a time, by real processes and the kernel's own lock."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from uplab.hostside import lock
from uplab.hostside.errors import HOST, HostError

ROOT = Path(__file__).parents[3]
HOLDER = """
import subprocess, sys
from pathlib import Path
from uplab.hostside import lock
with lock.hold(Path(sys.argv[1]), "the-first-run"):
    child = subprocess.Popen(["sleep", "60"]) if sys.argv[2:] else None
    print(child.pid if child else 0, flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(state: Path, *options: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Another process that holds the lock, and the pid of a child of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(state), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        try:
            yield process, child
        finally:
            process.kill()


def test_the_second_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, _):
        with pytest.raises(HostError) as caught, lock.hold(tmp_path, "the-second-run"):
            pytest.fail("two runs at once")
        message = str(caught.value)
        assert f"run the-first-run (pid {process.pid}, since 20" in message
        assert str(tmp_path / "lock") in message
        assert caught.value.exit_code == HOST


def test_a_refused_run_does_not_change_who_is_named(tmp_path: Path) -> None:
    with holder(tmp_path):
        for _ in range(2):
            with (
                pytest.raises(HostError, match="the-first-run"),
                lock.hold(tmp_path, "the-second-run"),
            ):
                pytest.fail("two runs at once")


def test_the_lock_is_free_when_its_holder_was_killed(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, _):
        process.send_signal(signal.SIGKILL)
        process.wait()
        with lock.hold(tmp_path, "the-second-run"):
            assert "the-second-run" in (tmp_path / "lock").read_text()


def test_a_program_that_outlives_the_holder_does_not_keep_the_lock(tmp_path: Path) -> None:
    with holder(tmp_path, "with a child") as (process, child):
        process.send_signal(signal.SIGKILL)
        process.wait()
        try:
            with lock.hold(tmp_path, "the-second-run"):
                os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)


def test_the_lock_is_free_afterwards_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock.hold(tmp_path, "one"):
        raise ZeroDivisionError
    assert (tmp_path / "lock").read_text() == ""
    with lock.hold(tmp_path, "two"):
        pass


def test_its_directory_is_made_and_is_only_ours(tmp_path: Path) -> None:
    state = tmp_path / "run" / "uplab"
    with lock.hold(state, "one"):
        assert state.stat().st_mode & 0o777 == 0o700


def test_a_lock_file_that_names_nobody(tmp_path: Path) -> None:
    with holder(tmp_path):
        (tmp_path / "lock").write_text("not JSON")
        with (
            pytest.raises(HostError, match="busy: another run holds"),
            lock.hold(tmp_path, "two"),
        ):
            pytest.fail("two runs at once")


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(HostError, match=r"file/state: Not a directory") as caught,
        lock.hold(tmp_path / "file" / "state", "one"),
    ):
        pytest.fail("there is no lock")
    assert caught.value.exit_code == HOST
