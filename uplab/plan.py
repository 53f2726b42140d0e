"""From an experiment to a plan: which cells run here, in which order, how long it takes."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from uplab import __version__, declared
from uplab.hostside.doctor import AVAILABLE
from uplab.hostside.spec import SCHEMA, Adapters, Cell, Plan
from uplab.matrix import Experiment

#: What a trial costs beside its load, for the estimate alone: starting, attaching, stopping.
_ORCHESTRATION_S = 0.4


@dataclass(frozen=True)
class JudgedCell:
    """A cell and whether it can run on the host, with the reason when it cannot."""

    cell: Cell
    status: str
    reason: str | None


def draw_seed() -> int:
    """A seed for a run whose matrix names none."""
    return secrets.randbelow(1 << 31)


def adapters_of(experiment: Experiment) -> Adapters:
    """The adapters that the experiment's cells use."""
    return experiment.registry.subset(
        servers=(cell.server for cell in experiment.cells),
        tracers=(cell.tracer for cell in experiment.cells if cell.tracer),
        loads=(cell.load for cell in experiment.cells),
    )


def inspect_request(experiment: Experiment) -> dict[str, Any]:
    """What hostside is asked before a plan is made."""
    return {
        "adapters": asdict(adapters_of(experiment)),
        "cells": [asdict(cell) for cell in experiment.cells],
    }


def judge(experiment: Experiment, answer: Mapping[str, Any]) -> list[JudgedCell]:
    """The cells with what hostside said of them."""
    said = answer["cells"]
    return [JudgedCell(cell, *said[cell.id]) for cell in experiment.cells]


def plan_sha256(
    experiment: Experiment, cells: list[Cell], seed: int, artifacts: Mapping[str, str]
) -> str:
    """What must be equal for trials to belong together.

    Cells, adapters, limits, warm-up, seed and artifact digests are in it; the number of blocks is
    not, so that blocks can be added to a run.
    """
    matter = {
        "schema": SCHEMA,
        "cells": [asdict(cell) for cell in cells],
        "adapters": asdict(adapters_of(experiment)),
        "limits": asdict(experiment.matrix.limits),
        "warm_up_s": experiment.matrix.warm_up_s,
        "seed": seed,
        "artifacts": dict(artifacts),
        "files": _files_sha256(experiment),
    }
    canonical = json.dumps(matter, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _files_sha256(experiment: Experiment) -> dict[str, str]:
    """The digests of what travels to the host with the adapters: hooks, parsers, scripts."""
    used = adapters_of(experiment)
    names = {"servers": {*used.servers}, "tracers": {*used.tracers}, "loads": {*used.loads}}
    return {
        f"{kind}/{name}/{file}": hashlib.sha256(path.read_bytes()).hexdigest()
        for kind, name, file, path in experiment.registry.travelling()
        if name in names[kind]
    }


def make(
    experiment: Experiment, host: str, answer: Mapping[str, Any], now: datetime
) -> tuple[Plan, list[JudgedCell]]:
    """Make the plan of a run.

    Args:
        experiment: the matrix, expanded.
        host: its name in the inventory.
        answer: hostside's, to :func:`inspect_request`.
        now: in UTC; it names the run.

    Returns:
        the plan of the available cells, and all cells with their status.
    """
    judged = judge(experiment, answer)
    cells = [entry.cell for entry in judged if entry.status == AVAILABLE]
    matrix = experiment.matrix
    seed = matrix.seed if matrix.seed is not None else draw_seed()
    artifacts: dict[str, str] = dict(answer["artifacts"])
    used = adapters_of(experiment)
    header = {
        "host": host,
        "matrix": {
            "name": matrix.name,
            "source": experiment.source,
            "sha256": experiment.sha256,
            "content": experiment.content,
        },
        "uplab_version": __version__,
        "pins": answer["manifest"].get("pins", {}),
        "cells": [
            {**asdict(entry.cell), "status": entry.status, "reason": entry.reason}
            for entry in judged
        ],
        "loads": {name: {"loop": load.loop} for name, load in used.loads.items()},
        "declared": declared.of(used, experiment.cells),
    }
    plan = Plan(
        schema=SCHEMA,
        run_id=f"{now:%Y%m%dT%H%M%SZ}-{host}-{matrix.name}",
        seed=seed,
        blocks=matrix.blocks,
        warm_up_s=matrix.warm_up_s,
        plan_sha256=plan_sha256(experiment, cells, seed, artifacts),
        cells=tuple(cells),
        limits=matrix.limits,
        repeat=matrix.repeat,
        adapters=used,
        artifacts=artifacts,
        header=header,
    )
    return plan, judged


def trial_s(plan: Plan, cell: Cell) -> float:
    """How long one trial of a cell is expected to take."""
    return plan.warm_up_s + cell.load_parameters["duration_s"] + _ORCHESTRATION_S


def duration_s(plan: Plan) -> float:
    """How long the whole run is expected to take, if no block has to be measured again."""
    return plan.blocks * sum(trial_s(plan, cell) for cell in plan.cells)
