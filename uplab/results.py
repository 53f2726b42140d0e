"""A run directory, read and verified.

A run may come from a host or from a colleague, so nothing in it is trusted: every file is checked
against SHA256SUMS, nothing outside the directory is followed, sizes are bounded, and whatever does
not have the expected form becomes one error that names the file and the field.

A missing figure is None, never 0. JSON's NaN and Infinity are missing figures.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from uplab.checksums import SUMS_FILE, differences_of, list_files
from uplab.errors import GateError, UsageError
from uplab.fields import Fields
from uplab.hostside.spec import HitsRule

__all__ = ["Cell", "Run", "Trial", "load", "newest", "trial_directory"]

SCHEMA = 1
MAX_TRIALS = 200_000
NAMED_AT_MOST = 20

# Outcomes of a run that is not over or was cut off: no SHA256SUMS yet is what one expects there.
UNFINISHED = ("running", "interrupted", "failed")
OUTCOMES = ("complete", *UNFINISHED)
# What a cost in userspace depends on, beside the tracer.
COST_OPTIONS = ("jit", "bpftime_prefix")
LOOPS = ("closed", "open")
SERVER_USERS = ("own", "root")
CELL_STATUSES = ("available", "not available here", "not applicable")

_TRIAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,250}")


# ------------------------------------------------------------------------------------ what is read


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
    """One cell measured once in one block."""

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
    where the number of blocks was fixed beforehand, `load_host` where the load ran on the host.
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


# ----------------------------------------------------------------------------------------- reading


def load(run_dir: Path, *, strict: bool = True) -> Run:
    """The run in `run_dir`.

    In: a run directory; `strict` False reads one whose files do not match SHA256SUMS, and says so
    in the result. Out: the run, its trials in the order of their numbers.
    Raises UsageError for a directory that is no run or whose files have not the expected form, and
    GateError when files were changed, are missing or are extra (each named).
    """
    if not run_dir.is_dir():
        raise UsageError(f"{run_dir} is not a run directory. Run: invoke bench.all")
    if not (run_dir / "run.json").is_file():
        raise UsageError(f"{run_dir} holds no run.json, so it is not a run directory")
    files = list_files(run_dir)
    document = Fields.of_file(run_dir / "run.json", run_dir)
    run = _run(document, run_dir)
    not_verified = _why_not_verified(run_dir, files, run.outcome, strict)
    host = _host_document(run_dir)
    return replace(
        run,
        verified=not not_verified,
        not_verified_because=not_verified,
        fingerprint_before=host.mapping("before") if host else {},
        fingerprint_after=host.mapping("after") if host else {},
        trials=_trials(run_dir, run.plan_sha256),
    )


def newest(results_dir: Path) -> Path:
    """The newest run directory in `results_dir` (their names begin with the time in UTC).

    Raises UsageError when there is none.
    """
    runs = (
        sorted(
            entry
            for entry in results_dir.iterdir()
            if (entry / "run.json").is_file() and not entry.name.startswith(".")
        )
        if results_dir.is_dir()
        else []
    )
    if not runs:
        raise UsageError(f"no run in {results_dir}. Run: invoke bench.all")
    return runs[-1]


def trial_directory(run: Run, trial: Trial) -> Path:
    """Where a trial's files lie."""
    return run.path / "trials" / trial.name


def _why_not_verified(
    run_dir: Path, files: list[str], outcome: str, strict: bool
) -> tuple[str, ...]:
    if not (run_dir / SUMS_FILE).exists():
        reason = f"no {SUMS_FILE} (the run is {outcome})"
        if strict and outcome not in UNFINISHED:
            raise GateError(
                f"{run_dir}: {reason}, so nothing vouches for its files. "
                f"Run: invoke report.show {run_dir} --unverified"
            )
        return (reason,)
    found = differences_of(run_dir, files)
    if found and strict:
        raise GateError(
            f"{run_dir} does not match its {SUMS_FILE}: {_named(found)}. "
            f"Run: invoke report.show {run_dir} --unverified"
        )
    return tuple(found)


