"""What is known of a box: the file that says what was started for it, so that all of it can end.

The file is written before the first thing is made and outlives a crash of the creator. Processes
are named by PID and start time and by the control groups made for this box alone, never by a name
that somebody else's process could carry.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from uplab.errors import HostError, UsageError
from uplab.hostside import procfs

STARTING = "starting"
UP = "up"
Network = Literal["shared", "own"]
SHARED: Network = "shared"
OWN: Network = "own"
_SCHEMA = 1
_RECORD = "box.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NETWORK = "127.77.0"
_HIGHEST = 254


@dataclass(frozen=True)
class Process:
    """A process, named for good: PIDs are used again, but not with the same start time."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has this PID now; HostError when there is none."""
        ticks = procfs.start_ticks(pid)
        if ticks is None:
            raise HostError(f"process {pid} ended at once")
        return cls(pid, ticks)

    def lives(self) -> bool:
        """Whether it still runs; a zombie has ended."""
        try:
            fields = procfs.stat_fields(self.pid)
        except OSError:
            return False
        return fields[0] not in "ZX" and int(fields[19]) == self.start_ticks


@dataclass(frozen=True)
class Box:
    """A disposable host.

    ``folder`` holds all that belongs to it; ``machine`` is its name for systemd-nspawn, used once;
    ``cgroups`` the control groups made for it; ``leader`` the process above it (None before it
    was started) in the machine's boot ``boot_id``; ``owner`` the process that wants it gone when it
    ends itself (a test session), or None; ``own_address`` its address in a network of its own, None
    where it has the machine's.
    """

    name: str
    folder: Path
    port: int
    suite: str
    base: str
    machine: str
    cgroups: tuple[str, ...]
    state: str
    boot_id: str
    started_utc: str
    leader: Process | None = None
    owner: Process | None = None
    own_address: str | None = None

    @property
    def address(self) -> str:
        """Where it is reached: on the loopback device, or in the network of its own."""
        return self.own_address or address(self.name)

    @property
    def network(self) -> Network:
        """Whose network it has."""
        return SHARED if self.own_address is None else OWN

    @property
    def key_file(self) -> Path:
        """The private key that its root accepts."""
        return self.folder / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """A file with its host key and no other."""
        return self.folder / "known_hosts"

    @property
    def inventory_file(self) -> Path:
        """Ansible's inventory of all boxes that are up."""
        return self.folder.parent / "inventory.yml"

    @property
    def layers(self) -> Path:
        """Where its file system lies: ``upper``, ``work`` and the mount point ``root``."""
        return self.folder / "layers"

    @property
    def console(self) -> Path:
        """What its systemd printed."""
        return self.folder / "console.log"

    def lives(self) -> bool:
        """Whether its container runs."""
        return self.leader is not None and self.boot_id == boot_id() and self.leader.lives()

    def is_up(self) -> bool:
        """Whether it was seen to be ready and still runs."""
        return self.state == UP and self.lives()


def boxes_folder(project: Path) -> Path:
    """Where boxes and their bases lie."""
    return project / ".uplab" / "boxes"


def boot_id() -> str:
    """This boot of the machine."""
    return _BOOT_ID.read_text().strip()


def number(name: str) -> int:
    """N of boxN; UsageError where the name is another."""
    found = re.fullmatch(r"box([1-9][0-9]{0,2})", name)
    if not found or int(found[1]) > _HIGHEST:
        raise UsageError(f"{name!r} is no name of a box: they are box1 to box{_HIGHEST}")
    return int(found[1])


def address(name: str) -> str:
    """The loopback address of a box."""
    return f"{_NETWORK}.{number(name)}"


def write(box: Box) -> None:
    """Note a box; the file is whole or not there."""
    entry = asdict(box)
    del entry["folder"]
    part = box.folder / f".{_RECORD}.{os.getpid()}"
    part.write_text(json.dumps({"schema": _SCHEMA, **entry}, indent=1))
    part.replace(box.folder / _RECORD)


def read(project: Path, name: str) -> Box | None:
    """The box of that name; None where there is none, or where its making had not begun.

    Raises:
        HostError: its record cannot be read.
    """
    number(name)
    folder = boxes_folder(project) / name
    path = folder / _RECORD
    try:
        return _box(json.loads(path.read_text()), folder)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HostError(
            f"{path} cannot be read ({error}), so what was started for {name} is not known"
        ) from error


def _box(entry: dict[str, Any], folder: Path) -> Box:
    if entry.pop("schema") != _SCHEMA:
        raise ValueError("another schema")
    for role in ("leader", "owner"):
        if entry[role] is not None:
            entry[role] = Process(**entry[role])
    entry["cgroups"] = tuple(entry["cgroups"])
    return Box(folder=folder, **entry)


def read_all(project: Path) -> list[Box]:
    """All boxes, whether they run or not, by number.

    Raises:
        HostError: a record cannot be read.
    """
    names = [
        path.name
        for path in boxes_folder(project).glob("box*")
        if re.fullmatch(r"box[1-9][0-9]{0,2}", path.name)
    ]
    found = [read(project, name) for name in sorted(names, key=number)]
    return [box for box in found if box is not None]
