"""What a report says about a run, before it has a form: figures, sentences' material, lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uplab.analysis import Analysis, CellSummary, Group, analyse
from uplab.measured import PlannedCell, Run, Sequential, Trial
from uplab.report import text
from uplab.report.latency import Latency, pooled
from uplab.report.pooled_cache import PooledCache
from uplab.shortnames import of_runtimes

# What a host's fingerprint always differs in from one moment to the next.
_ALWAYS_CHANGES = ("load_average", "uptime_s")
_CELLS_NAMED = 5
_NAMED_SETTINGS = ("governor", "scaling_driver", "turbo_off", "boost", "smt_active", "lockdown")


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the renderers need. `latency` by cell id; `machine` as label and value."""

    run: Run
    analysis: Analysis
    latency: Mapping[str, Latency]
    invalid: tuple[Trial, ...]
    flagged: tuple[Trial, ...]
    unavailable: tuple[PlannedCell, ...]
    notices: tuple[str, ...]
    machine: tuple[tuple[str, str], ...]
    changed_on_host: tuple[str, ...]

    def rows(self) -> Iterator[tuple[Group, CellSummary]]:
        """Every cell with its group, in order."""
        for group in self.analysis.groups:
            for cell in group.cells:
                yield group, cell

    @property
    def path_names(self) -> list[tuple[str, str]]:
        """The short names that stand for paths in this report, and the paths."""
        return sorted((name, path) for path, name in of_runtimes(self.run.cells).items())

    @property
    def several_sizes(self) -> bool:
        """Whether a group must name its body size to be told from another."""
        return len({group.body_bytes for group in self.analysis.groups}) > 1


def build(run: Run, cache: Path | None = None) -> Report:
    """The report of a run.

    In: a run as loaded, whose histograms are read here; the folder in which what they gave is kept
    for the next report, None for none.
    """
    analysis = analyse(run)
    latency = _latency(run, analysis, PooledCache(cache, run) if cache else None)
    return Report(
        run=run,
        analysis=analysis,
        latency=latency,
        invalid=tuple(trial for trial in run.trials if not trial.valid),
        flagged=tuple(trial for trial in run.trials if trial.flags),
        unavailable=tuple(cell for cell in run.cells if cell.status != "available"),
        notices=tuple(_notices(run, latency)),
        machine=tuple(_machine(run)),
        changed_on_host=tuple(_changed(run.fingerprint_before, run.fingerprint_after)),
    )


def _latency(run: Run, analysis: Analysis, cache: PooledCache | None) -> dict[str, Latency]:
    """The pooled latency of each cell of which a trial counts."""
    found = {}
    for group in analysis.groups:
        for cell in group.cells:
            if cell.counted:
                known = cache.get(cell.counted) if cache else None
                found[cell.cell.cell_id] = latency = known or pooled(run, cell.counted)
                if cache and known is None:
                    cache.put(cell.counted, latency)
    if cache:
        cache.save()
    return found


def _notices(run: Run, latency: Mapping[str, Latency]) -> Iterator[str]:
    """What a reader must know before believing any figure."""
    yield from _origin(run)
    if not run.verified:
        yield "Not verified: " + "; ".join(run.not_verified_because[:20]) + "."
    if run.outcome != "complete":
        planned = "" if run.trials_planned is None else f" of {run.trials_planned} planned"
        yield f"The run is not complete ({run.outcome}): {len(run.trials)}{planned} trials."
    if run.error:
        yield f"The run ended with an error: {run.error}"
    if run.touched:
        yield f"A tracer may have altered other programs too: {', '.join(run.touched[:20])}."
    if run.sequential is not None:
        yield from _sequential(run, run.sequential)
    yield from _disturbances(run)
    if run.not_attested:
        # A text holds no histogram; that is said once, and not of each trial.
        return
    for problems in (cell.problems for cell in latency.values()):
        for problem in problems:
            yield f"A latency histogram is left out: {problem}."


def _origin(run: Run) -> Iterator[str]:
    """Where the figures come from, if not from a measurement as it is."""
    if run.not_attested:
        yield (
            f"Imported {text.utc(run.started_utc)} from texts of a load generator. "
            f"Not attested: {'; '.join(run.not_attested)}."
        )
    elif run.provenance != "measured":
        yield f"These figures were not measured: the run's provenance is {run.provenance}."
    if run.redacted_from is not None:
        yield (
            "Redacted: names, addresses and serial numbers were replaced, figures were not. The "
            f"original's SHA256SUMS has the sha256 {run.redacted_from}."
        )


def _sequential(run: Run, sequential: Sequential) -> Iterator[str]:
    width = f"{sequential.half_width_pp:g} pp"
    yield (
        f"Sequential intervals: blocks were added to know every overhead to {width}, so a "
        "95 % interval holds its truth a little less often than that."
    )
    missed = sequential.not_reached
    if missed:
        more = f" and {len(missed) - _CELLS_NAMED} more" if len(missed) > _CELLS_NAMED else ""
        yield f"Not known to {width}: {', '.join(missed[:_CELLS_NAMED])}{more}."
    if sequential.stopped is None:
        yield (
            f"The last look at the figures is missing. Run: invoke bench.resume {run.run_id} "
            f"--until-ci {sequential.half_width_pp:g}pp"
        )


def _disturbances(run: Run) -> Iterator[str]:
    trials = len(run.trials)
    invalid = sum(1 for trial in run.trials if not trial.valid)
    flagged = sum(1 for trial in run.trials if trial.flags)
    if invalid:
        yield f"{invalid} of {trials} trials invalid: they do not count, and are listed below."
    if flagged:
        yield f"{flagged} of {trials} trials flagged: they count, and what disturbed them is below."


def _machine(run: Run) -> Iterator[tuple[str, str]]:
    """The host in the few words that explain figures; what was not recorded is left out."""
    host = flat(run.fingerprint_before)
    cpus = host.get("cpu.logical_cpus")
    cpu = [host.get("cpu.model"), f"{cpus} logical CPUs" if cpus is not None else None]
    cpu.append("virtual machine" if host.get("cpu.virtual_machine") is True else None)
    memory = host.get("memory_bytes")
    settings = [
        f"{name} {host[f'settings.{name}']}"
        for name in _NAMED_SETTINGS
        if host.get(f"settings.{name}") is not None
    ]
    lines = {
        "Kernel": host.get("kernel.release"),
        "Distribution": host.get("distribution"),
        "CPU": ", ".join(str(part) for part in cpu if part),
        "Microcode": host.get("cpu.microcode"),
        "Memory": f"{memory / 2**30:.1f} GiB" if isinstance(memory, int | float) else None,
        "Settings": ", ".join(settings),
        "Components": ", ".join(_components(run.fingerprint_before)),
    }
    for label, value in lines.items():
        if value:
            yield label, str(value)


def _components(fingerprint: Mapping[str, Any]) -> Iterator[str]:
    components = fingerprint.get("components")
    for name, record in sorted(components.items()) if isinstance(components, dict) else ():
        if isinstance(record, dict):
            kept = [record.get("version"), record.get("source"), record.get("hash")]
            yield f"{name} {' '.join(str(part) for part in kept if part)}".strip()


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """What of the host was not the same after the run."""
    if not before or not after:
        return
    old, new = flat(before), flat(after)
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key) and not key.startswith(_ALWAYS_CHANGES):
            yield f"{key}: {old.get(key)} before, {new.get(key)} after"


def flat(values: Mapping[str, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Nested objects as `a.b.c` keys, at most nine levels deep."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and depth < 8:
            leaves |= flat(value, f"{prefix}{key}.", depth + 1)
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
