"""Every form that a run can be exported to, by name, and the file that it is written into."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from uplab.errors import UsageError
from uplab.hostside import sums
from uplab.report import trials_csv
from uplab.report.model import Report
from uplab.report.write import write_file


@dataclass(frozen=True, slots=True)
class Format:
    """A form: its file's name inside `report/`, and what it is for."""

    file: str
    purpose: str
    module: str


FORMATS = {
    "csv": Format("trials.csv", "trials, for a spreadsheet", ""),
    "parquet": Format("trials.parquet", "trials with types, for a dataframe", "parquet"),
    "jsonl": Format("trials.jsonl", "trials as JSON lines of a published schema", "jsonl"),
    "gobench": Format("trials.gobench.txt", "trials that count, for benchstat", "gobench"),
    "md": Format("figures.md", "figures and texts as the published experiment", "seed_form"),
    "latex": Format("figures.tex", "tables for a paper", "latex"),
}


def render(report: Report, name: str) -> bytes:
    """A run in one of the forms. Raises UsageError for a name that is none of them."""
    if name not in FORMATS:
        raise UsageError(f"no format {name!r}; there are: {', '.join(FORMATS)}")
    if not FORMATS[name].module:
        return trials_csv.render(report.run, report.analysis).encode()
    # Each imports only what it needs: DuckDB takes longer than all the others.
    module = importlib.import_module(f"uplab.export.{FORMATS[name].module}")
    content: bytes = module.render(report)
    return content


def write(report: Report, name: str, out: Path | None) -> Path:
    """Write a run in one of the forms; out: the path.

    In: `out` None for the form's own file in the run's report. Raises UsageError where it cannot
    be written.
    """
    content = render(report, name)
    if out is None:
        return write_file(report.run.path / sums.DERIVED, FORMATS[name].file, content)
    return write_file(out.parent, out.name, content)


def of_file(file: str) -> str | None:
    """The name of the form whose file this is; None for any other file."""
    return next((name for name, entry in FORMATS.items() if entry.file == file), None)