def _named(found: list[str]) -> str:
    shown = "; ".join(found[:NAMED_AT_MOST])
    more = len(found) - NAMED_AT_MOST
    return f"{shown}; and {more} more" if more > 0 else shown


# ------------------------------------------------------------------------- from JSON to dataclasses


def _run(fields: Fields, run_dir: Path) -> Run:
    fields.check_schema(SCHEMA)
    matrix = fields.needed_part("matrix")
    return Run(
        path=run_dir,
        verified=False,
        not_verified_because=(),
        run_id=fields.text("run_id"),
        host=fields.text("host"),
        matrix_name=matrix.text("name"),
        matrix_source=matrix.optional_text("source"),
        matrix_sha256=matrix.optional_text("sha256"),
        matrix=matrix.mapping("content"),
        seed=fields.whole("seed", least=0),
        blocks=fields.whole("blocks", least=0),
        plan_sha256=fields.text("plan_sha256"),
        uplab_version=fields.text("uplab_version"),
        pins=fields.mapping("pins"),
        artifacts=fields.mapping("artifacts"),
        cells=tuple(_planned(part) for part in fields.parts("cells")),
        hit_costs=tuple(_hit_cost(part) for part in fields.parts("hit_cost")),
        started_utc=fields.text("started_utc"),
        ended_utc=fields.optional_text("ended_utc"),
        outcome=fields.one_of("outcome", OUTCOMES),
        error=fields.optional_text("error"),
        trials_planned=fields.optional_whole("trials_planned"),
        provenance=fields.text("provenance"),
        loops={
            name: part.one_of("loop", LOOPS) for name, part in fields.parts_by_name("loads").items()
        },
        touched=tuple(
            f"{part.text('name')} (pid {part.optional_whole('pid')}, {part.text('exe')})"
            for part in Fields(fields.mapping("touched"), "run.json, touched").parts("processes")
        ),
        declared={
            cell_id: _declared(part) for cell_id, part in fields.parts_by_name("declared").items()
        },
        sequential=fields.maybe("sequential", _sequential),
        load_host=fields.maybe("load_from", _load_host),
    )


def _load_host(fields: Fields) -> LoadHost:
    rtt, clock = fields.part_or_empty("rtt_us"), fields.part_or_empty("clock")
    link = fields.part_or_empty("link")
    return LoadHost(
        name=fields.text("name"),
        server_address=fields.text("server_address"),
        rtt_min_us=rtt.figure("min"),
        rtt_median_us=rtt.figure("median"),
        clock_offset_s=clock.figure("offset_s"),
        clock_uncertainty_s=clock.figure("uncertainty_s"),
        host_mbit_s=link.part_or_empty("host").optional_whole("speed_mbit_s"),
        load_host_mbit_s=link.part_or_empty("load_host").optional_whole("speed_mbit_s"),
    )


def _sequential(fields: Fields) -> Sequential:
    half_width_pp, looks = fields.figure("half_width_pp"), fields.anything("looks")
    if half_width_pp is None or not 0 < half_width_pp < 100:
        raise fields.wrong("half_width_pp", "a number above 0 and below 100")
    if not isinstance(looks, list) or not all(type(at) is int and 0 <= at <= 2**32 for at in looks):
        raise fields.wrong("looks", "a list of numbers of blocks")
    return Sequential(
        half_width_pp=half_width_pp,
        looks=tuple(looks),
        reached=fields.texts("reached"),
        not_reached=fields.texts("not_reached"),
        stopped=fields.optional_text("stopped"),
    )


def _planned(fields: Fields) -> PlannedCell:
    return PlannedCell(
        cell=_cell(fields),
        status=fields.one_of("status", CELL_STATUSES),
        reason=fields.optional_text("reason"),
    )


def _cell(fields: Fields) -> Cell:
    return Cell(
        cell_id=fields.text("id"),
        server=fields.text("server"),
        mode=fields.text("mode"),
        tracer=fields.optional_text("tracer"),
        body_bytes=fields.whole("body_bytes", least=0),
        load=fields.text("load"),
        load_parameters=fields.mapping("load_parameters"),
        loader=fields.optional_text("loader"),
        placement=fields.anything("placement"),
        runtime=fields.mapping("runtime"),
    )


