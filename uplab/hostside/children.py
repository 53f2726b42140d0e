"""Processes that hostside starts: their output, their end, and that none is left behind.

Each child leads a session of its own, gets SIGKILL from the kernel should hostside die
(``setpriv --pdeathsig``), and is noted in a ledger by PID and start time, so that the next start
can end what a crash left, and never somebody else's process of the same number or name.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import IO, Any

from uplab.hostside import notes, procfs
from uplab.hostside.errors import TrialError
from uplab.hostside.loop import Loop

LOG_CAP_BYTES = 16 << 20
_TEXT_CAP_BYTES = 4 << 20
_READ_BYTES = 1 << 16
#: For a program that floods: what a pipe may hold, and what one read takes.
_FLOOD_BYTES = 1 << 20
#: A tracer with thousands of sites says them all in one line.
_LINE_BYTES = 4 << 20
#: In the environment of every child, so that what it started can be told from anybody else's.
_MARK = "UPLAB_CHILD"
_TAIL_LINES = 5
_GO_CAUSE = re.compile(r"fatal error: |panic: |SIG[A-Z]+: |runtime: .*: unexpected return pc ")
_MESSAGES = 1000
# For what a program that has just died wrote before.
_LAST_WORDS_S = 1.0


class Ledger:
    """The children that live now, in a file that outlives a crash."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._living: dict[int, dict[str, Any]] = {}

    def add(self, pid: int, name: str, uid: int | None = None) -> None:
        """Note a child, and its user where that is nobody else's."""
        own_user = {} if uid is None else {"uid": uid}
        start_ticks = procfs.start_ticks(pid)
        self._living[pid] = {"pid": pid, "start_ticks": start_ticks, "name": name, **own_user}
        self._write()

    def remove(self, pid: int) -> None:
        """Forget a child that ended."""
        if self._living.pop(pid, None) is not None:
            self._write()

    def _write(self) -> None:
        notes.write(self._path, list(self._living.values()))

    def end_leftovers(self) -> list[str]:
        """End the processes that an earlier hostside noted and did not end.

        Returns:
            a line for each process that was ended.
        """
        ended = []
        for entry in notes.read(self._path):
            pid, start, name = _entry(entry)
            if start is None:
                continue
            of_session = _end_session(pid, start)
            if _end_user(entry.get("uid"), start) or of_session:
                ended.append(f"{name} (pid {pid})")
        self._path.unlink(missing_ok=True)
        return ended


def _entry(entry: Any) -> tuple[int, int | None, str]:
    """PID, start and name of a ledger's entry; no start where the entry is damaged."""
    if isinstance(entry, dict) and all(
        isinstance(entry.get(k), int) for k in ("pid", "start_ticks")
    ):
        return entry["pid"], entry["start_ticks"], str(entry.get("name"))
    return 0, None, ""


def _end_session(leader: int, start_ticks: int) -> bool:
    """End a child of an earlier hostside and what it started; out: whether anything lived.

    Where the leader is gone, members of its session are ended only if they carry the mark of
    hostside's children. The lock is held, so no living hostside has any.
    """
    alive = procfs.start_ticks(leader)
    if alive is not None and alive != start_ticks:
        return False
    members = procfs.session_members(leader)
    if alive is None:
        members = [pid for pid in members if _is_marked(pid)]
    for pid in members:
        _kill(pid)
    return bool(members)


def _end_user(uid: Any, start_ticks: int) -> bool:
    """End what a child of an earlier hostside started outside of its session, under its user.

    Nobody had that user when it was drawn; the mark tells of who may have drawn it since.
    """
    if not isinstance(uid, int):
        return False
    left = [pid for pid in procfs.since(uid, start_ticks) if _is_marked(pid)]
    for pid in left:
        _kill(pid)
    return bool(left)


