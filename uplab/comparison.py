"""Two runs of one matrix, cell by cell: is B better, worse, the same, or can nobody tell?

What is compared of a traced cell is its overhead, block by block: each value is paired with the
`none` of its own block, so whatever disturbs a whole run cancels. Of `none` it is the figure itself
(requests per second; under an open loop CPU per request). The blocks of two runs are no pairs of
each other, so the two samples are compared by their ranks (uplab/ranks.py).

Positive is worse, as everywhere. Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import log, sqrt
from pathlib import Path
from typing import Any

from uplab.analysis import BASELINE, CellSummary, Group, analyse, log_ratios_by_block, rps_of
from uplab.analysis import cpu_us_of as cpu_of
from uplab.errors import UsageError
from uplab.estimates import CONFIDENCE, Scale
from uplab.measured import Run
from uplab.ranks import Shift, least_p, shift
from uplab.sequential import COUNTED_TO
from uplab.why import Difference, HitCosts, differences, hit_costs

BETTER, WORSE = "better", "worse"
SAME = "same within noise"
CANNOT_TELL = "cannot tell"

# What is compared of a cell.
OVERHEAD = "overhead"
REQUESTS_PER_S = "requests per second"
CPU_PER_REQUEST = "CPU per request"

# What of a matrix may differ: how often and how strictly it was measured, not what was.
_MAY_DIFFER = ("blocks", "seed", "summary", "repeat", "limits", "adapters")
_FIELDS_NAMED = 5


@dataclass(frozen=True, slots=True)
class CellComparison:
    """One cell of both runs.

    `figure` names what is compared, `unit` is of `shift` (`pp` of an overhead, `%` of another
    figure), which is positive where B is worse. `p` is the test's, adjusted for the number of cells
    (Holm). `blocks` is how many each run would need for a verdict; None where it has one, or where
    nobody can say.
    """

    cell_id: str
    server: str
    figure: str
    unit: str
    a: CellSummary
    b: CellSummary
    shift: Shift | None
    p: float | None
    noise_floor_pct: float | None
    verdict: str
    blocks: int | None

    @property
    def said(self) -> str:
        """The verdict in words; where there is none, what it would take."""
        if self.verdict != CANNOT_TELL:
            return self.verdict
        if self.shift is None:
            return f"{CANNOT_TELL} (not measured in both)"
        needed = "more blocks than anybody measures" if self.blocks is None else self._needed
        return f"{CANNOT_TELL} (n too small: needs {needed})"

    @property
    def _needed(self) -> str:
        return f"about {self.blocks} blocks"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs: their cells, what only one has, and why they may differ."""

    a: Run
    b: Run
    cells: tuple[CellComparison, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    differences: tuple[Difference, ...]
    hit_costs: tuple[HitCosts, ...]

    @property
    def measured(self) -> bool:
        """Whether any cell has figures in both runs."""
        return any(cell.shift is not None for cell in self.cells)


def compare(a: Run, b: Run) -> Comparison:
    """Compare two runs.

    Raises:
        UsageError: they must not be compared, with the reason.
    """
    check(a, b)
    ours, theirs = _cells(a), _cells(b)
    shared = [cell_id for cell_id in ours if cell_id in theirs]
    samples_a, samples_b = _samples(a, ours), _samples(b, theirs)
    drafts = [
        _draft(cell_id, ours[cell_id], theirs[cell_id], samples_a[cell_id], samples_b[cell_id])
        for cell_id in shared
    ]
    return Comparison(
        a=a,
        b=b,
        cells=tuple(_judged(drafts)),
        only_a=tuple(cell_id for cell_id in ours if cell_id not in theirs),
        only_b=tuple(cell_id for cell_id in theirs if cell_id not in ours),
        differences=differences(a, b),
        hit_costs=hit_costs(a, b),
    )


# ---------------------------------------------------------------------------- may they be compared


def check(a: Run, b: Run) -> None:
    """Refuse runs that must not be compared. (Another schema is refused when a run is read.)

    Raises:
        UsageError: one run given twice, another matrix, or another loop of a load.
    """
    if a.path.resolve() == b.path.resolve():
        raise UsageError(f"{a.path} is given twice: a run does not differ from itself")
    found = list(_matrix_differences(a, b))
    found += [
        f"the load {load} is {a.loops[load]} in A and {b.loops[load]} in B"
        for load in a.loops.keys() & b.loops.keys()
        if a.loops[load] != b.loops[load]
    ]
    if found:
        more = f"; and {len(found) - _FIELDS_NAMED} more" if len(found) > _FIELDS_NAMED else ""
        raise UsageError(
            f"{_name(a.path)} and {_name(b.path)} must not be compared, because they measured "
            f"something else: {'; '.join(found[:_FIELDS_NAMED])}{more}. "
            "Run: invoke report.show for each of them"
        )


def _name(path: Path) -> str:
    return path.resolve().name


def _matrix_differences(a: Run, b: Run) -> list[str]:
    if a.matrix_name != b.matrix_name:
        return [f"matrix {a.matrix_name} in A and {b.matrix_name} in B"]
    ours, theirs = _matter(a.matrix), _matter(b.matrix)
    return [
        f"{name} is {ours.get(name)} in A and {theirs.get(name)} in B"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


def _matter(content: Mapping[str, Any]) -> dict[str, Any]:
    """What of a matrix decides what is measured, by dotted names; defaults are filled in."""
    from uplab.matrix import Factors, Matrix
    from uplab.report.model import flat

    known = {entry.alias or name: entry for name, entry in Matrix.model_fields.items()}
    filled = {
        name: content.get(name, None if entry.is_required() else _plain(entry.default))
        for name, entry in known.items()
        if name not in _MAY_DIFFER
    }
    factors = content.get("factors")
    if isinstance(factors, dict):
        usual = {
            name: _plain(entry.default)
            for name, entry in Factors.model_fields.items()
            if not entry.is_required()
        }
        chosen = {**usual, **factors}
        # A folder of one host may be called otherwise on another.
        chosen["bpftime_prefix"] = len(chosen["bpftime_prefix"])
        filled["factors"] = chosen
    # Where a server listens, and which build of a tracer runs, is what two runs may differ in.
    ignored = (".port", ".path")
    return {name: value for name, value in flat(filled).items() if not name.endswith(ignored)}


def _plain(value: Any) -> Any:
    """A default as JSON would hold it."""
    return list(value) if isinstance(value, tuple) else value


# ------------------------------------------------------------------------------------------- cells


@dataclass(frozen=True, slots=True)
class _Cell:
    group: Group
    summary: CellSummary


def _cells(run: Run) -> dict[str, _Cell]:
    return {
        summary.cell.cell_id: _Cell(group, summary)
        for group in analyse(run, bootstrap=False).groups
        for summary in group.cells
        if summary.status == "available"
    }


def _samples(run: Run, cells: Mapping[str, _Cell]) -> dict[str, list[float]]:
    """What is compared of each cell, as logarithms, of which a larger one is worse."""
    ratios = log_ratios_by_block(run)
    samples = {}
    for cell_id, cell in cells.items():
        worse = cell.group.scale.worse
        if cell.summary.cell.mode == BASELINE:
            figure = cpu_of if cell.group.is_open else rps_of
            found = [log(value) for t in cell.summary.counted if (value := figure(t)) is not None]
        else:
            found = list(ratios.get(cell_id, {}).values())
        samples[cell_id] = [worse * value for value in found]
    return samples


@dataclass(frozen=True, slots=True)
class _Draft:
    """A comparison before the number of cells is known; the shift and floor are of logarithms."""

    shown: CellComparison
    log_shift: Shift | None
    log_floor: float | None
    deviation: float | None


def _draft(
    cell_id: str, a: _Cell, b: _Cell, values_a: Sequence[float], values_b: Sequence[float]
) -> _Draft:
    scale = b.group.scale
    floors = [group.noise_floor_pct for group in (a.group, b.group)]
    known = [floor for floor in floors if floor is not None]
    # Both runs have their noise; a difference has to rise above that of the noisier one.
    floor = max(known) if len(known) == len(floors) else None
    baseline = b.summary.cell.mode == BASELINE
    log_shift = shift(values_a, values_b)
    shown = CellComparison(
        cell_id=cell_id,
        server=b.group.server,
        figure=_figure(b.group, baseline=baseline),
        unit="%" if baseline else "pp",
        a=a.summary,
        b=b.summary,
        shift=_in_percent(log_shift, values_a, values_b, scale, baseline=baseline),
        p=None,
        noise_floor_pct=floor,
        verdict=CANNOT_TELL,
        blocks=None,
    )
    return _Draft(
        shown=shown,
        log_shift=log_shift,
        log_floor=None if floor is None else abs(scale.log_ratio(floor)),
        deviation=_pooled_deviation(values_a, values_b),
    )


def _figure(group: Group, *, baseline: bool) -> str:
    if baseline:
        return CPU_PER_REQUEST if group.is_open else REQUESTS_PER_S
    return OVERHEAD


def _in_percent(
    found: Shift | None,
    a: Sequence[float],
    b: Sequence[float],
    scale: Scale,
    *,
    baseline: bool,
) -> Shift | None:
    """The shift as a reader gets it: of overheads in percentage points, else in percent."""
    if found is None:
        return None
    if not baseline:
        # The logarithm and the percentage have one order, so the test is the same.
        return shift(*([scale.pct(scale.worse * v) for v in values] for values in (a, b)))
    interval = found.interval
    return replace(
        found,
        value=scale.pct(scale.worse * found.value),
        interval=interval
        and replace(
            interval,
            low=scale.pct(scale.worse * interval.low),
            high=scale.pct(scale.worse * interval.high),
        ),
    )


def _pooled_deviation(a: Sequence[float], b: Sequence[float]) -> float | None:
    degrees = len(a) + len(b) - 2
    if degrees < 1:
        return None
    squares = 0.0
    for values in (a, b):
        mean = sum(values) / len(values) if values else 0.0
        squares += sum((value - mean) ** 2 for value in values)
    return sqrt(squares / degrees)


# ---------------------------------------------------------------------------------------- verdicts


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for their number (Holm 1979), in the same order.

    Where nothing differs, the chance that any of them comes out below 5 % stays below 5 %.
    """
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    stepped = (min((len(p_values) - rank) * p_values[at], 1.0) for rank, at in enumerate(order))
    adjusted = [0.0] * len(p_values)
    for at, value in zip(order, accumulate(stepped, max), strict=True):
        adjusted[at] = value
    return adjusted


def _judged(drafts: Sequence[_Draft]) -> list[CellComparison]:
    tested = [draft for draft in drafts if draft.log_shift is not None]
    p_values = holm([draft.log_shift.p for draft in tested if draft.log_shift])
    adjusted = {d.shown.cell_id: p for d, p in zip(tested, p_values, strict=True)}
    return [_verdict(draft, adjusted.get(draft.shown.cell_id), len(tested)) for draft in drafts]


def _verdict(draft: _Draft, p: float | None, cells: int) -> CellComparison:
    shown, found, floor = draft.shown, draft.log_shift, draft.log_floor
    if found is None or p is None:
        return shown
    if p <= 1 - CONFIDENCE:
        above = floor is None or abs(found.value) > floor
        verdict = (WORSE if found.value > 0 else BETTER) if above else SAME
        return replace(shown, p=p, verdict=verdict)
    if _is_within(found, floor):
        return replace(shown, p=p, verdict=SAME)
    return replace(shown, p=p, blocks=blocks_needed(found.value, floor, draft.deviation, cells))


def _is_within(found: Shift, floor: float | None) -> bool:
    """Whether the whole interval lies inside the noise floor."""
    if found.interval is None or floor is None:
        return False
    return max(-found.interval.low, found.interval.high) <= floor


def blocks_needed(
    value: float, floor: float | None, deviation: float | None, cells: int
) -> int | None:
    """How many blocks each run would need for a verdict, if the spread stays as it is.

    A shift above the noise floor needs an interval that excludes 0, one inside it an interval that
    lies within the floor. Reckoned with the t interval of two means, which the rank test comes
    close to (its efficiency is 95 % for normal values), and never fewer than the test can use.

    Args:
        value: the shift of the logarithms so far.
        floor: the noise floor, likewise; None where none is known.
        deviation: the standard deviation of the values; None where nobody knows.
        cells: how many are tested.

    Returns:
        None where no number that anybody measures would do.
    """
    from scipy.special import stdtrit

    if deviation is None:
        return None
    alpha = (1 - CONFIDENCE) / max(cells, 1)
    inside = floor is not None and abs(value) <= floor
    wanted = floor - abs(value) if inside and floor is not None else abs(value)

    def enough(n: int) -> bool:
        # Only a difference has to stand up to the test of all cells.
        level = 1 - CONFIDENCE if inside else alpha
        half = float(stdtrit(2 * n - 2, 1 - level / 2)) * deviation * sqrt(2 / n)
        return half <= wanted and least_p(n, n) <= level

    n = 2
    while not enough(n):
        if n >= COUNTED_TO:
            return None
        n = min(2 * n, COUNTED_TO)
    low = 2
    while low < n:
        middle = (low + n) // 2
        low, n = (low, middle) if enough(middle) else (middle + 1, n)
    return n
