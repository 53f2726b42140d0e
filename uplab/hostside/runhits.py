"""Which probe site the kernel's run counts belong to: by where each program's probes are set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uplab.hostside import runcounts
from uplab.hostside.attest import ExpectedSite
from uplab.hostside.runcounts import Probe, Program
from uplab.hostside.tracing import row

#: The name of the sum, where not every program has one site of its own.
ALL = "all probes"
_FILE = tuple[int, int]


@dataclass(frozen=True)
class Look:
    """The programs of a tracer with their counts so far, and where their probes are set.

    ``unplaced`` are programs on userspace probes that the kernel does not tell the places of.
    """

    programs: Mapping[int, Program]
    probes: tuple[Probe, ...]
    unplaced: frozenset[int]

    @property
    def on_probes(self) -> set[int]:
        """The programs on userspace probes."""
        return {probe.program_id for probe in self.probes} | self.unplaced


def look(pids: Sequence[int]) -> Look:
    """Read the counts of the programs that processes hold; OSError where that is refused."""
    probes = tuple(runcounts.probes(pids))
    linked = {
        link.program_id
        for link in runcounts.links(pids).values()
        if link.kind.startswith(("uprobe", "uretprobe"))
    }
    placed = {probe.program_id for probe in probes}
    return Look(runcounts.programs(pids), probes, frozenset(linked - placed))


def hits(
    before: Look, after: Look, sites: Iterable[ExpectedSite], requests: int | None
) -> dict[str, Any]:
    """The runs of the programs during the warm-up, in the form of a trial's hits.

    Args:
        before: at its start.
        after: at its end.
        sites: where probes must be; those in userspace are not the kernel's to count, so they
            are left out.
        requests: completed in the warm-up; None where the load could not tell.

    Returns:
        ``by_name`` by the sites' names; where a program serves several of them, or places that are
        none, their sum alone. ``elsewhere`` says whether the programs also run for other files.
    """
    sites = [site for site in sites if site.placement != "userspace"]
    runs = runcounts.runs_between(before.programs, after.programs, after.on_probes)
    owners, elsewhere = _owners(after, sites)
    groups: dict[str, int] = dict.fromkeys((site.name for site in sites), 0)
    for program, count in runs.items():
        name = owners.get(program)
        if name is None:
            groups = {ALL: sum(runs.values())}
            break
        groups[name] += count

    def each(count: int) -> float | None:
        return count / requests if requests else None

    return {
        "sites": _rows(sites, groups, each) if ALL not in groups else [],
        "by_name": {n: {"hits": c, "per_request": each(c)} for n, c in groups.items()},
        "counted": "by the kernel, in the warm-up",
        "warm_up_requests": requests,
        "elsewhere": elsewhere,
    }


def _owners(seen: Look, sites: Sequence[ExpectedSite]) -> tuple[dict[int, str], bool]:
    """The site that each program serves alone, and whether a probe lies in another file."""
    names: dict[tuple[_FILE, int], str] = {}
    files: set[_FILE] = set()
    for site in sites:
        file = identity(Path(site.file))
        if file is not None:
            files.add(file)
            names[file, site.offset] = site.name
    served: defaultdict[int, set[str | None]] = defaultdict(set)
    elsewhere = False
    for probe in seen.probes:
        file = identity(probe.opened)
        elsewhere = elsewhere or file not in files
        served[probe.program_id].add(names.get((file, probe.offset)) if file else None)
    alone = {
        program: name
        for program, served_names in served.items()
        if len(served_names) == 1 and (name := next(iter(served_names))) is not None
    }
    return alone, elsewhere


def identity(path: Path) -> _FILE | None:
    """What names a file for good, whatever path it has; None where it is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _rows(sites: Sequence[ExpectedSite], groups: Mapping[str, int], each: Any) -> list[Any]:
    """One row for each name and class of instruction: a program counts all of its places."""
    rows: dict[str, dict[str, Any]] = {}
    for site in sites:
        hits = groups[site.name]
        known = rows.setdefault(site.name, {**row(site, hits, each(hits)), "places": 0})
        known["places"] += 1
    return list(rows.values())
