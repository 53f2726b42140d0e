"""Gates: a limit on what tracing costs, as text, and whether a run keeps it.

    gate  = term [ "-" term ] ( "<=" | "<" | ">=" | ">" ) number unit
    term  = figure [ "(" NAME ")" ] [ "[" KEY "=" VALUE { "," KEY "=" VALUE } "]" ]

The figures are `overhead` and `cpu`; docs/reference/gates.md says what each piece means. A gate is
decided on the 95 % interval, never on the figure alone: passed where the whole interval keeps the
limit, failed where none of it does, else undecided. Pure functions; no text is ever evaluated.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp

from uplab.adapters import nearest
from uplab.analysis import (
    BASELINE,
    CONTROL,
    CellSummary,
    Group,
    analyse,
    cpu_us_of,
    log_ratios_by_block,
)
from uplab.comparison import Comparison
from uplab.errors import EXIT_GATE, EXIT_INVALID, EXIT_OK, EXIT_UNDECIDED, UsageError
from uplab.estimates import (
    LEAST_FOR_INTERVAL,
    MORE,
    Estimate,
    Interval,
    Scale,
    difference,
    half_width,
)
from uplab.hostside.spec import Cell as PlannedCell
from uplab.measured import Cell, Run

#: A cell of a run, or of a matrix that is not measured yet: both have the fields of SELECTORS.
AnyCell = Cell | PlannedCell
PASSED, FAILED, UNDECIDED, NOT_MEASURED = "passed", "failed", "undecided", "not measured"
#: What `--undecided` takes: what an undecided gate counts as; None is itself (exit code 5).
UNDECIDED_AS = ("fail", "pass")

OVERHEAD, CPU = "overhead", "cpu"
PERCENT, POINTS, MICROSECONDS = "%", "pp", "us"
#: Which units each figure has, alone and as a difference of two.
_UNITS = {
    OVERHEAD: ((PERCENT,), (POINTS,)),
    CPU: ((PERCENT, MICROSECONDS), (POINTS, MICROSECONDS)),
}
#: What a term may choose cells by; each is a field of a cell.
SELECTORS = ("server", "mode", "tracer", "body_bytes", "load", "placement", "loader")
#: In report.compare these names mean the runs.
RUNS = ("A", "B")

_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "<=": lambda value, limit: value <= limit,
    "<": lambda value, limit: value < limit,
    ">=": lambda value, limit: value >= limit,
    ">": lambda value, limit: value > limit,
}
_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_TERM = rf"(?P<figure>[a-z]+)\s*(?:\(\s*(?P<name>{_WORD})\s*\))?\s*(?:\[(?P<chosen>[^\]\[]*)\])?"
_GATE = re.compile(
    rf"\s*{_TERM.replace('?P<', '?P<left_')}\s*"
    rf"(?:-\s*{_TERM.replace('?P<', '?P<right_')}\s*)?"
    r"(?P<relation><=|>=|<|>)\s*(?P<limit>-?\d{1,9}(?:\.\d{1,9})?)\s*(?P<unit>%|pp|us)?\s*"
)
_CHOICE = re.compile(rf"\s*([a-z_]+)\s*=\s*({_WORD})\s*")
_EXAMPLE = "such as overhead<=5% or overhead(pr)-overhead(main)<=1pp"
_NEXT = "Read docs/reference/gates.md"


# ---------------------------------------------------------------------------------------- language


@dataclass(frozen=True, slots=True)
class Term:
    """One side of a gate: a figure, whose (a tracer's, in report.compare also a run's), of what."""

    figure: str
    name: str | None = None
    chosen: tuple[tuple[str, str], ...] = ()

    def factors(self) -> set[str]:
        """By which factors it chooses cells."""
        named = {"tracer"} if self.name is not None else set()
        return {key for key, _ in self.chosen} | named

    def takes(self, cell: AnyCell) -> bool:
        """Whether a cell is meant; without a mode all traced ones are."""
        wanted = list(self.chosen)
        if self.name is not None:
            wanted.append(("tracer", self.name))
        if any(str(getattr(cell, key)) != value for key, value in wanted):
            return False
        return "mode" in self.factors() or cell.mode not in (BASELINE, CONTROL)


@dataclass(frozen=True, slots=True)
class Gate:
    """A limit: `left`, less `right` where there is one, against `limit` in `unit`."""

    text: str
    left: Term
    right: Term | None
    relation: str
    limit: float
    unit: str

    def outcome(self, interval: Interval) -> str:
        """Whether a whole interval keeps the limit, or breaks it, or neither."""
        holds = [_HOLDS[self.relation](end, self.limit) for end in (interval.low, interval.high)]
        if all(holds):
            return PASSED
        return UNDECIDED if any(holds) else FAILED


def parse(text: str) -> Gate:
    """Read a gate.

    Raises:
        UsageError: what is wrong in it, and what is allowed.
    """
    match = _GATE.fullmatch(text)
    if match is None:
        raise _wrong(text, f"expected FIGURE<=LIMIT, {_EXAMPLE}")
    left = _term(text, match, "left")
    right = _term(text, match, "right") if match["right_figure"] else None
    if right is not None and right.figure != left.figure:
        raise _wrong(text, f"{left.figure} and {right.figure} have no difference")
    if right == left:
        raise _wrong(text, "both sides are the same")
    units = _UNITS[left.figure][0 if right is None else 1]
    if match["unit"] not in units:
        kind = f"{left.figure} has the unit" if right is None else "a difference has the unit"
        found = f", found {match['unit']}" if match["unit"] else ""
        raise _wrong(text, f"{kind} {' or '.join(units)}{found}")
    return Gate(text, left, right, match["relation"], float(match["limit"]), match["unit"])


def parse_all(texts: Iterable[str]) -> tuple[Gate, ...]:
    """Read several gates; errors as of :func:`parse`."""
    return tuple(parse(text) for text in texts)


def _term(text: str, match: re.Match[str], side: str) -> Term:
    figure, chosen = match[f"{side}_figure"], match[f"{side}_chosen"]
    if figure not in _UNITS:
        raise _wrong(text, f"no figure {figure!r}{nearest(figure, _UNITS)} {_there_are(_UNITS)}")
    choices: dict[str, str] = {}
    for part in [] if chosen is None else chosen.split(","):
        choice = _CHOICE.fullmatch(part)
        if choice is None or choice[1] not in SELECTORS:
            raise _wrong(text, f"[{part.strip()}]: expected KEY=VALUE. {_there_are(SELECTORS)}")
        if choice[1] in choices:
            raise _wrong(text, f"{choice[1]} is given twice")
        choices[choice[1]] = choice[2]
    name = match[f"{side}_name"]
    if name is not None and name not in RUNS and "tracer" in choices:
        raise _wrong(text, "the tracer is given twice, as (NAME) and as tracer=NAME")
    return Term(figure, name, tuple(choices.items()))


def _there_are(names: Iterable[str]) -> str:
    return f"There are {', '.join(names)}"


def _wrong(text: str, why: str) -> UsageError:
    return UsageError(f"--gate {text!r}: {why}. {_NEXT}")


def check(gates: Iterable[Gate], cells: Iterable[AnyCell]) -> None:
    """Refuse gates that mean no cell of a matrix, before anything is measured.

    Raises:
        UsageError: with the names that there are.
    """
    cells = list(cells)
    for gate in gates:
        for term in filter(None, (gate.left, gate.right)):
            _require_cells(gate, term, cells)


def _require_cells(gate: Gate, term: Term, cells: Sequence[AnyCell]) -> None:
    if any(term.takes(cell) for cell in cells):
        return
    wanted = [*term.chosen, *([("tracer", term.name)] if term.name else [])]
    for key, value in wanted:
        known = sorted(
            {str(getattr(cell, key)) for cell in cells if getattr(cell, key) is not None}
        )
        if value not in known:
            end = nearest(value, known)
            raise _wrong(gate.text, f"no {key} {value!r} in this matrix{end} {_there_are(known)}")
    raise _wrong(gate.text, "no traced cell of this matrix is all of that")


# ----------------------------------------------------------------------------------------- judging


@dataclass(frozen=True, slots=True)
class Judged:
    """One gate on one cell: what it was decided on, and why nothing could be, where that is so."""

    gate: Gate
    cell: str
    outcome: str
    estimate: Estimate | None
    why: str


def judge(run: Run, gates: Iterable[Gate]) -> tuple[Judged, ...]:
    """Each gate on each cell of a run that it means.

    Raises:
        UsageError: a gate means no cell.
    """
    gates = tuple(gates)
    check(gates, [planned.cell for planned in run.cells])
    found = _Figures(run)
    return tuple(judged for gate in gates for judged in found.judged(gate) or [_nowhere(gate)])


def judge_comparison(comparison: Comparison, gates: Iterable[Gate]) -> tuple[Judged, ...]:
    """Each gate on two runs: A and B are their names, and without one B is meant.

    Raises:
        UsageError: a gate means no cell, or a difference that runs do not have.
    """
    return tuple(judged for gate in gates for judged in _compared(gate, comparison))


def _nowhere(gate: Gate) -> Judged:
    return Judged(gate, "-", NOT_MEASURED, None, "none of its cells can run on this host")


def _compared(gate: Gate, comparison: Comparison) -> Iterator[Judged]:
    names = [term.name for term in filter(None, (gate.left, gate.right))]
    if gate.right is None or not set(names) & set(RUNS):
        run = comparison.a if gate.left.name == "A" else comparison.b
        plain = Gate(gate.text, _plain(gate.left), gate.right, gate.relation, gate.limit, gate.unit)
        yield from judge(run, [plain])
        return
    if sorted(filter(None, names)) != list(RUNS) or gate.left.chosen != gate.right.chosen:
        raise _wrong(gate.text, "two runs differ as overhead(B)-overhead(A), in the same cells")
    if gate.left.figure != OVERHEAD:
        raise _wrong(gate.text, f"of two runs only {OVERHEAD} is compared")
    sign = 1 if gate.left.name == "B" else -1
    term = _plain(gate.left)
    _require_cells(gate, term, [planned.cell for planned in comparison.b.cells])
    for cell in comparison.cells:
        if term.takes(cell.b.cell) and cell.b.cell.mode != BASELINE:
            estimate = None
            if cell.shift is not None:
                bounds = cell.shift.interval
                ends = sorted((sign * bounds.low, sign * bounds.high)) if bounds else None
                estimate = Estimate(
                    n=min(cell.shift.n_a, cell.shift.n_b),
                    value=sign * cell.shift.value,
                    interval=Interval(*ends) if ends else None,
                )
            yield _decided(gate, cell.cell_id, estimate, "not measured in both runs")


def _plain(term: Term) -> Term:
    """A term without the name of a run."""
    return Term(term.figure, None if term.name in RUNS else term.name, term.chosen)


def _decided(gate: Gate, cell: str, estimate: Estimate | None, lacking: str) -> Judged:
    if estimate is None:
        return Judged(gate, cell, NOT_MEASURED, None, lacking)
    if estimate.interval is None:
        why = f"n = {estimate.n}, too few for an interval"
        return Judged(gate, cell, UNDECIDED, estimate, why)
    outcome = gate.outcome(estimate.interval)
    why = "the limit lies inside the interval" if outcome == UNDECIDED else ""
    return Judged(gate, cell, outcome, estimate, why)


class _Figures:
    """The figures of a run that gates ask for."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._rows: list[tuple[Group, CellSummary]] = [
            (group, summary)
            for group in analyse(run, bootstrap=False).groups
            for summary in group.cells
        ]

    def judged(self, gate: Gate) -> list[Judged]:
        """The gate on each cell that it means and that this host can run."""
        return list(self._judged(gate))

    def _judged(self, gate: Gate) -> Iterator[Judged]:
        for group, summary in self._rows:
            # What this host cannot run is shown by the report; no limit applies to it.
            if summary.status != "available" or not gate.left.takes(summary.cell):
                continue
            if gate.right is None:
                estimate = self._alone(gate, summary)
                yield _decided(gate, summary.cell.cell_id, estimate, "no valid pair with none")
                continue
            like = self._partners(gate, gate.right, summary)
            if len(like) != 1:
                found = f"{len(like)} cells" if like else "no cell"
                why = f"{found} to hold it against"
                yield Judged(gate, summary.cell.cell_id, NOT_MEASURED, None, why)
            elif like[0].status == "available":
                yield self._against(gate, group, summary, like[0])

    def _alone(self, gate: Gate, summary: CellSummary) -> Estimate | None:
        if gate.left.figure == OVERHEAD:
            return summary.overhead_pct
        return summary.cpu_extra_us if gate.unit == MICROSECONDS else summary.cpu_extra_pct

    def _partners(self, gate: Gate, right: Term, left: CellSummary) -> list[CellSummary]:
        """The cells that differ from one in nothing but what the gate names."""
        named = gate.left.factors() | right.factors()
        like = _others(left.cell, named)
        return [
            summary
            for _, summary in self._rows
            if right.takes(summary.cell) and _others(summary.cell, named) == like
        ]

    def _against(self, gate: Gate, group: Group, left: CellSummary, right: CellSummary) -> Judged:
        """One cell less another."""
        name, partner = left.cell.cell_id, right.cell.cell_id
        both = f"{name} - {partner}"
        if gate.unit == MICROSECONDS:
            estimate = difference(self._extra_us(left, right))
        else:
            figure = None if gate.left.figure == OVERHEAD else cpu_us_of
            scale = group.scale if figure is None else MORE
            ratios = log_ratios_by_block(self._run, figure)
            estimate = paired_difference(ratios.get(name, {}), ratios.get(partner, {}), scale)
        return _decided(gate, both, estimate, "no block holds valid trials of both and of none")

    def _extra_us(self, left: CellSummary, right: CellSummary) -> list[float]:
        """CPU per request of one less that of the other, block by block."""
        of_left, of_right = (
            {t.block: us for t in cell.counted if (us := cpu_us_of(t)) is not None}
            for cell in (left, right)
        )
        return [us - of_right[block] for block, us in of_left.items() if block in of_right]


