"""All charts of a report, in the order in which it shows them, and the names of their files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from uplab.analysis import Group
from uplab.measured import Trial
from uplab.published import Source, overheads
from uplab.report import sentences, text
from uplab.report.charts import bars, curves, drift, overhead
from uplab.report.charts.overhead import Published
from uplab.report.charts.style import Chart
from uplab.report.model import Report
from uplab.report.words import WORDS

OVERHEAD, DRIFT, LATENCY, CPU, BUDGET, SIZES = (
    *("overhead", "throughput", "latency", "cpu", "budget", "sizes"),
)


@dataclass(frozen=True, slots=True)
class Book:
    """The charts of one kind by the number of their group; `sizes` by server."""

    by_group: Mapping[str, Mapping[int, Chart]]
    sizes: Mapping[str, Chart]

    def all(self) -> Iterator[Chart]:
        """Every chart, once."""
        for charts in self.by_group.values():
            yield from charts.values()
        yield from self.sizes.values()


def make(report: Report, sources: Sequence[Source]) -> Book:
    """The charts of a report; `sources` are the published figures beside it."""
    groups = report.analysis.groups
    published = _by_place(sources)
    trials: Mapping[str, list[Trial]] = defaultdict(list)
    for trial in report.run.trials:
        trials[trial.cell.cell_id].append(trial)
    names = _Names()
    by_group: dict[str, dict[int, Chart]] = defaultdict(dict)
    for number, group in enumerate(groups):
        place = (group.server, group.body_bytes)
        # What an open loop costs is CPU: nothing like it was published.
        beside = [] if group.is_open else published.get(place, [])
        specs = {
            OVERHEAD: overhead.spec(group, beside),
            DRIFT: drift.spec(group, trials),
            LATENCY: curves.latency(group, report.latency),
            CPU: bars.cpu(group),
            BUDGET: bars.budget(group),
        }
        title = sentences.heading(group, report)
        for kind, spec in specs.items():
            if spec is not None:
                name = names.of(kind, group.server, text.body(group.body_bytes))
                says = f"{_SAYS[kind].format(figure=WORDS[group.loop].figure)}, {title}"
                by_group[kind][number] = Chart(name, title, text.plain(says), spec)
    return Book(by_group, dict(_sizes(groups, published, names)))


_SAYS = {
    OVERHEAD: "Chart: {figure} of each way of tracing against none, with intervals",
    DRIFT: "Chart: each trial by block, against the median of its cell",
    LATENCY: "Chart: latency by percentile of each mode",
    CPU: "Chart: CPU time of the server per request of each mode",
    BUDGET: "Chart: what the CPU time of a request is made of in each probed mode",
    SIZES: "Chart: overhead of each mode by size of the answer",
}


def _sizes(
    groups: Sequence[Group],
    published: Mapping[tuple[str, int], Sequence[Published]],
    names: _Names,
) -> Iterator[tuple[str, Chart]]:
    for server in dict.fromkeys(group.server for group in groups):
        mine = [group for group in groups if group.server == server]
        # Of several loads the first: points of different loads are no line.
        same = [group for group in mine if _load(group) == _load(mine[0])]
        beside = {
            group.body_bytes: published.get((server, group.body_bytes), ())
            for group in same
            if not group.is_open
        }
        spec = curves.sizes(same, beside)
        if spec is not None:
            says = f"{_SAYS[SIZES]}, {server}"
            yield server, Chart(names.of(SIZES, server), server, text.plain(says), spec)


def _load(group: Group) -> tuple[str, str]:
    return group.load, sentences.parameters(group)


def _by_place(sources: Sequence[Source]) -> dict[tuple[str, int], list[Published]]:
    found: dict[tuple[str, int], list[Published]] = defaultdict(list)
    for source in sources:
        for (server, mode, size), pct in overheads(source).items():
            found[server, size].append(Published(source.name, mode, pct))
    return found


class _Names:
    """Names of files: words of a run with what a file's name may not hold left out, each once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, *words: str) -> str:
        joined = "-".join(re.sub(r"[^A-Za-z0-9]+", "", word)[:40] for word in words)
        name, number = joined, 1
        while name in self._taken:
            number += 1
            name = f"{joined}-{number}"
        self._taken.add(name)
        return name
