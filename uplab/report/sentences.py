"""The report in plain words: one sentence for each mode of each server, and how it was measured."""

from __future__ import annotations

from collections.abc import Iterator

from uplab.analysis import (
    BASELINE,
    CONTROL,
    INSIDE,
    LEAST_FOR_INTERVAL,
    UNCLEAR,
    CellSummary,
    Estimate,
    Group,
    faster_pct,
)
from uplab.report import text
from uplab.report.model import Report, flat
from uplab.results import Run

LATENCY_SOURCE = (
    "Percentiles come from the pooled histograms of all trials that count, never from a mean of "
    "percentiles. Where there are more samples than requests, the load has added samples of its "
    "own for requests that it thinks it missed; they are kept."
)


def title(run: Run) -> str:
    """`local, matrix seed, 2026-11-22 13:17:51 UTC`."""
    return f"{run.host}, matrix {run.matrix_name}, {text.utc(run.started_utc)}"


def subtitle(run: Run) -> str:
    """Version, and whether the bytes are those that the host vouched for."""
    verified = "verified against SHA256SUMS" if run.verified else "NOT verified"
    return f"uplab {run.uplab_version}, run {run.run_id}, {run.outcome}, {verified}"


def heading(group: Group, report: Report) -> str:
    """What a group is called: the server, and the body size where there are several."""
    size = f", body {text.body(group.body_bytes)}" if report.several_sizes else ""
    same = [g for g in report.analysis.groups if _place(g) == _place(group)]
    load = f", {group.load} {parameters(group)}" if len(same) > 1 else ""
    return f"{group.server}{size}{load}"


def parameters(group: Group) -> str:
    """The load's parameters as `name value`, in the order of their names."""
    return ", ".join(f"{key} {value}" for key, value in sorted(group.load_parameters.items()))


def answers(group: Group, report: Report) -> Iterator[str]:
    """One sentence per mode of a group, `none` and its control left out."""
    server = f"the {group.server} server"
    if report.several_sizes:
        server += f" ({text.body(group.body_bytes)} body)"
    for cell in group.cells:
        if cell.cell.mode not in (BASELINE, CONTROL):
            yield sentence(cell, server, group.noise_floor_pct)


def sentence(cell: CellSummary, server: str, floor_pct: float | None) -> str:
    """What a mode costs a server, in one sentence that claims no more than the trials carry."""
    name = text.mode(cell.cell)
    estimate = cell.overhead_pct
    if cell.status != "available":
        reason = f": {cell.unavailable_reason}" if cell.unavailable_reason else ""
        return f"{name} was not measured on {server}, {cell.status}{reason}".rstrip(".") + "."
    if estimate is None:
        return f"{name} on {server}: no estimate, {_why_no_estimate(cell)}."
    basis = _basis(estimate)
    if cell.verdict == INSIDE:
        return (
            f"{name} on {server}: no difference that this run can tell from its noise, "
            f"{_change(estimate.value)} ({basis}), noise floor {floor(floor_pct)}."
        )
    if cell.verdict == UNCLEAR:
        return (
            f"{name} may change the throughput of {server}, this run cannot tell: "
            f"{_change(estimate.value)} ({basis})."
        )
    without_floor = cell.verdict is None and estimate.n >= LEAST_FOR_INTERVAL
    caveat = ", with no noise floor to hold it against" if without_floor else ""
    if estimate.value < 0:
        more = text.percent(-estimate.value)
        return f"With {name}, {server} serves {more} more than with none ({basis}){caveat}."
    lost = text.percent(estimate.value)
    return f"{name} costs {server} {lost} of its throughput ({basis}){caveat}."


def noise_floor(group: Group) -> str:
    """The noise floor of a group in one sentence."""
    control = next((cell for cell in group.cells if cell.cell.mode == CONTROL), None)
    if group.noise_floor_pct is None or control is None or control.overhead_pct is None:
        return (
            f"Noise floor: unknown, because fewer than {LEAST_FOR_INTERVAL} blocks hold both "
            f"{BASELINE} and {CONTROL}; no difference can be held against it."
        )
    estimate = control.overhead_pct
    return (
        f"Noise floor: {floor(group.noise_floor_pct)}. The same untraced server, measured "
        f"a second time in each block, was {_change(estimate.value)} ({_basis(estimate)}); "
        "the larger bound is the floor, and a difference inside it is not called one."
    )


