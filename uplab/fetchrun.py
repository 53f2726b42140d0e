"""Bring a run here from its host: what is here stays, what arrives is checked, file by file.

Nothing that a host sends is trusted: names come from a list that is checked before anything is
written, and a pack holds files of that list or is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from uplab import checksums
from uplab.detached import pauses
from uplab.errors import HostError, UplabError
from uplab.hostside import pack, sums
from uplab.hostside.rundir import PART_PREFIX
from uplab.lines import Lines
from uplab.remote import Host
from uplab.unpacking import NAME_BYTES, Arrived, Entry, Refused, Unpacking, explained

#: One run is at most this large; what a host has beyond it is refused.
MAX_RUN_BYTES = 8 << 30
MAX_FILES = 2_000_000
_SILENCE_S = 60.0
#: How often in a row a transfer may break without having brought anything.
_VAIN_ATTEMPTS = 6


def fetch(host: Host, run_id: str, results: Path, told: Callable[[str], None]) -> Path:
    """Bring a run that has ended into ``.part-<run_id>``, whole and checked.

    May be called again after it broke off, also much later: only what is missing is asked for.

    Args:
        host: where it lies.
        run_id: its name.
        results: the folder of all runs.
        told: is called with a line for the user where the transfer breaks and goes on.

    Returns:
        the directory; it has not its final name yet.

    Raises:
        HostError: the host cannot be reached any more, or sends what is no run; disk full.
        UplabError: the host refuses, with its reason.
    """
    part = results / f"{PART_PREFIX}{run_id}"
    arrived, vain, tries = Arrived(), 0, pauses()
    while True:
        before = arrived.files
        try:
            return _fetch_once(host, run_id, part, arrived)
        except Refused:
            raise
        except HostError as error:
            if arrived.files > before:
                vain, tries = 0, pauses()
            vain += 1
            if vain == _VAIN_ATTEMPTS:
                raise
            pause_s = next(tries)
            told(f"{error.message}; what arrived is kept, trying again in {pause_s:g} s")
            time.sleep(pause_s)


def _fetch_once(host: Host, run_id: str, part: Path, arrived: Arrived) -> Path:
    """One attempt; HostError where the connection is lost in it."""
    entries = _list(host, run_id)
    # Only now: of a run that the host has forgotten, there is nothing to be kept here.
    with _room(part):
        (part / "trials").mkdir(parents=True, exist_ok=True)
    missing = _missing(part, entries)
    if missing:
        wanted = {entry.name: entry for entry in missing}
        request = {"run_id": run_id, "names": list(wanted)}
        with Unpacking(part, wanted, arrived) as unpacking:
            host.receive("pack", request, unpacking, silence_s=_SILENCE_S)
        if wanted:
            raise HostError(f"host {host.name}: the transfer of {run_id} ended early")
    _check(part, entries, run_id)
    return part


# ---- what there is ---------------------------------------------------------------------------


def _list(host: Host, run_id: str) -> list[Entry]:
    """The files of a run, every name and size checked."""
    lines = Lines(pack.MARK)
    said: list[bytes] = []
    host.receive(
        "list", {"run_id": run_id}, lambda data: said.extend(lines.take(data)), silence_s=_SILENCE_S
    )
    try:
        *rows, end = [json.loads(line) for line in said]
        whole = end == {"files": len(rows)}
    except ValueError:
        whole = False
    if not whole:
        raise HostError(f"host {host.name}: the list of the files of {run_id} is cut off")
    return _checked(rows)


def _checked(rows: list[Any]) -> list[Entry]:
    entries = [_entry(row) for row in rows]
    if len(entries) > MAX_FILES or sum(entry.size for entry in entries) > MAX_RUN_BYTES:
        raise Refused(f"the host has more than {MAX_RUN_BYTES} bytes or {MAX_FILES} files")
    if len({entry.name for entry in entries}) != len(entries):
        raise Refused("the host names a file twice")
    return entries


def _entry(row: Any) -> Entry:
    try:
        entry = Entry(str(row["name"]), int(row["size"]), str(row["sha256"]))
    except (TypeError, KeyError, ValueError):
        raise Refused(f"the host describes a file as {str(row)[:200]!r}") from None
    if entry.size < 0 or not _is_name(entry.name):
        raise Refused(f"the host has {entry.name[:200]!r}, which no run directory holds")
    return entry


def _is_name(name: str) -> bool:
    """Whether this is the name of a file inside a run directory, and of nothing else."""
    parts = name.split("/")
    own = parts[0] == sums.DERIVED or any(part.startswith(PART_PREFIX) for part in parts)
    plain = name.isprintable() and "\\" not in name and len(name.encode()) <= NAME_BYTES
    return plain and not own and not {"", ".", ".."} & set(parts)


def _missing(part: Path, entries: list[Entry]) -> list[Entry]:
    """What is not here, or not as it must be; what an earlier attempt brought beside it goes."""
    with _room(part):
        sizes = _sizes(part)
        for name in sizes.keys() - {entry.name for entry in entries}:
            (part / name).unlink()
    here = [entry for entry in entries if sizes.get(entry.name) == entry.size]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = pool.map(lambda entry: _sha256(part / entry.name), here, chunksize=64)
        good = {entry.name for entry, own in zip(here, digests, strict=True) if own == entry.sha256}
    return [entry for entry in entries if entry.name not in good]


def _sizes(folder: Path, inside: str = "") -> dict[str, int | None]:
    """All that is here by name, but folders: the sizes of files, None for anything else."""
    found: dict[str, int | None] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{inside}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                found |= _sizes(Path(entry.path), f"{name}/")
            else:
                file = entry.is_file(follow_symlinks=False)
                found[name] = entry.stat(follow_symlinks=False).st_size if file else None
    return found


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb", buffering=0) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


# ---- the end ---------------------------------------------------------------------------------


def _check(part: Path, entries: list[Entry], run_id: str) -> None:
    """What was signed off when the run ended is what the host described, and so what is here."""
    if not (part / checksums.SUMS_FILE).exists():
        return
    try:
        signed = checksums.read_sums(part)
    except UplabError as error:
        raise Refused(f"run {run_id} arrived damaged: {error.message}") from error
    here = {entry.name: entry.sha256 for entry in entries if entry.name != checksums.SUMS_FILE}
    wrong = sorted(name for name, _ in signed.items() ^ here.items())
    if wrong:
        raise Refused(f"run {run_id} arrived damaged: {'; '.join(wrong[:5])} against SHA256SUMS")


@contextmanager
def _room(part: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Refused(explained(part, error)) from error
