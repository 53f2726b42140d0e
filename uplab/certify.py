"""Walk one adapter through its life for real; say which step failed and what to change."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uplab import adapters, arrival, detached, plan, provision
from uplab.adapters import Registry
from uplab.errors import GateError, UsageError
from uplab.hostside.doctor import AVAILABLE
from uplab.hostside.reasons import REASONS
from uplab.hostside.spec import UNTRACED_MODES, Cell
from uplab.matrix import Experiment, Matrix, expand

_DURATION_S = 1
_WARM_UP_S = 1


@dataclass(frozen=True)
class Verdict:
    """What came out for one cell."""

    cell_id: str
    steps: tuple[dict[str, Any], ...]
    reasons: tuple[dict[str, str], ...]
    unavailable: str | None = None


def certify(
    project: Path,
    adapter: str,
    host: str,
    server: str | None,
    folder: str | None,
    chosen: Path | None = None,
) -> str:
    """Run every mode that an adapter takes part in, once and shortly.

    Args:
        project: the checkout.
        adapter: ``KIND/NAME``.
        host: where.
        server: to certify it with; None takes the first that fits.
        folder: a further folder of adapters.
        chosen: an inventory of somebody's own instead of uplab's.

    Returns:
        the steps of each mode with their durations, and what passed.

    Raises:
        UsageError: no such adapter or server.
        GateError: a step failed, or nothing could run; the message holds the whole account.
    """
    roots = [project, *([Path(folder).resolve()] if folder else [])]
    registry = adapters.load(roots)
    kind, name = _parse(adapter, registry)
    experiment = _experiment(registry, kind, name, server)
    connection = provision.connect(project, host, registry, chosen)
    answer = connection.inspect(plan.inspect_request(experiment))
    made, judged = plan.make(experiment, host, answer, datetime.now(UTC))
    verdicts = [
        Verdict(e.cell.id, (), (), f"{e.status}: {e.reason}")
        for e in judged
        if e.status != AVAILABLE
    ]
    if made.cells:
        running = detached.start(connection, asdict(made), print)
        end = running.follow(lambda _event: None)
        with tempfile.TemporaryDirectory() as scratch:
            run_dir = arrival.bring(connection, made.run_id, Path(scratch), print)
            if end.code != 0:
                raise GateError(f"{adapter} on host {host}: {end.said}")
            verdicts += [_verdict(path) for path in sorted(run_dir.glob("trials/*/trial.json"))]
    account = "\n".join(_account(verdict) for verdict in verdicts)
    failed = [verdict for verdict in verdicts if verdict.reasons]
    if failed or all(verdict.unavailable for verdict in verdicts):
        raise GateError(f"{adapter} is not certified on {host}\n{account}")
    return f"{account}\n{adapter} is certified on {host}"


def _parse(adapter: str, registry: Registry) -> tuple[str, str]:
    kind, _, name = adapter.partition("/")
    tables: dict[str, Any] = {
        "server": registry.servers,
        "tracer": registry.tracers,
        "load": registry.loads,
    }
    if kind not in tables or not name:
        raise UsageError(f"{adapter}: expected KIND/NAME with one of {', '.join(tables)}")
    if name not in tables[kind]:
        known = ", ".join(tables[kind])
        raise UsageError(
            f"no {kind} {name!r}{adapters.nearest(name, tables[kind])} There are {known}"
        )
    return kind, name


def _experiment(registry: Registry, kind: str, name: str, server: str | None) -> Experiment:
    """One block of the cells that the adapter takes part in."""
    if server is not None and server not in registry.servers:
        known = ", ".join(registry.servers)
        raise UsageError(
            f"no server {server!r}{adapters.nearest(server, registry.servers)} There are {known}"
        )
    if not registry.servers or not registry.loads:
        raise UsageError("there is no server or no load adapter to certify it with")
    servers = list(registry.servers)
    needs: set[str] = set()
    modes: list[str] = ["none"]
    if kind == "tracer":
        needs = set(registry.tracers[name].needs_traits)
        modes = [mode for mode in registry.tracers[name].modes if mode not in UNTRACED_MODES]
    if kind == "server":
        if server not in (None, name):
            raise UsageError(f"server/{name} is certified with itself, not with --server {server}")
        servers = [name]
    fitting = [s for s in servers if needs <= set(registry.servers[s].traits)]
    chosen = server or (fitting[0] if fitting else servers[0])
    load = name if kind == "load" else next(iter(registry.loads))
    matrix = Matrix.model_validate(
        {
            "schema": 1,
            "name": "certify",
            "factors": {
                "server": [chosen],
                "tracer": [name] if kind == "tracer" else [],
                "mode": modes,
            },
            "load": {"name": load},
            "warm_up_s": _WARM_UP_S,
            "blocks": 1,
            "repeat": {"per_block": 0, "per_run": 0},
        }
    )
    cells = [_short(cell) for cell in expand(matrix, registry)]
    return Experiment(
        matrix=matrix,
        registry=registry,
        cells=tuple(cells),
        source="certify",
        sha256="",
        content=matrix.model_dump(mode="json", by_alias=True),
    )


def _short(cell: Cell) -> Cell:
    """The cell with the shortest measurement; other parameters as the load's adapter has them."""
    return replace(cell, load_parameters={**cell.load_parameters, "duration_s": _DURATION_S})


def _verdict(path: Path) -> Verdict:
    trial = json.loads(path.read_text())
    return Verdict(
        cell_id=trial["cell"]["id"],
        steps=tuple(trial["times"]["steps"]),
        reasons=tuple(trial["verdict"]["reasons"]),
    )


def _account(verdict: Verdict) -> str:
    """The lines of one cell: its steps, and what failed in which one."""
    if verdict.unavailable is not None:
        return f"{verdict.cell_id}\n  - {verdict.unavailable}"
    lines = [verdict.cell_id]
    lines += [f"  {step['step']:<10} {step['duration_s']:8.3f} s" for step in verdict.steps]
    for reason in verdict.reasons:
        lines.append(f"  failed: {reason['text']}")
        lines.append(f"  look at: {REASONS[reason['code']].look_at}")
    return "\n".join(lines)
