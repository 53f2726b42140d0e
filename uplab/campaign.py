"""A benchmark from the command to the report: provision, plan, run, collect."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uplab import collect, matrix, plan, provision
from uplab.errors import HostError, InvalidError, UplabError, UsageError
from uplab.hostside import goprograms
from uplab.hostside.doctor import AVAILABLE
from uplab.hostside.order import block_order
from uplab.hostside.spec import Plan
from uplab.matrix import Experiment
from uplab.plan import JudgedCell
from uplab.progress import Progress
from uplab.remote import Host, exit_code

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
    results: Path = Path("results")


def experiment(request: Request) -> Experiment:
    """The matrix of a request, checked and expanded; UsageError names what is wrong in it."""
    return matrix.load(request.matrix, request.project, request.settings, request.only)


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
    made, judged = plan.make(experiment, request.host, answer, datetime.now(UTC))
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
        KeyboardInterrupt: interrupted; the finished trials are in the run directory.
    """
    parsed = experiment(request)
    host = provision.connect(request.project, request.host, parsed.registry)
    provision.require_local(host)
    if request.setup and not provision.is_current(request.project, request.host):
        print(f"Setting up host {request.host} (its parts are new or have changed)")
        provision.converge(request.project, [request.host])
    made, judged = make_plan(request, parsed, host)
    print(describe(made, judged))
    if not made.cells:
        raise InvalidError(f"no cell of matrix {parsed.matrix.name} can run on {request.host}")
    report = _measure(request, host, made)
    _conclude(report, judged, request.strict)
    return report.run.path


def preview(request: Request) -> str:
    """What a run would do: its cells, their order block by block, its duration."""
    parsed = experiment(request)
    host = provision.connect(request.project, request.host, parsed.registry)
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
        f"about {_duration(plan.duration_s(made))}, seed {made.seed}"
    )
    lines = [headline]
    width = max(len(entry.cell.id) for entry in judged)
    for entry in judged:
        status = entry.status if entry.reason is None else f"{entry.status}: {entry.reason}"
        lines.append(f"  {entry.cell.id:<{width}}  {status}")
    baselines = {(c.server, c.body_bytes) for c in made.cells if c.mode == "none"}
    lacking = sorted({c.server for c in made.cells if (c.server, c.body_bytes) not in baselines})
    if lacking:
        lines.append(f"  no cell `none` for {', '.join(lacking)}: overheads cannot be paired")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _measure(request: Request, host: Host, made: Plan) -> Report:
    """Run the plan, follow it, bring the run here and write its reports."""
    # Here, because a plan alone needs none of what they compute with.
    from uplab import results
    from uplab.report import model, write

    running = host.start(asdict(made))
    interrupted = False
    with Progress(made) as progress:
        events = running.events()
        while True:
            try:
                for event in events:
                    progress.show(event)
                break
            except KeyboardInterrupt:
                interrupted = True
                running.interrupt()
    code, said = running.finish()
    reason = said.splitlines()[-1] if said else f"hostside ended with {code}"
    try:
        data = host.export(made.run_id)
    except UplabError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise UplabError(f"host {host.name}: {reason}", exit_code=exit_code(code)) from None
    run_dir = collect.receive(data, request.project / request.results, made.run_id)
    host.forget(made.run_id)
    report = model.build(results.load(run_dir))
    write.write_files(report)
    if interrupted or code == 130:
        print(f"interrupted; the finished trials are in {run_dir}")
        raise KeyboardInterrupt
    if code != 0:
        raise HostError(f"host {host.name}: {reason}; the finished trials are in {run_dir}")
    return report


def _conclude(report: Report, judged: list[JudgedCell], strict: bool) -> None:
    """Show the report's table and raise InvalidError where a cell has no valid trial."""
    from uplab.report import terminal

    run_dir = report.run.path
    terminal.show_report(report)
    print(f"\nreport: {run_dir / 'report' / 'report.md'}")
    measured = {trial.cell.cell_id for trial in report.run.trials if trial.valid}
    wanted = [e.cell.id for e in judged if strict or e.status == AVAILABLE]
    lacking = [cell_id for cell_id in wanted if cell_id not in measured]
    if lacking:
        raise InvalidError(
            f"no valid trial of {', '.join(lacking)}. Run: invoke report.show {run_dir}"
        )
