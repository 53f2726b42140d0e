"""Gates from the command line to the exit code: read the flags, show, write files, end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from uplab.errors import (
    EXIT_GATE,
    EXIT_INVALID,
    EXIT_UNDECIDED,
    GateError,
    InvalidError,
    Undecided,
    UplabError,
    UsageError,
)

if TYPE_CHECKING:
    from uplab.gates import Gate, Judged
    from uplab.hostside.spec import Cell
    from uplab.report.model import Report
    from uplab.report.section import Section

_NAMED = 3


@dataclass(frozen=True)
class Wanted:
    """What the flags ask for.

    Args:
        gates: limits.
        undecided: what an undecided gate counts as (``fail``, ``pass``); None is exit code 5.
        junit: a file for the gates as JUnit's XML.
        summary: a file for the whole as Markdown.
    """

    gates: tuple[Gate, ...] = ()
    undecided: str | None = None
    junit: Path | None = None
    summary: Path | None = None


def read(
    texts: Iterable[str],
    undecided: str | None = None,
    junit: str | None = None,
    summary: str | None = None,
) -> Wanted:
    """What the flags ask for.

    Raises:
        UsageError: a gate cannot be read, or a flag does not go with the others.
    """
    texts = tuple(texts)
    if not texts:
        for flag, value in (("--undecided", undecided), ("--junit", junit)):
            if value is not None:
                raise UsageError(f"{flag} belongs to --gate, which is not given")
        return Wanted(summary=Path(summary) if summary else None)
    # Here, because a run without a gate needs none of what they compute with.
    from uplab import gates

    gates.check_undecided(undecided)
    files = (Path(name) if name else None for name in (junit, summary))
    return Wanted(gates.parse_all(texts), undecided, *files)


def require_one_run(wanted: Wanted, hosts: int, *, detach: bool) -> None:
    """Refuse gates and files where there is not the one run to judge.

    Raises:
        UsageError: there are several hosts, or nobody waits for the run.
    """
    if wanted == Wanted():
        return
    if hosts > 1:
        raise UsageError(
            "--gate and --summary are for one host. Run: invoke report.gate RUN for each run"
        )
    if detach:
        raise UsageError(
            "--detach and --gate or --summary exclude each other. Run: invoke report.gate RUN, "
            "after bench.follow"
        )


def check(wanted: Wanted, cells: Iterable[Cell]) -> None:
    """Refuse gates that mean none of the cells of a matrix, before anything is measured.

    Raises:
        UsageError: with the names that there are.
    """
    if wanted.gates:
        from uplab import gates

        gates.check(wanted.gates, cells)


def conclude(report: Report, wanted: Wanted, otherwise: UplabError | None = None) -> None:
    """Judge a run's gates, show them, write the files.

    Args:
        report: of the run.
        wanted: of the command line.
        otherwise: raised where no gate failed.

    Raises:
        UplabError: as of :func:`end`.
    """
    from uplab import gates
    from uplab.report import gating, terminal

    judged = gates.judge(report.run, wanted.gates) if wanted.gates else ()
    if judged:
        terminal.show_sections(gating.sections(judged, wanted.undecided))
    write(wanted, judged, gating.summary(report, judged, wanted.undecided), report.run.run_id)
    end(judged, wanted, report.run.run_id, otherwise)


def write(wanted: Wanted, judged: Sequence[Judged], summary: Iterable[Section], suite: str) -> None:
    """Write the files that are wanted.

    Raises:
        UsageError: one cannot be written.
    """
    from uplab.report import gating, markdown

    try:
        if wanted.junit is not None:
            text = gating.junit(judged, suite, wanted.undecided)
            wanted.junit.write_text(text, encoding="utf-8")
        if wanted.summary is not None:
            wanted.summary.write_text(markdown.sections(summary), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be written: {error.strerror}") from error


def end(
    judged: Sequence[Judged], wanted: Wanted, run: str, otherwise: UplabError | None = None
) -> None:
    """Raise what the gates end with; nothing where all passed.

    Args:
        judged: all of them.
        wanted: of the command line.
        run: the name of the run that more blocks may be added to.
        otherwise: raised where no gate failed.

    Raises:
        GateError: one failed.
        InvalidError: a cell could not be measured.
        Undecided: one can say neither yes nor no.
    """
    from uplab import gates

    code = gates.exit_code(judged, wanted.undecided) if wanted.gates else 0
    if code == EXIT_GATE:
        also = {gates.UNDECIDED} if wanted.undecided == "fail" else set()
        raise GateError(f"gate failed: {_named(judged, {gates.FAILED, *also})}")
    if otherwise is not None:
        raise otherwise
    if code == EXIT_INVALID:
        raise InvalidError(f"a gate has no figure: {_named(judged, {gates.NOT_MEASURED})}")
    if code == EXIT_UNDECIDED:
        raise Undecided(
            f"a gate is undecided: {_named(judged, {gates.UNDECIDED})}. More blocks make intervals "
            f"narrower. Run: invoke bench.resume {run} --more-blocks 6"
        )


def _named(judged: Sequence[Judged], outcomes: set[str]) -> str:
    """The gates with these outcomes, each with its cell and figure; a few of them."""
    from uplab.report import gating

    found = [entry for entry in judged if entry.outcome in outcomes]
    said = (f"{e.gate.text.strip()} on {e.cell} ({gating.basis(e)})" for e in found[:_NAMED])
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return "; ".join(said) + more


def compare(
    a: Path, b: Path, wanted: Wanted, *, strict: bool = True, as_json: bool = False
) -> None:
    """Compare two runs: show it, write the files, end as their gates say.

    Raises:
        UsageError: they must not be compared, or a gate means no cell.
        InvalidError: no cell has figures in both.
        UplabError: as of :func:`end`.
    """
    from uplab import comparison, gates, results
    from uplab.report import comparing, terminal

    found = comparison.compare(*(results.load(path, strict=strict) for path in (a, b)))
    judged = gates.judge_comparison(found, wanted.gates)
    sections = comparing.sections(found, judged, wanted.undecided)
    if as_json:
        code = gates.exit_code(judged, wanted.undecided) if wanted.gates else 0
        print(json.dumps(comparing.document(found, judged, code), allow_nan=False))
    else:
        terminal.show_sections(sections)
    write(wanted, judged, sections, f"{found.b.run_id} against {found.a.run_id}")
    nothing = None if found.measured else InvalidError("no cell has figures in both runs")
    end(judged, wanted, found.b.run_id, nothing)


def judge(run: Path, wanted: Wanted, *, strict: bool = True, as_json: bool = False) -> None:
    """Judge the gates of a run that is there; errors as of :func:`end`."""
    from uplab import gates, results
    from uplab.report import comparing, gating, terminal
    from uplab.report.model import build

    if not wanted.gates:
        raise UsageError(f"no gate. Run: invoke report.gate {run} --gate 'overhead<=5%'")
    found = results.load(run, strict=strict)
    judged = gates.judge(found, wanted.gates)
    if as_json:
        code = gates.exit_code(judged, wanted.undecided)
        rows = comparing.gate_rows(judged)
        document = {"schema": 1, "run_id": found.run_id, "gates": rows, "exit_code": code}
        print(json.dumps(document, allow_nan=False))
    else:
        terminal.show_sections(gating.sections(judged, wanted.undecided))
    if wanted.summary is None:
        write(wanted, judged, (), found.run_id)
    else:
        summary = gating.summary(build(found), judged, wanted.undecided)
        write(wanted, judged, summary, found.run_id)
    end(judged, wanted, found.run_id)
