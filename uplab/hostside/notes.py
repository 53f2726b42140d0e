"""Lists in files that outlive a crash: what the next start has to clean up."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write(path: Path, entries: Sequence[Any]) -> None:
    """Replace a list in one step; it is on the disk when this returns."""
    part = path.with_suffix(".part")
    with part.open("w") as file:
        json.dump(list(entries), file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read(path: Path) -> list[Any]:
    """The list in a file; empty where there is none, or something else."""
    try:
        noted = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return []
    return noted if isinstance(noted, list) else []
