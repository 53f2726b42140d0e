"""The rows of all runs in two Parquet files, `runs.parquet` and `cells.parquet`.

They are derived: whatever is wrong with them, they are made again from the run directories. A
number in their names says which form they have.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from uplab.errors import UsageError
from uplab.history import rows
from uplab.history.rows import CellRow, RunRow

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

#: Changes with the columns and with what they mean.
FORM = 1
_TABLES: Mapping[str, type[RunRow | CellRow]] = {"runs": RunRow, "cells": CellRow}
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,
    "autoinstall_known_extensions": False,
}


@dataclass(frozen=True, slots=True)
class Store:
    """Where the rows lie."""

    folder: Path

    def path(self, table: str) -> Path:
        """The file of a table: `runs` or `cells`."""
        return self.folder / f"{table}-{FORM}.parquet"

    def keys(self) -> set[str]:
        """The states of run directories that rows are kept of; none where the files are no good."""
        import duckdb

        try:
            with _connected() as connection:
                self._kept(connection, "cells")
                found = self._kept(connection, "runs").project("key").fetchall()
        except (duckdb.Error, OSError):
            return set()
        return {str(key) for (key,) in found}

    def keep(self, keys: Iterable[str], new: Sequence[tuple[RunRow, Sequence[CellRow]]]) -> None:
        """Keep the rows of these states and add new ones; all others are dropped.

        Raises UsageError where they cannot be written.
        """
        kept = sorted(keys)
        added: dict[str, list[RunRow | CellRow]] = {
            "runs": [run for run, _ in new],
            "cells": [cell for _, cells in new for cell in cells],
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Cells first: a run counts as kept by its row in `runs`.
            for table in ("cells", "runs"):
                self._write(table, kept, added[table])
        except OSError as error:
            raise UsageError(
                f"{self.folder} cannot be written: {error.strerror}. "
                "Run: invoke report.history --cache FOLDER"
            ) from error

    @contextmanager
    def connected(self) -> Iterator[DuckDBPyConnection]:
        """DuckDB with the views `runs` and `cells`."""
        with _connected() as connection:
            for table in _TABLES:
                self._kept(connection, table).create_view(table)
            yield connection

    def _kept(self, connection: DuckDBPyConnection, table: str) -> DuckDBPyRelation:
        found = connection.read_parquet(str(self.path(table)))
        if dict(zip(found.columns, map(str, found.types), strict=True)) != rows.columns(
            _TABLES[table]
        ):
            raise OSError(f"{self.path(table)} holds other columns")
        return found

    def _write(self, table: str, keys: Sequence[str], new: Sequence[RunRow | CellRow]) -> None:
        path, columns = self.path(table), rows.columns(_TABLES[table])
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".part-") as folder:
            lines, out = Path(folder, "new.jsonl"), Path(folder, "out.parquet")
            lines.write_text(
                "".join(f"{json.dumps(asdict(row))}\n" for row in new), encoding="utf-8"
            )
            with _connected() as connection:
                types = ", ".join(f"{name}: '{kind}'" for name, kind in columns.items())
                added = (
                    f"SELECT * FROM read_json({_quoted(lines)}, format = 'newline_delimited', "
                    f"columns = {{{types}}})"
                )
                connection.execute("CREATE TABLE kept (key VARCHAR)")
                if keys:
                    wanted = Path(folder, "keys.jsonl")
                    wanted.write_text("".join(f'{{"key": "{key}"}}\n' for key in keys))
                    connection.execute(
                        f"INSERT INTO kept SELECT key FROM read_json({_quoted(wanted)}, "
                        "format = 'newline_delimited', columns = {key: 'VARCHAR'})"
                    )
                    added += (
                        f" UNION ALL SELECT * FROM read_parquet({_quoted(path)})"
                        " WHERE key IN (SELECT key FROM kept)"
                    )
                order = "key, place" if table == "cells" else "started_utc, run"
                connection.execute(
                    f"COPY ({added} ORDER BY {order}) TO {_quoted(out)} "
                    f"(FORMAT parquet, COMPRESSION zstd)"
                )
            out.replace(path)


@contextmanager
def _connected() -> Iterator[DuckDBPyConnection]:
    import duckdb

    with duckdb.connect(":memory:", config=_CONFIG) as connection:
        yield connection


def _quoted(path: Path) -> str:
    """A text of SQL: the folder's name may hold a quote."""
    return "'" + str(path).replace("'", "''") + "'"