def _declared(fields: Fields) -> Declared:
    return Declared(
        sites={
            part.text("name"): DeclaredSite(
                placement=part.optional_text("placement"), rule=part.maybe("range", _rule)
            )
            for part in fields.parts("sites")
        },
        events=fields.maybe("events", _rule),
    )


def _rule(fields: Fields) -> HitsRule:
    least, most = fields.figure("minimum"), fields.figure("maximum")
    if least is None or most is None or not 0 <= least <= most:
        raise fields.wrong("minimum", "a number from 0 to `maximum`")
    each = fields.figure("per_connection") or 0.0
    if each < 0:
        raise fields.wrong("per_connection", "a number of at least 0")
    return HitsRule(minimum=least, maximum=most, per_connection=each)


def _hit_cost(fields: Fields) -> HitCost:
    return HitCost(
        tracer=fields.optional_text("tracer"),
        instruction_class=fields.optional_text("class"),
        instruction=fields.optional_text("instruction"),
        ns_per_hit=fields.figure("ns_per_hit"),
        hits=fields.optional_whole("hits"),
        calls=fields.optional_whole("calls"),
        attach=fields.optional_text("attach"),
        error=fields.optional_text("error"),
        runtime={
            name: value for name in COST_OPTIONS if (value := fields.anything(name)) is not None
        },
    )


def _host_document(run_dir: Path) -> Fields | None:
    path = run_dir / "host.json"
    return Fields.of_file(path, run_dir) if path.is_file() else None


def _trials(run_dir: Path, plan_sha256: str) -> tuple[Trial, ...]:
    names = _trial_names(run_dir)
    cells: dict[str, Cell] = {}
    trials = [_trial(run_dir, name, plan_sha256, cells) for name in names]
    return tuple(sorted(trials, key=lambda trial: (trial.number, trial.name)))


def _trial_names(run_dir: Path) -> list[str]:
    """The finished trials. A directory with a leading dot is one that was never finished."""
    directory = run_dir / "trials"
    if not directory.is_dir():
        return []
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    if len(names) > MAX_TRIALS:
        raise UsageError(f"{directory} holds {len(names)} trials, at most {MAX_TRIALS} are read")
    for name in names:
        if _TRIAL_NAME.fullmatch(name) is None or not (directory / name / "trial.json").is_file():
            raise UsageError(f"{directory / name} is not a trial: it holds no trial.json")
    return names


def _trial(run_dir: Path, name: str, plan_sha256: str, cells: dict[str, Cell]) -> Trial:
    fields = Fields.of_file(run_dir / "trials" / name / "trial.json", run_dir)
    fields.check_schema(SCHEMA)
    if fields.text("trial") != name:
        raise fields.wrong("trial", f"the directory's name, {name}")
    if fields.text("plan_sha256") != plan_sha256:
        raise fields.wrong("plan_sha256", "that of run.json: this trial is of another plan")
    times = fields.part_or_empty("times")
    attestation = fields.part_or_empty("attestation")
    verdict = fields.needed_part("verdict")
    return Trial(
        name=name,
        number=fields.whole("number", least=1),
        block=fields.whole("block", least=1),
        attempt=fields.whole("attempt", least=1),
        position=fields.optional_whole("position"),
        cell=_shared_cell(_cell(fields.needed_part("cell")), cells, fields),
        started_utc=times.optional_text("started_utc"),
        started_monotonic_ns=times.optional_whole("started_monotonic_ns"),
        wall_s=times.figure("wall_s"),
        load_elapsed_s=times.figure("load_elapsed_s"),
        load=fields.maybe("load", _load),
        cpu=fields.maybe("cpu", _cpu),
        hits=fields.maybe("hits", _hits),
        attestation_grade=attestation.optional_text("grade"),
        valid=verdict.boolean("valid"),
        reasons=tuple(
            Reason(code=part.text("code"), text=part.text("text"))
            for part in verdict.parts("reasons")
        ),
        flags=verdict.texts("flags"),
        server_user=fields.maybe("server_user", _server_user),
    )


