"""From an experiment to a plan: which cells run here, in which order, how long it takes."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from uplab import __version__, declared
from uplab.hostside.doctor import AVAILABLE
from uplab.hostside.spec import SCHEMA, Adapters, Cell, LoadFrom, Plan
from uplab.matrix import Experiment
from uplab.plain import plain

#: What a trial costs beside its load, for the estimate alone: starting, attaching, stopping.
_ORCHESTRATION_S = 0.4
#: What of a host's name can be in a run's.
_PLAIN = re.compile(r"[0-9A-Za-z._-]{1,100}")
_NOT_PLAIN = re.compile(r"[^0-9A-Za-z._-]+")
_HOST_LETTERS = 80
_DIGEST_LETTERS = 8


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
        "adapters": plain(adapters_of(experiment)),
        "cells": plain(experiment.cells),
    }


def judge(experiment: Experiment, answer: Mapping[str, Any]) -> list[JudgedCell]:
    """The cells with what hostside said of them."""
    said = answer["cells"]
    return [JudgedCell(cell, *said[cell.id]) for cell in experiment.cells]


def matter(
    experiment: Experiment,
    cells: list[Cell],
    seed: int,
    artifacts: Mapping[str, str],
    *,
    tune: bool = False,
    load_from: LoadFrom | None = None,
) -> dict[str, Any]:
    """What must be equal for trials to belong together, by part; a plan's digest is over it.

    Cells, adapters, limits, warm-up, seed, artifact digests, whether the host is tuned and which
    second machine loads it are in it; the number of blocks is not, so that blocks can be added to a
    run.
    """
    # Not its address, which may change; and no part of a run that needs none.
    far = {} if load_from is None else {"load_from": _identity(load_from)}
    return {
        **far,
        "schema": SCHEMA,
        "cells": plain(cells),
        "adapters": plain(adapters_of(experiment)),
        "limits": plain(experiment.matrix.limits),
        "warm_up_s": experiment.matrix.warm_up_s,
        "seed": seed,
        "artifacts": dict(artifacts),
        "tune": tune,
        "files": _files_sha256(experiment),
    }


def _identity(load_from: LoadFrom) -> dict[str, Any]:
    return {"name": load_from.name, "artifacts": load_from.artifacts}


def sha256(data: Any) -> str:
    """The digest of plain data, however its keys are ordered."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
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
    experiment: Experiment,
    host: str,
    answer: Mapping[str, Any],
    now: datetime,
    *,
    tune: bool = False,
) -> tuple[Plan, list[JudgedCell]]:
    """Make the plan of a run.

    Args:
        experiment: the matrix, expanded.
        host: its name in the inventory.
        answer: hostside's, to :func:`inspect_request`; with ``load_from``, a :class:`LoadFrom`,
            where the load is on a second machine.
        now: in UTC; it names the run.
        tune: whether the host's settings are tuned for the time of the run.

    Returns:
        the plan of the available cells, and all cells with their status.
    """
    judged = judge(experiment, answer)
    cells = [entry.cell for entry in judged if entry.status == AVAILABLE]
    matrix = experiment.matrix
    seed = matrix.seed if matrix.seed is not None else draw_seed()
    artifacts: dict[str, str] = dict(answer["artifacts"])
    used = adapters_of(experiment)
    load_from: LoadFrom | None = answer.get("load_from")
    same = matter(experiment, cells, seed, artifacts, tune=tune, load_from=load_from)
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
            {**plain(entry.cell), "status": entry.status, "reason": entry.reason}
            for entry in judged
        ],
        "loads": {name: {"loop": load.loop} for name, load in used.loads.items()},
        "declared": declared.of(used, experiment.cells),
        # Which of them is another, should the run be taken up again under another plan.
        "plan_parts": {name: sha256(part) for name, part in same.items()},
        "tune": tune,
    }
    plan = Plan(
        schema=SCHEMA,
        run_id=f"{now:%Y%m%dT%H%M%SZ}-{_in_a_name(host)}-{matrix.name}",
        seed=seed,
        blocks=matrix.blocks,
        warm_up_s=matrix.warm_up_s,
        plan_sha256=sha256(same),
        cells=tuple(cells),
        limits=matrix.limits,
        repeat=matrix.repeat,
        adapters=used,
        artifacts=artifacts,
        header=header,
        tune=tune,
        load_from=load_from,
    )
    return plan, judged


def _in_a_name(host: str) -> str:
    """A host's name as a part of a run's: it becomes a folder, and a systemd unit.

    One that cannot be used as it is gets a digest, so that no two hosts have the same.
    """
    if _PLAIN.fullmatch(host):
        return host
    digest = hashlib.sha256(host.encode(errors="surrogatepass")).hexdigest()[:_DIGEST_LETTERS]
    return f"{_NOT_PLAIN.sub('-', host)[:_HOST_LETTERS].strip('-.') or 'host'}-{digest}"


def trial_s(plan: Plan, cell: Cell) -> float:
    """How long one trial of a cell is expected to take."""
    return plan.warm_up_s + cell.load_parameters["duration_s"] + _ORCHESTRATION_S


def duration_s(plan: Plan) -> float:
    """How long the whole run is expected to take, if no block has to be measured again."""
    times = {cell.id: trial_s(plan, cell) for cell in plan.cells}
    skipped = sum(times.get(name.partition("/")[2], 0.0) for name in plan.earlier.skip)
    return plan.blocks * sum(times.values()) - skipped


def trials(plan: Plan) -> int:
    """How many trials are to be measured, if no block has to be measured again."""
    return len(plan.cells) * plan.blocks - len(plan.earlier.skip)
