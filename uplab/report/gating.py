"""What became of the gates: a table, lines for a terminal, Markdown for a CI page, JUnit's XML."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from uplab.gates import FAILED, NOT_MEASURED, PASSED, UNDECIDED, Judged
from uplab.report import sentences, text
from uplab.report.model import Report
from uplab.report.section import Section
from uplab.report.table import Table

_MARKS = {PASSED: "passed", FAILED: "FAILED", UNDECIDED: "undecided", NOT_MEASURED: "not measured"}


def sections(judged: Sequence[Judged], undecided: str | None = None) -> list[Section]:
    """The gates of a run or a comparison, each with a table of its cells."""
    found = [Section("Gates", (sentence(judged, undecided),))]
    for gate in dict.fromkeys(entry.gate for entry in judged):
        of_gate = [entry for entry in judged if entry.gate == gate]
        found.append(Section(f"Gate {gate.text.strip()}", table=table(of_gate)))
    return found


def summary(
    report: Report, judged: Sequence[Judged], undecided: str | None = None
) -> list[Section]:
    """A run for a CI page: its gates, and what tracing costs in one sentence each."""
    title, subtitle = sentences.title(report.run), sentences.subtitle(report.run)
    found = [Section(title, (subtitle,), notes=report.notices)]
    if judged:
        found += sections(judged, undecided)
    for group in report.analysis.groups:
        said = (*sentences.answers(group, report), sentences.noise_floor(group))
        found.append(Section(sentences.heading(group, report), notes=said))
    return found


def table(judged: Sequence[Judged]) -> Table:
    """A row for each cell of a gate."""
    return Table(
        ("cell", "outcome", "figure (95 % interval)", "n", "why"),
        (False, False, True, True, False),
        tuple(
            (
                entry.cell,
                _MARKS[entry.outcome],
                figure(entry),
                text.MISSING if entry.estimate is None else str(entry.estimate.n),
                entry.why or text.MISSING,
            )
            for entry in judged
        ),
    ).without_empty_columns()


def figure(entry: Judged) -> str:
    """`2.1 pp (0.4 to 3.8)`: what a gate was decided on."""
    return text.estimate(entry.estimate, unit=f" {entry.gate.unit}", digits=2)


def basis(entry: Judged) -> str:
    """Figure, and why it decides nothing: what stands behind an outcome."""
    shown = figure(entry) if entry.estimate is not None else ""
    return "; ".join(part for part in (shown, entry.why) if part)


def sentence(judged: Sequence[Judged], undecided: str | None = None) -> str:
    """How many passed, failed, and so on."""
    counts = {name: sum(entry.outcome == name for entry in judged) for name in _MARKS}
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    counted = f" (undecided counts as {undecided})" if counts[UNDECIDED] and undecided else ""
    return f"Gates: {said or 'none'}{counted}."


def junit(judged: Sequence[Judged], suite: str, undecided: str | None = None) -> str:
    """JUnit's XML: a test case for each gate and cell.

    A failed gate is a `failure`, one that was not measured an `error`; an undecided one is a
    `skipped` test with its reason, or what `--undecided` makes of it. Out: the file's text.
    """
    failures = sum(_kind(entry, undecided) == "failure" for entry in judged)
    errors = sum(_kind(entry, undecided) == "error" for entry in judged)
    skipped = sum(_kind(entry, undecided) == "skipped" for entry in judged)
    counts = {"failures": failures, "errors": errors, "skipped": skipped, "tests": len(judged)}
    root = ElementTree.Element(
        "testsuite", {"name": _xml(suite), **{name: str(n) for name, n in counts.items()}}
    )
    for entry in judged:
        case = ElementTree.SubElement(
            root, "testcase", {"classname": _xml(entry.gate.text.strip()), "name": _xml(entry.cell)}
        )
        said = f"{entry.outcome}: {basis(entry)}"
        kind = _kind(entry, undecided)
        if kind is None:
            ElementTree.SubElement(case, "system-out").text = _xml(said)
        else:
            ElementTree.SubElement(case, kind, {"message": _xml(said)})
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, "unicode")}\n'


def _kind(entry: Judged, undecided: str | None) -> str | None:
    if entry.outcome == UNDECIDED:
        return {"fail": "failure", "pass": None}.get(undecided or "", "skipped")
    return {FAILED: "failure", NOT_MEASURED: "error"}.get(entry.outcome)


def _xml(value: str) -> str:
    """Text without what XML cannot hold."""
    return text.plain(value, 2000)