def floor(floor_pct: float | None) -> str:
    """A noise floor in both directions: `4.7 % slower or 4.9 % faster`."""
    if floor_pct is None:
        return text.MISSING
    return f"{text.percent(floor_pct)} slower or {text.percent(faster_pct(floor_pct))} faster"


def latency_note(group: Group) -> str:
    """What a reader must know beside every latency."""
    loop = group.load_parameters.get("loop", "closed")
    return (
        f"{group.load} is a {loop} loop on the same host as the server: it waits for each answer "
        "before it asks again, so a slower server is asked less, and latencies of modes with "
        "different req/s are not comparable with each other."
        if loop == "closed"
        else f"{group.load} is an {loop} loop on the same host as the server."
    )


def rejections(cell: CellSummary) -> str | None:
    """The rejected trials of a cell, and what the estimate is with them; None without any."""
    if not cell.rejected:
        return None
    rate = f"{cell.rejected} of {cell.trials} trials rejected ({text.percent(cell.rejected_pct)})"
    if cell.overhead_with_rejected_pct is None:
        return rate
    return f"{rate}; throughput lost with them {text.estimate(cell.overhead_with_rejected_pct)}"


def notes(group: Group) -> Iterator[str]:
    """What does not fit a table: hits by site, and rejected trials with what they change."""
    for cell in group.cells:
        name = text.mode(cell.cell)
        if cell.hits_per_request_by_name:
            yield f"{name}, hits per request by site: {_sites(cell)}."
        rejected = rejections(cell)
        if rejected:
            yield f"{name}: {rejected}."


def bootstrap(cell: CellSummary) -> str | None:
    """Median and bootstrap interval of the overhead; None below n = 10."""
    estimate = cell.overhead_pct
    if estimate is None or estimate.median is None:
        return None
    interval = f" ({text.bounds(estimate.median_interval)})" if estimate.median_interval else ""
    return f"{text.percent(estimate.median)}{interval}"


def method(report: Report) -> Iterator[tuple[str, str]]:
    """How the run was made, as label and text."""
    run = report.run
    yield "Provenance", run.provenance
    yield "Matrix", f"{run.matrix_name} ({run.matrix_source or 'source not recorded'})"
    yield "Time", f"{text.utc(run.started_utc)} to {text.utc(run.ended_utc)}"
    trials = f"{len(run.trials)} trials"
    if run.trials_planned is not None:
        trials += f" of {run.trials_planned} planned"
    order = (
        f"{run.blocks} blocks, each with every cell once in an order shuffled by seed {run.seed}; "
        f"{trials}; a block with an invalid trial is measured again as a whole and counts with "
        "the attempt that has the fewest invalid trials"
    )
    yield "Order", order
    for load in sorted({f"{group.load}: {parameters(group)}" for group in report.analysis.groups}):
        yield "Load", load
    warm_up_s = run.matrix.get("warm_up_s")
    if warm_up_s is not None:
        yield "Warm-up", f"{warm_up_s} s before each measurement, not counted"
    yield from report.machine
    if report.changed_on_host:
        yield "Changed during the run", "; ".join(report.changed_on_host)
    pins = ", ".join(f"{name} {value}" for name, value in sorted(flat(run.pins).items()))
    if pins:
        yield "Pins", pins
    yield "Plan", f"sha256 {run.plan_sha256}"


def _sites(cell: CellSummary) -> str:
    """`casgstatus 13.0, tls_read 2.0`; sites that were not hit once are only counted."""
    sites = cell.hits_per_request_by_name.items()
    hit = [f"{name} {text.decimal(hits)}" for name, hits in sites if hits]
    idle = len(sites) - len(hit)
    if idle:
        others = "others" if hit else "sites"
        hit.append(f"0 at all {idle} {others}" if idle > 1 else f"0 at the other {others[:-1]}")
    return ", ".join(hit)


def _place(group: Group) -> tuple[str, int]:
    return group.server, group.body_bytes


def _change(value_pct: float) -> str:
    if text.decimal(value_pct) == "0.0":
        return "0.0 % different"
    return f"{text.percent(abs(value_pct))} {'slower' if value_pct > 0 else 'faster'}"


def _basis(estimate: Estimate) -> str:
    if estimate.interval is None:
        return f"n = {estimate.n}, too few for an interval"
    return f"95 % interval {text.bounds(estimate.interval)}, n = {estimate.n}"


def _why_no_estimate(cell: CellSummary) -> str:
    if not cell.trials:
        return "it was not measured yet"
    if not cell.n:
        return f"none of its {cell.trials} trials counts"
    return f"no block holds both it and a valid {BASELINE}"
