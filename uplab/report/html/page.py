"""The page: what stands in it, in which order, and how it is put together."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from markupsafe import Markup

from uplab import tuned
from uplab.analysis import GRADES, Group
from uplab.published import Source, sections
from uplab.report import columns, probes, resources, sentences, text
from uplab.report.charts import book, style
from uplab.report.charts.book import Book
from uplab.report.charts.style import Chart
from uplab.report.html import figures, logs, trials
from uplab.report.html.figures import Figure
from uplab.report.model import Report, flat
from uplab.report.section import Section
from uplab.report.table import Table
from uplab.saturation import most_often

if TYPE_CHECKING:
    from jinja2 import Environment

DARK = {
    style.PAPER: "#15181c",
    style.INK: "#e6e8eb",
    style.MUTED: "#a4adb8",
    style.GRID: "#2e343c",
    style.BAND: "#232931",
    style.GREY: "#959da8",
    style.GREEN: "#35b596",
    style.VERMILION: "#f58a52",
    style.BLUE: "#5fb0f0",
    style.PURPLE: "#c79be6",
}


@dataclass(frozen=True, slots=True)
class Fact:
    """A short answer to `how far can this be trusted?`: a name, a figure, and whether it is bad."""

    name: str
    value: str
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A section of the page: `id` is its anchor; `folded` tables are opened by the reader."""

    id: str
    title: str
    intro: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[tuple[str, Table], ...] = ()
    notes: tuple[str, ...] = ()
    folded: bool = False

    @property
    def many_figures(self) -> bool:
        """Whether charts would bury what follows: then the reader opens them."""
        return len(self.figures) > 4

    @property
    def caption(self) -> str:
        """What is said below all charts of the section; empty where they differ in that."""
        captions = {figure.caption for figure in self.figures}
        return captions.pop() if len(captions) == 1 else ""


def render(
    report: Report, charts: Book, drawn: Mapping[str, str], sources: Sequence[Source]
) -> bytes:
    """The page of a report.

    In: a report, its charts, the same as SVG by their names, and the published figures beside it.
    Out: HTML; the same report gives the same bytes.
    """
    return fill(
        "page.html",
        title=text.plain(sentences.title(report.run)),
        subtitle=text.plain(sentences.subtitle(report.run)),
        notices=[text.plain(notice, 2000) for notice in report.notices],
        answers=sentences.in_short(report) or ["The run holds no cell."],
        facts=list(_facts(report)),
        parts=[part for part in _parts(report, charts, drawn, sources) if part is not None],
        trials=trials.listed(report),
        headings=trials.HEADINGS,
        figures=trials.FIGURES,
        excerpts=list(logs.excerpts(report)),
        glossary=columns.legend(report),
        method=list(sentences.method(report)),
    )


# -------------------------------------------------------------------------------- what stands in it


def _facts(report: Report) -> Iterator[Fact]:
    """How far the figures can be trusted, in as few words as that takes."""
    run = report.run
    counts = sorted({cell.n for _, cell in report.rows() if cell.status == "available"})
    if counts:
        ends = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        yield Fact("trials per cell (n)", ends, counts[0] < 3)
    yield from _noise_floors(report)
    invalid, flagged = len(report.invalid), len(report.flagged)
    yield Fact("invalid trials", f"{invalid} of {len(run.trials)}", invalid > 0)
    if flagged:
        yield Fact("flagged trials", f"{flagged} of {len(run.trials)}", True)
    # What makes no sense is nobody's loss: it is listed further below.
    lost = Counter(cell.status for cell in report.unavailable)
    lost.pop(sentences.NOT_APPLICABLE, None)
    for status, cells in sorted(lost.items()):
        yield Fact(f"cells {status}", f"{cells} of {len(run.cells)}", True)
    grades = {cell.grade for _, cell in report.rows() if cell.n} - {None}
    for grade in [grade for grade in reversed(GRADES) if grade in grades][:1]:
        yield Fact("evidence", grade, grade != GRADES[0])
    limit = most_often(trial for _, cell in report.rows() for trial in cell.counted)
    if limit is not None:
        what, in_trials, of_trials = limit
        yield Fact("what was saturated", f"{what}, in {in_trials} of {of_trials} trials")
    yield Fact("files", "verified" if run.verified else "NOT verified", not run.verified)


def _noise_floors(report: Report) -> Iterator[Fact]:
    """The noise floor of each group; of many groups the highest."""
    groups = report.analysis.groups
    unknown = [group for group in groups if group.noise_floor_pct is None]
    known = [group for group in groups if group.noise_floor_pct is not None]
    if len(groups) > _GROUPS_NAMED:
        known = sorted(known, key=lambda group: group.noise_floor_pct or 0.0)[-1:]
        if unknown:
            yield Fact("noise floor unknown", f"{len(unknown)} of {len(groups)} groups", True)
        unknown = []
    for group in (*known, *unknown):
        highest = "highest noise floor" if len(groups) > _GROUPS_NAMED else "noise floor"
        value = "unknown" if group in unknown else sentences.floor(group)
        yield Fact(f"{highest}, {sentences.heading(group, report)}", value, group in unknown)


