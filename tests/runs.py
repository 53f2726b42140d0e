"""Synthetic run directories for tests and benchmarks: the form is real, the figures are made up.

Every run made here says `"provenance": "synthetic"`, so that none can pass for a measurement.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from uplab.hostside import sums
from uplab.hostside.histogram import encode

UNTRACED = ("none", "none-again")
USERSPACE = "userspace-uprobe"
# What is left of the throughput, and what a request costs the server: of the size seen in reality.
KEPT = {
    "none": 1.0,
    "none-again": 1.0,
    "tracer-only": 0.85,
    "kernel-uprobe": 0.16,
    "userspace-uprobe": 0.60,
}
BASE_RPS = {"https": 42_000.0, "http": 56_000.0}
SITES = {
    "https": {"casgstatus": 13.0, "tls_write": 1.0, "tls_read": 2.0},
    "http": {"casgstatus": 12.0, "tls_write": 0.0, "tls_read": 0.0},
}
HIT_COST = [
    ("emulated", "55", 640.1),
    ("nop5", "0f1f440000", 410.0),
    ("single-stepped", "4883ec28", 5200.0),
    ("return", "c3", 12300.5),
    ("userspace", "4883ec28", 180.0),
]
# Which sites a placement of a userspace mode moves there; the others stay in the kernel.
PLACEMENTS = {"hybrid": ("casgstatus",), "hybrid-entries": ("casgstatus", "tls_write", "tls_read")}
RUNTIME: dict[str, Any] = {"jit": True, "shm_mb": 50, "map_kind": "array", "bpftime_prefix": ""}
RANGES: dict[str, dict[str, dict[str, float]]] = {
    "https": {
        "casgstatus": {"minimum": 2, "maximum": 60, "per_connection": 200},
        "tls_write": {"minimum": 1, "maximum": 1, "per_connection": 5},
        "tls_read": {"minimum": 1, "maximum": 2.1, "per_connection": 10},
    },
    "http": {
        "casgstatus": {"minimum": 2, "maximum": 60, "per_connection": 200},
        "tls_write": {"minimum": 0, "maximum": 0, "per_connection": 0},
        "tls_read": {"minimum": 0, "maximum": 0, "per_connection": 0},
    },
}
LOADS: dict[str, dict[str, Any]] = {
    "closed": {
        "name": "wrk",
        "parameters": {"connections": 100, "duration_s": 10, "threads": 10},
    },
    "open": {
        "name": "h2load",
        "parameters": {
            "connections": 10,
            "duration_s": 10,
            "rate_per_s": 1000,
            "streams": 100,
            "threads": 1,
        },
    },
}


@dataclass(frozen=True)
class Traced:
    """How a synthetic userspace cell is traced; `suffix` stands in its name."""

    placement: str = "hybrid"
    loader: str = "syscall-server"
    options: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ""


@dataclass(frozen=True)
class Spec:
    """What a synthetic run holds.

    `kept` overrides the share of throughput that a cell keeps (by cell id or by mode), `noise` is
    the standard deviation of ln(requests/s) within a block, `block_noise` that between blocks;
    `invalid` maps (cell id, block, attempt) to a reason; `flagged` likewise to a flag;
    `unavailable` maps a mode to why it is not on this host. `traced` are the ways in which
    userspace is traced; `loop` is the load's, and `reached` the share of an open loop's rate that a
    mode reaches.
    """

    servers: Sequence[str] = ("https", "http")
    modes: Sequence[str] = ("none", "none-again", "tracer-only", "kernel-uprobe")
    sizes: Sequence[int] = (12,)
    blocks: int = 6
    noise: float = 0.02
    block_noise: float = 0.10
    seed: int = 20231104
    kept: Mapping[str, float] = field(default_factory=dict)
    invalid: Mapping[tuple[str, int, int], str] = field(default_factory=dict)
    flagged: Mapping[tuple[str, int, int], str] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)
    max_attempts: int = 3
    outcome: str = "complete"
    histogram_buckets: int = 400
    sums: bool = True
    logs: bool = True
    traced: Sequence[Traced] = (Traced(),)
    loop: str = "closed"
    reached: Mapping[str, float] = field(default_factory=dict)


def make_run(directory: Path, spec: Spec | None = None, **changes: Any) -> Path:
    """Write a complete run directory; out: `directory`.

    A block with an invalid trial of attempt 1 is measured again as attempt 2, as a real run does.
    The same `spec` gives the same bytes.
    """
    spec = spec or Spec(**changes)
    (directory / "trials").mkdir(parents=True)
    chance = random.Random(spec.seed)
    number = 0
    for block in range(1, spec.blocks + 1):
        for attempt in range(1, _attempts(spec, block) + 1):
            pace = math.exp(chance.gauss(0, spec.block_noise))
            cells = [cell for cell in cells_of(spec) if cell["mode"] not in spec.unavailable]
            chance.shuffle(cells)
            for position, cell in enumerate(cells, start=1):
                number += 1
                place = (number, block, attempt, position)
                _write_trial(
                    directory, spec, cell, place, pace * math.exp(chance.gauss(0, spec.noise))
                )
    write_json(directory / "run.json", run_document(spec, number))
    write_json(directory / "host.json", {"before": FINGERPRINT, "after": FINGERPRINT})
    (directory / "events.jsonl").write_text('{"event": "run-started"}\n', encoding="utf-8")
    if spec.sums and spec.outcome == "complete":
        sums.write(directory)
    return directory


def write_json(path: Path, data: Any) -> None:
    """As the host writes JSON."""
    path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def edit_json(path: Path, **changes: Any) -> None:
    """Change top-level fields of a JSON file; a value of `...` removes the field."""
    data = json.loads(path.read_text(encoding="utf-8")) | changes
    write_json(path, {key: value for key, value in data.items() if value is not ...})


def cells_of(spec: Spec) -> list[dict[str, Any]]:
    """The cells of a synthetic run, in the order of its matrix."""
    return [
        _cell(server, mode, size, LOADS[spec.loop], traced)
        for server in spec.servers
        for size in spec.sizes
        for mode in spec.modes
        for traced in (spec.traced if mode == USERSPACE else (None,))
    ]


def run_document(spec: Spec, trials: int) -> dict[str, Any]:
    """run.json."""
    statuses = [
        {
            **cell,
            "status": "not available here" if cell["mode"] in spec.unavailable else "available",
            "reason": spec.unavailable.get(cell["mode"]),
        }
        for cell in cells_of(spec)
    ]
    return {
        "schema": 1,
        "run_id": "20261122T131751Z-local-seed",
        "host": "local",
        "matrix": {
            "name": "seed",
            "sha256": "a" * 64,
            "source": "matrices/seed.yml",
            "content": {"warm_up_s": 2},
        },
        "seed": spec.seed,
        "blocks": spec.blocks,
        "plan_sha256": PLAN_SHA256,
        "uplab_version": "0.1.0",
        "pins": {"go": "1.19"},
        "artifacts": {"servers/bin/go-server": "b" * 64},
        "cells": statuses,
        "hit_cost": [_hit_cost(*line) for line in HIT_COST],
        "started_utc": "2026-11-22T13:17:51.000000Z",
        "ended_utc": "2026-11-22T13:31:02.000000Z" if spec.outcome == "complete" else None,
        "outcome": spec.outcome,
        "error": None,
        "trials_planned": trials,
        "provenance": "synthetic",
        "loads": {LOADS[spec.loop]["name"]: {"loop": spec.loop}},
        "declared": {cell["id"]: _declared(cell) for cell in cells_of(spec) if cell["tracer"]},
    }


PLAN_SHA256 = "c" * 64
FINGERPRINT: dict[str, Any] = {
    "kernel": {"release": "6.18.5", "version": "#1 SMP", "cmdline": "quiet"},
    "distribution": "Debian GNU/Linux 12 (bookworm)",
    "cpu": {
        "model": "A synthetic CPU @ 3.00GHz",
        "microcode": "0x1",
        "virtual_machine": True,
        "logical_cpus": 2,
    },
    "memory_bytes": 25_000_000_000,
    "mitigations": {"meltdown": "Not affected"},
    "settings": {"governor": "performance", "smt_active": "1"},
    "components": {
        "golang": {"version": "2:1.19~1", "hash": "0123456789ab", "source": "distro"},
        "servers": {"version": "0.1.0", "hash": "ba9876543210", "source": "build"},
    },
    "load_average": {"1_min": 0.1, "5_min": 0.1, "15_min": 0.1},
    "uptime_s": 1000.0,
}


def _attempts(spec: Spec, block: int) -> int:
    rejected = max((attempt for _, b, attempt in spec.invalid if b == block), default=0)
    return min(rejected + 1, spec.max_attempts)


def _cell(
    server: str, mode: str, size: int, load: Mapping[str, Any], traced: Traced | None
) -> dict[str, Any]:
    tracer = None if mode in UNTRACED else "gotrace"
    parts = [server, mode, tracer, traced and traced.placement, traced and traced.suffix]
    return {
        "id": "-".join([*(part for part in parts if part), f"{size}B"]),
        "server": server,
        "mode": mode,
        "tracer": tracer,
        "body_bytes": size,
        "load": load["name"],
        "load_parameters": load["parameters"],
        "loader": traced and traced.loader,
        "placement": traced and traced.placement,
        "runtime": traced and {**RUNTIME, **traced.options},
    }


def _places(cell: Mapping[str, Any]) -> dict[str, str]:
    """Where each site of a cell lies."""
    names = SITES.get(cell["server"], SITES["http"])
    if cell["mode"] == "tracer-only":
        return dict.fromkeys(names, "untouched")
    in_userspace = PLACEMENTS.get(cell["placement"] or "", ())
    return {name: "userspace" if name in in_userspace else "kernel" for name in names}


def _declared(cell: Mapping[str, Any]) -> dict[str, Any]:
    """As uplab/declared.py."""
    nothing: dict[str, float] = {"minimum": 0, "maximum": 0, "per_connection": 0}
    ranges = RANGES.get(cell["server"], RANGES["http"])
    return {
        "sites": [
            {
                "name": name,
                "placement": place,
                "range": nothing if place == "untouched" else ranges[name],
            }
            for name, place in _places(cell).items()
        ],
        "events": {"minimum": 1, "maximum": 1, "per_connection": 5},
    }


def _hit_cost(instruction_class: str, instruction: str, ns_per_hit: float) -> dict[str, Any]:
    return {
        "tracer": "gotrace",
        "class": instruction_class,
        "instruction": instruction,
        "ns_per_hit": ns_per_hit,
        "hits": 1000,
        "calls": 1000,
        "attach": "bpftime" if instruction_class == "userspace" else "uprobe_multi",
        "error": None,
        **({"jit": True, "bpftime_prefix": ""} if instruction_class == "userspace" else {}),
    }


def _write_trial(
    run_dir: Path, spec: Spec, cell: dict[str, Any], place: tuple[int, int, int, int], pace: float
) -> None:
    number, block, attempt, position = place
    suffix = f"-a{attempt}" if attempt > 1 else ""
    name = f"{number:04d}-{cell['id']}-b{block:02d}{suffix}"
    directory = run_dir / "trials" / name
    directory.mkdir()
    kept = spec.kept.get(cell["id"], spec.kept.get(cell["mode"], KEPT[cell["mode"]]))
    rps = BASE_RPS.get(cell["server"], 50_000.0) * kept * pace
    cpu_us = 22.6 / kept
    if spec.loop == "open":
        rps = LOADS["open"]["parameters"]["rate_per_s"] * spec.reached.get(cell["mode"], 1.0)
        cpu_us /= pace
    key = (cell["id"], block, attempt)
    reason, flag = spec.invalid.get(key), spec.flagged.get(key)
    trial = {
        "schema": 1,
        "trial": name,
        "number": number,
        "block": block,
        "attempt": attempt,
        "position": position,
        "cell": cell,
        "plan_sha256": PLAN_SHA256,
        "times": {
            "started_utc": "2026-11-22T13:18:00.000000Z",
            "started_monotonic_ns": 1_000_000_000 * number,
            "wall_s": 12.4,
            "load_elapsed_s": 12.07,
            "steps": [{"step": "fence", "duration_s": 0.002}],
        },
        "load": _load(rps, 2.0 / kept / pace if spec.loop == "open" else 9.5),
        "warm_up": None,
        "cpu": _cpu(rps, cpu_us, cell["mode"]),
        "hits": _hits(cell, rps),
        "attestation": _attestation(cell),
        "answer": {"before": {"status": 200}, "after": {"status": 200}},
        "verdict": {
            "valid": reason is None,
            "reasons": [{"code": "load", "text": reason}] if reason else [],
            "flags": [flag] if flag else [],
        },
    }
    write_json(directory / "trial.json", trial)
    middle_us = max(50, int(1e6 * 100 / rps if spec.loop == "closed" else 200 / kept / pace))
    (directory / "load.hist").write_bytes(_histogram(middle_us, spec.histogram_buckets))
    if spec.logs:
        (directory / "load.txt").write_text(f"synthetic: {rps:.2f} requests/s\n", encoding="utf-8")
        (directory / "server.log").write_text("ready\n", encoding="utf-8")


def _load(rps: float, slow: float) -> dict[str, Any]:
    requests = int(rps * 10.06)
    return {
        "requests": requests,
        "elapsed_s": 10.06,
        "requests_per_s": requests / 10.06,
        "read_bytes": requests * 130,
        "transfer_bytes_per_s": requests * 130 / 10.06,
        "latency_us": {
            "min": 40,
            "avg": 2100.5,
            "max": 90_000,
            "p50": round(200 * slow),
            "p90": round(400 * slow),
            "p99": round(950 * slow),
        },
        "socket_errors": {"connect": 0, "read": 0, "write": 0, "timeout": 0},
        "non_2xx_responses": 0,
        "histogram_count": int(requests * 1.2),
        "problems": [],
    }


def _cpu(rps: float, us_per_request: float, mode: str) -> dict[str, Any]:
    return {
        "window_s": 10.1,
        "cores": 2,
        "server_s": us_per_request * rps * 10.06 / 1e6,
        "server_us_per_request": us_per_request,
        "tracer_s": None if mode in UNTRACED else 0.4,
        "load_s": 6.0,
        "hostside_s": 0.02,
        "busy_s": 19.0,
        "foreign_s": 0.1,
        "steal_s": 0.2,
        "steal_pct": 1.0,
        "foreign_pct": 0.5,
        "context_switches": {"server_voluntary": 100, "server_involuntary": 10, "host": 500},
    }


def _hits(cell: dict[str, Any], rps: float) -> dict[str, Any] | None:
    if cell["tracer"] is None:
        return None
    sites = SITES.get(cell["server"], SITES["http"])
    places = _places(cell)
    requests = int(rps * 10.06)
    rows = [
        {
            "name": name,
            "symbol": f"runtime.{name}",
            "at": "entry",
            "file": "/opt/uplab/current/servers/bin/server",
            "offset": 4096 + index,
            "class": "single-stepped",
            "placement": places[name],
            "hits": int(per_request * requests),
            "per_request": per_request,
        }
        for index, (name, per_request) in enumerate(sites.items())
        if places[name] != "untouched"
    ]
    return {
        "attach": "uprobe_multi" if rows else "none",
        "sites": rows,
        "by_name": {
            row["name"]: {"hits": row["hits"], "per_request": row["per_request"]} for row in rows
        },
        "events": {"emitted": requests, "received": requests, "lost": 0, "per_request": 1.0},
    }


def _attestation(cell: dict[str, Any]) -> dict[str, Any]:
    """Evidence of the size that a real one has: most of a trial.json is this."""
    probed = cell["mode"] not in (*UNTRACED, "tracer-only")
    sites = [
        {
            "name": "tls_write_ret",
            "symbol": "crypto/tls.(*Conn).Write",
            "at": "ret",
            "file": "/opt/uplab/store/servers-ba9876543210/bin/go-server",
            "offset": 1_723_506 + index,
            "pid": 1904,
            "file_bytes": "c3488bbc24080100004889d1488b",
            "memory_bytes": "cc488bbc24080100004889d1488b",
            "state": "breakpoint",
            "target": None,
        }
        for index in range(18 if probed else 0)
    ]
    look = {"grade": "proven", "pids": [1904], "problems": [], "sites": sites}
    return {"grade": "proven", "before": look, "after": look}


@lru_cache(maxsize=64)
def _histogram_cached(step_us: int, buckets: int) -> bytes:
    chance = random.Random(step_us)
    seen: dict[int, int] = {}
    for _ in range(buckets * 3):
        value = int(step_us * math.exp(chance.gauss(0, 0.6)))
        seen[value] = seen.get(value, 0) + 1
    return encode(sorted(seen), [seen[value] for value in sorted(seen)])


def _histogram(middle_us: int, buckets: int) -> bytes:
    """One of a few histograms, so that ten thousand trials do not take minutes to make."""
    step_us = round(middle_us, -(len(str(middle_us)) - 1))
    return _histogram_cached(step_us, buckets)
