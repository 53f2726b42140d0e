"""The tasks of the namespace ``bench``: planning and running measurements."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context

from uplab.cli.common import PROJECT_ROOT, command
from uplab.cli.hosts import HOST_FLAGS, INVENTORY, chosen_inventory

ns = Collection("bench")

_MATRIX_FLAGS = {
    **HOST_FLAGS,
    "matrix": "name of a matrix in matrices/, or the path of a file",
    "set": "change a field of the matrix, such as load.duration_s=30 (seconds) or blocks=3",
    "only": "cells to keep, such as server=https,mode=none,mode=kernel-uprobe; default: all",
    "touch_others": "measure also where a tracer alters other programs of the host",
    "load_from": "host in the inventory that drives the load; default: the measured host itself",
}
_HOSTS = "names of hosts or groups in the inventory, separated by commas"
_UNTIL_FLAGS = {
    "until_ci": (
        "add blocks until half of the 95 % interval of every paired overhead is at most so many "
        "percentage points, such as 2pp; default: no blocks are added"
    ),
    "max_blocks": "with --until-ci: how many blocks the run may get in all; default: 100 blocks",
    "max_minutes": "with --until-ci: minutes after which no blocks are added; default: no limit",
}
_AWAY_FLAGS = {
    "away_minutes": (
        "how many minutes a host may be away before it is left to itself, where its run goes on; "
        "default: 30 minutes"
    ),
}
_GATE_FLAGS = {
    "gate": "limit that the run must keep, such as 'overhead<=5%' (docs/reference/gates.md)",
    "undecided": "what an undecided gate counts as: fail or pass; default: exit code 5",
    "junit": "file for the gates as JUnit's XML; default: none",
    "summary": "file for gates and answers as Markdown, for a CI page; default: none",
    "time_budget": "as many blocks as fit into a time such as 15m; default: those of the matrix",
    "wait": "how long to wait for a busy host, such as 30m; default: not at all",
}
_PLACE_FLAGS = {
    **HOST_FLAGS,
    "results": "folder that run directories are written to",
}


@command(
    ns,
    name="all",
    flags={
        **_MATRIX_FLAGS,
        "host": _HOSTS,
        "strict": "fail (exit code 3) also when a cell is not available on the host",
        "tune": "set governor, turbo, ASLR and the like for the run, and put them back after it",
        "setup": "set the host up first where its parts are missing or have changed",
        "detach": "start the run and leave it to itself; bench.follow comes back to it",
        **_UNTIL_FLAGS,
        **_AWAY_FLAGS,
        **_GATE_FLAGS,
        "results": "folder that run directories are written to",
    },
    iterable=("set", "gate"),
)
def all_(
    c: Context,
    set: list[str],
    gate: list[str],
    host: str = "local",
    matrix: str = "seed",
    only: str | None = None,
    touch_others: bool = False,
    load_from: str | None = None,
    strict: bool = False,
    tune: bool = False,
    setup: bool = True,
    detach: bool = False,
    until_ci: str | None = None,
    max_blocks: int | None = None,
    max_minutes: float | None = None,
    away_minutes: float | None = None,
    undecided: str | None = None,
    junit: str | None = None,
    summary: str | None = None,
    time_budget: str | None = None,
    wait: str | None = None,
    results: str = "results",
    inventory: str | None = None,
) -> None:
    """Set a host up if needed, measure a matrix, and report.

    The run lives on its host: a lost connection or a closed terminal does not end it, Ctrl-C does.
    """
    from uplab import budget, campaign, durations, judging, untilci
    from uplab import inventory as hosts
    from uplab.detached import patience

    request = campaign.Request(
        project=PROJECT_ROOT,
        host=host,
        matrix=matrix,
        settings=tuple(set),
        only=only,
        strict=strict,
        tune=tune,
        setup=setup,
        touch_others=touch_others,
        load_from=load_from,
        results=Path(results),
        chosen=chosen_inventory(inventory),
        until=untilci.read(until_ci, max_blocks, max_minutes, detach=detach),
        patience_s=patience(away_minutes),
        wait_s=durations.read("--wait", wait),
        budget_s=budget.read(time_budget, set, until=until_ci is not None, detach=detach),
        judged=judging.read(gate, undecided, junit, summary),
    )
    names = hosts.select(PROJECT_ROOT, host, request.chosen)
    judging.require_one_run(request.judged, len(names), detach=detach)
    if len(names) > 1:
        campaign.require_one_host(request, names)
        # Here, because one host needs no table.
        from uplab import fleet

        fleet.run(request, names, detach=detach)
    elif detach:
        campaign.leave(replace(request, host=names[0]))
    else:
        campaign.run(replace(request, host=names[0]))


@command(
    ns,
    flags={
        **_PLACE_FLAGS,
        "run": "name of a run; default: the one that goes on",
        **_AWAY_FLAGS,
    },
)
def follow(
    c: Context,
    host: str = "local",
    run: str | None = None,
    away_minutes: float | None = None,
    results: str = "results",
    inventory: str | None = None,
) -> None:
    """Come back to a run: show it, collect it, make the report."""
    from uplab import campaign, comeback
    from uplab.detached import patience

    place = comeback.Place(PROJECT_ROOT, host, Path(results), chosen_inventory(inventory))
    campaign.conclude(comeback.follow(place, run, patience(away_minutes)))


@command(ns, flags={"host": _HOSTS, "json": "print JSON", **INVENTORY})
def status(
    c: Context, host: str = "local", json: bool = False, inventory: str | None = None
) -> None:
    """Show the runs on a host, going on or not yet collected."""
    from uplab import comeback

    chosen = chosen_inventory(inventory)
    print(comeback.status(PROJECT_ROOT, host, as_json=json, chosen=chosen))


@command(
    ns,
    flags={**HOST_FLAGS, "run": "name of a run; default: the one that goes on"},
)
def stop(
    c: Context, host: str = "local", run: str | None = None, inventory: str | None = None
) -> None:
    """Stop a run; its finished trials are kept."""
    from uplab import comeback

    place = comeback.Place(PROJECT_ROOT, host, chosen=chosen_inventory(inventory))
    print(comeback.stop(place, run))


@command(ns, flags={**_PLACE_FLAGS, "run": "name of a run; default: all that have ended"})
def collect(
    c: Context,
    host: str = "local",
    run: str | None = None,
    results: str = "results",
    inventory: str | None = None,
) -> None:
    """Bring runs that have ended here; go on where one broke."""
    from uplab import comeback

    place = comeback.Place(PROJECT_ROOT, host, Path(results), chosen_inventory(inventory))
    found = comeback.collect(place, run)
    print("\n".join(f"collected: {path}" for path in found) or f"{host}: nothing to collect")


@command(
    ns,
    flags={
        "run": "run directory, or name of a run in the folder of results",
        "more_blocks": "blocks to add to those that were planned",
        **_UNTIL_FLAGS,
        **_AWAY_FLAGS,
        "results": "folder that run directories are in",
        **INVENTORY,
    },
)
def resume(
    c: Context,
    run: str,
    more_blocks: int = 0,
    until_ci: str | None = None,
    max_blocks: int | None = None,
    max_minutes: float | None = None,
    away_minutes: float | None = None,
    results: str = "results",
    inventory: str | None = None,
) -> None:
    """Measure what a run lacks, under the same plan."""
    from uplab import campaign, untilci
    from uplab import resume as taking_up
    from uplab.detached import patience

    chosen = chosen_inventory(inventory)
    until = untilci.read(until_ci, max_blocks, max_minutes)
    waits_s = patience(away_minutes)
    request = taking_up.Request(
        PROJECT_ROOT, run, more_blocks, Path(results), chosen, until, waits_s
    )
    report = taking_up.resume(request)
    if report is not None:
        campaign.conclude(report)


@command(ns, flags=_MATRIX_FLAGS, iterable=("set",))
def plan(
    c: Context,
    set: list[str],
    host: str = "local",
    matrix: str = "seed",
    only: str | None = None,
    touch_others: bool = False,
    load_from: str | None = None,
    inventory: str | None = None,
) -> None:
    """Show cells, order, duration, what cannot run; no changes."""
    from uplab import campaign

    request = campaign.Request(
        PROJECT_ROOT,
        host,
        matrix,
        tuple(set),
        only,
        touch_others=touch_others,
        load_from=load_from,
        chosen=chosen_inventory(inventory),
    )
    print(campaign.preview(request))


@command(
    ns,
    flags={
        "adapter": "the adapter to certify, as KIND/NAME, such as tracer/NAME",
        **HOST_FLAGS,
        "server": "server to certify it with; default: the first that fits",
        "adapters": "further folder with servers/, tracers/, loads/; default: none",
    },
)
def certify(
    c: Context,
    adapter: str,
    host: str = "local",
    server: str | None = None,
    adapters: str | None = None,
    inventory: str | None = None,
) -> None:
    """Walk an adapter through its life; name what step fails."""
    from uplab import certify as certification

    chosen = chosen_inventory(inventory)
    print(certification.certify(PROJECT_ROOT, adapter, host, server, adapters, chosen))


@command(
    ns,
    name="self",
    flags={"only": "benchmarks to run, by name and separated by commas; default: all"},
)
def self_(c: Context, only: str | None = None) -> None:
    """Measure uplab's own speed."""
    from uplab import selfbench

    selfbench.run(PROJECT_ROOT, tuple(only.split(",")) if only else ())
