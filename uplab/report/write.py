"""The derived files of a run directory: `report/report.md` and `report/trials.csv`."""

from __future__ import annotations

from pathlib import Path

from uplab import results
from uplab.errors import UsageError
from uplab.hostside import sums
from uplab.report import markdown, model, trials_csv


def write_reports(run_dir: Path, *, strict: bool = True) -> Path:
    """Write the derived files of a run; out: the path of report.md.

    Raises what results.load raises, and UsageError where they cannot be written.
    """
    return write_files(model.build(results.load(run_dir, strict=strict)))


def write_files(report: model.Report) -> Path:
    """write_reports() for a report that is already made."""
    directory = report.run.path / sums.DERIVED
    path = directory / "report.md"
    try:
        if directory.is_symlink():
            raise UsageError(f"{directory} is a symbolic link; nothing is written through it")
        directory.mkdir(exist_ok=True)
        _write(path, markdown.render(report))
        _write(directory / "trials.csv", trials_csv.render(report.run, report.analysis))
    except OSError as error:
        raise UsageError(f"{directory} cannot be written: {error.strerror}") from error
    return path


def _write(path: Path, content: str) -> None:
    """Replace a file in one step. UTF-8 and plain newlines, whatever the locale."""
    part = path.with_name(f".part-{path.name}")
    part.unlink(missing_ok=True)
    part.write_text(content, encoding="utf-8", newline="\n")
    part.replace(path)
