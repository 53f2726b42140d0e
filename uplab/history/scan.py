"""The run directories of a folder, brought into the store: only new and changed ones are read.

The state of a run directory is the digest of its SHA256SUMS and of the name, size and time of each
of its files. Where any of them is another, the run is read and verified again, byte by byte. A run
that cannot be read is never kept: it is tried each time, and its reason is shown.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from uplab import __version__
from uplab.checksums import SUMS_FILE
from uplab.errors import UplabError, UsageError
from uplab.history import rows
from uplab.history.rows import CellRow, RunRow
from uplab.history.store import FORM, Store
from uplab.hostside import sums

_Read = tuple[RunRow, tuple[CellRow, ...]]
# Starting processes costs about a second; below this many runs it is not worth it.
_FEW = 24


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A directory that is no run which can be trusted, and why."""

    run: str
    reason: str


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a folder holds: the states of good runs, what is left out, how many were read now."""

    keys: frozenset[str]
    left_out: tuple[LeftOut, ...]
    read: int


@dataclass(frozen=True, slots=True)
class _Found:
    run_dir: Path
    key: str
    sums_sha256: str | None


def update(folder: Path, store: Store, *, fresh: bool = False) -> Scanned:
    """Bring the store up to date with the runs in a folder.

    In: the folder; the store; `fresh` reads every run again. Out: what was found. Raises UsageError
    where there is no such folder, or the store cannot be written.
    """
    found, left_out = [], []
    for run_dir in _directories(folder):
        try:
            found.append(_state(run_dir))
        except UplabError as error:
            left_out.append(LeftOut(run_dir.name, error.message))
        except OSError as error:
            left_out.append(LeftOut(run_dir.name, f"cannot be read: {error.strerror}"))
    kept = set() if fresh else store.keys()
    wanted = [one for one in found if one.key not in kept]
    new: list[_Read] = []
    for one, result in zip(wanted, _read_all(wanted), strict=True):
        if isinstance(result, str):
            left_out.append(LeftOut(one.run_dir.name, result))
        else:
            new.append(result)
    keys = kept & {one.key for one in found}
    if new or keys != kept:
        store.keep(keys, new)
    good = keys | {run.key for run, _ in new}
    return Scanned(frozenset(good), tuple(sorted(left_out, key=lambda one: one.run)), len(wanted))


def _directories(folder: Path) -> Iterator[Path]:
    """What may be a run, by name; some lie elsewhere. Hidden ones are on their way in, or ours."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
            )
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}. Run: invoke bench.all") from error
    return (folder / name for name in names)


def _state(run_dir: Path) -> _Found:
    """The state of a run directory, derived files left out: two directories never share one."""
    if not run_dir.name.isprintable():
        raise UsageError("its name holds what no name may")
    digest = hashlib.sha256(f"{FORM} {__version__} {run_dir.name}\n".encode())
    path = run_dir / SUMS_FILE
    listed = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    digest.update(f"{listed}\n".encode())
    for line in sorted(_files(str(run_dir), "")):
        digest.update(line.encode("utf-8", "surrogateescape"))
    return _Found(run_dir, digest.hexdigest(), listed)


def _files(root: str, inside: str) -> Iterator[str]:
    with os.scandir(f"{root}/{inside}") as entries:
        for entry in entries:
            name = f"{inside}{entry.name}"
            if name == sums.DERIVED:
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _files(root, f"{name}/")
            else:
                status = entry.stat(follow_symlinks=False)
                yield f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n"


def _read_all(wanted: Sequence[_Found]) -> Iterable[_Read | str]:
    """Of each the rows, or why there are none."""
    if len(wanted) < _FEW:
        return map(_read, wanted)
    # Most of it is parsing JSON, which holds the interpreter's lock.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(_read, wanted, chunksize=8))


def _read(found: _Found) -> _Read | str:
    try:
        return rows.read(found.run_dir, found.key, found.sums_sha256)
    except UplabError as error:
        return error.message
    except OSError as error:
        return f"cannot be read: {error.strerror}"
