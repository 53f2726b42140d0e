"""What goes on beside a run that nobody holds on to: who runs it, and how it ended.

All of it lies in one folder of the run directory, whose name is that of an unfinished part, so
that it is never collected and never vouched for:

    hostside.pyz   the program itself, with the adapters' files
    adapters/      those files, for the programs that need them
    plan.json      what it measures
    load-agent     how it comes to the agent of a second machine; gone once it was read
    process.json   PID, start time and boot of the process that runs it; its systemd unit
    output.txt     what it said
    exit.json      exit code and last words, written at the very end
"""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from uplab.hostside import procfs
from uplab.hostside.rundir import PART_PREFIX, utc_now, write_json

FOLDER = f"{PART_PREFIX}control"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Process:
    """The process of a run; numbers and start times are unique within one boot."""

    pid: int
    start_ticks: int
    boot_id: str
    unit: str | None = None

    @classmethod
    def own(cls, unit: str | None) -> Process:
        """This process."""
        pid = os.getpid()
        return cls(pid, procfs.start_ticks(pid) or 0, boot_id(), unit)

    def lives(self) -> bool:
        """Whether it still runs; one that ended and was not waited for does not."""
        return self._is_here() and _state(self.pid) not in ("Z", "X", None)

    def _is_here(self) -> bool:
        return self.boot_id == boot_id() and procfs.start_ticks(self.pid) == self.start_ticks

    def send(self, number: signal.Signals) -> bool:
        """Send it a signal, and never another process of its number; out: whether it lived."""
        with self._descriptor() as descriptor:
            if descriptor is None:
                return False
            try:
                signal.pidfd_send_signal(descriptor, number)
            except ProcessLookupError:
                return False
        return True

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; out: whether it came in time."""
        with self._descriptor() as descriptor:
            if descriptor is None:
                return True
            ready, _, _ = select.select([descriptor], [], [], timeout_s)
        return bool(ready)

    @contextmanager
    def _descriptor(self) -> Iterator[int | None]:
        """A descriptor of the process; None where it is gone."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            # Looked at after it was opened: the number cannot change hands any more.
            yield descriptor if self.lives() else None
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class Exit:
    """How a run ended: exit code and last words; both clean even where nothing was measured."""

    code: int
    said: str


def _state(pid: int) -> str | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()[0]


def boot_id() -> str:
    """What tells this boot of the host from all others."""
    return _BOOT_ID.read_text().strip()


@dataclass(frozen=True)
class Control:
    """The control folder of a run.

    Args:
        run: the run directory.
    """

    run: Path

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.run / FOLDER

    @property
    def program(self) -> Path:
        """The zipapp that runs it."""
        return self.folder / "hostside.pyz"

    @property
    def adapters(self) -> Path:
        """The folder with the adapters' files."""
        return self.folder / "adapters"

    @property
    def output(self) -> Path:
        """What the run's process prints."""
        return self.folder / "output.txt"

    @property
    def plan(self) -> Path:
        """The plan as JSON."""
        return self.folder / "plan.json"

    @property
    def load_agent(self) -> Path:
        """Port and token of the agent on a second machine."""
        return self.folder / "load-agent"

    def take_load_agent(self) -> tuple[int, bytes] | None:
        """Port and token of that agent, which nobody can read after us; None where none are there.

        Raises:
            ValueError: something else is there.
        """
        try:
            found = json.loads(self.load_agent.read_text())
        except FileNotFoundError:
            return None
        self.load_agent.unlink()
        return int(found["port"]), bytes.fromhex(found["token"])

    @property
    def events(self) -> Path:
        """The run's events."""
        return self.run / "events.jsonl"

    def began(self, process: Process) -> None:
        """Note who runs it."""
        write_json(self.folder / "process.json", asdict(process))

    def process(self) -> Process | None:
        """Who runs it or did; None where nobody has begun."""
        found = _read(self.folder / "process.json")
        with suppress(TypeError, KeyError, ValueError):
            if found is not None:
                unit = found["unit"]
                numbers = int(found["pid"]), int(found["start_ticks"])
                return Process(*numbers, str(found["boot_id"]), str(unit) if unit else None)
        return None

    def ended(self, code: int, said: str) -> None:
        """Note how it ended."""
        record = {"code": code, "said": said, "ended_utc": utc_now()}
        write_json(self.folder / "exit.json", record)

    def exit(self) -> Exit | None:
        """How it ended; None while it runs, and where its process was killed."""
        found = _read(self.folder / "exit.json")
        with suppress(TypeError, KeyError, ValueError):
            if found is not None:
                return Exit(int(found["code"]), str(found["said"]))
        return None

    def runs(self) -> bool:
        """Whether its process lives."""
        process = self.process()
        return process is not None and process.lives()


def _read(path: Path) -> dict[str, Any] | None:
    """A small JSON object; None where there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