_GROUPS_NAMED = 3


def _parts(
    report: Report, charts: Book, drawn: Mapping[str, str], sources: Sequence[Source]
) -> Iterator[Part | None]:
    def of(kind: str, caption: Callable[[Group], str], *tables: _TableOf) -> tuple[Figure, ...]:
        return tuple(_figures(report, charts.by_group[kind], drawn, caption, tables))

    overheads = of(
        book.OVERHEAD,
        _overhead_caption,
        ("Figures", columns.main),
        ("Verdicts and extra CPU", columns.detail),
    )
    swept = _sizes(report, charts, drawn)
    yield Part("cost", _COST, figures=swept or overheads)
    if swept:
        yield Part("each", "What it costs at each size of the answer", figures=overheads)
    yield _in_detail(report)
    yield _published(report, sources)
    yield (
        Part(
            "blocks",
            "Every trial, block by block",
            (
                "A line that falls or rises is drift of the whole host; blocks are paired, so what "
                "all modes share cancels. A cross is a trial that does not count.",
            ),
            of(book.DRIFT, _nothing),
        )
        if charts.by_group[book.DRIFT]
        else None
    )
    yield _of_figures(
        "latency",
        "Latency",
        sentences.LATENCY_SOURCE,
        of(book.LATENCY, sentences.latency_note, ("Percentiles", None)),
    )
    yield _of_figures(
        "cpu",
        "CPU of the server per request",
        "Bars are medians, each thin line is a trial.",
        of(book.CPU, _nothing),
    )
    yield _of_figures(
        "budget",
        "What a request's CPU is made of",
        "From none over the tracer without its probes to its probes. The dashed bar is the check: "
        "hits per request times what such a hit costs on this host. " + sentences.RECONCILIATION,
        of(
            book.BUDGET,
            _nothing,
            ("Hits times cost, against the measured CPU", probes.reconciliation),
        ),
    )
    yield from _probes(report)
    yield _limits(report)
    yield from _exceptions(report)
    yield _host(report)


_COST = "What each way of tracing costs"
_TableOf = tuple[str, Callable[[Group], Table] | None]


def _figures(
    report: Report,
    charts: Mapping[int, Chart],
    drawn: Mapping[str, str],
    caption: Callable[[Group], str],
    tables: Sequence[_TableOf],
) -> Iterator[Figure]:
    for number, chart in charts.items():
        group = report.analysis.groups[number]
        behind = []
        for name, table_of in tables:
            table = columns.latency(group, report) if table_of is None else table_of(group)
            if table.rows:
                behind.append((name, table))
        yield Figure(
            chart,
            figures.inline(drawn[chart.name], chart.says),
            caption(group),
            tuple(behind) or (("Trials that count", trials.by_block(group)),),
        )


def _overhead_caption(group: Group) -> str:
    return (
        f"{'Extra CPU per request' if group.is_open else 'Throughput lost'} against none, paired "
        "within blocks, with 95 % intervals from n = 3. A diamond is a published figure, of "
        "another host and without an interval."
    )


def _nothing(_: Group) -> str:
    return ""


def _of_figures(anchor: str, title: str, intro: str, found: tuple[Figure, ...]) -> Part | None:
    return Part(anchor, title, (intro,), found) if found else None


def _in_detail(report: Report) -> Part | None:
    notes: list[str] = []
    for group in report.analysis.groups:
        notes += sentences.answers(group, report)
        notes.append(f"{sentences.heading(group, report)}. {sentences.noise_floor(group)}")
        notes += sentences.notes(group)
    if not notes:
        return None
    return Part("sentences", "Each way of tracing, in words", notes=tuple(notes), folded=True)


def _published(report: Report, sources: Sequence[Source]) -> Part | None:
    found: list[Section] = list(sections(report, sources)) if sources else []
    tables = tuple((part.title, part.table) for part in found if part.table and part.table.rows)
    if not tables:
        return None
    intro = found[0].lines
    notes = tuple(note for part in found for note in part.notes)
    return Part("published", "Beside what was published", intro, (), tables, notes)


def _sizes(report: Report, charts: Book, drawn: Mapping[str, str]) -> tuple[Figure, ...]:
    return tuple(
        Figure(
            chart,
            figures.inline(drawn[chart.name], chart.says),
            "Against none, by size of the answer, with 95 % intervals from n = 3. A diamond is a "
            "published figure of another host, in the colour of its mode.",
            (("Overhead by size", trials.by_size(report, server)),),
        )
        for server, chart in charts.sizes.items()
    )


