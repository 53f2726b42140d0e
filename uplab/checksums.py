"""SHA256SUMS of a run directory, checked file by file.

What is vouched for is decided where the host writes the file (`uplab.hostside.sums`); here the
directory may come from anywhere, so nothing that leads out of it is followed.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from uplab.errors import UsageError
from uplab.fields import text_of
from uplab.hostside import sums
from uplab.hostside.rundir import PART_PREFIX

SUMS_FILE = sums.NAME
MAX_SUMS_BYTES = 256_000_000
MAX_FILES = 2_000_000

_SUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def differences(run_dir: Path) -> list[str]:
    """Every file that is not what SHA256SUMS says, as `changed: F`, `missing: F` or `extra: F`.

    Raises UsageError when SHA256SUMS is absent, malformed or names a file outside the directory.
    """
    return differences_of(run_dir, list_files(run_dir))


def differences_of(run_dir: Path, files: list[str]) -> list[str]:
    """differences() for a caller that has already listed the files."""
    expected = read_sums(run_dir)
    actual = _digests(run_dir, [name for name in files if name in expected])
    changed = [f"changed: {name}" for name, digest in actual.items() if digest != expected[name]]
    missing = [f"missing: {name}" for name in expected if name not in actual]
    extra = [f"extra: {name}" for name in files if name not in expected]
    return sorted(changed) + sorted(missing) + sorted(extra)


def list_files(run_dir: Path) -> list[str]:
    """Every file of a run that is vouched for, by its path inside the run directory, sorted.

    The derived report, SHA256SUMS itself and unfinished trials are left out. Raises UsageError for
    a symbolic link, a special file, or a name that cannot be listed: a run that leads outside its
    own directory is not read.
    """
    found = sorted(_walk(str(run_dir), ""))
    if len(found) > MAX_FILES:
        raise UsageError(f"{run_dir} holds {len(found)} files, at most {MAX_FILES} are read")
    return found


def _walk(root: str, inside: str) -> Iterator[str]:
    with os.scandir(f"{root}/{inside}") as entries:
        for entry in entries:
            name = f"{inside}{entry.name}"
            if name in (SUMS_FILE, sums.DERIVED) or entry.name.startswith(PART_PREFIX):
                continue
            if not name.isprintable() or "\\" in name:
                raise UsageError(f"{root}: the file name {name!r} holds a control character")
            if entry.is_symlink():
                raise UsageError(f"{root}: {name} is a symbolic link; a run holds none")
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, f"{name}/")
            elif entry.is_file(follow_symlinks=False):
                yield name
            else:
                raise UsageError(f"{root}: {name} is neither a file nor a directory")


def read_sums(run_dir: Path) -> dict[str, str]:
    """The digests that SHA256SUMS gives, by file; errors as for :func:`differences`."""
    place = run_dir / SUMS_FILE
    return parse_sums(text_of(place, MAX_SUMS_BYTES), str(place))


def parse_sums(text: str, place: str) -> dict[str, str]:
    """The digests in the text of a SHA256SUMS; `place` is its name in an error."""
    expected: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line:
            continue
        match = _SUM_LINE.fullmatch(line)
        if match is None:
            raise UsageError(f"{place}, line {number}: expected `<sha256>  <file>`, got {line!r}")
        digest, name = match.groups()
        if name.startswith("/") or ".." in name.split("/") or not name.isprintable():
            raise UsageError(f"{place}, line {number}: {name!r} leads outside the run directory")
        if name in expected:
            raise UsageError(f"{place}, line {number}: {name} is listed twice")
        expected[name] = digest
    return expected


def _digests(run_dir: Path, names: list[str]) -> dict[str, str]:
    """The sha256 of each file. In threads: hashing releases the interpreter's lock."""
    workers = os.cpu_count() or 1
    chunks = [names[first::workers] for first in range(workers)]

    def digest_chunk(chunk: list[str]) -> list[tuple[str, str]]:
        return [(name, _digest(run_dir / name)) for name in chunk]

    with ThreadPoolExecutor(workers) as pool:
        return dict(pair for part in pool.map(digest_chunk, chunks) for pair in part)


def _digest(path: Path) -> str:
    try:
        with path.open("rb", buffering=0) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
