"""SHA256SUMS over a run directory, in the form that ``sha256sum -c`` reads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

NAME = "SHA256SUMS"
#: The report is made from the rest at any time, so it is not vouched for.
DERIVED = "report"


def files(run_dir: Path) -> Iterator[str]:
    """The files that are vouched for, by their path inside the run directory."""
    for folder, folders, names in os.walk(run_dir):
        inside = os.path.relpath(folder, run_dir)
        before = "" if inside == "." else f"{inside}/"
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".part-") and not (inside == "." and name == DERIVED)
        ]
        for name in names:
            if name != NAME and not name.startswith(".part-"):
                yield f"{before}{name}"


def write(run_dir: Path) -> None:
    """Write the file in one step; unfinished trials are left out."""
    lines = []
    for name in sorted(files(run_dir)):
        with (run_dir / name).open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    part = run_dir / f".part-{NAME}"
    with part.open("w") as out:
        out.writelines(lines)
        out.flush()
        os.fsync(out.fileno())
    part.replace(run_dir / NAME)
