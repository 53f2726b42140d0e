"""Take a run up again: what it lacks is measured, under the same plan or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uplab import (
    arrival,
    attend,
    comeback,
    inventory,
    loadfrom,
    matrix,
    plan,
    provision,
    relabel,
    results,
    untilci,
)
from uplab.detached import PATIENCE_S
from uplab.errors import UsageError
from uplab.fields import Fields
from uplab.hostside.doctor import AVAILABLE
from uplab.hostside.spec import Earlier, Plan
from uplab.matrix import Experiment
from uplab.measured import Run, Trial
from uplab.plan import JudgedCell
from uplab.remote import Host
from uplab.report.model import Report
from uplab.sequential import FIRST_LOOK
from uplab.untilci import Until
from uplab.view import Screen


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Args:
        project: the checkout.
        run: a run directory, or the name of a run in ``results``.
        more_blocks: how many blocks to add to what was planned.
        results: the folder of all runs.
        chosen: an inventory of somebody's own instead of uplab's.
        until: how well overheads are to be known; None is with the blocks that are asked for.
        patience_s: how long the host may be away before it is left to itself.
    """

    project: Path
    run: str
    more_blocks: int = 0
    results: Path = Path("results")
    chosen: Path | None = None
    until: Until | None = None
    patience_s: float = PATIENCE_S

    @property
    def run_dir(self) -> Path:
        """Where the run lies."""
        return Path(self.run) if "/" in self.run else self.project / self.results / self.run


def resume(request: Request) -> Report | None:
    """Measure what a run lacks and join it to the run; None where it lacks nothing.

    Raises:
        UsageError: no such run, or today's plan is another one: with what differs.
        as ``campaign.run``.
    """
    if request.more_blocks < 0:
        raise UsageError(f"--more-blocks {request.more_blocks}: at least 0")
    if request.until is not None and request.more_blocks:
        raise UsageError("--more-blocks and --until-ci exclude each other. See --max-blocks")
    _bring_what_is_left(request)
    run = results.load(request.run_dir)
    record = json.loads((run.path / "run.json").read_text())
    if request.until is not None:
        request = replace(request, more_blocks=max(FIRST_LOOK - run.blocks, 0))
    experiment = _experiment(request, run)
    host = _connect(request, record, experiment)
    made = _plan(run, record, experiment, host)
    if request.until is not None:
        with host.held():
            view = Screen(request.patience_s)
            return untilci.measure(host, made, run.path.parent, view, request.until, run)
    if not plan.trials(made):
        more = f"{run.run_id} --more-blocks 2{inventory.flag(request.chosen)}"
        print(f"{run.path} lacks nothing. Run: invoke bench.resume {more}")
        return None
    print(
        f"run {run.run_id} on {run.host}: {plan.trials(made)} trials are missing, "
        f"{len(made.earlier.skip)} are there"
    )
    view = Screen(request.patience_s)
    with host.held():
        running = attend.start(host, made, view)
        return attend.to_the_end(running, made, run.path.parent, view)


def _bring_what_is_left(request: Request) -> None:
    """A part of the run that its host still has is brought here first: its trials count."""
    run_dir = request.run_dir
    if not (run_dir / "run.json").is_file():
        raise UsageError(f"no run {run_dir}. Run: invoke bench.collect --host HOST")
    relabel.finish(run_dir)
    host_name = Fields.of_file(run_dir / "run.json", run_dir).text("host")
    host = comeback.Place(request.project, host_name, chosen=request.chosen).connect()
    states = {run["run_id"]: run.get("state") for run in comeback.listed(host)}
    if states.get(run_dir.name) == "running":
        named = inventory.flags(host_name, request.chosen)
        raise UsageError(f"run {run_dir.name} goes on. Run: invoke bench.follow {named}")
    if run_dir.name in states:
        arrival.bring(host, run_dir.name, run_dir.parent, print)


