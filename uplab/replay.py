"""The report of a run, made again from the run directory alone and held against what is there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from uplab import results, runbundle
from uplab.errors import GateError, UsageError
from uplab.export import formats
from uplab.hostside import sums
from uplab.report import model, write
from uplab.report.model import Report

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Replayed:
    """The files that were made again, those that are not the same, and those that nobody made.

    `differences` says of each where it begins to differ.
    """

    files: tuple[str, ...]
    differences: tuple[str, ...]
    foreign: tuple[str, ...]


def everything(report: Report) -> dict[str, bytes]:
    """Every derived file of a run: the report, and the run in every form of :mod:`uplab.export`."""
    exported = {entry.file: formats.render(report, name) for name, entry in formats.FORMATS.items()}
    return exported | write.files_of(report)


def replay(path: Path, out: Path | None = None) -> Replayed:
    """Make the report of a run or bundle again and compare it.

    In: `out` a new folder for the files that were made; without it they are compared alone.
    Raises what results.load raises; UsageError for a run without a report to compare with, where
    no `out` is given either.
    """
    with _run_dir(path) as run_dir:
        report = model.build(results.load(run_dir))
        there = _files(run_dir / sums.DERIVED)
        if not there and out is None:
            raise UsageError(
                f"{path} holds no report to compare with. Run: invoke report.md {path}"
            )
        made = _made_again(report, there)
        if out is not None:
            _write(out, made)
        return _compared(run_dir / sums.DERIVED, made, there) if there else _nothing_there(made)


def said(path: Path, replayed: Replayed) -> Iterator[str]:
    """What became of it, a line each."""
    same = len(replayed.files) - len(replayed.differences)
    yield f"{path}: {same} of {len(replayed.files)} files made again, byte for byte"
    yield from replayed.differences
    for name in replayed.foreign:
        yield f"not made by this uplab: {name}"


def require_same(path: Path, replayed: Replayed) -> None:
    """Raise GateError where a file is not the same."""
    if replayed.differences:
        number = len(replayed.differences)
        raise GateError(f"{path}: not the same report, files that differ: {number}")


def _nothing_there(made: dict[str, bytes]) -> Replayed:
    return Replayed(tuple(sorted(made)), (), ())


def _made_again(report: Report, there: list[str]) -> dict[str, bytes]:
    """The report, and those of the exports that are there."""
    wanted = {name: form for name in there if (form := formats.of_file(name)) is not None}
    exported = {name: formats.render(report, form) for name, form in wanted.items()}
    return exported | write.files_of(report)


def _compared(folder: Path, made: dict[str, bytes], there: list[str]) -> Replayed:
    differences = []
    for name, content in sorted(made.items()):
        if name not in there:
            differences.append(f"missing: {name}")
        elif (at := _first_difference((folder / name).read_bytes(), content)) is not None:
            differences.append(f"differs: {name}, from byte {at:,}")
    foreign = tuple(name for name in there if name not in made)
    return Replayed(tuple(sorted(made)), tuple(differences), foreign)


def _first_difference(one: bytes, other: bytes) -> int | None:
    if one == other:
        return None
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _files(folder: Path) -> list[str]:
    """The files in a folder of derived files, by their path inside it, sorted."""
    if folder.is_symlink():
        raise UsageError(f"{folder} is a symbolic link; a run holds none")
    found = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_symlink():
            raise UsageError(f"{path} is a symbolic link; a run holds none")
        if path.is_file() and not path.name.startswith(".part-"):
            found.append(path.relative_to(folder).as_posix())
    return found


def _write(out: Path, made: dict[str, bytes]) -> None:
    if out.exists():
        raise UsageError(f"{out} is there already. Run: invoke report.replay ... --out NEW_FOLDER")
    for name, content in made.items():
        write.write_file(out, name, content)


@contextmanager
def _run_dir(path: Path) -> Iterator[Path]:
    """The run directory of a path: itself, or what a bundle holds, unpacked aside."""
    if not runbundle.is_bundle(path):
        yield path
        return
    from uplab.verify import verify

    found = verify(path)
    if found.differences:
        raise GateError(
            f"{path} is not what its checksums say: {'; '.join(found.differences[:5])}. "
            f"Run: invoke report.verify {path}"
        )
    with tempfile.TemporaryDirectory(prefix="uplab-replay-") as folder:
        with runbundle.opened(path) as bundle:
            run_dir = bundle.extract(Path(folder))
        yield run_dir
