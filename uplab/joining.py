"""Join a part of a run that was measured later to the run: every step may be done again.

Trials come first, the checksums over everything last, so that a run that was being joined when the
power went does not match its SHA256SUMS until it is joined again.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from uplab.errors import HostError
from uplab.hostside import sums
from uplab.hostside.rundir import PART_PREFIX, write_json

#: What a run.json says of one part of its run.
_OF_A_PART = ("started_utc", "ended_utc", "outcome", "error", "boot_id", "hit_cost")


def join(part: Path, final: Path) -> None:
    """Move everything of a part into its run, and remove the part.

    Args:
        part: a run directory with the trials of one part.
        final: the run.

    Raises:
        HostError: they do not belong together; nothing was changed.
    """
    record, later = _record(final), _record(part)
    _check(record, later, part, final)
    for trial in sorted((part / "trials").iterdir()):
        _take_trial(trial, final / "trials" / trial.name)
    _take_events(part, final)
    host, later_host = _json(final / "host.json"), _json(part / "host.json")
    write_json(
        final / "host.json", {"before": host.get("before"), "after": later_host.get("after")}
    )
    write_json(final / "run.json", _joined(record, later))
    sums.write(final)
    os.sync()
    shutil.rmtree(part)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise HostError(f"{path} is damaged ({error})") from error
    return found if isinstance(found, dict) else {}


def _record(run: Path) -> dict[str, Any]:
    return _json(run / "run.json")


def _check(record: dict[str, Any], later: dict[str, Any], part: Path, final: Path) -> None:
    for name in ("run_id", "plan_sha256"):
        if record.get(name) != later.get(name):
            raise HostError(
                f"{final} is here already, and {part}, which its host has under the same name, "
                f"has another {name}. Move one of them away"
            )


def _take_trial(trial: Path, into: Path) -> None:
    """Give a trial its place, whole or not at all; one that is there came before."""
    if into.exists():
        return
    aside = into.with_name(f"{PART_PREFIX}{into.name}")
    if aside.exists():
        shutil.rmtree(aside)
    shutil.copytree(trial, aside, copy_function=os.link)
    aside.rename(into)


def _take_events(part: Path, final: Path) -> None:
    """The later events after the earlier ones; once, however often."""
    later = _bytes(part / "events.jsonl")
    events = _bytes(final / "events.jsonl")
    if later and not events.endswith(later):
        aside = final / f"{PART_PREFIX}events.jsonl"
        aside.write_bytes(events + later)
        aside.replace(final / "events.jsonl")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _joined(record: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """run.json of the whole: the later plan and outcome, the first start, every part by itself."""
    parts = list(record.get("parts") or [_summary(record)])
    if parts[-1] != _summary(later):
        parts.append(_summary(later))
    costs = record.get("hit_cost") or later.get("hit_cost") or []
    started = record.get("started_utc")
    return {**later, "started_utc": started, "hit_cost": costs, "parts": parts}


def _summary(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record.get(name) for name in _OF_A_PART}
