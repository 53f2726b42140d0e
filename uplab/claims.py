"""Claims of an experiment, as relations between figures, and whether a run holds them.

A claim is data: a sentence, two figures (or a figure and a number), the relation between them and
its tolerance. It is decided on the 95 % interval of their difference, paired within each block:
held where the whole interval keeps the relation, not held where none of it does, else nobody can
tell. Where a claim does not name a tracer or a placement, each one that was measured is a case of
its own. Pure functions, apart from reading the file.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf, isfinite, log1p
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from uplab import yamlfile
from uplab.analysis import CLOSED, CellSummary, Group, log_ratios_by_block
from uplab.errors import EXIT_GATE, EXIT_OK, EXIT_UNDECIDED
from uplab.estimates import (
    LEAST_FOR_INTERVAL,
    LOST,
    MORE,
    Estimate,
    Interval,
    difference,
    half_width,
    overhead,
)
from uplab.report import text
from uplab.report.model import Report
from uplab.report.section import Section
from uplab.report.table import Table
from uplab.sequential import COUNTED_TO

HELD, NOT_HELD, CANNOT_TELL = "held", "did not hold", "cannot tell"
_CASES_AT_MOST = 64


# ---------------------------------------------------------------------------------------- the file


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(_Model):
    """A figure of the cells that fit; what is left out may be anything.

    `overhead` is throughput lost against `none`, in percent; `throughput` is requests per second,
    `times` a factor, and is compared with another throughput alone.
    """

    figure: Literal["overhead", "throughput"]
    server: str
    mode: str
    tracer: str | None = None
    body_bytes: int | None = None
    placement: str | None = None
    loader: str | None = None
    times: Annotated[float, Field(gt=0)] = 1.0

    def fits(self, cell: CellSummary) -> bool:
        """Whether a cell is one of those that are meant."""
        wanted = ("server", "mode", "tracer", "body_bytes", "placement", "loader")
        return all(getattr(self, name) in (None, getattr(cell.cell, name)) for name in wanted)


class Claim(_Model):
    """One claim. `tolerance` widens the relation: percentage points, of throughputs percent.

    `published` is the figure that the claim was made of, in the same unit.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,60}$")]
    sentence: Annotated[str, Field(min_length=1)]
    left: Figure
    relation: Literal[">", ">=", "<", "<=", "=="]
    right: Figure | float
    machine_minutes: Annotated[float, Field(ge=0)]
    human_minutes: Annotated[float, Field(ge=0)]
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    published: float | None = None

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if self.relation == "==" and self.tolerance == 0:
            raise ValueError("tolerance: must be above 0 where the relation is ==")
        other = self.right.figure if isinstance(self.right, Figure) else "overhead"
        if other != self.left.figure:
            raise ValueError(f"right: must be a figure of the same kind, {self.left.figure}")
        sides = [side for side in (self.left, self.right) if isinstance(side, Figure)]
        if self.left.figure == "throughput" and len({side.server for side in sides}) != 1:
            raise ValueError("right: requests per second are compared within one server")
        if self.left.figure == "overhead" and any(side.times != 1 for side in sides):
            raise ValueError("left: `times` is for figures of throughput")
        return self


class Claims(_Model):
    """A file of claims; `matrix` is the experiment that they are about."""

    schema_version: Annotated[Literal[1], Field(alias="schema")]
    name: str
    matrix: str
    claims: Annotated[tuple[Claim, ...], Field(min_length=1)]
    source: str = ""

    @model_validator(mode="after")
    def _has_no_doubles(self) -> Self:
        ids = [claim.id for claim in self.claims]
        if len(set(ids)) != len(ids):
            raise ValueError("claims: an id is given twice")
        return self


def load(path: Path) -> Claims:
    """The claims in a file. Raises UsageError with file, line and field for what is wrong."""
    return yamlfile.validate(yamlfile.read(path), Claims)


# ---------------------------------------------------------------------------------------- deciding


@dataclass(frozen=True, slots=True)
class Case:
    """A claim held against one cell, or a pair of cells.

    `estimate` is left, where it is held against a number; else left less right in percentage
    points, and of throughputs by how many percent left is above right. `needs` is the number of
    blocks that would decide it at this spread; None where it is decided, or no number does. `why`
    says what is missing, where nothing can be told.
    """

    claim: Claim
    cells: str
    verdict: str
    estimate: Estimate | None
    needs: int | None = None
    why: str | None = None

    @property
    def said(self) -> str:
        """The verdict in words: `cannot tell (n = 3, needs about 9)`."""
        if self.verdict != CANNOT_TELL:
            return self.verdict
        if self.why is not None or self.estimate is None:
            return f"{CANNOT_TELL} ({self.why or 'not measured'})"
        n = self.estimate.n
        if self.needs is None:
            return f"{CANNOT_TELL} (n = {n}, more blocks than can be measured)"
        return f"{CANNOT_TELL} (n = {n}, needs about {self.needs})"


