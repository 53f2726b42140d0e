"""The derived files of a run directory: `report/report.html`, its charts, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from uplab import results
from uplab.errors import UsageError
from uplab.hostside import sums
from uplab.report import markdown, model, trials_csv

#: The report as text, for a terminal or a page of others.
MAIN = "report.md"


def write_reports(run_dir: Path, *, strict: bool = True) -> Path:
    """Write the derived files of a run; out: the path of report.md.

    Raises what results.load raises, and UsageError where they cannot be written.
    """
    return write_files(model.build(results.load(run_dir, strict=strict)))


def files_of(report: model.Report) -> dict[str, bytes]:
    """Every derived file of a run, by its path inside `report/`: what is written, and replayed.

    The same run gives the same bytes whenever and wherever they are made.
    """
    # Here, because it brings a drawing engine with it.
    from uplab.report.html import files

    return {
        MAIN: markdown.render(report).encode(),
        "trials.csv": trials_csv.render(report.run, report.analysis).encode(),
        **files.files_of(report),
    }


def write_files(report: model.Report) -> Path:
    """write_reports() for a report that is already made."""
    return write_some(report, files_of(report)) / MAIN


def write_some(report: model.Report, files: Mapping[str, bytes]) -> Path:
    """Write derived files of a run; out: the folder that they lie in.

    Raises UsageError where they cannot be written.
    """
    directory = report.run.path / sums.DERIVED
    for name, content in files.items():
        write_file(directory, name, content)
    return directory


def write_file(directory: Path, name: str, content: bytes) -> Path:
    """Write one file into a folder of derived files, in one step; out: its path.

    Raises UsageError where it cannot be written, or would be written through a symbolic link.
    """
    path = directory / name
    part = path.with_name(f".part-{path.name}")
    try:
        for folder in (directory, path.parent):
            if folder.is_symlink():
                raise UsageError(f"{folder} is a symbolic link; nothing is written through it")
            folder.mkdir(exist_ok=True)
        part.unlink(missing_ok=True)
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise UsageError(f"{directory} cannot be written: {error.strerror}") from error
    return path
