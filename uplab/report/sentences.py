"""The report in plain words: one sentence for each mode of each server, and how it was measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from uplab import tuned
from uplab.analysis import BASELINE, CLOSED, CONTROL, CellSummary, Group
from uplab.conservation import EVENTS_LOST, trials_that_lost
from uplab.estimates import INSIDE, LEAST_FOR_INTERVAL, UNCLEAR, Estimate, better_pct
from uplab.hostside.judge import LEAST_RATE
from uplab.measured import LoadHost, Run, ServerUser
from uplab.report import text
from uplab.report.model import Report, flat
from uplab.report.words import WORDS, Words

NOT_APPLICABLE = "not applicable"
CONSERVATION = (
    "What was counted per completed request: the median and the range over the trials that count, "
    "and whether all trials of the cell, also the invalid ones, lie within what its adapters "
    "declare. A mode that is quick because it missed hits or dropped events shows here."
)
RECONCILIATION = (
    "Hits per request times the cost of a hit of their class, against the server's extra CPU per "
    "request, paired within each block. A cost is that of a program that only counts: what the "
    "tracer does beside that at its probes comes on top, so the calculated part is rarely all."
)
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
    """One sentence per mode of a group, `none` and its control left out.

    Cells that are not available for the same reason share one; those that make no sense are but
    counted, and listed with all the others that were not measured.
    """
    server = named(group, report)
    traced = [cell for cell in group.cells if cell.cell.mode not in (BASELINE, CONTROL)]
    missing: dict[str | None, list[CellSummary]] = defaultdict(list)
    for cell in traced:
        if cell.status == "available":
            yield sentence(cell, server, group)
        elif cell.status != NOT_APPLICABLE:
            missing[cell.unavailable_reason].append(cell)
    for cells in missing.values():
        yield _not_available(cells, server)
    senseless = sum(1 for cell in traced if cell.status == NOT_APPLICABLE)
    if senseless:
        ways = "1 combination is" if senseless == 1 else f"{senseless} combinations are"
        yield f"{ways} not applicable to {server} (tracer, placement, loader): listed below."


def in_short(report: Report) -> list[str]:
    """What each mode costs, in one sentence for each server (and load, where there are several).

    A sentence is over all the ways of tracing in a mode, and over all sizes of the answer.
    """
    together: dict[tuple[str, str, str, str], list[Group]] = defaultdict(list)
    for group in report.analysis.groups:
        together[group.server, group.load, parameters(group), group.loop].append(group)
    servers = [server for server, *_ in together]
    return [
        _server_in_short(groups, of_several_loads=servers.count(groups[0].server) > 1)
        for groups in together.values()
    ]


def _server_in_short(groups: Sequence[Group], *, of_several_loads: bool) -> str:
    first, sizes = groups[0], len({group.body_bytes for group in groups})
    notes = [f"{sizes} sizes of the answer"] if sizes > 1 else []
    notes += [f"{first.load} {parameters(first)}"] if of_several_loads else []
    server = f"the {first.server} server" + (f" ({', '.join(notes)})" if notes else "")
    by_mode: dict[str, list[CellSummary]] = defaultdict(list)
    for group in groups:
        for cell in group.cells:
            if cell.cell.mode not in (BASELINE, CONTROL) and cell.status == "available":
                by_mode[cell.cell.mode].append(cell)
    if not by_mode:
        return f"No way of tracing was measured on {server}."
    said = [_mode_in_short(mode, cells, WORDS[first.loop]) for mode, cells in by_mode.items()]
    return f"On {server}, {_listed(said)}."


def _mode_in_short(mode: str, cells: Sequence[CellSummary], words: Words) -> str:
    """`kernel-uprobe costs 82 to 85 % of the throughput`, as far as the trials carry that."""
    known = [cell.overhead_pct.value for cell in cells if cell.overhead_pct and _is_told(cell)]
    measured = sum(1 for cell in cells if cell.overhead_pct)
    if not measured:
        return f"{mode} has no estimate"
    if not known:
        return f"what {mode} costs cannot be told from noise"
    others = measured - len(known)
    rest = "the other" if others == 1 else "the others"
    ways = f" in {len(known)} of {measured} ways ({rest} cannot be told from noise)"
    ways = ways if others else ""
    ends = sorted(known)
    if ends[0] < 0:
        shares = [_change(value, words) for value in dict.fromkeys((ends[0], ends[-1]))]
        return f"{mode} is {' to '.join(shares)}{ways}"
    shown = list(dict.fromkeys(text.decimal(value, 0) for value in (ends[0], ends[-1])))
    return f"{mode} costs {words.share.format(' to '.join(shown))}{ways}"


def _is_told(cell: CellSummary) -> bool:
    """Whether a cell's overhead may be called one, or there is nothing to hold it against."""
    return cell.verdict not in (INSIDE, UNCLEAR)


def _listed(parts: Sequence[str]) -> str:
    """`a; b; and c`."""
    if len(parts) < 3:
        return ", and ".join(parts)
    return f"{'; '.join(parts[:-1])}; and {parts[-1]}"


