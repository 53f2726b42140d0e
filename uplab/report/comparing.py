"""Two runs beside each other, as sections that any renderer can show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from uplab.analysis import CellSummary
from uplab.comparison import (
    BETTER,
    CANNOT_TELL,
    CPU_PER_REQUEST,
    OVERHEAD,
    SAME,
    WORSE,
    CellComparison,
    Comparison,
)
from uplab.gates import Judged
from uplab.measured import Run
from uplab.ranks import Shift
from uplab.report import gating, sentences, text
from uplab.report.section import Section
from uplab.report.table import Table

_DIFFERENCES_SHOWN = 40
EXPLAINED = (
    "Overhead is against none, paired within each block of its own run. B - A is the "
    "Hodges-Lehmann shift of the blocks' overheads (of none: of its figure) with its 95 % "
    "interval; positive is worse. p is of the Mann-Whitney test, adjusted for the number of cells "
    "(Holm). delta is Cliff's delta (the rank-biserial correlation): 1 where every block of B is "
    "worse than every one of A, 0 where neither is, -1 where every one is better. A shift within "
    "the noise floor of the noisier run is not called a difference."
)


def sections(
    comparison: Comparison, judged: Sequence[Judged] = (), undecided: str | None = None
) -> list[Section]:
    """What is shown of a comparison, in the order in which it is read."""
    found = [
        Section(title(comparison), notes=tuple(_runs(comparison))),
        Section(
            "Better or worse?", tuple(_answers(comparison)), _cells(comparison), notes=(EXPLAINED,)
        ),
        Section("Why different?", tuple(_why(comparison)), _differences(comparison)),
    ]
    if judged:
        found[1:1] = gating.sections(judged, undecided)
    costs = _costs(comparison)
    if costs.rows:
        said = (
            "Percentages do not travel between hosts: hits per request times this cost is what "
            "they are made of."
        )
        found.append(Section("What one probe hit costs on both hosts", (said,), costs))
    return found


def title(comparison: Comparison) -> str:
    """What the whole is called."""
    return f"B against A: matrix {comparison.a.matrix_name}"


def _runs(comparison: Comparison) -> Iterator[str]:
    for name, run in (("A", comparison.a), ("B", comparison.b)):
        yield f"{name}: {run.run_id}, host {run.host}, {sentences.subtitle(run)}"
    for name, run in (("A", comparison.a), ("B", comparison.b)):
        yield from _notices(name, run)
    if comparison.a.host != comparison.b.host:
        yield (
            "The hosts are not the same: of percentages only those are comparable that are made "
            "of the same hits at the same cost (below)."
        )
    for name, cells in (("A", comparison.only_a), ("B", comparison.only_b)):
        if cells:
            yield f"Only in {name}: {', '.join(cells)}."


def _notices(name: str, run: Run) -> Iterator[str]:
    if run.provenance != "measured":
        yield f"{name} was not measured: its provenance is {run.provenance}."
    if run.outcome != "complete":
        yield f"{name} is not complete ({run.outcome})."
    if run.sequential is not None:
        yield (
            f"{name} has sequential intervals: blocks were added until its overheads were known, "
            "which this comparison does not correct for."
        )


def _answers(comparison: Comparison) -> Iterator[str]:
    for verdict in (WORSE, BETTER):
        cells = [cell.cell_id for cell in comparison.cells if cell.verdict == verdict]
        yield f"{verdict} ({len(cells)}): {', '.join(cells) or 'no cell'}"
    for verdict in (SAME, CANNOT_TELL):
        yield f"{verdict}: {sum(cell.verdict == verdict for cell in comparison.cells)} cells"
    if not comparison.measured:
        yield "No cell has figures in both runs."


def _cells(comparison: Comparison) -> Table:
    return Table(
        ("cell", "verdict", "A", "B", "B - A (95 % interval)", "p", "delta", "n"),
        (False, False, True, True, True, True, True, True),
        tuple(_row(cell) for cell in comparison.cells),
    )


def _row(cell: CellComparison) -> tuple[str, ...]:
    shift = cell.shift
    return (
        cell.cell_id,
        cell.said,
        _side(cell, cell.a),
        _side(cell, cell.b),
        shifted(shift, cell.unit),
        probability(cell.p),
        text.MISSING if shift is None else text.decimal(shift.delta, 2),
        text.MISSING if shift is None else f"{shift.n_a}, {shift.n_b}",
    )


def _side(cell: CellComparison, side: CellSummary) -> str:
    """What was measured in one of the runs, in the unit of the figure."""
    if cell.figure == OVERHEAD:
        return text.percent(side.overhead_pct.value if side.overhead_pct else None)
    if cell.figure == CPU_PER_REQUEST:
        return f"{text.decimal(side.cpu_us_per_request)} us/req"
    return f"{text.whole(side.requests_per_s)} req/s"


def shifted(shift: Shift | None, unit: str) -> str:
    """`-2.9 pp (-3.5 to -2.2)`."""
    if shift is None:
        return text.MISSING
    value = f"{text.decimal(shift.value)} {unit}"
    return value if shift.interval is None else f"{value} ({text.bounds(shift.interval)})"


def probability(p: float | None) -> str:
    """`0.032`, `< 0.001`."""
    if p is None:
        return text.MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _why(comparison: Comparison) -> Iterator[str]:
    count = len(comparison.differences)
    if not count:
        yield (
            "Nothing that was recorded of hosts, parts and pins differs. What was not recorded "
            "(neighbours of a virtual machine, temperature) may."
        )
    elif count > _DIFFERENCES_SHOWN:
        yield f"The first {_DIFFERENCES_SHOWN} of {count} differences; all are in --json."


def _differences(comparison: Comparison) -> Table:
    return Table(
        ("rank", "what differs", "A", "B", "what it may do"),
        (True, False, False, False, False),
        tuple(
            (str(found.rank), found.field, found.a, found.b, found.why)
            for found in comparison.differences[:_DIFFERENCES_SHOWN]
        ),
    )


def _costs(comparison: Comparison) -> Table:
    return Table(
        ("tracer", "class of instruction", "A, ns/hit", "B, ns/hit", "B / A"),
        (False, False, True, True, True),
        tuple(
            (
                cost.tracer,
                cost.instruction_class,
                text.decimal(cost.a_ns, 0),
                text.decimal(cost.b_ns, 0),
                text.decimal(cost.ratio, 2),
            )
            for cost in comparison.hit_costs
        ),
    )


# -------------------------------------------------------------------------------------------- JSON


def document(
    comparison: Comparison, judged: Sequence[Judged] = (), exit_code: int = 0
) -> dict[str, Any]:
    """The same for programs: schema 1; a figure that is missing is null."""
    return {
        "schema": 1,
        **{
            name: {"run_id": run.run_id, "host": run.host, "path": str(run.path)}
            for name, run in (("a", comparison.a), ("b", comparison.b))
        },
        "cells": [_cell(cell) for cell in comparison.cells],
        "only_a": list(comparison.only_a),
        "only_b": list(comparison.only_b),
        "differences": [asdict(found) for found in comparison.differences],
        "hit_costs": [{**asdict(cost), "ratio": cost.ratio} for cost in comparison.hit_costs],
        "gates": gate_rows(judged),
        "exit_code": exit_code,
    }


def gate_rows(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Each gate on each cell, for programs."""
    return [
        {
            "gate": entry.gate.text,
            "cell": entry.cell,
            "outcome": entry.outcome,
            "unit": entry.gate.unit,
            "limit": entry.gate.limit,
            "estimate": entry.estimate and asdict(entry.estimate),
            "why": entry.why,
        }
        for entry in judged
    ]


def _cell(cell: CellComparison) -> dict[str, Any]:
    return {
        "cell": cell.cell_id,
        "figure": cell.figure,
        "unit": cell.unit,
        "requests_per_s": {"a": cell.a.requests_per_s, "b": cell.b.requests_per_s},
        "overhead_pct": {
            "a": cell.a.overhead_pct and asdict(cell.a.overhead_pct),
            "b": cell.b.overhead_pct and asdict(cell.b.overhead_pct),
        },
        "shift": cell.shift and asdict(cell.shift),
        "p_holm": cell.p,
        "noise_floor_pct": cell.noise_floor_pct,
        "verdict": cell.verdict,
        "blocks_needed": cell.blocks,
    }
