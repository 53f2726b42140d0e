# SPDX-License-Identifier: Apache-2.0
"""Commands that never outlive the module that started them, however it ends.

Compilers are children of make's, and a signal to the module alone ends none of them.  So each
command runs below a small guard, a process that holds one end of a pipe whose other end only the
module has.  The guard becomes the parent of whatever its command orphans (a subreaper); once the
command has ended, or the pipe closes because the module has, it ends all that is left.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

#: A program of its own, because a thread of a strategy's process cannot fork safely.  The numbers
#: are PR_SET_CHILD_SUBREAPER and PR_SET_PDEATHSIG: should the guard itself be killed, the command
#: goes with it at least.
GUARD = """
import ctypes, os, select, signal, sys

prctl = ctypes.CDLL(None).prctl
prctl(36, 1, 0, 0, 0)
command = os.fork()
if command == 0:
    prctl(1, signal.SIGKILL, 0, 0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # Python ignores these two, and what it starts would inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execvp(sys.argv[1], sys.argv[1:])
    except OSError as error:
        os.write(2, f"{sys.argv[1]}: {error.strerror}\\n".encode())
    os._exit(127)
select.select([os.pidfd_open(command), 0], [], [])
ended = {}

def reap(options):
    try:
        pid, status = os.waitpid(-1, options)
    except ChildProcessError:
        return None
    ended[pid] = status
    return pid

def parent(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return int(stream.read().rpartition(")")[2].split()[1])
    except OSError:
        return None

while (pid := reap(os.WNOHANG)) is not None:
    # Children are left; theirs become ours as they go.
    if pid == 0:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if parent(pid) == os.getpid():
                os.kill(int(pid), signal.SIGKILL)
        reap(0)
code = os.waitstatus_to_exitcode(ended[command])
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


class Stopped(Exception):
    """All commands were told to end, or none may be started any more."""


class Commands:
    """Runs commands from any number of threads, until it is stopped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped = False
        # Of each running command our end of the guard's pipe, by the guard's PID.
        self._leashes: dict[int, int] = {}

    @property
    def stopped(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopped

    def check(self) -> None:
        """Raise Stopped once stopped: for the steps between commands."""
        if self._stopped:
            raise Stopped

    def run(
        self,
        argv: list[str],
        chdir: Path,
        environment: dict[str, str],
        log: int,
        keep: tuple[int, ...] = (),
    ) -> str:
        """Run one command and whatever it starts to their end.

        Args:
            argv: the command and its arguments.
            chdir: where it runs.
            environment: all of its environment.
            log: the descriptor that its output goes to.
            keep: further descriptors that it inherits.

        Returns:
            Why it failed, or an empty text.

        Raises:
            Stopped: it was ended because all are, or not started at all.
        """
        if not _found(argv[0], chdir, environment):
            return f"cannot be run: {os.strerror(2)} ({argv[0]})"
        process = self._start(argv, chdir, environment, log, keep)
        try:
            status = process.wait()
        finally:
            self._let_go(process.pid)
            process.wait()
        self.check()
        if status < 0:
            return f"was ended by {signal.Signals(-status).name}"
        return f"ended with exit code {status}" if status else ""

    def stop(self) -> None:
        """End all commands and start no more; returns at once, each :meth:`run` raises Stopped."""
        with self._lock:
            self._stopped = True
            running = list(self._leashes)
        for pid in running:
            self._let_go(pid)

    def _start(
        self,
        argv: list[str],
        chdir: Path,
        environment: dict[str, str],
        log: int,
        keep: tuple[int, ...],
    ) -> subprocess.Popen[bytes]:
        reading, writing = os.pipe()
        try:
            with self._lock:
                self.check()
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", GUARD, *argv],
                    cwd=chdir,
                    env=environment,
                    stdin=reading,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=keep,
                    start_new_session=True,
                    umask=0o022,
                )
                self._leashes[process.pid] = writing
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        return process

    def _let_go(self, pid: int) -> None:
        with self._lock:
            leash = self._leashes.pop(pid, None)
        if leash is not None:
            os.close(leash)


def _found(name: str, chdir: Path, environment: dict[str, str]) -> bool:
    """Whether there is such a command; the guard could say it in the log only."""
    if "/" in name:
        return (chdir / name).is_file()
    return shutil.which(name, path=environment.get("PATH", os.defpath)) is not None