def named(group: Group, report: Report) -> str:
    """`the https server`, with the size of its answers where there are several."""
    size = f" ({text.body(group.body_bytes)} body)" if report.several_sizes else ""
    return f"the {group.server} server{size}"


def _not_available(cells: Sequence[CellSummary], server: str) -> str:
    first = cells[0]
    reason = f": {first.unavailable_reason}" if first.unavailable_reason else ""
    why = f"{first.status}{reason}".rstrip(".")
    if len(cells) == 1:
        return f"{text.label(first)} was not measured on {server}, {why}."
    names = ", ".join(text.label(cell) for cell in cells)
    return f"{len(cells)} ways were not measured on {server}, {why}. They are {names}."


def sentence(cell: CellSummary, server: str, group: Group) -> str:
    """What a mode costs a server, in one sentence that claims no more than the trials carry."""
    name, words = text.label(cell), WORDS[group.loop]
    estimate = cell.overhead_pct
    if estimate is None:
        return f"{name} on {server}: no estimate, {_why_no_estimate(cell)}."
    basis = _basis(estimate, group)
    if cell.verdict == INSIDE:
        return (
            f"{name} on {server}: no difference that this run can tell from its noise, "
            f"{_change(estimate.value, words)} ({basis}), noise floor {floor(group)}."
        )
    if cell.verdict == UNCLEAR:
        return (
            f"{name} may change {words.what} of {server}, this run cannot tell: "
            f"{_change(estimate.value, words)} ({basis})."
        )
    without_floor = cell.verdict is None and estimate.n >= LEAST_FOR_INTERVAL
    caveat = ", with no noise floor to hold it against" if without_floor else ""
    form = words.better if estimate.value < 0 else words.worse
    share = text.percent(abs(estimate.value))
    at_rate = f" at {_rate(group)}" if group.is_open else ""
    said = f"{form.format(name=name, server=server, share=share)}{at_rate} ({basis}){caveat}."
    return f"{said}{_waiting(cell)}"


def _waiting(cell: CellSummary) -> str:
    """What became of the latency under an open loop; nothing under a closed one."""
    if cell.short_of_rate:
        return " It did not keep up with that rate."
    longest = cell.latency_extra_pct.get("p99")
    if longest is None:
        return ""
    way = "longer" if longest.value >= 0 else "shorter"
    return f" Its p99 latency was {text.percent(abs(longest.value))} {way}."


def _rate(group: Group) -> str:
    asked = group.asked_per_s
    return "a fixed rate" if asked is None else f"a fixed rate of {text.whole(asked)} req/s"


def noise_floor(group: Group) -> str:
    """The noise floor of a group in one sentence."""
    control = next((cell for cell in group.cells if cell.cell.mode == CONTROL), None)
    if group.noise_floor_pct is None or control is None or control.overhead_pct is None:
        return (
            f"Noise floor: unknown, because fewer than {LEAST_FOR_INTERVAL} blocks hold both "
            f"{BASELINE} and {CONTROL}; no difference can be held against it."
        )
    estimate, words = control.overhead_pct, WORDS[group.loop]
    return (
        f"Noise floor: {floor(group)}. The same untraced server, measured a second time in each "
        f"block, {words.was} {_change(estimate.value, words)} ({_basis(estimate, group)}); "
        "the larger bound is the floor, and a difference inside it is not called one."
    )


def floor(group: Group) -> str:
    """A noise floor in both directions: `4.7 % slower or 4.9 % faster`."""
    if group.noise_floor_pct is None:
        return text.MISSING
    return WORDS[group.loop].floor.format(
        worse=text.percent(group.noise_floor_pct),
        better=text.percent(better_pct(group.noise_floor_pct, group.scale)),
    )


def latency_note(group: Group, load_host: LoadHost | None = None) -> str:
    """What a reader must know beside every latency."""
    where = "on the same host as the server"
    if load_host is not None:
        where = f"on a second machine, {load_host.name}, whose way to the server is in each latency"
    if group.is_open:
        return (
            f"{group.load} is an open loop {where}: it asks at "
            f"{_rate(group)}, whether answers came or not, so latencies of all modes that keep up "
            "with it are comparable with each other."
        )
    return (
        f"{group.load} is a closed loop {where}: it waits for each answer "
        "before it asks again, so a slower server is asked less, and latencies of modes with "
        f"different req/s are not comparable with each other. {_incomparable(group)}"
    ).rstrip()


def _incomparable(group: Group) -> str:
    """Which modes of a closed loop had other req/s than none, so that their latencies say less."""
    known = [cell for cell in group.cells if cell.verdict is not None]
    other = [text.label(cell) for cell in known if cell.verdict != INSIDE]
    if other and len(other) == len(known):
        return "Here the latencies of no mode are comparable with those of none."
    if other:
        return f"Not comparable with none here: {', '.join(other)}."
    return "In this run no mode differs from none by more than the noise." if known else ""


