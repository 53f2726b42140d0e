"""A run beside published figures: ratios within one server, never absolute requests per second.

What was published lies in `published/*.yml` with its source. A published figure is one run of a
load, or a mean, without an interval; where several sources hold the same cell, they have a spread.
Pure functions, apart from reading the files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from uplab import yamlfile
from uplab.analysis import BASELINE, Analysis, CellSummary, Group
from uplab.errors import UsageError
from uplab.estimates import Estimate, Interval
from uplab.report import text
from uplab.report.model import Report, flat
from uplab.report.section import Section
from uplab.report.table import Table

WITHIN = "within our interval"
WORSE = "ours is worse"
BETTER = "ours is better"
NO_INTERVAL = "cannot tell: fewer than 3 blocks"
OUTSIDE_SPREAD = "outside the published spread"
NOT_MEASURED = "not measured here"
OPEN_LOOP = "not comparable: our load is an open loop"
NOT_RECORDED = "not recorded"

_USERSPACE = "userspace-uprobe"


# ----------------------------------------------------------------------------- what was published


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Origin(_Model):
    """Where figures come from, and what each of them is."""

    document: str
    by: str
    each_result: str
    projects: tuple[str, ...] = ()


class Load(_Model):
    """The load that made them."""

    name: str
    parameters: dict[str, Any] = {}
    command: dict[str, str] = {}


class Result(_Model):
    """One published figure, and what else was printed beside it."""

    server: str
    mode: str
    requests_per_s: Annotated[float, Field(gt=0)]
    body_bytes: Annotated[int, Field(ge=0)] | None = None
    requests: int | None = None
    elapsed_s: float | None = None
    read_bytes: float | None = None
    transfer_bytes_per_s: float | None = None
    latency_avg_us: float | None = None
    latency_stdev_us: float | None = None
    latency_max_us: float | None = None


class Source(_Model):
    """A file of published figures. `body_bytes` is that of the results that name none."""

    schema_version: Annotated[Literal[1], Field(alias="schema")]
    name: str
    source: Origin
    load: Load
    results: Annotated[tuple[Result, ...], Field(min_length=1)]
    not_recorded: tuple[str, ...] = ()
    host: dict[str, Any] = {}
    tracer: str | None = None
    userspace_uprobe: dict[str, Any] = {}
    body_bytes: int | None = None

    def size_of(self, result: Result) -> int | None:
        """The body size of a result, in bytes; None where it was not recorded."""
        return self.body_bytes if result.body_bytes is None else result.body_bytes


def load(folder: Path) -> tuple[Source, ...]:
    """The sources in a folder, in the order of their names, `seed` first.

    Raises UsageError for a file that is not what it should be, with file and line, and where the
    folder holds none.
    """
    found = [
        yamlfile.validate(yamlfile.read(path), Source) for path in sorted(folder.glob("*.yml"))
    ]
    if not found:
        raise UsageError(f"no published figures in {folder}")
    return tuple(sorted(found, key=lambda source: source.name != "seed"))


# -------------------------------------------------------------------------------------- comparing


@dataclass(frozen=True, slots=True)
class Row:
    """One published figure beside one cell of ours.

    `published_pct` is throughput lost against `none` of the same source, server and size, in
    percent (positive is slower); `ours` the same of our cell, paired, None where there is none.
    `position` says where ours lies, `spread` what all sources published for this server, mode and
    size (None where there is one source only), `outside_spread` whether our whole interval lies
    outside of it. `label` is our cell's, None where no cell of ours fits.
    """

    source: str
    server: str
    mode: str
    body_bytes: int
    published_pct: float
    label: str | None
    ours: Estimate | None
    position: str
    spread: Interval | None
    outside_spread: bool

    @property
    def kept_ratio(self) -> float | None:
        """What is left of the throughput here, by what was left there; 1 is equal."""
        if self.ours is None or self.published_pct >= 100:
            return None
        return (100 - self.ours.value) / (100 - self.published_pct)


def rows(analysis: Analysis, sources: Iterable[Source]) -> tuple[Row, ...]:
    """Every published figure beside every measured cell of its server, mode and body size.

    A figure of which we measured no cell has one row without ours. Figures of servers or sizes that
    the run does not have at all are left out. This is what a chart needs too.
    """
    sources = tuple(sources)
    spreads = _spreads(sources)
    groups: Mapping[tuple[str, int], list[Group]] = _by_place(analysis.groups)
    found = []
    for source in sources:
        for (server, mode, size), published_pct in overheads(source).items():
            spread = spreads.get((server, mode, size))
            for group in groups.get((server, size), ()):
                measured = [c for c in group.cells if c.cell.mode == mode and c.n]
                for cell in measured or (None,):
                    row = _row(source, (server, mode, size), published_pct, group, cell, spread)
                    found.append(row)
    return tuple(found)


def overheads(source: Source) -> dict[tuple[str, str, int], float]:
    """Throughput lost against `none`, in percent, by server, mode and body size.

    What has no `none` beside it, or whose size was not recorded, has no ratio.
    """
    rates = {
        (result.server, result.mode, size): result.requests_per_s
        for result in source.results
        if (size := source.size_of(result)) is not None
    }
    return {
        (server, mode, size): 100 * (1 - rate / none)
        for (server, mode, size), rate in rates.items()
        if mode != BASELINE and (none := rates.get((server, BASELINE, size))) is not None
    }


def _by_place(groups: Iterable[Group]) -> Mapping[tuple[str, int], list[Group]]:
    found = defaultdict(list)
    for group in groups:
        found[group.server, group.body_bytes].append(group)
    return found


def _spreads(sources: Iterable[Source]) -> dict[tuple[str, str, int], Interval]:
    figures: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for source in sources:
        for place, pct in overheads(source).items():
            figures[place].append(pct)
    return {
        place: Interval(min(values), max(values))
        for place, values in figures.items()
        if len(values) > 1
    }


def _row(
    source: Source,
    place: tuple[str, str, int],
    published_pct: float,
    group: Group,
    cell: CellSummary | None,
    spread: Interval | None,
) -> Row:
    ours = cell.overhead_pct if cell is not None and not group.is_open else None
    interval = ours.interval if ours else None
    outside = (
        spread is not None
        and interval is not None
        and (interval.low > spread.high or interval.high < spread.low)
    )
    position = OPEN_LOOP if group.is_open and cell else _position(ours, published_pct)
    label = None if cell is None else text.label(cell)
    return Row(source.name, *place, published_pct, label, ours, position, spread, outside)


def _position(ours: Estimate | None, published_pct: float) -> str:
    if ours is None:
        return NOT_MEASURED
    if ours.interval is None:
        return NO_INTERVAL
    if ours.interval.low > published_pct:
        return WORSE
    return BETTER if ours.interval.high < published_pct else WITHIN


# ---------------------------------------------------------------------- what differs in the setup


@dataclass(frozen=True, slots=True)
class Difference:
    """Something of the setup that is not the same, or not known of one of both."""

    what: str
    published: str
    ours: str


def differences(report: Report, source: Source) -> tuple[Difference, ...]:
    """What of the setup differs between a run and a source; what is equal is left out."""
    ours = _our_setup(report)
    theirs = _published_setup(source)
    return tuple(
        Difference(what, theirs.get(what, NOT_RECORDED), ours.get(what, NOT_RECORDED))
        for what in _ORDER
        if (what in theirs or what in ours) and theirs.get(what) != ours.get(what)
    )


_ORDER = (
    "kernel",
    "CPU",
    "logical CPUs",
    "virtual machine",
    "memory",
    "operating system",
    "Go version",
    "tracer",
    "userspace loader",
    "load",
    "load from",
    "cost per hit",
)


def _published_setup(source: Source) -> dict[str, str]:
    host = source.host
    memory_mib = host.get("memory_mib")
    told = {
        "kernel": host.get("kernel"),
        "CPU": host.get("cpu"),
        "logical CPUs": host.get("logical_cpus"),
        "memory": _gib(memory_mib / 1024) if isinstance(memory_mib, int | float) else None,
        "operating system": host.get("os"),
        "Go version": host.get("go"),
        "tracer": source.tracer,
        "userspace loader": source.userspace_uprobe.get("loader"),
        "load": _load(source.load.name, source.load.parameters),
    }
    return _known(told)


def _our_setup(report: Report) -> dict[str, str]:
    host, far = flat(report.run.fingerprint_before), report.run.load_host
    memory = host.get("memory_bytes")
    cells = [summary.cell for _, summary in report.rows() if summary.n]
    virtual = host.get("cpu.virtual_machine")
    told = {
        "kernel": host.get("kernel.release"),
        "CPU": host.get("cpu.model"),
        "logical CPUs": host.get("cpu.logical_cpus"),
        "virtual machine": {True: "yes", False: "no"}.get(virtual) if virtual is not None else None,
        "memory": _gib(memory / 2**30) if isinstance(memory, int | float) else None,
        "operating system": host.get("distribution"),
        "Go version": host.get("components.golang.version"),
        "tracer": _joined(cell.tracer for cell in cells),
        "userspace loader": _joined(cell.loader for cell in cells if cell.mode == _USERSPACE),
        "load": _joined(_load(cell.load, cell.load_parameters) for cell in cells),
        "load from": far.name if far is not None else None,
        "cost per hit": _joined(
            f"{cost.instruction_class} {cost.ns_per_hit:,.0f} ns"
            for cost in report.run.hit_costs
            if cost.ns_per_hit is not None and cost.error is None
        ),
    }
    return _known(told)


def _known(told: Mapping[str, object]) -> dict[str, str]:
    return {what: str(value) for what, value in told.items() if value not in (None, "")}


def _joined(values: Iterable[str | None]) -> str | None:
    """Each value once, in the order in which it came; None of nothing."""
    return ", ".join(dict.fromkeys(value for value in values if value)) or None


def _load(name: str, parameters: Mapping[str, Any]) -> str:
    """Only what a source can have said: how a load ended a slow connection, none did."""
    told = ("threads", "connections", "duration_s", "rate_per_s")
    return " ".join([name, *(f"{key} {parameters[key]}" for key in told if key in parameters)])


def _gib(value: float) -> str:
    return f"{value:.0f} GiB"


# -------------------------------------------------------------------------------------- rendering


def sections(report: Report, sources: Sequence[Source]) -> Iterator[Section]:
    """The comparison as a report shows it: one section per source that has figures of ours."""
    all_rows = rows(report.analysis, sources)
    yield Section(
        f"{report.run.run_id} beside what was published",
        (
            "Throughput lost against none, of the same server and body size. Absolute requests "
            "per second belong to a host and are not compared; a published figure has no interval.",
        ),
        notes=() if all_rows else ("No published figure has a server and body size of this run.",),
    )
    for source in sources:
        mine = [row for row in all_rows if row.source == source.name]
        if mine:
            yield _figures(source, mine)
            yield _setup(source, differences(report, source))


def _figures(source: Source, mine: Sequence[Row]) -> Section:
    table = Table(
        (
            "server",
            "body",
            "mode",
            "published",
            "ours",
            "n",
            "kept, ours / published",
            "where ours lies",
        ),
        (False, True, False, True, True, True, True, False),
        tuple(_cells(row) for row in mine),
    )
    origin = source.source
    return Section(
        f"Published: {source.name}",
        (f"{origin.document} ({origin.by}); each figure: {origin.each_result}.",),
        table,
        tuple(_sentences(mine)),
    )


def _cells(row: Row) -> tuple[str, ...]:
    spread = "" if row.spread is None else f" (all sources: {text.bounds(row.spread)})"
    return (
        row.server,
        text.body(row.body_bytes),
        row.label or row.mode,
        f"{text.percent(row.published_pct)}{spread}",
        text.estimate(row.ours),
        text.MISSING if row.ours is None else str(row.ours.n),
        text.decimal(row.kept_ratio, 2),
        f"{row.position}; {OUTSIDE_SPREAD}" if row.outside_spread else row.position,
    )


def _sentences(mine: Sequence[Row]) -> Iterator[str]:
    compared = [row for row in mine if row.ours is not None and row.ours.interval is not None]
    outside = [row for row in compared if row.position in (WORSE, BETTER)]
    if compared:
        within = len(compared) - len(outside)
        yield f"{within} of {len(compared)} cells have the published figure within their interval."
    for row in outside:
        assert row.ours is not None
        difference = row.ours.value - row.published_pct
        way = "more" if difference > 0 else "less"
        yield (
            f"{row.label} on {row.server} ({text.body(row.body_bytes)}): ours loses "
            f"{text.decimal(abs(difference))} percentage points {way} than published."
        )
    missing = sum(1 for row in mine if row.ours is None)
    if missing:
        yield f"Published and not measured here: {missing}."


def _setup(source: Source, found: Sequence[Difference]) -> Section:
    table = Table(
        ("what", "published", "ours"),
        (False, False, False),
        tuple((entry.what, entry.published, entry.ours) for entry in found),
    )
    unrecorded = ", ".join(source.not_recorded)
    notes = (f"Not recorded by the source: {unrecorded}.",) if unrecorded else ()
    return Section(
        f"What differs in the setup: {source.name}",
        (
            "Percentages do not travel between machines: they are hits per request times the cost "
            "of a hit on a host.",
        ),
        table,
        notes,
    )
