"""Writing a run directory so that what is in it is whole: write aside, sync, rename."""

from __future__ import annotations

import json
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PART_PREFIX = ".part-"


def utc_now() -> str:
    """The time as ``2026-01-31T12:00:00.123456Z``."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def sync_path(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, data: Any) -> None:
    """Replace a JSON file in one step; a reader sees the old one or the new one."""
    part = path.with_name(PART_PREFIX + path.name)
    part.write_text(json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    sync_path(part)
    part.replace(path)
    sync_path(path.parent)


class TrialDirectory:
    """A trial's directory under its temporary name until :meth:`keep`."""

    def __init__(self, trials: Path, name: str) -> None:
        self.name = name
        self._final = trials / name
        self.path = trials / (PART_PREFIX + name)
        if self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, mode=0o700)

    def keep(self, trial: dict[str, Any]) -> None:
        """Write trial.json, sync every file, and give the directory its name."""
        text = json.dumps(trial, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        (self.path / "trial.json").write_text(text)
        for entry in self.path.iterdir():
            sync_path(entry)
        sync_path(self.path)
        self.path.rename(self._final)
        sync_path(self._final.parent)

    def drop(self) -> None:
        """Remove an unfinished trial."""
        # What stays is named as a part, which nothing reads and nothing vouches for.
        shutil.rmtree(self.path, ignore_errors=True)


class Events:
    """``events.jsonl``: every step with both clocks; also to a stream for who follows."""

    def __init__(self, path: Path, *, follow: bool) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._follow = follow

    def emit(self, event: str, **details: Any) -> None:
        """Append one event; OSError where the disk is full."""
        line = json.dumps(
            {"utc": utc_now(), "monotonic_ns": time.monotonic_ns(), "event": event, **details},
            ensure_ascii=False,
        )
        os.write(self._descriptor, f"{line}\n".encode())
        if self._follow:
            self._print(line)

    def _print(self, line: str) -> None:
        try:
            print(line, flush=True)
        except BrokenPipeError:
            # Nobody follows any more; the run is not theirs to end.
            self._follow = False

    def close(self) -> None:
        """Sync and close."""
        os.fsync(self._descriptor)
        os.close(self._descriptor)