def _others(cell: Cell, named: set[str]) -> tuple[str, ...]:
    """All of a cell that the gate does not choose by."""
    rest = [getattr(cell, key) for key in SELECTORS if key not in named]
    return (
        *map(str, rest),
        str(sorted(cell.runtime.items())),
        str(sorted(cell.load_parameters.items())),
    )


def paired_difference(
    left: Mapping[int, float], right: Mapping[int, float], scale: Scale
) -> Estimate | None:
    """The difference of two overheads, in percentage points, from blocks that have both.

    Each overhead is that of the report: of the mean logarithm, back-transformed. The interval is
    Student's, with the spread of each block's part in that difference (the delta method: an
    overhead changes with its mean logarithm m by 100 * exp(m)), so what moves both in one block
    cancels.

    Args:
        left: ln(figure(mode) / figure(none)) by block, of one cell.
        right: the same of the cell that it is held against.
        scale: how an overhead is read.
    """
    blocks = sorted(left.keys() & right.keys())
    if not blocks:
        return None
    mine, other = [left[b] for b in blocks], [right[b] for b in blocks]
    mean, other_mean = statistics.fmean(mine), statistics.fmean(other)
    value = scale.pct(mean) - scale.pct(other_mean)
    if len(blocks) < LEAST_FOR_INTERVAL:
        return Estimate(len(blocks), value, None)
    slope, other_slope = (100 * exp(min(m, 700.0)) for m in (mean, other_mean))
    parts = [slope * x - other_slope * y for x, y in zip(mine, other, strict=True)]
    half = half_width(len(blocks), statistics.stdev(parts))
    return Estimate(len(blocks), value, Interval(value - half, value + half))


# ------------------------------------------------------------------------------------------- codes


def exit_code(judged: Sequence[Judged], undecided: str | None = None) -> int:
    """What to end with: 1 a gate failed, 3 a cell was not measured, 5 one is undecided, else 0.

    Args:
        judged: all of them.
        undecided: ``fail`` or ``pass``: what an undecided gate counts as; None is 5.
    """
    outcomes = {entry.outcome for entry in judged}
    if FAILED in outcomes or (UNDECIDED in outcomes and undecided == "fail"):
        return EXIT_GATE
    if NOT_MEASURED in outcomes or not outcomes:
        return EXIT_INVALID
    return EXIT_UNDECIDED if UNDECIDED in outcomes and undecided is None else EXIT_OK


def check_undecided(undecided: str | None) -> None:
    """Refuse a wrong ``--undecided``."""
    if undecided is not None and undecided not in UNDECIDED_AS:
        raise UsageError(f"--undecided {undecided}: expected {' or '.join(UNDECIDED_AS)}")
