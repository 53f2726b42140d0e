"""A run as rows: one of the run itself, one of each of its cells. These are the tables in Parquet.

A figure that a run does not have is None, never 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from uplab import results
from uplab.analysis import CellSummary, Group, analyse
from uplab.errors import UsageError
from uplab.measured import Run
from uplab.report import text
from uplab.report.model import flat

#: What of a host and its parts explains figures: beginnings of dotted names in a fingerprint.
_OF_HOST = (
    "kernel.release",
    "kernel.cmdline",
    "distribution",
    "cpu.",
    "memory_bytes",
    "mitigations.",
    "power.",
    "settings.",
    "components.",
)
_LONGEST = 2000
#: Of a BIGINT.
_LARGEST = 2**63 - 1
#: Columns that hold JSON, which says what no text may hold by its escapes.
_JSON = ("facts", "load_parameters")


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run. `facts` is a JSON object: what of host, components and pins could move figures.

    `key` names the state of the run directory that the row was made of.
    """

    key: str
    run: str
    run_id: str
    host: str
    matrix: str
    started_utc: str
    outcome: str
    provenance: str
    uplab_version: str
    plan_sha256: str
    sums_sha256: str | None
    blocks: int
    trials: int
    invalid: int
    cells: int
    cells_measured: int
    kernel: str | None
    facts: str

    @property
    def known(self) -> Mapping[str, str]:
        """`facts`, read."""
        found: dict[str, str] = json.loads(self.facts)
        return found


@dataclass(frozen=True, slots=True)
class CellRow:
    """A cell of a run: how it was traced, and what it cost.

    `overhead_pct` as in the report, with its 95 % interval where there is one; of an open loop it
    is the extra CPU. `place` orders the cells of a run.
    """

    key: str
    place: int
    cell: str
    server: str
    mode: str
    label: str
    body_bytes: int
    load: str
    load_parameters: str
    loop: str
    status: str
    n: int
    rejected: int
    requests_per_s: float | None
    cpu_us_per_request: float | None
    overhead_pct: float | None
    overhead_low_pct: float | None
    overhead_high_pct: float | None
    noise_floor_pct: float | None
    verdict: str | None
    evidence: str | None


Row = TypeVar("Row", RunRow, CellRow)


def columns(row: type[RunRow | CellRow]) -> dict[str, str]:
    """The columns of a table, with DuckDB's types."""
    kinds = {"str": "VARCHAR", "int": "BIGINT", "float": "DOUBLE", "bool": "BOOLEAN"}
    return {field.name: kinds[str(field.type).removesuffix(" | None")] for field in fields(row)}


def read(run_dir: Path, key: str, sums_sha256: str | None) -> tuple[RunRow, tuple[CellRow, ...]]:
    """The rows of a run directory, all of whose files are verified on the way.

    In: the directory, the name of its state, the digest of its SHA256SUMS. Raises what
    results.load raises, and UsageError for a run that nothing vouches for: it did not end.
    """
    run = results.load(run_dir)
    if not run.verified:
        raise UsageError(f"not verified: {'; '.join(run.not_verified_because)}")
    analysis = analyse(run, bootstrap=False)
    cells = tuple(_fitting(cell) for cell in _cells(analysis.groups, key))
    row = RunRow(
        key=key,
        run=run_dir.name,
        run_id=run.run_id,
        host=run.host,
        matrix=run.matrix_name,
        started_utc=run.started_utc,
        outcome=run.outcome,
        provenance=run.provenance,
        uplab_version=run.uplab_version,
        plan_sha256=run.plan_sha256,
        sums_sha256=sums_sha256,
        blocks=run.blocks,
        trials=len(run.trials),
        invalid=sum(1 for trial in run.trials if not trial.valid),
        cells=len(cells),
        cells_measured=sum(1 for cell in cells if cell.n),
        kernel=facts(run).get("kernel.release"),
        facts=json.dumps(facts(run), sort_keys=True),
    )
    return _fitting(row), cells


def _fitting(row: Row) -> Row:
    """A row as a table can hold it: texts on one line, without what no text may hold.

    Raises UsageError for a number that no run has.
    """
    values = {field.name: getattr(row, field.name) for field in fields(row)}
    for name, value in values.items():
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise UsageError(f"{name} is {value}, which no run has")
    shown: dict[str, Any] = {
        name: text.plain(value, _LONGEST)
        for name, value in values.items()
        if isinstance(value, str) and name not in _JSON
    }
    return replace(row, **shown)


def facts(run: Run) -> dict[str, str]:
    """What could move figures, by dotted names: of the host, its components, the pins, uplab."""
    host = {
        name: value
        for name, value in flat(run.fingerprint_before).items()
        if name.startswith(_OF_HOST)
    }
    pins = {f"pins.{name}": value for name, value in flat(run.pins).items()}
    found = {**host, **pins, "uplab_version": run.uplab_version}
    return {
        name: text.plain(str(value), _LONGEST) for name, value in found.items() if value is not None
    }


def _cells(groups: tuple[Group, ...], key: str) -> Iterator[CellRow]:
    place = 0
    for group in groups:
        for summary in group.cells:
            yield _cell(group, summary, key, place)
            place += 1


def _cell(group: Group, summary: CellSummary, key: str, place: int) -> CellRow:
    estimate = summary.overhead_pct
    interval = estimate.interval if estimate else None
    return CellRow(
        key=key,
        place=place,
        cell=summary.cell.cell_id,
        server=group.server,
        mode=summary.cell.mode,
        label=text.plain(text.label(summary)),
        body_bytes=group.body_bytes,
        load=group.load,
        load_parameters=_sorted(group.load_parameters),
        loop=group.loop,
        status=summary.status,
        n=summary.n,
        rejected=summary.rejected,
        requests_per_s=summary.requests_per_s,
        cpu_us_per_request=summary.cpu_us_per_request,
        overhead_pct=estimate.value if estimate else None,
        overhead_low_pct=interval.low if interval else None,
        overhead_high_pct=interval.high if interval else None,
        noise_floor_pct=group.noise_floor_pct,
        verdict=summary.verdict,
        evidence=summary.grade,
    )


def _sorted(values: Mapping[str, Any]) -> str:
    return json.dumps(dict(values), sort_keys=True)
