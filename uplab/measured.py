"""What a run directory holds, as data: the plan, the trials and what was measured in them.

A missing figure is None, never 0. :mod:`uplab.results` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uplab.hostside.spec import HitsRule
from uplab.tuned import Tuned


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of server, mode, tracer, body size and load, and how userspace was traced.

    `runtime` holds the options of the userspace runtime by name; empty where there is none.
    """

    cell_id: str
    server: str
    mode: str
    tracer: str | None
    body_bytes: int
    load: str
    load_parameters: Mapping[str, Any]
    loader: str | None
    placement: Any
    runtime: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """A cell of the matrix and whether this host could run it; the reason where it could not."""

    cell: Cell
    status: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class DeclaredSite:
    """What the tracer's adapter says of a site in one cell: its placement, and its range of hits.

    `rule` is None where no range is declared for the server.
    """

    placement: str | None
    rule: HitsRule | None


@dataclass(frozen=True, slots=True)
class Declared:
    """What the adapters declare for a cell: its sites in their order, and its events."""

    sites: Mapping[str, DeclaredSite]
    events: HitsRule | None


@dataclass(frozen=True, slots=True)
class HitCost:
    """What one probe hit costs on this host: by class of instruction, or in userspace.

    `instruction_class` is None where the measurement failed as a whole. `runtime` holds what a cost
    in userspace depends on: `jit` and `bpftime_prefix`, as the cells name them.
    """

    tracer: str | None
    instruction_class: str | None
    instruction: str | None
    ns_per_hit: float | None
    hits: int | None
    calls: int | None
    attach: str | None
    error: str | None
    runtime: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Load:
    """What the load generator reported for the measured part of one trial."""

    requests: int | None
    elapsed_s: float | None
    requests_per_s: float | None
    read_bytes: int | None
    transfer_bytes_per_s: float | None
    latency_us: Mapping[str, float | None]
    socket_errors: Mapping[str, int | None]
    non_2xx_responses: int | None
    histogram_count: int | None
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds of each part while the load measured, and what disturbed it."""

    window_s: float | None
    cores: int | None
    server_s: float | None
    server_us_per_request: float | None
    tracer_s: float | None
    load_s: float | None
    hostside_s: float | None
    busy_s: float | None
    foreign_s: float | None
    steal_s: float | None
    steal_pct: float | None
    foreign_pct: float | None


@dataclass(frozen=True, slots=True)
class Site:
    """One probe site and how often it was hit."""

    name: str
    at: str | None
    instruction_class: str | None
    hits: int | None
    hits_per_request: float | None
    placement: str | None = None


@dataclass(frozen=True, slots=True)
class Hits:
    """The tracer's own counters over the measured part of one trial.

    `warm_up_requests` are the requests that belong to them where the kernel counted instead, in
    the warm-up; `elsewhere` says that some of them may be of other processes.
    """

    attach: str | None
    sites: tuple[Site, ...]
    per_request_by_name: Mapping[str, float | None]
    events_emitted: int | None
    events_received: int | None
    events_lost: int | None
    by_name: Mapping[str, int | None] = field(default_factory=dict)
    warm_up_requests: int | None = None
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class ServerUser:
    """Who the server of a trial ran as: what its adapter asks for, and what the kernel said.

    `capabilities` are those of any of its `processes`, `as_root` are the processes of root.
    """

    asked: str
    processes: int
    as_root: int
    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a trial is invalid: a fixed code and the host's words."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Trial:
    """One cell measured once in one block.

    `cpus` is how many CPUs server, tracer and load got each; empty where they shared all.
    """

    name: str
    number: int
    block: int
    attempt: int
    position: int | None
    cell: Cell
    started_utc: str | None
    started_monotonic_ns: int | None
    wall_s: float | None
    load_elapsed_s: float | None
    load: Load | None
    cpu: Cpu | None
    hits: Hits | None
    attestation_grade: str | None
    valid: bool
    reasons: tuple[Reason, ...]
    flags: tuple[str, ...]
    server_user: ServerUser | None = None
    cpus: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadHost:
    """The second machine that the load ran on, and what was between it and the server's host.

    `rtt_min_us` and `rtt_median_us` are of a message of ours there and back, before the first
    trial; `clock_offset_s` is what its clock was ahead of the host's, by at most
    `clock_uncertainty_s` more or less. The two speeds are those of the interfaces that lead from
    either to the other, None where the kernel knows none.
    """

    name: str
    server_address: str
    rtt_min_us: float | None
    rtt_median_us: float | None
    clock_offset_s: float | None
    clock_uncertainty_s: float | None
    host_mbit_s: int | None
    load_host_mbit_s: int | None


@dataclass(frozen=True, slots=True)
class Sequential:
    """How blocks were added until overheads were known, which makes their intervals sequential.

    `half_width_pp` was wanted: half the width of a 95 % interval, in percentage points. `looks`
    are the numbers of blocks at which the figures were looked at, `reached` and `not_reached` hold
    the ids of the cells at the last look; `stopped` says why it was the last one, None where it was
    not.
    """

    half_width_pp: float
    looks: tuple[int, ...] = ()
    reached: tuple[str, ...] = ()
    not_reached: tuple[str, ...] = ()
    stopped: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory.

    `verified` says that every byte matches SHA256SUMS; where it is False, `not_verified_because`
    holds why, one line each. `loops` says of each load whether it is `closed` or `open`, `declared`
    what holds for each traced cell; a run of an earlier uplab says neither. `sequential` is None
    where the number of blocks was fixed beforehand, `load_host` where the load ran on the host,
    `tuned` without `--tune`.
    `not_attested` names what the texts of an imported run do not prove, `redacted_from` the digest
    of the SHA256SUMS of the run that a redacted copy was made of.
    """

    path: Path
    verified: bool
    not_verified_because: tuple[str, ...]
    run_id: str
    host: str
    matrix_name: str
    matrix_source: str | None
    matrix_sha256: str | None
    matrix: Mapping[str, Any]
    seed: int
    blocks: int
    plan_sha256: str
    uplab_version: str
    pins: Mapping[str, Any]
    artifacts: Mapping[str, Any]
    cells: tuple[PlannedCell, ...]
    hit_costs: tuple[HitCost, ...]
    started_utc: str
    ended_utc: str | None
    outcome: str
    error: str | None
    trials_planned: int | None
    provenance: str
    fingerprint_before: Mapping[str, Any] = field(default_factory=dict)
    fingerprint_after: Mapping[str, Any] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    loops: Mapping[str, str] = field(default_factory=dict)
    touched: tuple[str, ...] = ()
    declared: Mapping[str, Declared] = field(default_factory=dict)
    sequential: Sequential | None = None
    load_host: LoadHost | None = None
    tuned: Tuned | None = None
    not_attested: tuple[str, ...] = ()
    redacted_from: str | None = None
