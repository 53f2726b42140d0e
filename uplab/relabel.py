"""Note in the run.json of a run what was looked at, and vouch for it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from uplab import checksums
from uplab.errors import HostError
from uplab.hostside.rundir import PART_PREFIX, sync_path
from uplab.measured import Sequential

_RECORD = "run.json"
# Not the name under which the checksums over everything are written: those may be cut off.
_NEW_RECORD = f"{PART_PREFIX}labelled-{_RECORD}"
_NEW_SUMS = f"{PART_PREFIX}labelled-{checksums.SUMS_FILE}"


def write(run_dir: Path, label: Sequential) -> None:
    """Put a label into run.json and its digest into SHA256SUMS.

    Both are written aside and synced before the first is given its name, so that between the old
    state and the new one there are two renames and nothing that could fail for want of room. Where
    the power goes just there, :func:`finish` does the second.

    Raises:
        HostError: they cannot be written; the run is as it was.
    """
    try:
        record = json.loads((run_dir / _RECORD).read_text())
        text = _text({**record, "sequential": asdict(label)})
        sums = checksums.read_sums(run_dir)
        sums[_RECORD] = hashlib.sha256(text.encode()).hexdigest()
        _aside(run_dir / _NEW_RECORD, text)
        lines = (f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
        _aside(run_dir / _NEW_SUMS, "".join(lines))
    except OSError as error:
        raise HostError(f"{run_dir / _RECORD} cannot be written: {error.strerror}") from error
    (run_dir / _NEW_RECORD).replace(run_dir / _RECORD)
    finish(run_dir)


def finish(run_dir: Path) -> None:
    """Do what a power cut kept :func:`write` from; nothing where there is nothing to do."""
    try:
        listed = (run_dir / _NEW_SUMS).read_text().splitlines()
    except FileNotFoundError:
        return
    digest = hashlib.sha256((run_dir / _RECORD).read_bytes()).hexdigest()
    if f"{digest}  {_RECORD}" in listed:
        (run_dir / _NEW_SUMS).replace(run_dir / checksums.SUMS_FILE)
        sync_path(run_dir)
    else:
        # The power went before the first of the two renames: the run is as it was.
        (run_dir / _NEW_SUMS).unlink()


def _text(record: object) -> str:
    return json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _aside(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
