"""The runs that are on this host: what each one does, how to stop it, and what a crash left."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from uplab.hostside import lock, sums
from uplab.hostside.children import Ledger
from uplab.hostside.control import Control, boot_id
from uplab.hostside.errors import INTERRUPTED, OK, USAGE, HostError
from uplab.hostside.export import check_run_id, is_run_id, run_path
from uplab.hostside.leftovers import Leftovers
from uplab.hostside.rundir import PART_PREFIX, utc_now, write_json
from uplab.hostside.settings import Settings
from uplab.hostside.tuning_journal import journal_of

State = Literal["running", "finished", "interrupted", "failed", "lost"]

_STOP_TIMEOUT_S = 15.0
#: Before the name of a run that is being removed.
_GOING = f"{PART_PREFIX}gone-"
_OUTCOMES: dict[object, State] = {
    "complete": "finished",
    "interrupted": "interrupted",
    "failed": "failed",
}


def ended(control: Control) -> dict[str, Any] | None:
    """How a run ended, for who follows it; None while it runs."""
    # Before its end is looked for: a process that is gone has written it, if it ever does.
    alive = control.runs()
    end = control.exit()
    if end is not None:
        return {"event": "followed", "code": end.code, "said": end.said}
    return None if alive else {"event": "lost", "reason": _why_lost(control)}


def _why_lost(control: Control) -> str:
    process = control.process()
    if process is None:
        return "no process of it is known"
    if process.boot_id != boot_id():
        return "the host was restarted during the run"
    return f"the run's process (pid {process.pid}) is gone without a word: it was killed"


def state(run: Path) -> State:
    """What a run does; ``lost`` is one whose process was killed."""
    control = Control(run)
    if control.runs():
        return "running"
    end = control.exit()
    if end is not None:
        known: dict[int, State] = {OK: "finished", INTERRUPTED: "interrupted"}
        return known.get(end.code, "failed")
    return _OUTCOMES.get(_record(run).get("outcome"), "lost")


def _record(run: Path) -> dict[str, Any]:
    """run.json; empty where there is none yet."""
    try:
        found = json.loads((run / "run.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _trials(run: Path) -> list[str]:
    """The names of the finished trials."""
    with suppress(FileNotFoundError):
        return [name for name in os.listdir(run / "trials") if not name.startswith(PART_PREFIX)]
    return []


def listed(runs: Path) -> list[dict[str, Any]]:
    """All runs of this host, by name: state, trials, start, size in bytes."""
    found = []
    for run in sorted(runs.iterdir()) if runs.is_dir() else []:
        if is_run_id(run.name) and run.is_dir():
            record = _record(run)
            found.append(
                {
                    "run_id": run.name,
                    "state": state(run),
                    "trials": len(_trials(run)),
                    "trials_planned": record.get("trials_planned"),
                    "started_utc": record.get("started_utc"),
                    "size_bytes": sum(_sizes(run)),
                }
            )
    return found


def _sizes(run: Path) -> Iterator[int]:
    for name in sums.files(run):
        # A run that goes on renames its files.
        with suppress(FileNotFoundError):
            yield (run / name).stat().st_size


def described(runs: Path, run_id: str) -> dict[str, Any]:
    """What somebody needs who comes to a run later: ``run_id``, ``state``, ``plan``.

    Raises:
        HostError: no such run; or it was started by somebody who holds on to it.
    """
    run = run_path(runs, run_id)
    try:
        plan = json.loads(Control(run).plan.read_text())
    except FileNotFoundError:
        raise HostError(f"run {run_id} is not one that can be followed", USAGE) from None
    return {"run_id": run_id, "state": state(run), "plan": plan}


def stop(runs: Path, state_folder: Path, run_id: str) -> dict[str, Any]:
    """Let a run end by itself: it ends its processes and keeps the finished trials.

    Where it was killed, what it left is ended. Nothing happens to a run that has ended.

    Returns:
        ``run_id``, ``state``, ``did`` (in words), ``trials`` (that are finished).

    Raises:
        HostError: no such run; or it does not end.
    """
    run = run_path(runs, run_id)
    process = Control(run).process()
    did = "it had ended already"
    if process is not None and process.send(signal.SIGINT):
        did = "it was stopped"
        if not process.wait(_STOP_TIMEOUT_S):
            raise HostError(
                f"run {run_id} (pid {process.pid}) has not ended within {_STOP_TIMEOUT_S:g} s. "
                f"There, run: kill -KILL {process.pid}   (finished trials stay)"
            )
    if not run.exists():
        return {"run_id": run_id, "state": "finished", "did": f"{did}, and collected", "trials": 0}
    if state(run) == "lost":
        did = "it was killed before" + _clean(runs, state_folder, run_id)
        seal(run)
    return {"run_id": run_id, "state": state(run), "did": did, "trials": len(_trials(run))}


def _clean(runs: Path, state_folder: Path, run_id: str) -> str:
    """End what a killed run left, put back what it had tuned; out: what that was, in words.

    Raises:
        HostError: another run goes on; or a setting cannot be put back.
    """
    # Here, because the other commands are done before these modules are read.
    from uplab.hostside import tuning

    with lock.hold(state_folder, run_id):
        left = Ledger(state_folder / "children.json").end_leftovers()
        left += Leftovers(state_folder / "leftovers.json").remove_earlier()
        journal = journal_of(runs)
        restored = tuning.Tuning(Settings(), journal).restore()
    if restored.failed:
        raise HostError(tuning.said_failed(restored, journal))
    said = f"; removed what it left: {', '.join(left)}" if left else ""
    back = [f"{entry.path} to {entry.old}" for entry in restored.put_back]
    return said + (f"; put back {', '.join(back)}" if back else "")


def forget(runs: Path, run_id: str) -> None:
    """Remove a run that has arrived elsewhere; one that is gone already is no error.

    Raises:
        HostError: a name that is none.
    """
    run = runs / check_run_id(run_id)
    if not run.exists():
        return
    # First of all without its name: who stops a run meanwhile must not write into what goes.
    run.rename(run.with_name(f"{_GOING}{run_id}"))
    for going in runs.glob(f"{_GOING}*"):
        # Who forgets another run at this moment is at it, too; what stays goes with the next one.
        shutil.rmtree(going, ignore_errors=True)


def seal(run: Path) -> None:
    """Make a run that has ended whole: unfinished trials go, the record says its end, sums.

    Nothing is changed in a run that has its SHA256SUMS. A full disk may leave it without.

    Raises:
        HostError: it goes on.
    """
    if (run / sums.NAME).exists():
        return
    control = Control(run)
    if control.runs():
        raise HostError(f"run {run.name} goes on. Run: invoke bench.follow or bench.stop", USAGE)
    with suppress(FileNotFoundError):
        for name in os.listdir(run / "trials"):
            if name.startswith(PART_PREFIX):
                shutil.rmtree(run / "trials" / name)
    (run / f"{PART_PREFIX}reserve").unlink(missing_ok=True)
    record = _record(run)
    with suppress(OSError):
        if record.get("outcome") == "running":
            end = control.exit()
            error = end.said if end is not None and end.said else _why_lost(control)
            record |= {"outcome": "interrupted", "error": error, "ended_utc": utc_now()}
            write_json(run / "run.json", record)
        sums.write(run)


def running(state_folder: Path) -> str | None:
    """The name of the run that holds this host's lock; None where none does."""
    try:
        with lock.hold(state_folder, ""):
            return None
    except HostError:
        pass
    try:
        found = json.loads((state_folder / "lock").read_text())
    except (OSError, ValueError):
        return None
    name = found.get("run_id") if isinstance(found, dict) else None
    return name if isinstance(name, str) and is_run_id(name) else None
