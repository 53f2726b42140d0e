"""A report in a terminal: wide tables where they fit, split ones where not, plain without a tty."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from uplab import results
from uplab.analysis import Group
from uplab.report import bars, columns, probes, resources, sentences, text
from uplab.report.model import Report, build
from uplab.report.section import Section
from uplab.report.table import Table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

# Without a terminal there is no width to keep to; this one holds the widest table.
PLAIN_WIDTH = 120
_LISTED_FLAGS = 10
_LONGEST = 4000
_LABEL_WIDTH = 15
# Where a table must be split to fit, longer texts are broken into lines instead.
_WIDEST_TEXT = 36


def show(run_dir: Path, *, strict: bool = True) -> None:
    """Print the report of a run directory to stdout, fitted to it.

    Raises what results.load raises.
    """
    show_report(build(results.load(run_dir, strict=strict)))


def show_report(report: Report) -> None:
    """show() for a report that is already made."""
    render(report, _console())


def show_sections(sections: Iterable[Section]) -> None:
    """Print sections to stdout, fitted to it."""
    console = _console()
    for section in sections:
        for renderable in _section(section, console):
            console.print(renderable)


def _console() -> Console:
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):
        # A host's text may hold characters that this terminal's encoding does not have.
        sys.stdout.reconfigure(errors="replace")
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False)


def render(report: Report, console: Console) -> None:
    """Print the report to a console."""
    for renderable in _parts(report, console):
        console.print(renderable)


def _parts(report: Report, console: Console) -> Iterator[RenderableType]:
    yield _line(sentences.title(report.run), "bold")
    yield _line(sentences.subtitle(report.run), "dim")
    for notice in report.notices:
        yield _line(f"! {notice}", "bold")
    yield _line("")
    yield from (_item(short) for short in sentences.in_short(report))
    for group in report.analysis.groups:
        yield from _answer(group, report, console)
    for group in report.analysis.groups:
        yield from _figures(group, report, console)
    yield from _hit_costs(report)
    yield from _exceptions(report)
    yield from _method(report)


def _section(section: Section, console: Console) -> Iterator[RenderableType]:
    yield from _title(section.title)
    yield from (_line(line) for line in section.lines)
    if section.table is not None and section.table.rows:
        yield from _fitted(section.table, console)
    yield from (_item(note) for note in section.notes)


def _answer(group: Group, report: Report, console: Console) -> Iterator[RenderableType]:
    yield from _title(f"What tracing costs: {sentences.heading(group, report)}")
    yield from (_item(answer) for answer in sentences.answers(group, report))
    yield _item(sentences.noise_floor(group))
    yield from _chart(group, console)


def _figures(group: Group, report: Report, console: Console) -> Iterator[RenderableType]:
    yield from _title(f"Figures: {sentences.heading(group, report)}")
    main = columns.main(group)
    if not main.rows:
        yield _line("Nothing was measured.")
        return
    yield from _fitted(main, console)
    detail = columns.detail(group)
    if len(detail.headings) > 1:
        yield _line("")
        yield from _fitted(detail, console)
    yield from (_item(note) for note in sentences.notes(group))
    latency = columns.latency(group, report)
    if latency.rows:
        yield _line("")
        note = sentences.latency_note(group, report.run.load_host)
        yield _line(f"Latency. {note}")
        yield from _fitted(latency, console)
    limits = resources.table(group)
    if limits.rows:
        yield _line("")
        yield _line(f"What limited the figures. {resources.EXPLANATION}")
        yield from _fitted(limits, console)
        yield from (_item(line) for line in resources.sentences(group))
    yield from _probes(group, console)


def _probes(group: Group, console: Console) -> Iterator[RenderableType]:
    """Where the probes lay, what they counted, and what that should cost."""
    for title, table in (
        ("Placement: where each site lay, with its hits per request", probes.placement(group)),
        (f"Conservation audit. {sentences.CONSERVATION}", probes.conservation(group)),
        (f"Reconciliation. {sentences.RECONCILIATION}", probes.reconciliation(group)),
    ):
        if table.rows:
            yield _line("")
            yield _line(title)
            yield from _fitted(table, console)


def _chart(group: Group, console: Console) -> Iterator[RenderableType]:
    from rich.text import Text

    unicode = (console.encoding or "").lower().startswith("utf")
    lines = bars.chart(group, console.width, bars.BLOCKS if unicode else bars.ASCII)
    if lines:
        yield _line("")
        for line in lines:
            yield Text(line, no_wrap=True, overflow="crop")


def _fitted(table: Table, console: Console) -> Iterator[RenderableType]:
    """The table, or its columns in as many tables as the width asks for, the first in each."""
    for number, part in enumerate(_split(table, console.width)):
        if number:
            yield _line("")
        shown = table.only(part)
        yield _table(shown, None if _needed(shown) <= console.width else _WIDEST_TEXT)


def _split(table: Table, width: int) -> list[list[int]]:
    """Which columns stand together, in as few parts as the width asks for.

    About as many in each part where that fits, so that none is left alone.
    """
    left = range(1, len(table.headings))
    if _needed(table) <= width or not left:
        return [[0, *left]]

    def fits(part: list[int]) -> bool:
        return _needed(table.only(part), _WIDEST_TEXT) <= width

    packed = [[0]]
    for index in left:
        if len(packed[-1]) > 1 and not fits([*packed[-1], index]):
            packed.append([0])
        packed[-1].append(index)
    each = -(-len(left) // len(packed))
    even = [[0, *left[first : first + each]] for first in range(0, len(left), each)]
    return even if all(map(fits, even)) else packed


def _needed(table: Table, widest_text: int = _LONGEST) -> int:
    """The width of a table: text can be broken into lines of so many characters, figures cannot."""
    widths = []
    for index, figure in enumerate(table.figures):
        longest = max(len(row[index]) for row in (table.headings, *table.rows))
        widths.append(longest if figure else min(longest, widest_text))
    return sum(widths) + 2 * (len(widths) - 1)


def _hit_costs(report: Report) -> Iterator[RenderableType]:
    yield from _title("What one probe hit costs on this host")
    if report.run.hit_costs:
        yield _table(probes.hit_costs(report.run.hit_costs))
    else:
        yield _line("Not measured in this run.")


def _exceptions(report: Report) -> Iterator[RenderableType]:
    trials = len(report.run.trials)
    if report.invalid:
        yield from _title(f"Invalid trials ({len(report.invalid)} of {trials})")
        yield _table(columns.invalid(report.invalid))
    if report.unavailable:
        yield from _title(f"Cells not measured here ({len(report.unavailable)})")
        yield _table(columns.unavailable(report.unavailable))
    if report.flagged:
        yield from _title(f"Flags ({len(report.flagged)} of {trials} trials)")
        yield _table(columns.flagged(report.flagged[:_LISTED_FLAGS]))
        more = len(report.flagged) - _LISTED_FLAGS
        if more > 0:
            yield _line(f"and {more} more: see report/report.md in the run directory", "dim")


def _method(report: Report) -> Iterator[RenderableType]:
    yield from _title("How it was measured")
    yield from (_labelled(label, value) for label, value in sentences.method(report))
    yield from _title("What the columns mean")
    yield from (_labelled(name, meaning) for name, meaning in columns.legend(report))


def _title(title: str) -> Iterator[RenderableType]:
    yield _line("")
    yield _line(title, "bold")


def _line(line: str, style: str = "") -> Text:
    """A line of text, harmless whatever the run says: no escape sequence, no rich markup."""
    from rich.text import Text

    return Text(text.plain(line, _LONGEST), style=style)


def _item(line: str) -> RenderableType:
    return _labelled("-", line)


def _labelled(label: str, value: str) -> RenderableType:
    """`label: value`, or `- value`; what takes several lines is indented."""
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column()
    name = text.plain(label)
    shown = name if name == "-" else f"{name:{_LABEL_WIDTH}}"
    grid.add_row(Text(shown, style="bold"), Text(text.plain(value, _LONGEST)))
    return grid


def _table(table: Table, widest_text: int | None = None) -> RenderableType:
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    shown = Grid(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading, figure in zip(table.headings, table.figures, strict=True):
        shown.add_column(
            Text(text.plain(heading)),
            justify="right" if figure else "left",
            overflow="fold",
            max_width=None if figure else widest_text,
        )
    for row in table.rows:
        shown.add_row(*(Text(text.plain(cell)) for cell in row))
    return shown
