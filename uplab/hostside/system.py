"""The host as the preflight reads it; a test gives it another root and other readings."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from uplab.hostside import bpfload, procfs, serveruser

State = Literal["ok", "warn", "fail"]

_COMMAND_TIMEOUT_S = 10.0
#: adjtimex(2): no such clock state without a reference, and where ``status`` lies in struct timex.
_TIME_ERROR = 5
_STA_UNSYNC = 0x40
_TIMEX_STATUS_OFFSET = 40
_TIMEX_BYTES = 512


@dataclass(frozen=True)
class Line:
    """One line of the preflight.

    Args:
        check: its stable name.
        state: ``ok``, ``warn`` (a run works, its figures may suffer) or ``fail``.
        seen: the value found.
        wanted: the value that is good.
        mend: what mends it; empty where nothing is to mend. A command for the host itself, one of
            uplab's own (``invoke ...``), or a sentence, which begins with a capital.
    """

    check: str
    state: State
    seen: str
    wanted: str
    mend: str = ""


def command_output(argv: Sequence[str]) -> str | None:
    """What a command prints on stdout; None where it is missing, fails or takes too long."""
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def clock_is_synchronised() -> bool | None:
    """What the kernel says of its clock; None where it cannot be asked."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    state = int(ctypes.CDLL(None, use_errno=True).adjtimex(buffer))
    if state < 0:
        return None
    raw = buffer.raw[_TIMEX_STATUS_OFFSET : _TIMEX_STATUS_OFFSET + 4]
    return state != _TIME_ERROR and not int.from_bytes(raw, "little") & _STA_UNSYNC


def free_bytes(path: Path) -> int:
    """The room that is left where a path lies, or will lie."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def user_refusal() -> str | None:
    """Why no server gets a user of its own here; None where it does."""
    return serveruser.refusal(privileged=True)


@dataclass(frozen=True)
class System:
    """Where the preflight's readings come from."""

    root: Path = Path("/")
    kernel_release: str = platform.release()
    machine: str = platform.machine()
    is_root: bool = os.geteuid() == 0
    cpus: int = os.cpu_count() or 1
    refusal: Callable[[bytes, int], str | None] = bpfload.refusal
    user_refusal: Callable[[], str | None] = user_refusal
    output: Callable[[Sequence[str]], str | None] = command_output
    listeners: Callable[[int], list[str]] = procfs.listeners
    synchronised: Callable[[], bool | None] = clock_is_synchronised
    free: Callable[[Path], int] = free_bytes

    def path(self, name: str | Path) -> Path:
        """A path of the host below this root; in: absolute or relative."""
        return self.root / str(name).lstrip("/")

    def text(self, name: str | Path) -> str | None:
        """A small file, stripped; None where it is absent or cannot be read."""
        try:
            return self.path(name).read_text(errors="replace").strip()
        except OSError:
            return None

    def pids(self) -> list[int]:
        """All processes that can be seen."""
        entries = self.path("/proc").iterdir()
        return sorted(int(entry.name) for entry in entries if entry.name.isdigit())

    def argv(self, pid: int) -> list[str]:
        """A process's argv; empty where it is gone or the kernel's own."""
        try:
            raw = self.path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return []
        return raw.decode(errors="replace").rstrip("\0").split("\0") if raw else []

    def start_ticks(self, pid: int) -> int | None:
        """When a process started; None when there is none of this number."""
        text = self.text(f"/proc/{pid}/stat")
        if text is None:
            return None
        return int(text[text.rindex(")") + 2 :].split()[19])