def _connect(request: Request, record: Mapping[str, Any], experiment: Experiment) -> Host:
    """The host of a run, with the second machine that loaded it where there was one."""
    project, chosen = request.project, request.chosen
    host = provision.connect(project, str(record["host"]), experiment.registry, chosen)
    if not record.get("load_from"):
        return host
    name = str(record["load_from"]["name"])
    return loadfrom.with_load_from(project, host, name, experiment.registry, chosen)


def _experiment(request: Request, run: Run) -> Experiment:
    ids = [planned.cell.cell_id for planned in run.cells]
    content = {**run.matrix, "seed": run.seed, "blocks": run.blocks + request.more_blocks}
    return matrix.restore(content, str(run.matrix_source), request.project, ids)


def _plan(run: Run, record: Mapping[str, Any], experiment: Experiment, host: Host) -> Plan:
    """The plan of what is missing.

    Raises:
        UsageError: it is not the plan of the run.
    """
    answer = host.inspect(plan.inspect_request(experiment))
    tune = bool(record.get("tune", False))
    made, judged = plan.make(experiment, run.host, answer, datetime.now(UTC), tune=tune)
    if made.plan_sha256 != run.plan_sha256:
        raise UsageError(
            f"run {run.run_id} cannot be taken up again, because its plan would be another one: "
            f"{_differences(record, made, judged)}. Run: invoke bench.all"
        )
    # Whether others may be altered was decided when the run was first started.
    allowed = {"touch_others": record.get("touch_others"), "touched": answer.get("touched")}
    # Once the figures have decided how many blocks there are, more blocks do not undo that.
    label = {"sequential": record["sequential"]} if record.get("sequential") else {}
    header = {**made.header, **allowed, **label}
    return replace(made, run_id=run.run_id, earlier=earlier(run), header=header)


def _differences(record: Mapping[str, Any], made: Plan, judged: Iterable[JudgedCell]) -> str:
    """What two plans do not have in common, in words."""
    before, now = record.get("plan_parts", {}), made.header["plan_parts"]
    parts = [name for name in now if before.get(name) != now[name]]
    words = []
    if "cells" in parts:
        planned = {cell["id"] for cell in record["cells"] if cell["status"] == AVAILABLE}
        words += [
            f"{entry.cell.id} is {entry.status} ({entry.reason})"
            for entry in judged
            if entry.cell.id in planned and entry.status != AVAILABLE
        ]
    if "artifacts" in parts:
        old, new = record.get("artifacts", {}), made.artifacts
        changed = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        words.append(f"other bytes in {', '.join(changed)}")
    words += [f"other {name.replace('_', ' ')}" for name in parts if name != "artifacts"]
    return "; ".join(words) or "it was made by another version of uplab"


def earlier(run: Run) -> Earlier:
    """What of a run need not be measured again.

    A block with an invalid trial is measured again as a whole, under a further attempt, because
    trials are compared within one pass over the cells; of a block that was cut off, only what it
    lacks.
    """
    wanted = {planned.cell.cell_id for planned in run.cells if planned.status == AVAILABLE}
    skip: list[str] = []
    attempts: dict[str, int] = {}
    for block in sorted({trial.block for trial in run.trials}):
        trials = [trial for trial in run.trials if trial.block == block]
        attempt, done = _of_block(trials, wanted)
        skip += [f"{block}/{cell_id}" for cell_id in sorted(done)]
        if attempt > 1:
            attempts[str(block)] = attempt
    highest = max((trial.number for trial in run.trials), default=0)
    return Earlier(highest, tuple(skip), attempts)


def _of_block(trials: list[Trial], wanted: set[str]) -> tuple[int, set[str]]:
    """The attempt that a block goes on with, and the cells that are done in it."""
    last = max(trial.attempt for trial in trials)
    for attempt in range(1, last + 1):
        valid = {t.cell.cell_id for t in trials if t.attempt == attempt and t.valid}
        if valid >= wanted:
            return attempt, wanted
    if all(trial.valid for trial in trials if trial.attempt == last):
        return last, {t.cell.cell_id for t in trials if t.attempt == last} & wanted
    return last + 1, set()
