"""What was changed on this host for a run, on disk before it is changed: enough to put it back.

The journal is root's alone, because whoever can write it says what root writes into the kernel's
settings. It is replaced in one step and synced before anything is changed, so that after a crash
or a power loss it names every value that may have been changed. See ``tuning.py`` for its use.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from uplab.hostside.decode import build
from uplab.hostside.errors import HostError
from uplab.hostside.rundir import sync_path

SCHEMA = 1
_NAME = "tuning.json"
_PART = ".part-"
#: Where the kernel's settings are: the journal makes root write nowhere else.
_PLACES = ("/proc/sys/", "/proc/irq/", "/sys/devices/", "/sys/kernel/")


def journal_of(runs: Path) -> Path:
    """Where the journal of a host lies; in: the folder of its runs."""
    return runs.parent / _NAME


class DamagedError(HostError):
    """The journal is there and cannot be trusted; nothing was changed because of it."""


@dataclass(frozen=True)
class Entry:
    """One value that was, or was about to be, changed.

    Args:
        knob: what it is for, such as ``governor``.
        path: of the setting, absolute, on the host.
        old: what it was.
        new: what it was to become.
        utc: when this was noted.
        boot_id: of the kernel's boot in which it was noted.
    """

    knob: str
    path: str
    old: str
    new: str
    utc: str
    boot_id: str

    def __post_init__(self) -> None:
        _check_texts(self, ("knob", "path", "old", "new", "utc", "boot_id"))
        if not self.path.startswith(_PLACES) or ".." in self.path.split("/"):
            raise ValueError(f"{self.path!r} is no setting of the kernel")


@dataclass(frozen=True)
class Left:
    """A value of ours that somebody else changed meanwhile: it was left as it was found.

    Args:
        entry: what we had changed.
        found: the value that was found instead of ours.
        utc: when it was found.
    """

    entry: Entry
    found: str
    utc: str

    def __post_init__(self) -> None:
        _check_texts(self, ("found", "utc"))


@dataclass(frozen=True)
class Noted:
    """All that the journal holds.

    Args:
        run_id: for which run the values were changed.
        entries: what is still to be put back, in the order of the changes.
        left: what will not be put back, because somebody else changed it.
    """

    run_id: str = ""
    entries: tuple[Entry, ...] = ()
    left: tuple[Left, ...] = ()


def _check_texts(read: Entry | Left, names: tuple[str, ...]) -> None:
    """What comes from a file can be anything."""
    for name in names:
        if not isinstance(getattr(read, name), str):
            raise ValueError(f"{name} is no text")


def parse(text: str) -> Noted:
    """Read a journal's text.

    Raises:
        ValueError: it is none.
    """
    data = json.loads(text)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ValueError(f"no journal of schema {SCHEMA}")
    if not isinstance(data.get("run_id"), str):
        raise ValueError("it names no run")
    missing = {"entries", "left"} - set(data)
    if missing:
        raise ValueError(f"no {', '.join(sorted(missing))}")
    return build(Noted, {name: value for name, value in data.items() if name != "schema"})


class Journal:
    """The journal's file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Noted:
        """What it holds; nothing where there is none.

        Raises:
            DamagedError: it is there, but not as we write it.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return Noted()
        except OSError as error:
            raise self._damaged(error.strerror) from error
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid():
                raise self._damaged(f"it is not a file of user {os.geteuid()}")
            if stat.S_IMODE(about.st_mode) & 0o077:
                raise self._damaged("others than root could write or read it")
            try:
                return parse(file.read().decode())
            except ValueError as error:
                raise self._damaged(str(error)) from error

    def save(self, noted: Noted) -> None:
        """Replace the file in one step; when this returns, the disk has it.

        Where nothing is left to say, the file goes.

        Raises:
            OSError: it could not be written; the old one is still there.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if noted.entries or noted.left:
            self._replace(json.dumps({"schema": SCHEMA, **asdict(noted)}, indent=1) + "\n")
        else:
            self.path.unlink(missing_ok=True)
        sync_path(self.path.parent)

    def _replace(self, text: str) -> None:
        part = self.path.with_name(_PART + self.path.name)
        # A new file: what lies there may be somebody's link, or have another mode.
        part.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(part, flags, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path)

    def _damaged(self, cause: str | None) -> DamagedError:
        return DamagedError(
            f"{self.path} is damaged ({cause}): which settings a run changed here is not known, "
            "and nothing was changed now. Set by hand what lab.check finds wrong, "
            f"or reboot; then run: mv {self.path} {self.path}.damaged"
        )
