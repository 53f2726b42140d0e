"""Give a finished run away as a tar stream, and forget it once it has arrived."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from pathlib import Path
from typing import IO

from uplab.hostside.errors import USAGE, HostError
from uplab.hostside.rundir import PART_PREFIX

_RUN_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,200}")


def run_path(runs: Path, run_id: str) -> Path:
    """The directory of a run on this host.

    Raises:
        HostError: no such run, or a name that is none.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise HostError(f"{run_id!r} is not the name of a run", USAGE)
    path = runs / run_id
    if not path.is_dir():
        raise HostError(f"no run {run_id} in {runs}", USAGE)
    return path


def write(runs: Path, run_id: str, out: IO[bytes]) -> None:
    """Write the run as an uncompressed tar stream; unfinished trials are left out."""
    path = run_path(runs, run_id)
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith(PART_PREFIX))
            inside = Path(folder).relative_to(path)
            kept = sorted(name for name in names if not name.startswith(PART_PREFIX))
            # Folders too: one without files, such as the trials of a run that ended early.
            for name in (*folders, *kept):
                archive.add(Path(folder, name), str(inside / name), recursive=False)


def forget(runs: Path, run_id: str) -> None:
    """Remove a run from this host."""
    shutil.rmtree(run_path(runs, run_id))
