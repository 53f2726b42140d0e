"""What `report.history` does: bring the store up to date, show it, write the page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from uplab.adapters import nearest
from uplab.errors import UsageError
from uplab.history import page, scan, shown
from uplab.history.shown import History
from uplab.history.store import Store
from uplab.report import terminal

#: Beside the runs, so that whoever copies them takes it along; it is derived and may be deleted.
STORE = ".history"


@dataclass(frozen=True, slots=True)
class Asked:
    """The folder of the runs; one host or all; where the page and the store go, None for there."""

    folder: Path
    host: str | None = None
    out: Path | None = None
    cache: Path | None = None
    fresh: bool = False


def read(asked: Asked) -> History:
    """The history that was asked for, from the store, which is brought up to date.

    Raises UsageError where there is no such folder or host.
    """
    store = Store(asked.cache or asked.folder / STORE)
    scanned = scan.update(asked.folder, store, fresh=asked.fresh)
    history = shown.build(scanned, store, asked.host)
    if asked.host is not None and not history.runs:
        hosts = shown.build(scanned, store).hosts
        raise UsageError(
            f"no run of host {asked.host!r} in {asked.folder}{nearest(asked.host, hosts)} "
            f"There are {', '.join(hosts) or 'none'}"
        )
    return history


def show(asked: Asked, *, as_json: bool = False) -> None:
    """Print the history and write its page, or print JSON.

    Raises what read() raises, and UsageError where something cannot be written.
    """
    history = read(asked)
    if as_json:
        print(json.dumps(shown.document(history), allow_nan=False))
        return
    path = page.write(history, asked.folder, asked.out or asked.folder / page.NAME)
    terminal.show_sections(shown.sections(history))
    print(f"\nhistory: {path}")
