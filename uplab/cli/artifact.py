"""The tasks of ``report`` for whoever has to defend, publish or check a run."""

from __future__ import annotations

import sys
from pathlib import Path

from invoke.context import Context
from invoke.exceptions import Exit

from uplab.cli import report as others
from uplab.cli.common import PROJECT_ROOT, command
from uplab.cli.runs import run_dirs

ns = others.ns
"""The same namespace: these tasks are `report`'s too."""

_RUN = "run directory, or its name in results/; default: the newest run there"
_UNVERIFIED = "read the run although its files do not match its SHA256SUMS, and say so"
_BUNDLE = "run directory, its name in results/, or a bundle; default: the newest run"
_MARKDOWN = "print Markdown"


@command(ns, flags={"run": _RUN, "markdown": _MARKDOWN, "unverified": _UNVERIFIED}, rest="run")
def published(c: Context, run: list[str], markdown: bool = False, unverified: bool = False) -> None:
    """Show a run beside the published figures, by ratio.

    Also what differs in the setup, and where ours lies outside.
    """
    from uplab import published as figures
    from uplab import results
    from uplab.report import model, sections

    sources = figures.load(PROJECT_ROOT / "published")
    for run_dir in run_dirs(run):
        report = model.build(results.load(run_dir, strict=not unverified))
        sections.show(figures.sections(report, sources), as_markdown=markdown)


@command(
    ns,
    flags={
        "run": _RUN,
        "claims": "file of claims; default: those of the published experiment",
        "markdown": _MARKDOWN,
        "unverified": _UNVERIFIED,
    },
    rest="run",
)
def claims(
    c: Context,
    run: list[str],
    claims: str | None = None,
    markdown: bool = False,
    unverified: bool = False,
) -> None:
    """Hold a run against claims: held, not held, cannot tell.

    Exit code 1 where one did not hold, 5 where one cannot be told.
    """
    from uplab import claims as relations
    from uplab import results
    from uplab.report import model, sections

    file = Path(claims) if claims else PROJECT_ROOT / "claims" / "seed.yml"
    asked = relations.load(file)
    cases: list[relations.Case] = []
    for run_dir in run_dirs(run):
        report = model.build(results.load(run_dir, strict=not unverified))
        cases += (decided := relations.decide(report, asked))
        sections.show(relations.sections(report, asked, decided), as_markdown=markdown)
    if code := relations.exit_code(cases):
        raise Exit(code=code)


@command(
    ns,
    flags={
        "run": _RUN,
        "format": "csv, parquet, jsonl, gobench, md or latex",
        "out": "file to write, - is stdout; default: its own name in the run's report/",
        "unverified": _UNVERIFIED,
    },
    rest="run",
)
def export(
    c: Context,
    run: list[str],
    format: str = "csv",
    out: str | None = None,
    unverified: bool = False,
) -> None:
    """Write a run in a form that other programs read."""
    from uplab import results
    from uplab.export import formats
    from uplab.report import model

    for run_dir in run_dirs(run):
        report = model.build(results.load(run_dir, strict=not unverified))
        if out == "-":
            sys.stdout.buffer.write(formats.render(report, format))
        else:
            print(formats.write(report, format, Path(out) if out else None))


@command(
    ns,
    flags={
        "run": _BUNDLE,
        "out": "new folder for the report that is made; default: it is compared only",
    },
    rest="run",
)
def replay(c: Context, run: list[str], out: str | None = None) -> None:
    """Make the report again from the run alone, and compare it.

    Exit code 1 where a file of it is not the same, byte for byte.
    """
    from uplab import replay as replays

    for path in run_dirs(run):
        replayed = replays.replay(path, Path(out) if out else None)
        for line in replays.said(path, replayed):
            print(line)
        replays.require_same(path, replayed)


@command(
    ns,
    flags={
        "run": _RUN,
        "out": "file to write; default: the run's name and .zip in this folder",
        "redact": "replace names, users, addresses, MACs and serial numbers, in logs too",
        "also": "further word to replace",
    },
    rest="run",
    iterable=("also",),
)
def bundle(
    c: Context, run: list[str], also: list[str], out: str | None = None, redact: bool = False
) -> None:
    """Pack a run with its report into one file for a reviewer."""
    from uplab import makebundle
    from uplab.report import sections

    pins = PROJECT_ROOT / "playbooks" / "group_vars" / "all" / "pins.yml"
    for run_dir in run_dirs(run):
        path = Path(out) if out else None
        made = makebundle.make(run_dir, path, pins=pins, redacted=redact, also=also)
        sections.show(makebundle.sections(made))


@command(ns, flags={"run": _BUNDLE}, rest="run")
def verify(c: Context, run: list[str]) -> None:
    """Check every byte of a run or of a bundle of one.

    Exit code 1 where a file was changed, is missing or was added; each is named.
    """
    from uplab import verify as checks

    for path in run_dirs(run):
        found = checks.verify(path)
        for line in checks.said(path, found):
            print(line)
        checks.require_sound(path, found)


@command(
    ns,
    name="import",
    flags={
        "files": "texts that a load generator printed, or folders of them",
        "body_bytes": "size of the server's answers, which no text holds; no default: must be said",
        "mode": "how the server was traced; default: the heading or the file's name says it",
        "server": "the server's name; default: the scheme of its address",
        "tracer": "the tracer's name; default: not recorded",
        "host": "the host's name",
        "load": "load adapter that reads the texts; default: the first that recognises each",
    },
    rest="files",
)
def import_(
    c: Context,
    files: list[str],
    body_bytes: int | None = None,
    mode: str | None = None,
    server: str | None = None,
    tracer: str | None = None,
    host: str = "unknown",
    load: str | None = None,
) -> None:
    """Make a run of existing load texts, marked as imported.

    The mode of each comes from the heading above it or from its file's name.
    """
    from uplab import importing
    from uplab.report import write
    from uplab.report.html import files as html

    given = importing.given(body_bytes, mode, server, tracer, host)
    found = importing.read(importing.files_of(files), PROJECT_ROOT / "loads", given, load)
    run_dir = importing.write(found, given, PROJECT_ROOT / "results", importing.now())
    print(write.write_reports(run_dir).with_name(html.NAME))