def decide(report: Report, claims: Claims) -> tuple[Case, ...]:
    """Every claim against every case of it that was measured; one case where none was."""
    pairs = log_ratios_by_block(report.run)
    return tuple(case for claim in claims.claims for case in _cases(report, claim, pairs))


def exit_code(cases: Iterable[Case]) -> int:
    """1 where a claim did not hold, 5 where one cannot be told, else 0."""
    verdicts = {case.verdict for case in cases}
    if NOT_HELD in verdicts:
        return EXIT_GATE
    return EXIT_UNDECIDED if CANNOT_TELL in verdicts else EXIT_OK


_Pairs = Mapping[str, Mapping[int, float]]


def _cases(report: Report, claim: Claim, pairs: _Pairs) -> Iterator[Case]:
    sides = [side for side in (claim.left, claim.right) if isinstance(side, Figure)]
    fitting = [
        [(group, cell) for group, cell in report.rows() if side.fits(cell)] for side in sides
    ]
    measured = [[(group, cell) for group, cell in side if cell.n] for side in fitting]
    for side, found, there in zip(sides, fitting, measured, strict=True):
        if not there:
            yield Case(claim, _named(side), CANNOT_TELL, None, why=_why_missing(side, found))
            return
    combinations = [cells for cells in product(*measured) if _belong(cells)]
    if not combinations:
        yield Case(claim, "-", CANNOT_TELL, None, why="no two of its cells have the same tracer")
    for cells in combinations[:_CASES_AT_MOST]:
        yield _case(claim, cells, pairs)


_Place = tuple[Group, CellSummary]


def _belong(cells: Sequence[_Place]) -> bool:
    """Whether two cells are of one tracer, and of one body and load; servers may differ."""
    keys = {
        (
            cell.cell.tracer,
            group.body_bytes,
            group.load,
            repr(sorted(group.load_parameters.items())),
        )
        for group, cell in cells
    }
    return len(keys) == 1


def _named(side: Figure) -> str:
    parts = (side.server, side.mode, side.tracer, side.placement)
    return ", ".join(part for part in parts if part)


def _why_missing(side: Figure, found: Sequence[_Place]) -> str:
    reasons = [cell.unavailable_reason for _, cell in found if cell.unavailable_reason]
    if not found:
        return f"the run has no cell {_named(side)}"
    return f"not measured: {reasons[0]}" if reasons else "no trial of it counts"


def _case(claim: Claim, cells: Sequence[_Place], pairs: _Pairs) -> Case:
    names = " / ".join(f"{group.server} {text.label(cell)}" for group, cell in cells)
    if any(group.loop != CLOSED for group, _ in cells):
        return Case(claim, names, CANNOT_TELL, None, why="the load is an open loop")
    samples = [pairs.get(cell.cell.cell_id, {}) for _, cell in cells]
    blocks = sorted(set(samples[0]).intersection(*samples[1:]))
    values, compared = _compared(claim, [[each[block] for block in blocks] for each in samples])
    if compared is None:
        return Case(claim, names, CANNOT_TELL, None, why="no block holds its cells and none")
    interval = compared.interval
    if interval is None:
        why = f"n = {compared.n}, needs at least {LEAST_FOR_INTERVAL}"
        return Case(claim, names, CANNOT_TELL, compared, why=why)
    verdict = _verdict(claim, interval)
    needs = _needs(claim, values) if verdict == CANNOT_TELL else None
    return Case(claim, names, verdict, compared, needs)


@dataclass(frozen=True, slots=True)
class _Values:
    """What each block says, on the scale on which it is averaged, and the bounds there."""

    values: Sequence[float]
    bound: Callable[[float], float]


def _compared(claim: Claim, samples: list[list[float]]) -> tuple[_Values, Estimate | None]:
    """Left less right, from the log ratios of each block against none."""
    if claim.left.figure == "throughput":
        return _throughputs(samples)
    if isinstance(claim.right, Figure):
        differences = [LOST.pct(a) - LOST.pct(b) for a, b in zip(*samples, strict=True)]
        return _Values(differences, lambda bound: bound), difference(differences)
    return _Values(samples[0], LOST.log_ratio), overhead(samples[0])


