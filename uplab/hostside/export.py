"""The runs of this host by their names."""

from __future__ import annotations

import re
from pathlib import Path

from uplab.hostside.errors import USAGE, HostError

_RUN_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,200}")


def is_run_id(name: str) -> bool:
    """Whether this can be the name of a run."""
    return _RUN_ID.fullmatch(name) is not None


def check_run_id(name: str) -> str:
    """The name of a run as it is; HostError where it is none."""
    if not is_run_id(name):
        raise HostError(f"{name!r} is not the name of a run", USAGE)
    return name


def run_path(runs: Path, run_id: str) -> Path:
    """The directory of a run on this host.

    Raises:
        HostError: no such run, or a name that is none.
    """
    path = runs / check_run_id(run_id)
    if not path.is_dir():
        raise HostError(f"no run {run_id} in {runs}", USAGE)
    return path
