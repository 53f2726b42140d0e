"""Whether every byte of a run, or of a bundle of one, is what its checksums say.

A run's SHA256SUMS was written by the host when it had measured; the report is made from the rest
and not vouched for by it. A bundle has one more over all that it holds, the report too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from uplab import checksums, runbundle
from uplab.checksums import SUMS_FILE
from uplab.errors import GateError, UsageError
from uplab.hostside import sums
from uplab.runbundle import Bundle


@dataclass(frozen=True, slots=True)
class Verified:
    """What was looked at: how many files, and each that is `changed`, `missing` or `extra`.

    `sums_sha256` is the digest of the checksums: equal digests are equal runs, or bundles.
    `redacted_from` is that of the run that a redacted one was made of.
    """

    files: int
    differences: tuple[str, ...]
    sums_sha256: str
    redacted_from: str | None = None


def verify(path: Path) -> Verified:
    """Check a run directory or a bundle.

    Raises UsageError for what is neither, and GateError for a run that has no SHA256SUMS.
    """
    if runbundle.is_bundle(path):
        with runbundle.opened(path) as bundle:
            return _bundle(bundle)
    return _run(path)


def said(path: Path, found: Verified) -> Iterator[str]:
    """What was found, a line each."""
    yield from found.differences
    yield f"{path}: {_files(found.files)}, {len(found.differences)} not as the checksums say"
    if found.redacted_from is not None:
        yield f"redacted, from the run whose SHA256SUMS has the sha256 {found.redacted_from}"
    yield f"sha256 of its SHA256SUMS: {found.sums_sha256}"


def require_sound(path: Path, found: Verified) -> None:
    """Raise GateError where a file is not what its checksums say."""
    if found.differences:
        raise GateError(f"{path} is not what its checksums say: {_files(len(found.differences))}")


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number:,} files"


def _run(run_dir: Path) -> Verified:
    if not (run_dir / "run.json").is_file():
        raise UsageError(f"{run_dir} is neither a run directory nor a bundle")
    if not (run_dir / SUMS_FILE).is_file():
        raise GateError(f"{run_dir} has no {SUMS_FILE}, so nothing vouches for its files")
    files = checksums.list_files(run_dir)
    digest = hashlib.sha256((run_dir / SUMS_FILE).read_bytes()).hexdigest()
    return Verified(len(files), tuple(checksums.differences_of(run_dir, files)), digest)


def _bundle(bundle: Bundle) -> Verified:
    index = bundle.index()
    found = {name: hashlib.sha256(bundle.read(name)).hexdigest() for name in bundle.names}
    own = _differences(_sums(bundle, SUMS_FILE), found, "")
    folder = f"{index.run_id}/"
    # The run's own checksums again: whoever repacks a bundle can write new ones around them.
    inner = _differences(
        _sums(bundle, f"{folder}{SUMS_FILE}"),
        {
            name.removeprefix(folder): digest
            for name, digest in found.items()
            if name.startswith(folder) and not name.startswith(f"{folder}{sums.DERIVED}/")
        },
        folder,
    )
    return Verified(
        files=len(found),
        differences=tuple(dict.fromkeys([*own, *inner])),
        sums_sha256=found[SUMS_FILE],
        redacted_from=None if index.redacted is None else str(index.redacted.get("of_sha256")),
    )


def _sums(bundle: Bundle, name: str) -> dict[str, str]:
    place = f"{bundle.path}, {name}"
    if name not in bundle.names:
        raise UsageError(f"{place} is missing, so nothing vouches for its files")
    try:
        return checksums.parse_sums(bundle.read(name).decode(), place)
    except UnicodeDecodeError as error:
        raise UsageError(f"{place} is not UTF-8") from error


def _differences(expected: dict[str, str], found: dict[str, str], folder: str) -> list[str]:
    actual = {name: digest for name, digest in found.items() if name != SUMS_FILE}
    both = expected.keys() & actual.keys()
    changed = sorted(name for name in both if expected[name] != actual[name])
    return [
        *(f"changed: {folder}{name}" for name in changed),
        *(f"missing: {folder}{name}" for name in sorted(expected.keys() - actual.keys())),
        *(f"extra: {folder}{name}" for name in sorted(actual.keys() - expected.keys())),
    ]
