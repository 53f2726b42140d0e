"""The tasks of the namespace ``report``: runs and load texts, read and shown."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit

from uplab.cli.common import PROJECT_ROOT, command
from uplab.cli.runs import run_dirs as _run_dirs
from uplab.errors import EXIT_USAGE

ns = Collection("report")

#: Where pooled latencies are kept between reports.
CACHE = PROJECT_ROOT / ".uplab" / "cache" / "latency"

_RUN_FLAGS = {
    "run": "run directory, or its name in results/; without one the newest run there",
    "unverified": "read the run although its files do not match its SHA256SUMS, and say so",
}


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


@command(ns, flags=_RUN_FLAGS, rest="run")
def html(c: Context, run: list[str], unverified: bool = False) -> None:
    """Make report.html of a run again, and its charts as files."""
    from uplab import results
    from uplab.report import model, write
    from uplab.report.html import files

    for run_dir in _run_dirs(run):
        report = model.build(results.load(run_dir, strict=not unverified), CACHE)
        print(write.write_some(report, files.files_of(report)) / files.NAME)


_GATE_FLAGS = {
    "gate": "limit that must be kept, such as 'overhead<=5%' (docs/reference/gates.md)",
    "undecided": "what an undecided gate counts as: fail or pass; default: exit code 5",
    "junit": "file for the gates as JUnit's XML; default: none",
    "summary": "file for the whole as Markdown, for a CI page; default: none",
    "json": "print JSON",
    "unverified": "read runs although their files do not match their SHA256SUMS, and say so",
}


@command(
    ns,
    flags={
        "a": "run directory, or its name in results/, that is compared with",
        "b": "run directory, or its name in results/, that is better or worse",
        **_GATE_FLAGS,
    },
    iterable=("gate",),
)
def compare(
    c: Context,
    a: str,
    b: str,
    gate: list[str],
    undecided: str | None = None,
    junit: str | None = None,
    summary: str | None = None,
    json: bool = False,
    unverified: bool = False,
) -> None:
    """Compare two runs cell by cell, and say why they differ."""
    from uplab import judging

    wanted = judging.read(gate, undecided, junit, summary)
    of_a, of_b = _run_dirs([a, b])
    judging.compare(of_a, of_b, wanted, strict=not unverified, as_json=json)


@command(
    ns,
    name="gate",
    flags={"run": "run directory, or its name in results/", **_GATE_FLAGS},
    iterable=("gate",),
)
def gate_(
    c: Context,
    run: str,
    gate: list[str],
    undecided: str | None = None,
    junit: str | None = None,
    summary: str | None = None,
    json: bool = False,
    unverified: bool = False,
) -> None:
    """Hold a run against limits; the exit code says the outcome."""
    from uplab import judging

    wanted = judging.read(gate, undecided, junit, summary)
    judging.judge(_run_dirs([run])[0], wanted, strict=not unverified, as_json=json)


@command(
    ns,
    flags={
        "host": "show the runs of this host alone; default: of all hosts",
        "results": "folder of the run directories; default: results/",
        "out": "file for the page; default: history.html in that folder",
        "cache": "folder for the Parquet files; default: .history in that folder",
        "json": "print JSON, write no page",
        "fresh": "read and verify every run again",
    },
)
def history(
    c: Context,
    host: str | None = None,
    results: str | None = None,
    out: str | None = None,
    cache: str | None = None,
    json: bool = False,
    fresh: bool = False,
) -> None:
    """Show all runs over time, and write them as one page."""
    from uplab.history import task

    folder = Path(results) if results else PROJECT_ROOT / "results"
    page, store = (Path(path) if path else None for path in (out, cache))
    task.show(task.Asked(folder, host, page, store, fresh=fresh), as_json=json)


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
