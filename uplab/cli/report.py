"""The tasks of the namespace ``report``: runs and load texts, read and shown."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit

from uplab.cli.common import PROJECT_ROOT, command
from uplab.errors import EXIT_USAGE

ns = Collection("report")

_RUN_FLAGS = {
    "run": "run directory, or its name in results/; without one the newest run there",
    "unverified": "read the run although its files do not match its SHA256SUMS, and say so",
}


def _run_dirs(named: list[str]) -> list[Path]:
    """The run directories meant: paths, names in results/, or the newest one."""
    from uplab import results

    home = PROJECT_ROOT / "results"
    if not named:
        return [results.newest(home)]
    return [home / run if not Path(run).exists() else Path(run) for run in named]


@command(ns, flags=_RUN_FLAGS, rest="run")
def show(c: Context, run: list[str], unverified: bool = False) -> None:
    """Show what tracing costs and how far it can be trusted."""
    from uplab.report import terminal

    for run_dir in _run_dirs(run):
        terminal.show(run_dir, strict=not unverified)


@command(
    ns,
    flags={**_RUN_FLAGS, "stdout": "print the Markdown instead of writing it into the run"},
    rest="run",
)
def md(c: Context, run: list[str], unverified: bool = False, stdout: bool = False) -> None:
    """Make report.md and trials.csv of a run again."""
    from uplab import results
    from uplab.report import markdown, model, write

    for run_dir in _run_dirs(run):
        report = model.build(results.load(run_dir, strict=not unverified))
        if stdout:
            # The same bytes as in the file, whatever the locale's encoding.
            sys.stdout.buffer.write(markdown.render(report).encode())
        else:
            print(write.write_files(report))


@command(
    ns,
    flags={
        "files": "texts that a load generator printed; - is stdin",
        "load": "name of the load adapter that reads them; default: the first that recognises each",
    },
    rest="files",
)
def parse(c: Context, files: list[str], load: str | None = None) -> None:
    """Print one JSON line for each load run in FILE..."""
    from uplab.report import parsing

    failed = False
    for parsed in parsing.parse_files(files, PROJECT_ROOT / "loads", load):
        for run in parsed.runs:
            print(json.dumps(run, allow_nan=False), flush=True)
        if parsed.error is not None:
            failed = True
            print(f"report.parse: {parsed.error}", file=sys.stderr, flush=True)
    if failed:
        raise Exit(code=EXIT_USAGE)
