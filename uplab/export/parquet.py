"""Trials as Parquet, written by DuckDB: typed columns, for a dataframe or a query over many runs.

The bytes depend on the trials and on the version of DuckDB in the lock file alone: one thread, one
size of row groups, no time of creation.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from uplab.export import jsonl
from uplab.export.records import COLUMNS, NUMBER, SCHEMA_ID, TEXT, TRUTH, WHOLE
from uplab.report.model import Report

_TYPES = {TEXT: "VARCHAR", WHOLE: "BIGINT", NUMBER: "DOUBLE", TRUTH: "BOOLEAN"}
_ROWS_IN_GROUP = 122_880
# Nothing is fetched while a report is made: what is needed, the wheel holds.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,
    "autoinstall_known_extensions": False,
}


def render(report: Report) -> bytes:
    """The trials, a row each; a figure that is missing is null."""
    import duckdb

    types = ", ".join(f"{column.name}: '{_TYPES[column.kind]}'" for column in COLUMNS)
    with tempfile.TemporaryDirectory() as folder:
        lines, out = Path(folder, "trials.jsonl"), Path(folder, "trials.parquet")
        # DuckDB reads its own rows 100 times slower, one by one.
        lines.write_bytes(jsonl.render(report))
        with duckdb.connect(":memory:", config=_CONFIG) as connection:
            connection.execute(
                f"COPY (SELECT * FROM read_json({_quoted(lines)}, "
                f"format = 'newline_delimited', columns = {{{types}}})) "
                f"TO {_quoted(out)} (FORMAT parquet, COMPRESSION zstd, "
                f"ROW_GROUP_SIZE {_ROWS_IN_GROUP}, KV_METADATA {{uplab: '{SCHEMA_ID}'}})"
            )
        return out.read_bytes()


def _quoted(path: Path) -> str:
    """A text of SQL: TMPDIR may hold a quote."""
    return "'" + str(path).replace("'", "''") + "'"
