"""Runs, trials and cells made by hand, for tests of what is computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uplab.measured import Cell, Cpu, Hits, Load, PlannedCell, Reason, Run, Site, Trial


def cell(mode: str, server: str = "https", **changes: Any) -> Cell:
    """A cell of that mode, traced by gotrace where it is traced."""
    tracer = None if mode in ("none", "none-again") else "gotrace"
    return Cell(
        cell_id=f"{server}-{mode}-{changes.get('body_bytes', 12)}B",
        server=server,
        mode=mode,
        tracer=tracer,
        body_bytes=changes.get("body_bytes", 12),
        load="wrk",
        load_parameters=changes.get("load_parameters", {"threads": 10}),
        loader=changes.get("loader"),
        placement=changes.get("placement"),
        runtime=changes.get("runtime", {}),
    )


def trial(
    number: int,
    of: Cell,
    block: int,
    rps: float | None,
    *,
    attempt: int = 1,
    valid: bool = True,
    cpu_us: float | None = None,
    hits: Hits | None = None,
    requests: int | None = None,
    latency_us: Mapping[str, float | None] | None = None,
    reasons: tuple[Reason, ...] = (),
) -> Trial:
    """One trial; what is not given was not measured."""
    return Trial(
        name=f"{number:04d}",
        number=number,
        block=block,
        attempt=attempt,
        position=None,
        cell=of,
        started_utc=None,
        started_monotonic_ns=None,
        wall_s=None,
        load_elapsed_s=None,
        load=Load(requests, None, rps, None, None, latency_us or {}, {}, None, None, ()),
        cpu=Cpu(None, None, None, cpu_us, *[None] * 8),
        hits=hits,
        attestation_grade=None,
        valid=valid,
        reasons=reasons,
        flags=(),
    )


def run_of(trials: list[Trial], cells: list[Cell] | None = None, **changes: Any) -> Run:
    """A run of these trials, measured and verified."""
    if cells is None:
        cells = list({t.cell.cell_id: t.cell for t in trials}.values())
    fields: dict[str, Any] = {
        "path": Path("run"),
        "verified": True,
        "not_verified_because": (),
        "run_id": "r",
        "host": "local",
        "matrix_name": "m",
        "matrix_source": None,
        "matrix_sha256": None,
        "matrix": {},
        "seed": 7,
        "blocks": 1,
        "plan_sha256": "",
        "uplab_version": "0",
        "pins": {},
        "artifacts": {},
        "cells": tuple(PlannedCell(c, "available", None) for c in cells),
        "hit_costs": (),
        "started_utc": "",
        "ended_utc": None,
        "outcome": "complete",
        "error": None,
        "trials_planned": None,
        "provenance": "measured",
        "trials": tuple(trials),
    }
    return Run(**(fields | changes))


def blocks_of(rates: Mapping[str, Sequence[float | None]], **more: Any) -> Run:
    """A run from the requests per second of each mode, block by block."""
    trials: list[Trial] = []
    for mode, figures in rates.items():
        for block, rps in enumerate(figures, start=1):
            trials.append(trial(len(trials) + 1, cell(mode), block, rps))
    return run_of(trials, **more)


def hits_of(*sites: tuple[str, str | None, float | None], lost: int | None = 0) -> Hits:
    """Hits from (name, class of instruction, hits per request) of each site."""
    rows = tuple(Site(name, "entry", kind, None, per_request) for name, kind, per_request in sites)
    return Hits("uprobe_multi", rows, {row.name: row.hits_per_request for row in rows}, 1, 1, lost)
