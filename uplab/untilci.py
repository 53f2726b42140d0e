"""Measure until overheads are known: blocks in parts, with a look at the figures between them.

Each part is a run of its own on the host, as `bench.resume --more-blocks` starts one, and belongs
to the same run directory: what a lost connection or a killed uplab leaves is brought here and gone
on with by `bench.resume RUN --until-ci WIDTH`. What was looked at travels in each part's header,
so run.json says at any time that its intervals are sequential.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uplab import attend, inventory, plan, relabel, results
from uplab.analysis import BASELINE, paired_log_ratios
from uplab.errors import UplabError, UsageError
from uplab.hostside.spec import Earlier, Plan
from uplab.measured import Run, Sequential
from uplab.progress import duration_in_words
from uplab.remote import Host
from uplab.sequential import COUNTED_TO, FIRST_LOOK, Look, look
from uplab.view import View
from uplab.waiting import Queue

if TYPE_CHECKING:
    from uplab.report.model import Report

MOST_BLOCKS = 100
#: As many as a matrix may have.
_LIMIT_BLOCKS = 100_000
_WIDTH = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(?: ?pp)?")
#: So many earlier runs are read for one that tells the spread.
_RUNS_READ = 3


@dataclass(frozen=True)
class Until:
    """What is asked for.

    Args:
        width_pp: half the width of the 95 % interval, in percentage points.
        max_blocks: of the whole run, those that are there already included.
        max_minutes: from now on; None is without end. A part that has begun is finished.
    """

    width_pp: float
    max_blocks: int = MOST_BLOCKS
    max_minutes: float | None = None

    @property
    def shown(self) -> str:
        """The width as it is given on the command line."""
        return f"{self.width_pp:g}pp"


def read(
    width: str | None,
    max_blocks: int | None = None,
    max_minutes: float | None = None,
    *,
    detach: bool = False,
) -> Until | None:
    """What the flags ask for; None where they are not given.

    Raises:
        UsageError: one of them is no such value, or does not go with the others.
    """
    if width is None:
        for flag, value in (("--max-blocks", max_blocks), ("--max-minutes", max_minutes)):
            if value is not None:
                raise UsageError(f"{flag} belongs to --until-ci, which is not given")
        return None
    match = _WIDTH.fullmatch(width)
    if match is None or not 0 < float(match[1]) < 100:
        raise UsageError(
            f"--until-ci {width}: expected percentage points above 0 and below 100, such as 2pp"
        )
    if detach:
        raise UsageError("--detach and --until-ci exclude each other: somebody has to look")
    most = MOST_BLOCKS if max_blocks is None else max_blocks
    if not FIRST_LOOK <= most <= _LIMIT_BLOCKS:
        raise UsageError(
            f"--max-blocks {most}: from {FIRST_LOOK}, where the first look is, to {_LIMIT_BLOCKS}"
        )
    if max_minutes is not None and not 0 < max_minutes < inf:
        raise UsageError(f"--max-minutes {max_minutes:g}: above 0")
    return Until(float(match[1]), most, max_minutes)


def first_settings(settings: Sequence[str]) -> tuple[str, ...]:
    """The settings of a matrix that is measured up to the first look.

    Raises:
        UsageError: they name a number of blocks.
    """
    if any(setting.partition("=")[0].strip() == "blocks" for setting in settings):
        raise UsageError("--set blocks and --until-ci exclude each other. See --max-blocks")
    return (*settings, f"blocks={FIRST_LOOK}")


# ---- the loop ------------------------------------------------------------------------------------


@dataclass
class _Session:
    """The looks of one command at one run.

    Args:
        host: where.
        first: the plan of what is to be measured before the first look.
        folder: of all runs.
        view: where it is shown.
        until: what is asked for.
        looks: at how many blocks an earlier command looked.
        clock: seconds; for tests.
        queue: before the host, where one may wait for it.
    """

    host: Host
    first: Plan
    folder: Path
    view: View
    until: Until
    looks: tuple[int, ...] = ()
    clock: Callable[[], float] = time.monotonic
    queue: Queue | None = None
    _began_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._began_s = self.clock()

    def go(self) -> Report:
        """Measure, look, and again."""
        part, label = self.first, Sequential(self.until.width_pp, self.looks)
        while True:
            report = self._measured(_labelled(part, label))
            seen = look(paired_log_ratios(report.run), part.blocks, self.until.width_pp)
            blocks, stopped = self._next(seen, part)
            label = _label(seen, label, stopped)
            self.view.say("\n".join(told(seen, self._block_s(part))))
            if stopped:
                self.view.say(f"no further blocks: {stopped}")
                relabel.write(report.run.path, label)
                return attend.reported(report.run.path)
            self.view.say(f"next look at {blocks} blocks")
            part = beyond(part, report.run, blocks)

    def _measured(self, part: Plan) -> Report:
        if not plan.trials(part):
            return attend.reported(self.folder / part.run_id)
        queue = self.queue or Queue(self.host, None, self.view)
        running = queue.started(lambda: attend.start(self.host, part, self.view))
        return attend.to_the_end(running, part, self.folder, self.view)

    @contextmanager
    def leaving_a_way_back(self) -> Iterator[None]:
        """Whoever is thrown out of the middle is told how to go on with what is here."""
        try:
            yield
        except (UplabError, KeyboardInterrupt):
            # Whoever listened may be gone, and so may be what we print on.
            with suppress(OSError):
                if (self.folder / self.first.run_id).is_dir():
                    way = f"bench.resume {self.first.run_id} --until-ci {self.until.shown}"
                    way += inventory.flag(self.host.chosen)
                    self.view.say(f"to go on later, run: invoke {way}")
            raise

    def _next(self, seen: Look, part: Plan) -> tuple[int, str | None]:
        """How many blocks there are to be at the next look; or why there is none."""
        if not seen.waited_for:
            if not seen.not_reached:
                return seen.blocks, "every overhead is known that well"
            return seen.blocks, f"what is not known has not one valid pair with {BASELINE}"
        blocks = seen.next_at(self.until.max_blocks)
        if blocks == seen.blocks:
            return blocks, f"--max-blocks {self.until.max_blocks}"
        if self.until.max_minutes is not None:
            left_s = 60 * self.until.max_minutes - (self.clock() - self._began_s)
            fitting = seen.blocks + int(max(left_s, 0) / self._block_s(part))
            blocks = min(blocks, fitting)
            if blocks == seen.blocks:
                return blocks, f"--max-minutes {self.until.max_minutes:g}"
        return blocks, None

    def _block_s(self, part: Plan) -> float:
        """How long a block takes: as planned, or longer where it took longer so far."""
        there = len(self.first.earlier.skip) // max(len(part.cells), 1)
        measured = max(part.blocks - there, 1)
        return max(_planned_block_s(part), (self.clock() - self._began_s) / measured)


def measure(
    host: Host,
    first: Plan,
    folder: Path,
    view: View,
    until: Until,
    earlier: Run | None = None,
    clock: Callable[[], float] = time.monotonic,
    queue: Queue | None = None,
) -> Report:
    """Measure blocks until every paired overhead is known that well, or a cap is reached.

    Args:
        host: where, set up.
        first: the plan of the first part: FIRST_LOOK blocks, or what a run lacks.
        folder: of all runs.
        view: where it is shown.
        until: what is asked for.
        earlier: the run, where it is taken up again.
        clock: seconds; for tests.
        queue: before the host, where one may wait for it.

    Returns:
        the report of the whole run, with its label in run.json.

    Raises:
        UsageError: no overhead can be paired, or the caps leave no room for a first look.
        UplabError, KeyboardInterrupt: as of ``attend``; how to go on was said.
    """
    _check(first, until)
    view.say(
        f"adding blocks until every overhead is known to {until.shown} (half of its 95 % "
        f"interval), up to {until.max_blocks} blocks"
    )
    view.say(foretold(first, folder, until, earlier))
    before = earlier.sequential if earlier else None
    looks = before.looks if before else ()
    session = _Session(host, first, folder, view, until, looks, clock, queue)
    with session.leaving_a_way_back():
        return session.go()


def _check(first: Plan, until: Until) -> None:
    none = {(cell.server, cell.body_bytes) for cell in first.cells if cell.mode == BASELINE}
    if not any(
        cell.mode != BASELINE and (cell.server, cell.body_bytes) in none for cell in first.cells
    ):
        raise UsageError(
            f"--until-ci: no overhead can be paired, because no mode stands beside a cell "
            f"`{BASELINE}`"
        )
    needed_s = plan.duration_s(first)
    if until.max_minutes is not None and needed_s > 60 * until.max_minutes:
        raise UsageError(
            f"--max-minutes {until.max_minutes:g}: {first.blocks} blocks, before the first look, "
            f"take about {duration_in_words(needed_s)}"
        )


def _planned_block_s(part: Plan) -> float:
    return sum(plan.trial_s(part, cell) for cell in part.cells)


def beyond(part: Plan, run: Run, blocks: int) -> Plan:
    """The plan of the blocks after those of a plan, of which none is measured again."""
    skip = (f"{block}/{cell.id}" for block in range(1, part.blocks + 1) for cell in part.cells)
    highest = max((trial.number for trial in run.trials), default=0)
    again = {(trial.block, trial.attempt) for trial in run.trials if trial.attempt > 1}
    repeat = replace(part.repeat, per_run=max(part.repeat.per_run - len(again), 0))
    return replace(part, blocks=blocks, earlier=Earlier(highest, tuple(skip)), repeat=repeat)


def _labelled(part: Plan, label: Sequential) -> Plan:
    return replace(part, header={**part.header, "sequential": asdict(label)})


def _label(seen: Look, before: Sequential, stopped: str | None) -> Sequential:
    # Taken up again without a further block, it is the same look.
    looks = [blocks for blocks in before.looks if blocks != seen.blocks]
    return Sequential(
        half_width_pp=seen.width_pp,
        looks=(*looks, seen.blocks),
        reached=tuple(overhead.cell_id for overhead in seen.reached),
        not_reached=tuple(overhead.cell_id for overhead in seen.not_reached),
        stopped=stopped,
    )


# ---- what is said --------------------------------------------------------------------------------


def told(seen: Look, block_s: float) -> Iterable[str]:
    """What a look shows, in lines: what is known, what is not, the blocks to expect."""
    known = f"{len(seen.reached)} of {len(seen.overheads)} overheads are known to "
    yield f"look at {seen.blocks} blocks: {known}{seen.width_pp:g} pp"
    for overhead in seen.not_reached:
        half = overhead.half_width_pp
        now = "no interval yet" if half is None else f"{half:.3g} pp"
        yield f"  {overhead.cell_id}: {now}, n = {overhead.n}"
    if seen.waited_for:
        more_s = ((seen.expected or 0) - seen.blocks) * block_s
        yield f"  {_expected(seen, more_s, 'further')}"


def _expected(seen: Look, more_s: float, which: str) -> str:
    if seen.expected is None or seen.widest is None:
        return "too few pairs to tell how many blocks it takes"
    if seen.expected == inf:
        return f"blocks to expect: more than {COUNTED_TO:,}, for {seen.widest.cell_id}"
    time_ = f", about {duration_in_words(max(more_s, 0))} {which}".rstrip()
    return f"blocks to expect: about {seen.expected:,.0f}{time_}, for {seen.widest.cell_id}"


def foretold(first: Plan, folder: Path, until: Until, earlier: Run | None = None) -> str:
    """What can be said before anything is measured: from the run itself, or an earlier one."""
    for run in [earlier] if earlier else _earlier_runs(first, folder):
        seen = look(_like(first, run), run.blocks, until.width_pp)
        # Of an earlier run the spread counts, not whether it happened to be narrow enough.
        if seen.expected is not None:
            expected = max(seen.expected, FIRST_LOOK)
            more = expected - (run.blocks if earlier else 0)
            said = _expected(seen, more * _planned_block_s(first), "further" if earlier else "")
            lines = [f"by the spread of run {run.run_id}: {said}"]
            if expected > until.max_blocks:
                lines.append(
                    f"that is more than --max-blocks {until.max_blocks}, where it ends, known or "
                    "not. A wider interval, longer trials (--set load.duration_s) or a quieter "
                    "host take fewer"
                )
            return "\n".join(lines)
    return f"no earlier run tells how many blocks it takes; the first {FIRST_LOOK} will"


def _earlier_runs(first: Plan, folder: Path) -> Iterator[Run]:
    """The newest runs of this matrix on this host."""
    end = f"-{first.header['host']}-{first.header['matrix']['name']}"
    found = [path for path in folder.glob("[!.]*") if path.name.endswith(end)]
    for path in sorted(found, reverse=True)[:_RUNS_READ]:
        # It tells what to expect and nothing else: one that cannot be read tells nothing.
        with suppress(UplabError):
            yield results.load(path, strict=False)


def _like(first: Plan, run: Run) -> dict[str, list[float]]:
    """The log ratios of those cells of a run that the plan has too, under the same load."""
    wanted = {cell.id: _plain(cell.load_parameters) for cell in first.cells}
    same = {
        planned.cell.cell_id
        for planned in run.cells
        if wanted.get(planned.cell.cell_id) == _plain(planned.cell.load_parameters)
    }
    return {cell_id: r for cell_id, r in paired_log_ratios(run).items() if cell_id in same}


def _plain(parameters: Any) -> str:
    return json.dumps(dict(parameters), sort_keys=True)
