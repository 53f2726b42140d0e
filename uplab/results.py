"""A run directory, read and verified.

A run may come from a host or from a colleague, so nothing in it is trusted: every file is checked
against SHA256SUMS, nothing outside the directory is followed, sizes are bounded, and whatever does
not have the expected form becomes one error that names the file and the field.

A missing figure is None, never 0. JSON's NaN and Infinity are missing figures.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from uplab import tuned
from uplab.checksums import SUMS_FILE, differences_of, list_files
from uplab.errors import GateError, UsageError
from uplab.fields import Fields
from uplab.hostside.spec import HitsRule
from uplab.measured import (
    Cell,
    Cpu,
    Declared,
    DeclaredSite,
    HitCost,
    Hits,
    Load,
    LoadHost,
    PlannedCell,
    Reason,
    Run,
    Sequential,
    ServerUser,
    Site,
    Trial,
)

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
        tuned=fields.maybe("tuning", tuned.read),
        load_host=fields.maybe("load_from", _load_host),
        not_attested=fields.texts("not_attested"),
        redacted_from=fields.maybe("redacted", lambda part: part.text("of_sha256")),
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
        cpus=_cpus(fields.part_or_empty("tuning").part_or_empty("cpus")),
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


_CPU_LIST = re.compile(r"\d{1,5}(?:-\d{1,5})?(?:,\d{1,5}(?:-\d{1,5})?)*")


def _cpus(fields: Fields) -> dict[str, int]:
    """How many CPUs each role got, from the kernel's form: `0-2,5`."""
    counts = {}
    for role in ("server", "tracer", "load"):
        text = fields.optional_text(role)
        if text is not None:
            if _CPU_LIST.fullmatch(text) is None:
                raise fields.wrong(role, "a list of CPUs, such as 0-2,5")
            ends = [part.partition("-") for part in text.split(",")]
            counts[role] = sum(abs(int(last or first) - int(first)) + 1 for first, _, last in ends)
    return counts


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
