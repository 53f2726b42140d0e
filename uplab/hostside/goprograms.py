"""The Go programs that run on this host: what a tracer that looks for them would alter."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from uplab.hostside.spec import Adapters, Cell

#: A section that Go's linker writes into every program, stripped or not.
_MARK = b".go.buildinfo"
_HEADER_BYTES = 64
_MOST_NAMES_BYTES = 1 << 20


@dataclass(frozen=True)
class GoProcess:
    """A process of a program that Go's linker made."""

    pid: int
    name: str
    exe: str


def running() -> list[GoProcess]:
    """All Go processes that can be seen, by PID."""
    known: dict[tuple[int, int], bool] = {}
    found = []
    for pid in sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        exe = Path(f"/proc/{pid}/exe")
        try:
            status = exe.stat()
            file = status.st_dev, status.st_ino
            if file not in known:
                known[file] = is_go(exe)
            if known[file]:
                name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
                found.append(GoProcess(pid, name, str(exe.readlink())))
        except OSError:
            # The kernel's own threads have no program, and what ended meanwhile is not altered.
            continue
    return found


def is_go(path: Path) -> bool:
    """Whether a file is a program that Go's linker made; OSError where it cannot be read."""
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES or header[:6] != b"\x7fELF\x02\x01":
            return False
        (section_at,) = struct.unpack_from("<Q", header, 40)
        section_size, section_count, names_index = struct.unpack_from("<HHH", header, 58)
        if names_index >= section_count:
            return False
        where = os.pread(file.fileno(), section_size, section_at + names_index * section_size)
        if len(where) < _HEADER_BYTES:
            return False
        offset, size = struct.unpack_from("<QQ", where, 24)
        names = os.pread(file.fileno(), min(size, _MOST_NAMES_BYTES), offset)
    return _MARK in names.split(b"\0")


def touched(cells: Iterable[Cell], adapters: Adapters) -> dict[str, Any] | None:
    """What cells would alter beside their servers.

    Returns:
        ``tracers`` by name and the ``processes`` that they would alter; None where there are none.
    """
    traced = [(cell.tracer, cell.mode) for cell in cells if cell.tracer is not None]
    tracers = {name for name, mode in traced if "go" in adapters.tracers[name].modes[mode].touches}
    processes = [asdict(process) for process in running()] if tracers else []
    return {"tracers": sorted(tracers), "processes": processes} if processes else None


def refusal(others: Mapping[str, Any]) -> str:
    """The line that refuses a run, from what :func:`touched` found."""
    listed = ", ".join(f"{p['name']} (pid {p['pid']}, {p['exe']})" for p in others["processes"])
    return (
        f"{', '.join(others['tracers'])} would alter every Go process of this host, and there are "
        f"others than the servers: {listed}. End them, or measure with --touch-others"
    )
