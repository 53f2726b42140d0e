"""uplab/box/lock.py: one at a time, and who comes second knows whom to wait for."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from uplab.box import lock
from uplab.box.steps import Steps
from uplab.errors import HostError

ROOT = Path(__file__).parents[3]
HOLDER = """
import sys; from pathlib import Path
from uplab.box import lock; from uplab.box.steps import Steps
with lock.hold(Path(sys.argv[1]), "box1", Steps()):
    print("held", flush=True)
    sys.stdin.read()
"""


class Heard(Steps):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_who_comes_second_waits_and_knows_for_whom(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(HostError, match=f"box1 is busy: process {holder.pid} holds"),
            lock.hold(tmp_path, "box1", Steps(), limit_s=0),
        ):
            raise AssertionError("two held it")
        with lock.hold(tmp_path, "box2", Steps(), limit_s=0):
            pass
        # However it ends, the kernel lets go of the lock.
        holder.send_signal(signal.SIGKILL)
        heard = Heard()
        with lock.hold(tmp_path, "box1", heard, limit_s=10):
            assert (tmp_path / "locks" / "box1").read_text() == f"{os.getpid()}\n"
    assert heard.lines in ([], [f"waiting for process {holder.pid}, which works on box1"])