def _server_user(fields: Fields) -> ServerUser:
    seen = fields.parts("seen")
    counts = [(part.whole("processes", least=1), part.anything("uids")) for part in seen]
    if not all(isinstance(uids, list) for _, uids in counts):
        raise fields.wrong("seen", "entries with `uids`, a list")
    return ServerUser(
        asked=fields.one_of("asked", SERVER_USERS),
        processes=sum(count for count, _ in counts),
        as_root=sum(count for count, uids in counts if 0 in uids),
        capabilities=tuple(sorted({name for part in seen for name in part.texts("capabilities")})),
    )


def _shared_cell(cell: Cell, cells: dict[str, Cell], fields: Fields) -> Cell:
    """One object per cell; two trials that call different things by one id are an error."""
    known = cells.setdefault(cell.cell_id, cell)
    if known != cell:
        raise fields.wrong("cell", f"the same as in the other trials of {cell.cell_id}")
    return known


def _load(fields: Fields) -> Load:
    return Load(
        requests=fields.optional_whole("requests"),
        elapsed_s=fields.figure("elapsed_s"),
        requests_per_s=fields.figure("requests_per_s"),
        read_bytes=fields.optional_whole("read_bytes"),
        transfer_bytes_per_s=fields.figure("transfer_bytes_per_s"),
        latency_us=fields.figures("latency_us"),
        socket_errors=fields.counts("socket_errors"),
        non_2xx_responses=fields.optional_whole("non_2xx_responses"),
        histogram_count=fields.optional_whole("histogram_count"),
        problems=fields.texts("problems"),
    )


def _cpu(fields: Fields) -> Cpu:
    return Cpu(
        window_s=fields.figure("window_s"),
        cores=fields.optional_whole("cores"),
        server_s=fields.figure("server_s"),
        server_us_per_request=fields.figure("server_us_per_request"),
        tracer_s=fields.figure("tracer_s"),
        load_s=fields.figure("load_s"),
        hostside_s=fields.figure("hostside_s"),
        busy_s=fields.figure("busy_s"),
        foreign_s=fields.figure("foreign_s"),
        steal_s=fields.figure("steal_s"),
        steal_pct=fields.figure("steal_pct"),
        foreign_pct=fields.figure("foreign_pct"),
    )


def _hits(fields: Fields) -> Hits:
    events = fields.part_or_empty("events")
    sites = tuple(_site(part) for part in fields.parts("sites"))
    by_name = fields.parts_by_name("by_name")
    if fields.optional_text("counted") is not None:
        # What lies in userspace the kernel does not run: that it counted nothing is no 0.
        sites = tuple(
            replace(site, **_UNCOUNTED) if _in_userspace(site) else site for site in sites
        )
        for site in filter(_in_userspace, sites):
            by_name.pop(site.name, None)
    return Hits(
        attach=fields.optional_text("attach"),
        sites=sites,
        per_request_by_name={name: part.figure("per_request") for name, part in by_name.items()},
        events_emitted=events.optional_whole("emitted"),
        events_received=events.optional_whole("received"),
        events_lost=events.optional_whole("lost"),
        by_name={name: part.optional_whole("hits") for name, part in by_name.items()},
        warm_up_requests=fields.optional_whole("warm_up_requests"),
        elsewhere=fields.anything("elsewhere") is True,
    )


_UNCOUNTED: dict[str, Any] = {"hits": None, "hits_per_request": None}


def _in_userspace(site: Site) -> bool:
    return site.placement == "userspace"


def _site(fields: Fields) -> Site:
    return Site(
        name=fields.text("name"),
        at=fields.optional_text("at"),
        instruction_class=fields.optional_text("class"),
        hits=fields.optional_whole("hits"),
        hits_per_request=fields.figure("per_request"),
        placement=fields.optional_text("placement"),
    )