def rejections(cell: CellSummary, loop: str = CLOSED) -> str | None:
    """The rejected trials of a cell, and what the estimate is with them; None without any."""
    if not cell.rejected:
        return None
    rate = f"{cell.rejected} of {cell.trials} trials rejected ({text.percent(cell.rejected_pct)})"
    if cell.overhead_with_rejected_pct is None:
        return rate
    with_them = text.estimate(cell.overhead_with_rejected_pct)
    return f"{rate}; {WORDS[loop].figure} with them {with_them}"


def notes(group: Group) -> Iterator[str]:
    """What does not fit a table: a rate that was not reached, and rejected trials."""
    for cell in group.cells:
        name = text.label(cell)
        if cell.short_of_rate:
            yield (
                f"{name}: the load fell short of its rate by more than "
                f"{text.percent(100 * (1 - LEAST_RATE), 0)} in {cell.short_of_rate} of {cell.n} "
                f"trials ({text.rate(cell)} req/s), so its latency is of another load than asked."
            )
        rejected = rejections(cell, group.loop)
        if rejected:
            yield f"{name}: {rejected}."


def lost_events(report: Report) -> Iterator[str]:
    """Every trial that is invalid because its tracer lost events."""
    for trial in trials_that_lost(report.run.trials):
        lost = "; ".join(reason.text for reason in trial.reasons if reason.code == EVENTS_LOST)
        yield f"{trial.name}: invalid({lost})."


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
    if run.sequential is not None:
        yield "Number of blocks", text.looks(run.sequential)
    groups = report.analysis.groups
    for load in sorted({f"{g.load} ({g.loop} loop): {parameters(g)}" for g in groups}):
        yield "Load", load
    if run.load_host is not None:
        yield "Load from", load_from(run.load_host)
    warm_up_s = run.matrix.get("warm_up_s")
    if warm_up_s is not None:
        yield "Warm-up", f"{warm_up_s} s before each measurement, not counted"
    for name, path in report.path_names:
        yield "Runtime", f"{name} is {path}"
    yield from _on_the_host(report)
    pins = ", ".join(f"{name} {value}" for name, value in sorted(flat(run.pins).items()))
    if pins:
        yield "Pins", pins
    yield "Plan", f"sha256 {run.plan_sha256}"


def _on_the_host(report: Report) -> Iterator[tuple[str, str]]:
    """The host, what was set on it for the run, and what changed under it."""
    run = report.run
    yield from report.machine
    if run.tuned is not None:
        yield from tuned.lines(run.tuned)
    users = servers_users(run)
    if users:
        yield "Servers ran as", users
    if report.changed_on_host:
        yield "Changed during the run", "; ".join(report.changed_on_host)


def load_from(far: LoadHost) -> str:
    """Which second machine the load came from, and what was between it and the server."""
    rtt = f"{text.decimal(far.rtt_median_us)} us in the median, at least "
    rtt += f"{text.decimal(far.rtt_min_us)} us"
    offset = "not known"
    if far.clock_offset_s is not None and far.clock_uncertainty_s is not None:
        offset = f"{far.clock_offset_s * 1e6:+.1f} us (+/- {far.clock_uncertainty_s * 1e6:.1f} us)"
    links = {"the server's host": far.host_mbit_s, "the load's": far.load_host_mbit_s}
    speeds = ", ".join(
        f"{whose} {'not known to its kernel' if speed is None else f'{speed:,} Mbit/s'}"
        for whose, speed in links.items()
    )
    return (
        f"The load came from a second machine, {far.name}, to {far.server_address}; it took no CPU "
        f"of the server's host. Before the first trial: round trip of a message {rtt}; its clock "
        f"ahead of the host's by {offset}. Speed of the link: {speeds}"
    )


def servers_users(run: Run) -> str:
    """Who each server really ran as, by the kernel; empty where no trial recorded it."""
    said: dict[str, set[str]] = {}
    for trial in run.trials:
        if trial.server_user is not None and trial.server_user.processes:
            said.setdefault(trial.cell.server, set()).add(_user(trial.server_user))
    return "; ".join(f"{server}: {' or '.join(sorted(said[server]))}" for server in sorted(said))


def _user(user: ServerUser) -> str:
    if user.as_root:
        return "root, as its adapter asks" if user.asked == "root" else "root, unasked"
    rights = ", ".join(user.capabilities)
    return f"an unprivileged user, {f'with {rights}' if rights else 'without any capability'}"


def _place(group: Group) -> tuple[str, int]:
    return group.server, group.body_bytes


def _change(value_pct: float, words: Words) -> str:
    if text.decimal(value_pct) == "0.0":
        return f"0.0 % {words.same}"
    return f"{text.percent(abs(value_pct))} {words.up if value_pct > 0 else words.down}"


def _basis(estimate: Estimate, group: Group) -> str:
    if estimate.interval is None:
        return f"n = {estimate.n}, too few for an interval"
    kind = "sequential 95 % interval" if group.sequential else "95 % interval"
    return f"{kind} {text.bounds(estimate.interval)}, n = {estimate.n}"


def _why_no_estimate(cell: CellSummary) -> str:
    if not cell.trials:
        return "it was not measured yet"
    if not cell.n:
        return f"none of its {cell.trials} trials counts"
    return f"no block holds both it and a valid {BASELINE}"
