"""A bundle of a run from the run directory: checked, redacted where asked for, with its report."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from uplab import redact, replay, results, runbundle
from uplab.errors import GateError, UsageError
from uplab.redactor import Kind
from uplab.report import model
from uplab.report.section import Section
from uplab.report.table import Table


@dataclass(frozen=True, slots=True)
class Made:
    """The bundle, the sha256 of its SHA256SUMS, and what was replaced (None: not redacted)."""

    path: Path
    sums_sha256: str
    replaced: tuple[Kind, ...] | None


def make(
    run_dir: Path,
    out: Path | None,
    *,
    pins: Path,
    redacted: bool = False,
    also: Iterable[str] = (),
) -> Made:
    """Pack a run with its report, and with the run in every form of :mod:`uplab.export`.

    In: `out` the file, None for the run's name in this folder; `pins` names the public hosts, which
    stay when the run is `redacted`; `also` further words to replace. The run directory itself is
    left as it is. Raises GateError for a run whose files are not what SHA256SUMS says, and
    UsageError where the bundle cannot be written.
    """
    run = results.load(run_dir)
    if not run.verified:
        why = "; ".join(run.not_verified_because)
        raise GateError(f"{run_dir}: {why}. Run: invoke bench.resume {run_dir}")
    if list(also) and not redacted:
        raise UsageError("--also names words to replace. Run: invoke report.bundle ... --redact")
    with _source(run_dir, pins, redacted, also) as (source, kinds):
        report = model.build(results.load(source))
        name = f"{report.run.run_id}{'-redacted' if redacted else ''}{runbundle.SUFFIX}"
        path = Path(name) if out is None else out
        digest = runbundle.write(source, replay.everything(report), path)
    return Made(path, digest, kinds)


@contextmanager
def _source(
    run_dir: Path, pins: Path, redacted: bool, also: Iterable[str]
) -> Iterator[tuple[Path, tuple[Kind, ...] | None]]:
    """The run directory to pack, and what was replaced in it."""
    if not redacted:
        yield run_dir, None
        return
    with tempfile.TemporaryDirectory(prefix="uplab-redact-") as folder:
        copy = Path(folder, "run")
        kinds = redact.redact(run_dir, copy, redact.public_hosts(pins), also)
        yield copy, tuple(kinds)


def sections(made: Made) -> Iterator[Section]:
    """What was made, as it is shown."""
    lines = (f"{made.path}", f"sha256 of its SHA256SUMS: {made.sums_sha256}")
    if made.replaced is None:
        yield Section("Bundle", lines)
        return
    rows = tuple((kind.name, str(kind.values), str(kind.times)) for kind in made.replaced)
    yield Section(
        "Redacted bundle",
        lines,
        Table(("replaced", "values", "times"), (False, True, True), rows),
        (
            "Patterns find what has a form. Read through the logs before you give it away; further "
            "words: --also WORD.",
        ),
    )