def _probes(report: Report) -> Iterator[Part | None]:
    costs = probes.hit_costs(report.run.hit_costs)
    yield Part(
        "hits",
        "What one probe hit costs on this host",
        (
            "Percentages do not travel between hosts: hits per request times this cost is what "
            "they are made of.",
        )
        if costs.rows
        else ("Not measured in this run.",),
        tables=(("Cost per hit", costs),) if costs.rows else (),
    )
    yield _by_group("placement", "Where the probes lay", "", probes.placement, report)
    yield _by_group(
        "audit", "Conservation audit", sentences.CONSERVATION, probes.conservation, report
    )


def _limits(report: Report) -> Part | None:
    found = _by_group(
        "limits", "What limited the figures", resources.EXPLANATION, resources.table, report
    )
    notes = tuple(
        f"{sentences.heading(group, report)}. {line}"
        for group in report.analysis.groups
        for line in resources.sentences(group)
    )
    return replace(found, notes=notes, folded=False) if found else None


def _by_group(
    anchor: str, title: str, intro: str, table_of: Callable[[Group], Table], report: Report
) -> Part | None:
    tables = tuple(
        (sentences.heading(group, report), table)
        for group in report.analysis.groups
        if (table := table_of(group)).rows
    )
    said = (intro,) if intro else ()
    return Part(anchor, title, said, tables=tables, folded=True) if tables else None


def _exceptions(report: Report) -> Iterator[Part | None]:
    in_all = len(report.run.trials)
    yield _exception(
        "invalid",
        f"Invalid trials ({len(report.invalid)} of {in_all})",
        ("Trials and reasons", columns.invalid(report.invalid)),
        sentences.lost_events(report),
    )
    yield _exception(
        "unavailable",
        f"Cells not measured here ({len(report.unavailable)} of {len(report.run.cells)})",
        ("Reasons and cells", columns.unavailable(report.unavailable)),
    )
    yield _exception(
        "flags",
        f"Flags ({len(report.flagged)} of {in_all} trials)",
        ("Trials and flags", columns.flagged(report.flagged)),
    )


def _exception(
    anchor: str, title: str, table: tuple[str, Table], notes: Iterator[str] | None = None
) -> Part:
    _, content = table
    if not content.rows:
        return Part(anchor, title, ("None.",))
    return Part(anchor, title, tables=(table,), notes=tuple(notes or ()))


def _host(report: Report) -> Part:
    run = report.run
    tables = (
        ("The host", _pairs(report.machine)),
        ("Tuning", _pairs(tuned.lines(run.tuned) if run.tuned else ())),
        ("Everything that was recorded of the host", _pairs(_texts(run.fingerprint_before))),
        ("Pins", _pairs(_texts(run.pins))),
        ("Artifacts (sha256)", _pairs(_texts(run.artifacts))),
        ("Changed during the run", _pairs(("", line) for line in report.changed_on_host)),
    )
    kept = tuple((name, table) for name, table in tables if table.rows)
    return Part("host", "Host and pins", () if kept else ("Not recorded.",), tables=kept)


def _texts(values: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in sorted(flat(values).items()):
        if value is not None:
            yield name, str(value)


def _pairs(values: Sequence[tuple[str, str]] | Iterator[tuple[str, str]]) -> Table:
    return Table(("what", "value"), (False, False), tuple(values))


# --------------------------------------------------------------------------- how it is put together


def fill(template: str, **values: object) -> bytes:
    """A page made of a template, with the style, the script and the policy of all pages.

    The same values give the same bytes.
    """
    script, look = _asset("page.js"), _asset("page.css") + _dark_charts()
    page = (
        environment()
        .get_template(template)
        .render(**values, script=Markup(script), style=Markup(look), policy=_policy(script, look))
    )
    return page.encode("utf-8", "replace")


@cache
def environment() -> Environment:
    """The template engine: everything is escaped, and nothing that is missing is passed over."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(lambda name: _asset(f"{name}.j2")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = lambda value: text.plain(value, 2000)
    environment.filters["figure"] = lambda value: style.typeset(text.plain(value))
    return environment


@cache
def _asset(name: str) -> str:
    return files("uplab.report.html").joinpath(name).read_text(encoding="utf-8")


@cache
def _dark_charts() -> str:
    return f"@media screen and (prefers-color-scheme:dark){{{figures.dark(DARK)}}}"


def _policy(script: str, look: str) -> str:
    """Nothing is loaded, and nothing runs but the one script and style of the page."""
    rules = {
        "default-src": "'none'",
        "script-src": _digest(script),
        "style-src": _digest(look),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _digest(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
