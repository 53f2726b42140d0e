"""The preflight's check whether a run left the host tuned."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from uplab.hostside.system import Line, System
from uplab.hostside.tuning_journal import Entry, Left, Noted, journal_of, parse

_SHOWN = 5
_WANTED = "none"


def left_tuned(system: System, runs: Path, host: str) -> Iterator[Line]:
    """What the journal says while no run is under way: a run that goes on may be tuned.

    Args:
        system: of the host.
        runs: where runs are kept.
        host: its name in the inventory.
    """
    journal = journal_of(runs)
    mend = f"invoke lab.restore --host {shlex.quote(host)}"
    try:
        text = system.path(journal).read_text()
        noted = parse(text)
    except FileNotFoundError:
        noted = Noted()
    except OSError as error:
        yield Line("left-tuned", "warn", f"{journal}: {error.strerror}", _WANTED, "Become root")
        return
    except ValueError as error:
        seen = f"{journal} is damaged ({error})"
        yield Line("left-tuned", "fail", seen, _WANTED, f"{mend}   (says what to do)")
        return
    if noted.entries:
        seen = f"{_entries(noted.entries)}, by run {noted.run_id}"
        yield Line("left-tuned", "fail", seen, _WANTED, mend)
    elif noted.left:
        seen = f"changed by somebody else during run {noted.run_id}, so left: {_left(noted.left)}"
        look = f"Set it as you want it; then, there, run: rm {journal}"
        yield Line("left-tuned", "warn", seen, _WANTED, look)
    else:
        yield Line("left-tuned", "ok", "none", _WANTED)


def _entries(entries: tuple[Entry, ...]) -> str:
    return _some([f"{entry.path} {entry.new} (was {entry.old})" for entry in entries])


def _left(left: tuple[Left, ...]) -> str:
    return _some([f"{each.entry.path} {each.found} (was {each.entry.old})" for each in left])


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more
