"""Every trial as one flat record: the columns of Parquet and JSON lines, their types and meanings.

The figures are those of trials.csv, under the same names; the run's own come before them. A figure
that is missing is None, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from uplab.measured import Run, Trial
from uplab.report import text, trials_csv
from uplab.report.model import Report

SCHEMA_ID = "trial-record"
TEXT, WHOLE, NUMBER, TRUTH = "text", "whole", "number", "truth"
#: A text of a run may be as long as the host likes; in a table it is one line.
_LONGEST = 2000
_JSON_TYPES = {TEXT: "string", WHOLE: "integer", NUMBER: "number", TRUTH: "boolean"}


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `always` says that it is never missing."""

    name: str
    kind: str
    meaning: str
    always: bool = False


_OF_RUN: dict[str, tuple[Column, Callable[[Run], Any]]] = {
    column.name: (column, read)
    for column, read in (
        (Column("run_id", TEXT, "the run", always=True), lambda run: run.run_id),
        (Column("host", TEXT, "the host's name", always=True), lambda run: run.host),
        (Column("matrix", TEXT, "the matrix", always=True), lambda run: run.matrix_name),
        (
            Column("plan_sha256", TEXT, "trials of equal plans belong together", always=True),
            lambda run: run.plan_sha256,
        ),
        (
            Column("provenance", TEXT, "measured, imported or synthetic", always=True),
            lambda run: run.provenance,
        ),
        (
            Column("uplab_version", TEXT, "the uplab that made the run", always=True),
            lambda run: run.uplab_version,
        ),
    )
}

_OF_TRIAL = (
    Column("trial", TEXT, "the trial's directory", always=True),
    Column("number", WHOLE, "its number in the run, from 1", always=True),
    Column("block", WHOLE, "the block that it belongs to, from 1", always=True),
    Column("attempt", WHOLE, "1, or more where its block was measured again", always=True),
    Column("position", WHOLE, "its place in the block's order"),
    Column("valid", TRUTH, "whether all evidence was seen", always=True),
    Column("cell", TEXT, "the cell's id", always=True),
    Column("server", TEXT, "the server under test", always=True),
    Column("mode", TEXT, "how it was traced", always=True),
    Column("tracer", TEXT, "by which tracer"),
    Column("body_bytes", WHOLE, "the answer's body, in bytes", always=True),
    Column("load", TEXT, "the load generator", always=True),
    Column("loader", TEXT, "how probes came into userspace"),
    Column("placement", TEXT, "where the cell places its sites"),
    Column("runtime_options", TEXT, "unusual options of the userspace runtime"),
    Column("sites_in_userspace", TEXT, "names of the sites seen in userspace"),
    Column("sites_in_kernel", TEXT, "names of the sites seen in the kernel"),
    Column("evidence", TEXT, "the grade of the evidence for the mode"),
    Column("started_utc", TEXT, "when the trial began, by the host's clock"),
    Column("wall_s", NUMBER, "the whole trial, in seconds"),
    Column("requests", WHOLE, "requests completed while it was measured"),
    Column("elapsed_s", NUMBER, "how long it was measured, in seconds"),
    Column("requests_per_s", NUMBER, "requests per second"),
    Column("asked_requests_per_s", NUMBER, "the rate that an open loop asks for"),
    Column("transfer_bytes_per_s", NUMBER, "bytes read per second"),
    Column("latency_p50_us", NUMBER, "median latency, in microseconds"),
    Column("latency_p90_us", NUMBER, "90th percentile, in microseconds"),
    Column("latency_p99_us", NUMBER, "99th percentile, in microseconds"),
    Column("server_cpu_us_per_request", NUMBER, "CPU of the server, in us per request"),
    Column("server_cpu_s", NUMBER, "CPU of the server, in seconds"),
    Column("tracer_cpu_s", NUMBER, "CPU of the tracer, in seconds"),
    Column("steal_pct", NUMBER, "CPU time that the hypervisor took, in percent"),
    Column("foreign_pct", NUMBER, "CPU time of programs not ours, in percent"),
    Column("hits_per_request", NUMBER, "probe hits per request, over all sites"),
    Column("events_emitted", WHOLE, "events that the tracer's programs emitted"),
    Column("events_received", WHOLE, "events that the tracer received"),
    Column("events_lost", WHOLE, "events that were lost"),
    Column("reasons", TEXT, "why the trial is invalid"),
    Column("flags", TEXT, "what disturbed it"),
    Column("counted", TRUTH, "whether it counts in the report", always=True),
    Column("sequential", TEXT, "of --until-ci: how well the overhead was to be known"),
)

COLUMNS = (*(column for column, _ in _OF_RUN.values()), *_OF_TRIAL)


def records(report: Report) -> Iterator[dict[str, Any]]:
    """The trials of a run, in the order of their numbers, each with every column of COLUMNS."""
    of_run = {name: read(report.run) for name, (_, read) in _OF_RUN.items()}
    for trial in report.run.trials:
        values = of_run | _values(trial, report)
        yield {column.name: _typed(values[column.name], column.kind) for column in COLUMNS}


def _values(trial: Trial, report: Report) -> dict[str, Any]:
    figures = {name: read(trial) for name, read in trials_csv.FIELDS.items()}
    return figures | {
        "valid": trial.valid,
        "counted": trial.name in report.analysis.counted,
        "sequential": trials_csv.stopping(trial, report.run),
    }


def _typed(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == TEXT:
        return text.plain(str(value), _LONGEST)
    return float(value) if kind == NUMBER else value


def json_schema() -> dict[str, Any]:
    """The JSON Schema of one record (published in ``docs/reference/schemas``)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA_ID,
        "description": "One trial of a run, as a line of `report.export --format jsonl`.",
        "type": "object",
        "properties": {column.name: _property(column) for column in COLUMNS},
        "required": [column.name for column in COLUMNS],
        "additionalProperties": False,
    }


def _property(column: Column) -> dict[str, Any]:
    kind = _JSON_TYPES[column.kind]
    return {
        "description": column.meaning,
        "type": kind if column.always else [kind, "null"],
    }
