"""A report as Markdown: the same run gives the same bytes wherever and whenever it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from uplab.analysis import Group
from uplab.report import bars, columns, probes, resources, sentences, text
from uplab.report.model import Report
from uplab.report.section import Section
from uplab.report.table import Table

_WIDTH = 100


def render(report: Report) -> str:
    """The whole report. In: a report; out: Markdown (GitHub's dialect) that ends in a newline."""
    blocks = [
        f"# {text.markdown(sentences.title(report.run))}",
        text.markdown(sentences.subtitle(report.run)),
        *(f"> **{text.markdown(notice)}**" for notice in report.notices),
        "## What tracing costs",
        *_answer(report),
        "## Figures",
        *(block for group in report.analysis.groups for block in _figures(group, report)),
        _legend(report),
        *_by_group("## Placement", "", probes.placement, report),
        *_conservation(report),
        *_hit_costs(report),
        *_by_group(
            "## Hits times cost, against the measured CPU",
            sentences.RECONCILIATION,
            probes.reconciliation,
            report,
        ),
        *_latency(report),
        *_limits(report),
        *_exceptions(report),
        *_method(report),
    ]
    return "\n\n".join(blocks) + "\n"


def sections(parts: Iterable[Section]) -> str:
    """Sections that stand alone, the first as the title. Out: Markdown that ends in a newline."""
    blocks: list[str] = []
    for level, part in zip(_levels(), parts, strict=False):
        blocks.append(f"{level} {text.markdown(part.title)}")
        blocks += [text.markdown(line, 2000) for line in part.lines]
        if part.table is not None and part.table.rows:
            blocks.append(render_table(part.table))
        if part.notes:
            blocks.append("\n".join(f"- {text.markdown(note, 2000)}" for note in part.notes))
    return "\n\n".join(blocks) + "\n"


def _levels() -> Iterator[str]:
    yield "#"
    while True:
        yield "##"


def _answer(report: Report) -> Iterator[str]:
    short = sentences.in_short(report)
    if short:
        yield "\n".join(f"- **{text.markdown(line, 2000)}**" for line in short)
    for group in report.analysis.groups:
        answers = list(sentences.answers(group, report))
        yield f"### {text.markdown(sentences.heading(group, report))}"
        if answers:
            yield "\n".join(f"- {text.markdown(answer, 2000)}" for answer in answers)
        yield text.markdown(sentences.noise_floor(group), 2000)
        chart = bars.chart(group, _WIDTH)
        if chart:
            yield "\n".join(["```text", *chart, "```"])
    if not report.analysis.groups:
        yield "The run holds no cell."


def _figures(group: Group, report: Report) -> Iterator[str]:
    yield f"### {text.markdown(sentences.heading(group, report))}"
    main = columns.main(group)
    if not main.rows:
        yield "Nothing was measured."
        return
    yield render_table(main)
    detail = columns.detail(group)
    if len(detail.headings) > 1:
        yield render_table(detail)
    notes = list(sentences.notes(group))
    if notes:
        yield "\n".join(f"- {text.markdown(note, 2000)}" for note in notes)


def _legend(report: Report) -> str:
    return "What the columns mean:\n\n" + "\n".join(
        f"- **{text.markdown(name)}**: {text.markdown(meaning, 2000)}"
        for name, meaning in columns.legend(report)
    )


def _by_group(
    title: str, explanation: str, table_of: Callable[[Group], Table], report: Report
) -> Iterator[str]:
    """A section with a table of each group that has one; none where no group has."""
    tables = [(group, table_of(group)) for group in report.analysis.groups]
    if any(table.rows for _, table in tables):
        yield title
        if explanation:
            yield explanation
    for group, table in tables:
        if table.rows:
            yield f"### {text.markdown(sentences.heading(group, report))}"
            yield render_table(table)


def _conservation(report: Report) -> Iterator[str]:
    yield from _by_group(
        "## Conservation audit", sentences.CONSERVATION, probes.conservation, report
    )
    lost = list(sentences.lost_events(report))
    if lost:
        yield "Trials that are invalid for lost events:"
        yield "\n".join(f"- {text.markdown(line, 2000)}" for line in lost)


def _hit_costs(report: Report) -> Iterator[str]:
    yield "## What one probe hit costs on this host"
    if report.run.hit_costs:
        yield render_table(probes.hit_costs(report.run.hit_costs))
        yield (
            "Percentages do not travel between hosts: hits per request times this cost is what "
            "they are made of."
        )
    else:
        yield "Not measured in this run."


def _latency(report: Report) -> Iterator[str]:
    yield "## Latency"
    for group in report.analysis.groups:
        table = columns.latency(group, report)
        if table.rows:
            yield f"### {text.markdown(sentences.heading(group, report))}"
            note = sentences.latency_note(group, report.run.load_host)
            yield text.markdown(note, 2000)
            yield render_table(table)
    yield sentences.LATENCY_SOURCE


def _limits(report: Report) -> Iterator[str]:
    yield from _by_group(
        "## What limited the figures", resources.EXPLANATION, resources.table, report
    )
    for group in report.analysis.groups:
        said = resources.sentences(group)
        if said:
            yield "\n".join(f"- {text.markdown(f'{group.server}: {line}', 2000)}" for line in said)


def _exceptions(report: Report) -> Iterator[str]:
    yield f"## Invalid trials ({len(report.invalid)} of {len(report.run.trials)})"
    yield render_table(columns.invalid(report.invalid)) if report.invalid else "None."
    yield f"## Cells not measured here ({len(report.unavailable)})"
    yield render_table(columns.unavailable(report.unavailable)) if report.unavailable else "None."
    yield f"## Flags ({len(report.flagged)} of {len(report.run.trials)} trials)"
    yield render_table(columns.flagged(report.flagged)) if report.flagged else "None."


def _method(report: Report) -> Iterator[str]:
    yield "## How it was measured"
    yield "\n".join(
        f"- **{label}**: {text.markdown(value, 2000)}" for label, value in sentences.method(report)
    )


def render_table(table: Table) -> str:
    """A table; what stands in its cells is made harmless."""
    lines = [
        _row(table.headings),
        "|" + "|".join("---:" if figure else ":---" for figure in table.figures) + "|",
        *(_row(row) for row in table.rows),
    ]
    return "\n".join(lines)


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(cell: str) -> str:
    """A lone `-` is no list inside a table."""
    return cell if cell == text.MISSING else text.markdown(cell)