def _throughputs(samples: list[list[float]]) -> tuple[_Values, Estimate | None]:
    """By how many percent left is above right; both of one server, so that their none cancels."""
    ratios = [a - b for a, b in zip(*samples, strict=True)]
    return _Values(ratios, lambda bound: log1p(max(bound, -99.9) / 100)), overhead(
        ratios, scale=MORE
    )


def _bounds(claim: Claim) -> Interval:
    """Between which bounds the estimate must lie."""
    limit = _limit(claim)
    low, high = limit - claim.tolerance, limit + claim.tolerance
    if claim.relation == "==":
        return Interval(low, high)
    return Interval(low, inf) if claim.relation in (">", ">=") else Interval(-inf, high)


def _limit(claim: Claim) -> float:
    """What the estimate is held against, in its unit."""
    if not isinstance(claim.right, Figure):
        return claim.right
    return 100 * (claim.right.times / claim.left.times - 1)


def _verdict(claim: Claim, interval: Interval) -> str:
    wanted = _bounds(claim)
    if wanted.low <= interval.low and interval.high <= wanted.high:
        # What may not be equal must lie off the bound.
        strict = claim.relation in (">", "<") and claim.tolerance == 0
        touches = interval.low <= _limit(claim) <= interval.high
        return CANNOT_TELL if strict and touches else HELD
    outside = interval.high < wanted.low or interval.low > wanted.high
    return NOT_HELD if outside else CANNOT_TELL


def _needs(claim: Claim, sample: _Values) -> int | None:
    """The blocks at which the interval would leave the nearest bound; None where none would."""
    mean, deviation = statistics.fmean(sample.values), statistics.stdev(sample.values)
    limits = [bound for bound in (_bounds(claim).low, _bounds(claim).high) if isfinite(bound)]
    away = min(abs(mean - sample.bound(limit)) for limit in limits)
    n = LEAST_FOR_INTERVAL
    while half_width(n, deviation) > away:
        # A twentieth at a time: nobody plans blocks more exactly than that.
        n += max(1, n // 20)
        if n > COUNTED_TO:
            return None
    return max(n, len(sample.values) + 1)


# -------------------------------------------------------------------------------------- rendering


def sections(report: Report, claims: Claims, cases: Sequence[Case]) -> Iterator[Section]:
    """The claims as a report shows them."""
    minutes = sum(claim.machine_minutes for claim in claims.claims)
    people = sum(claim.human_minutes for claim in claims.claims)
    counts = ", ".join(
        f"{sum(1 for case in cases if case.verdict == verdict)} {verdict}"
        for verdict in (HELD, NOT_HELD, CANNOT_TELL)
    )
    source = f" Source: {claims.source}." if claims.source else ""
    yield Section(
        f"Claims: {claims.name}",
        (
            f"{len(claims.claims)} claims about {claims.matrix}, in {len(cases)} cases: {counts}."
            f"{source}",
            f"Held against run {report.run.run_id}. To check all of them: about {minutes:g} "
            f"minutes of the machine's time and {people:g} of yours.",
        ),
    )
    for claim in claims.claims:
        yield _section(claim, [case for case in cases if case.claim == claim])


def _section(claim: Claim, cases: Sequence[Case]) -> Section:
    is_difference = isinstance(claim.right, Figure) and claim.left.figure == "overhead"
    unit = " pp" if is_difference else " %"
    rows = tuple((case.cells, text.estimate(case.estimate, unit), case.said) for case in cases)
    published = "" if claim.published is None else f" Published: {claim.published:g}."
    return Section(
        claim.id,
        (
            claim.sentence,
            f"{_relation(claim)}.{published} {claim.machine_minutes:g} machine minutes, "
            f"{claim.human_minutes:g} human minutes.",
        ),
        Table(("cells", _measured(claim), "verdict"), (False, True, False), rows),
    )


def _relation(claim: Claim) -> str:
    unit = "%" if claim.left.figure == "throughput" else "pp"
    tolerance = f", tolerance {claim.tolerance:g} {unit}" if claim.tolerance else ""
    return f"{_term(claim.left)} {claim.relation} {_term(claim.right)}{tolerance}"


def _term(side: Figure | float) -> str:
    if not isinstance(side, Figure):
        return f"{side:g} %"
    factor = "" if side.times == 1 else f"{side.times:g} x "
    return f"{factor}{side.figure}({_named(side)})"


def _measured(claim: Claim) -> str:
    """What stands in the column of figures."""
    if not isinstance(claim.right, Figure):
        return claim.left.figure
    return "left above right" if claim.left.figure == "throughput" else "left - right"
