"""A benchmark from the command to the report: provision, plan, run, collect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uplab import attend, budget, judging, matrix, plan, provision, untilci
from uplab.detached import PATIENCE_S, DetachedRun
from uplab.errors import InvalidError, UsageError
from uplab.hostside import goprograms
from uplab.hostside.doctor import AVAILABLE
from uplab.hostside.order import block_order
from uplab.hostside.spec import Plan
from uplab.judging import Wanted
from uplab.matrix import Experiment
from uplab.plan import JudgedCell
from uplab.progress import duration_in_words
from uplab.remote import Host
from uplab.untilci import Until
from uplab.view import Screen, View
from uplab.waiting import Queue

if TYPE_CHECKING:
    from uplab.report.model import Report

_SHOWN_BLOCKS = 20


@dataclass(frozen=True)
class Request:
    """What the user asked for on the command line."""

    project: Path
    host: str = "local"
    matrix: str = "seed"
    settings: tuple[str, ...] = ()
    only: str | None = None
    strict: bool = False
    setup: bool = True
    touch_others: bool = False
    tune: bool = False
    #: A second machine that drives the load; None is the measured host itself.
    load_from: str | None = None
    results: Path = Path("results")
    #: An inventory of somebody's own instead of uplab's.
    chosen: Path | None = None
    #: How well overheads are to be known; None is with the blocks of the matrix.
    until: Until | None = None
    #: How long a host may be away before it is left to itself.
    patience_s: float = PATIENCE_S
    #: How long to wait for the host's lock, in all; None is not at all.
    wait_s: float | None = None
    #: How long to measure; None is with the blocks of the matrix.
    budget_s: float | None = None
    #: Limits on the figures, and the files that they are written to.
    judged: Wanted = field(default_factory=Wanted)


def require_one_host(request: Request, names: Sequence[str]) -> None:
    """Raise UsageError where one second machine would load several hosts at the same time."""
    if request.load_from is not None:
        raise UsageError(
            f"--load-from {request.load_from}: one machine loads one host at a time, and "
            f"--host names {', '.join(names)}. Run: invoke bench.all once for each of them"
        )


def experiment(request: Request) -> Experiment:
    """The matrix of a request, checked and expanded; UsageError names what is wrong in it."""
    settings = request.settings
    if request.until is not None:
        settings = untilci.first_settings(settings)
    found = matrix.load(request.matrix, request.project, settings, request.only)
    judging.check(request.judged, found.cells)
    return found


def make_plan(
    request: Request, experiment: Experiment, host: Host
) -> tuple[Plan, list[JudgedCell]]:
    """Ask the host what can run there and plan it.

    Raises:
        UsageError: a cell would alter other programs of the host than its server.
    """
    answer = _ask(plan.inspect_request(experiment), experiment, host)
    others = answer.get("touched")
    if others is not None and not request.touch_others:
        raise UsageError(f"host {request.host}: {goprograms.refusal(others)}")
    made, judged = plan.make(experiment, request.host, answer, datetime.now(UTC), tune=request.tune)
    header = {**made.header, "touch_others": request.touch_others, "touched": others}
    return replace(made, header=header), judged


def _ask(asked: dict[str, Any], experiment: Experiment, host: Host) -> dict[str, Any]:
    """What can run on the host; a tracer that has to be started to find out is named first."""
    tracers = plan.adapters_of(experiment).tracers.values()
    if not any(tracer.self_test for tracer in tracers):
        return host.inspect(asked)
    answer = host.inspect({**asked, "start_tracers": False})
    untested = answer.get("untested")
    if not untested:
        return answer
    most_s = sum(t.attached_timeout_s for t in tracers if t.name in untested)
    print(
        f"Starting {', '.join(untested)} on host {host.name} to see whether it can "
        f"(once until its next boot, at most {most_s:g} s)",
        flush=True,
    )
    return host.inspect(asked)


def run(request: Request) -> Path:
    """Do everything; out: the run directory, reports included.

    Raises:
        UsageError, HostError, GateError: nothing was measured.
        InvalidError: measured, but an available cell (``strict``: any cell) has no valid trial.
        GateError, Undecided: measured, and a gate failed, or is undecided.
        KeyboardInterrupt: interrupted; the finished trials are in the run directory.
    """
    parsed = experiment(request)
    host = _connect(request, parsed)
    queue = Queue(host, request.wait_s, Screen(request.patience_s))
    with host.held():
        _set_up(request, host, queue)
        report = measure(request, parsed, host, Screen(request.patience_s), queue)
    try:
        conclude(report, strict=request.strict)
        lacking = None
    except InvalidError as error:
        lacking = error
    judging.conclude(report, request.judged, lacking)
    return report.run.path


def leave(request: Request) -> DetachedRun:
    """Start a run and leave it to itself; errors as of :func:`run`, for what comes before it."""
    parsed = experiment(request)
    host = _connect(request, parsed)
    queue = Queue(host, request.wait_s, Screen())
    with host.held():
        _set_up(request, host, queue)
        running, _ = begin(request, parsed, host, Screen(), queue)
    print(f"run {running.run_id} goes on by itself. {running.way_back()}")
    return running


def _set_up(request: Request, host: Host, queue: Queue) -> None:
    """Set the host up where that was asked for and its parts are new, and what loads it."""
    project, chosen = request.project, request.chosen
    for name in (request.host, request.load_from):
        known = host if name == request.host else None
        if name is None or not request.setup:
            continue
        if not provision.is_current(project, name, chosen, known):
            # Not while another run measures with what is there.
            queue.until_free()
            print(f"Setting up host {name} (its parts are new or have changed)")
            provision.converge(project, [name], chosen=chosen)


def _connect(request: Request, parsed: Experiment) -> Host:
    """The host, together with the second machine that loads it where there is one."""
    project, chosen = request.project, request.chosen
    host = provision.connect(project, request.host, parsed.registry, chosen)
    if request.load_from is None:
        return host
    # Here, because most runs need none.
    from uplab import loadfrom

    return loadfrom.with_load_from(project, host, request.load_from, parsed.registry, chosen)


def begin(
    request: Request, parsed: Experiment, host: Host, view: View, queue: Queue | None = None
) -> tuple[DetachedRun, Plan]:
    """Plan a run on a host that is set up, and start it; errors as of :func:`run`."""
    queue = queue or Queue(host, request.wait_s, view)
    made = queue.planned(lambda: _planned(request, parsed, host, view))
    return queue.started(lambda: attend.start(host, made, view)), made


def _planned(request: Request, parsed: Experiment, host: Host, view: View) -> Plan:
    made, judged = make_plan(request, parsed, host)
    view.say(describe(made, judged))
    if not made.cells:
        raise InvalidError(f"no cell of matrix {parsed.matrix.name} can run on {request.host}")
    return made


def measure(
    request: Request, parsed: Experiment, host: Host, view: View, queue: Queue | None = None
) -> Report:
    """Plan, run, follow and collect on a host that is set up.

    Raises:
        as :func:`run`, but for the cells without a valid trial.
    """
    folder = request.project / request.results
    queue = queue or Queue(host, request.wait_s, view)
    if request.until is None and request.budget_s is None:
        running, made = begin(request, parsed, host, view, queue)
        return attend.to_the_end(running, made, folder, view)
    made = queue.planned(lambda: _planned(request, parsed, host, view))
    if request.until is not None:
        return untilci.measure(host, made, folder, view, request.until, queue=queue)
    return budget.measure(host, made, folder, view, request.budget_s or 0.0, queue)


def preview(request: Request) -> str:
    """What a run would do: its cells, their order block by block, its duration."""
    parsed = experiment(request)
    host = _connect(request, parsed)
    made, judged = make_plan(request, parsed, host)
    ids = [cell.id for cell in made.cells]
    lines = [describe(made, judged), "order:"]
    for block in range(1, min(made.blocks, _SHOWN_BLOCKS) + 1):
        lines.append(f"  block {block}: {', '.join(block_order(made.seed, block, ids))}")
    if made.blocks > _SHOWN_BLOCKS:
        lines.append(f"  ... and {made.blocks - _SHOWN_BLOCKS} more blocks")
    if parsed.matrix.seed is None:
        lines.append("  (the seed is drawn for each run; --set seed=N fixes it and the order)")
    return "\n".join(lines)


def describe(made: Plan, judged: list[JudgedCell]) -> str:
    """The cells, what cannot run and why, and the expected duration: what bench.plan prints."""
    available = [entry for entry in judged if entry.status == AVAILABLE]
    trials = len(available) * made.blocks
    headline = (
        f"matrix {made.header['matrix']['name']} on {made.header['host']}: "
        f"{len(available)} of {len(judged)} cells x {made.blocks} blocks = {trials} trials, "
        f"about {duration_in_words(plan.duration_s(made))}, seed {made.seed}"
    )
    lines = [headline]
    if made.load_from is not None:
        far = made.load_from
        lines.append(f"  load from host {far.name} to {far.server_address}, whose ports it reaches")
    width = max(len(entry.cell.id) for entry in judged)
    for entry in judged:
        status = entry.status if entry.reason is None else f"{entry.status}: {entry.reason}"
        lines.append(f"  {entry.cell.id:<{width}}  {status}")
    baselines = {(c.server, c.body_bytes) for c in made.cells if c.mode == "none"}
    lacking = sorted({c.server for c in made.cells if (c.server, c.body_bytes) not in baselines})
    if lacking:
        lines.append(f"  no cell `none` for {', '.join(lacking)}: overheads cannot be paired")
    return "\n".join(lines)


def conclude(report: Report, *, strict: bool = False) -> None:
    """Show the report's table and raise InvalidError where a cell has no valid trial."""
    from uplab.report import terminal

    run_dir = report.run.path
    terminal.show_report(report)
    print(f"\nreport: {run_dir / 'report' / 'report.html'}")
    measured = {trial.cell.cell_id for trial in report.run.trials if trial.valid}
    planned = [e.cell.cell_id for e in report.run.cells if strict or e.status == AVAILABLE]
    lacking = [cell_id for cell_id in planned if cell_id not in measured]
    if lacking:
        raise InvalidError(
            f"no valid trial of {', '.join(lacking)}. Run: invoke report.show {run_dir}"
        )
