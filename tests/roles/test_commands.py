"""Commands of a build never outlive it."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.roles.plays import alive, poll

#: Ignores what can be ignored, and has a child that left its session.
STUBBORN = """
trap '' HUP INT TERM
setsid sh -c 'trap "" HUP INT TERM; echo $$ > far.part; mv far.part far; exec sleep 1000' &
sh -c 'echo $$ > near.part; mv near.part near; exec sleep 1000' &
echo $$ > self.part
mv self.part self
wait
"""


@pytest.fixture(scope="session")
def uplab_commands(uplab_build: ModuleType) -> ModuleType:
    return importlib.import_module(uplab_build.Commands.__module__)


class Runs:
    """Commands that run in a directory, with their output in a file."""

    def __init__(self, module: ModuleType, top: Path) -> None:
        self.module, self.top, self.log = module, top, top / "log"
        self.commands = module.Commands()
        self.environment = {"PATH": os.environ["PATH"]}

    def run(self, *argv: str) -> str:
        with self.log.open("ab") as log:
            why = self.commands.run(list(argv), self.top, self.environment, log.fileno())
        assert isinstance(why, str)
        return why

    def shell(self, script: str) -> str:
        return self.run("sh", "-c", script)

    def pids(self) -> list[int]:
        """The three processes of STUBBORN, as soon as they are there."""
        files = [self.top / name for name in ("far", "near", "self")]
        poll(lambda: all(file.exists() for file in files))
        return [int(file.read_text()) for file in files]


@pytest.fixture
def runs(uplab_commands: ModuleType, tmp_path: Path) -> Iterator[Runs]:
    made = Runs(uplab_commands, tmp_path)
    yield made
    made.commands.stop()


def test_a_command_says_how_it_ended(runs: Runs) -> None:
    assert runs.shell("echo said; echo warned >&2") == ""
    assert runs.log.read_text() == "said\nwarned\n"
    assert runs.shell("exit 3") == "ended with exit code 3"
    assert runs.shell("kill -SEGV $$") == "was ended by SIGSEGV"
    assert runs.shell("kill -KILL $$") == "was ended by SIGKILL"


def test_a_command_that_is_not_there_is_named(runs: Runs) -> None:
    missing = "cannot be run: No such file or directory"
    assert runs.run("no-such-command") == f"{missing} (no-such-command)"
    assert runs.run("./configure") == f"{missing} (./configure)"
    (runs.top / "configure").write_text("#!/bin/sh\necho configured\n")
    assert runs.run("./configure") == "ended with exit code 127"
    assert "./configure: Permission denied" in runs.log.read_text()
    (runs.top / "configure").chmod(0o755)
    assert runs.run("./configure") == ""


def test_a_command_has_no_input_and_dies_of_a_broken_pipe(runs: Runs) -> None:
    assert runs.shell("cat") == ""
    assert runs.shell("yes | head -1") == ""
    assert runs.log.read_text() == "y\n"


def test_what_a_command_leaves_behind_is_ended(runs: Runs) -> None:
    assert runs.shell("setsid sleep 1000 & echo $! > pid") == ""
    assert not alive(int((runs.top / "pid").read_text()))


def test_stopping_ends_everything_that_runs(runs: Runs) -> None:
    ended: list[str] = []

    def run() -> None:
        try:
            runs.shell(STUBBORN)
        except runs.module.Stopped:
            ended.append("stopped")

    thread = threading.Thread(target=run)
    thread.start()
    pids = runs.pids()
    runs.commands.stop()
    thread.join()
    assert ended == ["stopped"]
    assert not any(alive(pid) for pid in pids)
    with pytest.raises(runs.module.Stopped):
        runs.shell("true")


@pytest.mark.parametrize("victim", ["module", "guard"])
def test_a_kill_leaves_nothing(runs: Runs, victim: str) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; import uplab_commands as module\n"
        "module.Commands().run(['sh', '-c', sys.argv[2]], Path(sys.argv[3]), "
        "{'PATH': '/usr/bin:/bin'}, 2)\n"
    )
    folder = Path(str(runs.module.__file__)).parent
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder), STUBBORN, str(runs.top)],
        stderr=subprocess.DEVNULL,
    )
    pids = runs.pids()
    if victim == "module":
        process.kill()
        poll(lambda: not any(alive(pid) for pid in pids))
    else:
        os.kill(parent_of(pids[2]), signal.SIGKILL)
        # The command itself goes; its children hold the lock of their build until they have ended.
        poll(lambda: not alive(pids[2]))
        for pid in pids[:2]:
            os.kill(pid, signal.SIGKILL)
    process.wait()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
