"""Measure for a given time: as many whole blocks as fit into it, without a look at the figures.

How long a block really takes is known only when some were measured, so the first part is as many
blocks as half of the time should hold, and what the rest of it holds comes after it, as
`bench.resume --more-blocks` adds it. The number of blocks depends on the clock alone, so the
intervals are those of a number that was fixed beforehand (with `--until-ci` they are not).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from uplab import attend, durations, plan
from uplab.errors import UplabError, UsageError
from uplab.estimates import LEAST_FOR_INTERVAL
from uplab.hostside.spec import Plan
from uplab.progress import duration_in_words
from uplab.remote import Host
from uplab.untilci import beyond
from uplab.view import View
from uplab.waiting import Queue

if TYPE_CHECKING:
    from uplab.report.model import Report


def read(text: str | None, settings: Sequence[str], *, until: bool, detach: bool) -> float | None:
    """The time that is asked for, in seconds; None where the flag is not given.

    Raises:
        UsageError: it is no time, or a flag was given that does not go with it.
    """
    if text is None:
        return None
    if any(setting.partition("=")[0].strip() == "blocks" for setting in settings):
        raise UsageError("--set blocks and --time-budget exclude each other: the time decides")
    if until:
        raise UsageError("--until-ci and --time-budget exclude each other. See --max-minutes")
    if detach:
        raise UsageError("--detach and --time-budget exclude each other: somebody has to look")
    return durations.read("--time-budget", text)


def measure(
    host: Host,
    first: Plan,
    folder: Path,
    view: View,
    budget_s: float,
    queue: Queue,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """Measure as many blocks as fit.

    Args:
        host: where, set up.
        first: a plan of the run; how many blocks it has does not matter.
        folder: of all runs.
        view: where it is shown.
        budget_s: from now on; a block that has begun is finished.
        queue: before the host.
        clock: seconds; for tests.

    Returns:
        the report of the whole run.

    Raises:
        UsageError: not one block fits.
        UplabError, KeyboardInterrupt: as of ``attend``; how to go on was said.
    """
    planned_s = sum(plan.trial_s(first, cell) for cell in first.cells)
    fitting = int(budget_s / planned_s)
    if not fitting:
        raise UsageError(
            f"--time-budget {duration_in_words(budget_s)}: one block of {len(first.cells)} cells "
            f"takes about {duration_in_words(planned_s)}. Fewer cells (--only) or shorter trials "
            "(--set load.duration_s) take less"
        )
    view.say(_foretold(fitting, budget_s))
    part, began_s = replace(first, blocks=max(fitting // 2, 1)), clock()
    while True:
        report = _measured(host, part, folder, view, queue)
        spent_s = clock() - began_s
        more = int((budget_s - spent_s) / max(spent_s / part.blocks, planned_s))
        if more < 1:
            view.say(f"no further block fits: {part.blocks} in {duration_in_words(spent_s)}")
            return report
        view.say(f"{more} more blocks fit")
        part = beyond(part, report.run, part.blocks + more)


def _measured(host: Host, part: Plan, folder: Path, view: View, queue: Queue) -> Report:
    try:
        running = queue.started(lambda: attend.start(host, part, view))
        return attend.to_the_end(running, part, folder, view)
    except (UplabError, KeyboardInterrupt):
        # Whoever listened may be gone, and so may be what we print on.
        with suppress(OSError):
            if (folder / part.run_id).is_dir():
                view.say(f"to go on later, run: invoke bench.resume {part.run_id}")
        raise


def _foretold(fitting: int, budget_s: float) -> str:
    said = f"about {fitting} blocks fit into {duration_in_words(budget_s)}"
    if fitting < LEAST_FOR_INTERVAL:
        said += f"; an interval, and so a gate, takes at least {LEAST_FOR_INTERVAL}"
    return said
