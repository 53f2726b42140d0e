"""Every trial as one line of CSV, for a spreadsheet or a script of one's own."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

from uplab.analysis import BASELINE, Analysis, asked_per_s, hits_per_request
from uplab.measured import Run, Trial
from uplab.report import columns, text

FIELDS: dict[str, Callable[[Trial], Any]] = {
    "trial": lambda t: t.name,
    "number": lambda t: t.number,
    "block": lambda t: t.block,
    "attempt": lambda t: t.attempt,
    "position": lambda t: t.position,
    "valid": lambda t: _yes(t.valid),
    "cell": lambda t: t.cell.cell_id,
    "server": lambda t: t.cell.server,
    "mode": lambda t: t.cell.mode,
    "tracer": lambda t: t.cell.tracer,
    "body_bytes": lambda t: t.cell.body_bytes,
    "load": lambda t: t.cell.load,
    "loader": lambda t: t.cell.loader,
    "placement": lambda t: text.placement(t.cell.placement) or None,
    "runtime_options": lambda t: text.runtime(t.cell.runtime) or None,
    "sites_in_userspace": lambda t: _sites(t, "userspace"),
    "sites_in_kernel": lambda t: _sites(t, "kernel"),
    "evidence": lambda t: t.attestation_grade,
    "started_utc": lambda t: t.started_utc,
    "wall_s": lambda t: t.wall_s,
    "requests": lambda t: t.load and t.load.requests,
    "elapsed_s": lambda t: t.load and t.load.elapsed_s,
    "requests_per_s": lambda t: t.load and t.load.requests_per_s,
    "asked_requests_per_s": lambda t: asked_per_s(t.cell.load_parameters),
    "transfer_bytes_per_s": lambda t: t.load and t.load.transfer_bytes_per_s,
    "latency_p50_us": lambda t: t.load and t.load.latency_us.get("p50"),
    "latency_p90_us": lambda t: t.load and t.load.latency_us.get("p90"),
    "latency_p99_us": lambda t: t.load and t.load.latency_us.get("p99"),
    "server_cpu_us_per_request": lambda t: t.cpu and t.cpu.server_us_per_request,
    "server_cpu_s": lambda t: t.cpu and t.cpu.server_s,
    "tracer_cpu_s": lambda t: t.cpu and t.cpu.tracer_s,
    "steal_pct": lambda t: t.cpu and t.cpu.steal_pct,
    "foreign_pct": lambda t: t.cpu and t.cpu.foreign_pct,
    "hits_per_request": hits_per_request,
    "events_emitted": lambda t: t.hits and t.hits.events_emitted,
    "events_received": lambda t: t.hits and t.hits.events_received,
    "events_lost": lambda t: t.hits and t.hits.events_lost,
    "reasons": lambda t: columns.reasons(t) if t.reasons else None,
    "flags": lambda t: "; ".join(t.flags) or None,
}


def render(run: Run, analysis: Analysis) -> str:
    """The CSV (RFC 4180 but with plain newlines), `counted` saying which trials count.

    `sequential` is of runs to which blocks were added until overheads were known: to how many
    percentage points, and whether the cell's was.

    A figure that is missing is an empty field.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*FIELDS, "counted", "sequential"])
    for trial in run.trials:
        shown = [_field(read(trial)) for read in FIELDS.values()]
        counted = _yes(trial.name in analysis.counted)
        writer.writerow([*shown, counted, _field(stopping(trial, run))])
    return out.getvalue()


def stopping(trial: Trial, run: Run) -> str | None:
    """Whether the cell's overhead was known well enough; None where nobody looked meanwhile."""
    if run.sequential is None:
        return None
    width = f"{run.sequential.half_width_pp:g} pp"
    if trial.cell.mode == BASELINE:
        return width
    return f"{width}, {text.state(trial.cell.cell_id, run.sequential)}"


def _sites(trial: Trial, place: str) -> str | None:
    """The names of the sites that lay in one place; None where there is none."""
    sites = trial.hits.sites if trial.hits else ()
    return " ".join(dict.fromkeys(site.name for site in sites if site.placement == place)) or None


def _field(value: Any) -> Any:
    return _inert(text.plain(value, 2000)) if isinstance(value, str) else value


def _inert(value: str) -> str:
    """Text that a spreadsheet would run as a formula is kept from it by a leading quote."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@")) else value


def _yes(value: bool) -> str:
    return "yes" if value else "no"