def _is_marked(pid: int) -> bool:
    try:
        return f"{_MARK}=1".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Child:
    """A running program: its lines, its log file, its end.

    Output is always read, so a full pipe never stops the program; what goes beyond
    ``LOG_CAP_BYTES`` is counted and not kept. ``restrict`` are options of setpriv(1) that make it
    another user's, and ``uid`` is that user where it is nobody else's.
    """

    def __init__(
        self,
        loop: Loop,
        ledger: Ledger,
        name: str,
        argv: Sequence[str],
        log: Path,
        env: Mapping[str, str],
        restrict: Sequence[str] = (),
        uid: int | None = None,
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self.messages: deque[dict[str, Any]] = deque(maxlen=_MESSAGES)
        self.heard = 0
        self.lines: deque[str] = deque(maxlen=_TAIL_LINES)
        self.text = {"out": bytearray(), "err": bytearray()}
        self.output_bytes = 0
        self.cause: str | None = None
        self.on_line: Callable[[str], None] | None = None
        self._on_block: Callable[[bytes], None] | None = None
        self._poll_output: Callable[[], None] | None = None
        self._last_block = b""
        self._loop = loop
        self._ledger = ledger
        self.log_error: OSError | None = None
        self._log: FileIO = log.open("ab", buffering=0)
        self._partial = {"out": b"", "err": b""}
        self._streams: dict[str, IO[bytes]] = {}
        try:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *restrict, "--", *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "LANG": "C.UTF-8",
                    **env,
                    _MARK: "1",
                },
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            self._log.close()
            raise TrialError("not-started", f"{name}: {shlex.join(self.argv)}: {error}") from error
        self.pid = self._process.pid
        #: In clock ticks since boot: with the PID it names the process for good.
        self.start_ticks = procfs.start_ticks(self.pid) or 0
        ledger.add(self.pid, name, uid)
        self._pidfd = os.pidfd_open(self.pid)
        loop.add(self._pidfd, self._on_exit)
        for key, stream in (("out", self._process.stdout), ("err", self._process.stderr)):
            if stream is None:
                raise AssertionError("both streams are pipes")
            os.set_blocking(stream.fileno(), False)
            self._streams[key] = stream
            loop.add(stream.fileno(), functools.partial(self._on_output, key))

    @property
    def returncode(self) -> int | None:
        """The exit status as subprocess has it; None while the program runs."""
        return self._process.returncode

    @property
    def ended(self) -> bool:
        """Whether the program ended and all that it wrote was read."""
        return self._process.returncode is not None and not self._streams

    def death(self) -> str:
        """How it ended, with its last line: ``SIGSEGV, last line: ...`` or ``exit code 1``.

        A Go program says why first and registers last, and has exit code 2 whatever the signal
        was: ``exit code 2, fatal error: ..., last line: ...``.
        """
        code = self._process.returncode
        how = "is running" if code is None else f"exit code {code}"
        if code is not None and code < 0:
            names = {number.value: number.name for number in signal.Signals}
            how = names.get(-code, f"signal {-code}")
        self._read_last_block()
        if not self.lines:
            return how
        cause = [self.cause] if self.cause and self.cause != self.lines[-1] else []
        return ", ".join([how, *cause, f"last line: {self.lines[-1]}"])

    def require_alive(self) -> None:
        """Raise TrialError where it has ended: it must live."""
        if self._process.returncode is not None:
            self._loop.until(lambda: self.ended, _LAST_WORDS_S)
            raise TrialError(f"{self.name}-died", f"{self.name} died: {self.death()}")

    def drain(self, on_block: Callable[[bytes], None]) -> None:
        """From now on read standard output in blocks: of a program that may print without end.

        Args:
            on_block: is called with whole lines, many at once; no line is looked at by itself.
        """
        self._on_block = on_block
        stream = self._streams.get("out")
        if stream is None:
            return
        with suppress(OSError):
            fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, _FLOOD_BYTES)
        self._loop.remove(stream.fileno())
        self._poll_output = functools.partial(self._on_output, "out")
        self._loop.poll(self._poll_output)

    def send(self, signal_name: str) -> None:
        """Send a signal to the program itself; nothing happens when it has ended."""
        # By the descriptor, which names this process for good and reaps nothing behind our back.
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.Signals[signal_name])

    def stop(self, signal_name: str, timeout_s: float) -> float:
        """End the program and all of its session, by a signal and then by SIGKILL.

        Returns:
            how long it took, in seconds. An interruption is held back meanwhile.
        """
        with self._loop.shielded():
            began_s = time.monotonic()
            alone = len(procfs.descendants(self.pid)) == 1
            self.send(signal_name)
            if not self._loop.until(lambda: self._process.returncode is not None, timeout_s):
                self.send("SIGKILL")
                self._loop.until(lambda: self._process.returncode is not None, timeout_s)
            self._kill_rest(alone=alone)
            self._loop.until(lambda: self.ended, timeout_s)
            self._close()
            return time.monotonic() - began_s

    def _kill_rest(self, *, alone: bool) -> None:
        """End what the program started and left behind.

        The group goes by one call; the whole session, with groups that the program made, takes a
        look at every process of the host, so only where it had children.
        """
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if not alone:
            for pid in procfs.session_members(self.pid):
                _kill(pid)

    def _on_exit(self) -> None:
        if self._process.poll() is not None:
            self._loop.remove(self._pidfd)
            os.close(self._pidfd)
            self._ledger.remove(self.pid)

    def _on_output(self, key: str) -> None:
        """Read what is there; keep whole lines apart; note the end of the stream."""
        stream = self._streams[key]
        in_blocks = key == "out" and self._on_block is not None
        try:
            data = os.read(stream.fileno(), _FLOOD_BYTES if in_blocks else _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._forget(key)
            self._read_last_block()
            if self._partial[key]:
                self._on_whole_line(key, self._partial[key])
                self._partial[key] = b""
            return
        self._keep(key, data)
        if in_blocks:
            self._on_data(data)
            return
        *whole, rest = (self._partial[key] + data).split(b"\n")
        self._partial[key] = rest[-_LINE_BYTES:]
        for line in whole:
            self._on_whole_line(key, line)

    def _on_data(self, data: bytes) -> None:
        """Give whole lines away in one block."""
        end = data.rfind(b"\n") + 1
        if not end or self._on_block is None:
            self._partial["out"] = (self._partial["out"] + data)[-_LINE_BYTES:]
            return
        self._last_block = self._partial["out"] + data[:end]
        self._partial["out"] = data[end:]
        self._on_block(self._last_block)

    def _read_last_block(self) -> None:
        """The last lines of what was read in blocks, for whoever asks how the program ended."""
        tail, self._last_block = self._last_block[-_READ_BYTES:], b""
        for raw in tail.split(b"\n")[-_TAIL_LINES - 1 :]:
            line = raw.decode(errors="replace").rstrip("\r")
            if line:
                self.lines.append(line[:500])

    def _forget(self, key: str) -> None:
        """Close one of the two streams."""
        stream = self._streams.pop(key)
        if key == "out" and self._poll_output is not None:
            self._loop.no_poll(self._poll_output)
        else:
            self._loop.remove(stream.fileno())
        stream.close()

    def _keep(self, key: str, data: bytes) -> None:
        room = LOG_CAP_BYTES - self.output_bytes
        self.output_bytes += len(data)
        if room > 0:
            self._write_log(data[:room])
        if len(self.text[key]) < _TEXT_CAP_BYTES:
            self.text[key] += data

    def _write_log(self, data: bytes) -> None:
        """Write, or keep the error for later: it must not stop what ends processes."""
        if self.log_error is None:
            try:
                self._log.write(data)
            except OSError as error:
                self.log_error = error

    def _on_whole_line(self, key: str, raw: bytes) -> None:
        line = raw.decode(errors="replace").rstrip("\r")
        if line:
            self.lines.append(line[:500])
        if self.cause is None and _GO_CAUSE.match(line):
            self.cause = line[:200]
        if key == "out" and line.startswith("{"):
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if isinstance(message, dict):
                self.messages.append(message)
                self.heard += 1
        if self.on_line is not None:
            self.on_line(line)

    def _close(self) -> None:
        """Close the log; say in it what was not kept."""
        for key in list(self._streams):
            self._forget(key)
        if not self._log.closed:
            if self.output_bytes > LOG_CAP_BYTES:
                more = self.output_bytes - LOG_CAP_BYTES
                self._write_log(f"\n[uplab: {more} further bytes were not kept]\n".encode())
            self._log.close()
