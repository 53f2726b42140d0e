"""Come back to runs that went on by themselves: see, follow, stop and collect them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uplab import adapters, arrival, attend, inventory, provision
from uplab.checkup import clean
from uplab.detached import PATIENCE_S, DetachedRun, patiently
from uplab.errors import HostError, UsageError
from uplab.hostside.decode import build
from uplab.hostside.export import is_run_id
from uplab.hostside.spec import Plan
from uplab.remote import Host
from uplab.view import Screen

if TYPE_CHECKING:
    from uplab.report.model import Report

_RUNNING = "running"


@dataclass(frozen=True)
class Place:
    """Where runs are looked for, and where they are brought.

    Args:
        project: the checkout.
        host: its name in the inventory.
        results: the folder that run directories are brought to.
        chosen: an inventory of somebody's own instead of uplab's.
    """

    project: Path
    host: str
    results: Path = Path("results")
    chosen: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder of all runs here."""
        return self.project / self.results

    def connect(self) -> Host:
        """The host, ready to be asked; errors as of ``provision.connect``."""
        registry = adapters.load([self.project])
        return provision.connect(self.project, self.host, registry, self.chosen)


def listed(host: Host) -> list[dict[str, Any]]:
    """The runs on a host, oldest first; see ``hostside.runs.listed``.

    Raises:
        HostError: it cannot be reached, or names something that is no run.
    """
    runs = host.ask("runs", {})["runs"]
    found = [run for run in runs if isinstance(run, dict) and isinstance(run.get("run_id"), str)]
    for run in found:
        arrival.require_run_id(host, run["run_id"])
    return found


def as_text(host: str, runs: list[dict[str, Any]], chosen: Path | None = None) -> str:
    """A line for each run, and what to do next."""
    if not runs:
        return f"{host}: no runs"
    lines = [
        clean(
            f"{host}: {run['run_id']}  {run.get('state')}, "
            f"{run.get('trials')} of {run.get('trials_planned') or '?'} trials, "
            f"{int(run.get('size_bytes') or 0) / 1e6:.1f} MB"
        )
        for run in runs
    ]
    going = any(run.get("state") == _RUNNING for run in runs)
    ended = any(run.get("state") != _RUNNING for run in runs)
    named = inventory.flags(host, chosen)
    if going:
        lines.append(f"Run: invoke bench.follow {named}")
    if ended:
        lines.append(f"Run: invoke bench.collect {named}")
    return "\n".join(lines)


def status(project: Path, hosts: str, *, as_json: bool, chosen: Path | None = None) -> str:
    """The runs on some hosts.

    Args:
        project: the checkout.
        hosts: names of hosts and groups, separated by commas.
        as_json: for a program instead of a person.
        chosen: an inventory of somebody's own instead of uplab's.

    Raises:
        HostError: one of them cannot be reached; those that can are told first.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    missing: list[HostError] = []
    for name in inventory.select(project, hosts, chosen):
        try:
            found[name] = listed(Place(project, name, chosen=chosen).connect())
        except HostError as error:
            missing.append(error)
    if as_json:
        text = json.dumps({"schema": 1, "hosts": found}, indent=1)
    else:
        text = "\n".join(as_text(name, runs, chosen) for name, runs in found.items())
    if missing:
        print(text)
        raise HostError("; ".join(error.message for error in missing))
    return text


def follow(place: Place, run_id: str | None, patience_s: float = PATIENCE_S) -> Report:
    """Follow a run from its beginning to its end, bring it here and write its reports.

    Args:
        place: where.
        run_id: its name; None is the one that goes on, or the last one that is there.
        patience_s: how long the host may be away before it is left to itself.

    Raises:
        UsageError: there is none.
        as ``attend.to_the_end``.
    """
    host = place.connect()
    found = host.ask("describe", {"run_id": run_id or _going(host) or _last(host)})
    made = build(Plan, found["plan"])
    view = Screen(patience_s)
    running = DetachedRun(host, str(found["run_id"]), view.say)
    with host.held():
        return attend.to_the_end(running, made, place.folder, view)


def stop(place: Place, run_id: str | None) -> str:
    """Stop a run, or all that goes on; what is finished stays; out: what was done.

    Raises:
        UsageError: no such run.
        HostError: the host cannot be reached, or the run does not end.
    """
    host = place.connect()
    name = run_id or _going(host)
    if name is None:
        return f"{place.host}: no run goes on"
    done = patiently(lambda: host.ask("stop", {"run_id": name}), print)
    return (
        f"{place.host}: run {name}: {done.get('did')}; {done.get('trials')} finished trials. "
        f"Run: invoke bench.collect {inventory.flags(place.host, place.chosen)}"
    )


def collect(place: Place, run_id: str | None) -> list[Path]:
    """Bring the runs that have ended here and write their reports; out: their directories.

    A transfer that broke off before goes on where it broke. Nothing happens to what is here.

    Args:
        place: where.
        run_id: its name; None is all that have ended.

    Raises:
        UsageError: no such run, or it goes on.
        HostError: one cannot be brought; those before it are here.
    """
    host = place.connect()
    with host.held():
        return _collect(host, place, run_id)


def _collect(host: Host, place: Place, run_id: str | None) -> list[Path]:
    known = {run["run_id"]: run.get("state") for run in listed(host)}
    if run_id is None:
        wanted = [name for name, state in known.items() if state != _RUNNING]
    elif run_id in known:
        wanted = [run_id]
    elif is_run_id(run_id) and (place.folder / run_id).is_dir():
        return [place.folder / run_id]
    else:
        raise UsageError(f"no run {run_id} on host {place.host}{_names(known)}")
    brought = []
    for name in wanted:
        brought.append(arrival.bring(host, name, place.folder, print))
        attend.reported(brought[-1])
    return brought


def _names(known: dict[str, Any]) -> str:
    return f"; there are {', '.join(known)}" if known else "; there is none"


def _going(host: Host) -> str | None:
    """The run that goes on; None where none does."""
    return next((run["run_id"] for run in listed(host) if run.get("state") == _RUNNING), None)


def _last(host: Host) -> str:
    runs = listed(host)
    if not runs:
        named = inventory.flags(host.name, host.chosen)
        raise UsageError(f"no run on host {host.name}. Run: invoke bench.all {named}")
    return str(runs[-1]["run_id"])
