"""Several hosts measured at the same time, each as if it were alone; one live table for all."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from uplab import campaign, provision
from uplab import plan as planning
from uplab.campaign import Request
from uplab.detached import PATIENCE_S, DetachedRun
from uplab.errors import EXIT_BUG, EXIT_HOST, EXIT_INTERRUPTED, EXIT_INVALID, UplabError
from uplab.hostside.spec import Plan
from uplab.matrix import Experiment
from uplab.progress import Estimate, planning_duration
from uplab.remote import Host

if TYPE_CHECKING:
    from uplab.report.model import Report

_POLL_S = 0.2
#: The first one that a host ended with is what all of them end with.
_WORST_FIRST = (EXIT_INTERRUPTED, EXIT_BUG, EXIT_HOST, EXIT_INVALID)


@dataclass
class Lane:
    """One host's run, as a view of its own.

    Args:
        name: of the host.
        printed: is called with each line that is kept.
        patience_s: how long the host may be away before it is left to itself.
    """

    name: str
    printed: Callable[[str], None]
    patience_s: float = PATIENCE_S
    state: str = "planning"
    done: int = 0
    invalid: int = 0
    planned: int = 0
    left: str = ""
    running: DetachedRun | None = None
    report: Report | None = None
    code: int | None = None
    stopping: bool = False
    _estimate: Estimate | None = field(default=None, repr=False)

    def say(self, text: str) -> None:
        """Print lines, each with the host's name."""
        for line in text.splitlines():
            clean = "".join(c if c.isprintable() else "?" for c in line)
            self.printed(f"{self.name}: {clean}")

    note = say

    @contextmanager
    def progress(self, plan: Plan) -> Iterator[Lane]:
        """Show a run while it goes on."""
        self._estimate = Estimate(plan)
        # A further part of a run comes on top of what is done.
        self.planned = self.done + planning.trials(plan)
        self.state = "running"
        yield self
        self.state = "collecting"

    def started(self, running: DetachedRun) -> None:
        """A run is on its way, or a further part of one; where none is wanted any more, it ends."""
        self.running = running
        if self.stopping:
            _stop(self)

    def show(self, event: dict[str, Any]) -> None:
        """Take in one event of hostside."""
        name = event.get("event")
        if name == "block-again":
            self.say(f"block {event['block']} is measured again: it has an invalid trial")
        if name != "trial-end" or self._estimate is None:
            return
        self._estimate.add_trial(event["cell"], event["wall_s"])
        self.left = planning_duration(self._estimate.left_s)
        self.done += 1
        rate = event.get("requests_per_s")
        said = "no figure" if rate is None else f"{rate:,.0f} req/s"
        reasons = "; ".join(reason["text"] for reason in event["verdict"]["reasons"])
        if reasons:
            self.invalid += 1
            said += f"  INVALID: {reasons}"
        self.say(f"{self.done:>4}/{self.planned}  {event['cell']:<40} {said}  [{self.left} left]")


def run(request: Request, hosts: Sequence[str], *, detach: bool = False) -> None:
    """Measure on several hosts at the same time; what one of them loses does not touch the others.

    Raises:
        UsageError, HostError, GateError: nothing was measured.
        UplabError: with the worst exit code of a host: 130, 4, 3; each was told by itself.
        KeyboardInterrupt: interrupted; the finished trials are in the run directories.
    """
    requests = [replace(request, host=name) for name in hosts]
    parsed = campaign.experiment(request)
    if request.setup:
        outdated = provision.outdated(request.project, hosts, request.chosen)
        if outdated:
            provision.converge(request.project, outdated, chosen=request.chosen)
    with _shown(hosts, request.patience_s) as lanes:
        workers = [
            threading.Thread(
                target=_work, args=(one, parsed, lane), kwargs={"detach": detach}, daemon=True
            )
            for one, lane in zip(requests, lanes, strict=True)
        ]
        for worker in workers:
            worker.start()
        _wait(workers, lanes)
    _conclude(lanes, strict=request.strict)


def _work(request: Request, parsed: Experiment, lane: Lane, detach: bool) -> None:
    """What one host's thread does; it ends with a code and says why."""
    try:
        host = provision.connect(request.project, request.host, parsed.registry, request.chosen)
        with host.held():
            _measure(request, parsed, host, lane, detach=detach)
        lane.code, lane.state = 0, "done"
    except KeyboardInterrupt:
        lane.code, lane.state = EXIT_INTERRUPTED, "interrupted"
    except UplabError as error:
        lane.say(error.message)
        lane.code, lane.state = error.exit_code, "failed"
    except Exception as error:
        lane.say(f"unexpected {type(error).__name__}: {error}")
        lane.code, lane.state = EXIT_BUG, "failed"
        raise


def _measure(request: Request, parsed: Experiment, host: Host, lane: Lane, *, detach: bool) -> None:
    if detach:
        running, _ = campaign.begin(request, parsed, host, lane)
        lane.say(f"run {running.run_id} goes on by itself. {running.way_back()}")
    else:
        lane.report = campaign.measure(request, parsed, host, lane)


def _wait(workers: Sequence[threading.Thread], lanes: Sequence[Lane]) -> None:
    """Wait for all; the first Ctrl-C stops every run, the second leaves them to themselves."""
    try:
        _join(workers)
    except KeyboardInterrupt:
        stoppers = [
            threading.Thread(target=_stop, args=(lane,), daemon=True)
            for lane in lanes
            if lane.code is None
        ]
        for stopper in stoppers:
            stopper.start()
        _join([*stoppers, *workers])
        raise


def _join(threads: Sequence[threading.Thread]) -> None:
    """Wait for threads, and hear Ctrl-C meanwhile."""
    for thread in threads:
        while thread.is_alive():
            thread.join(_POLL_S)


def _stop(lane: Lane) -> None:
    # First, so that a run that is just being started sees it, or is seen here.
    lane.stopping = True
    if lane.running is not None:
        lane.say("stopping the run; its finished trials are kept")
        with suppress(UplabError):
            lane.running.stop()


def _conclude(lanes: Sequence[Lane], *, strict: bool) -> None:
    codes = {lane.name: lane.code or 0 for lane in lanes}
    for lane in lanes:
        if lane.report is not None:
            print(f"\n{lane.name}:")
            try:
                campaign.conclude(lane.report, strict=strict)
            except UplabError as error:
                lane.say(error.message)
                codes[lane.name] = error.exit_code
    worst = worst_of(codes.values())
    if worst:
        failed = ", ".join(name for name, code in codes.items() if code)
        raise UplabError(f"not all is well on {failed}; see above", exit_code=worst)


def worst_of(codes: Iterable[int]) -> int:
    """What to end with where hosts ended with these codes."""
    found = [code for code in codes if code]
    known = [code for code in _WORST_FIRST if code in found]
    return known[0] if known else max(found, default=0)


# ---- showing -------------------------------------------------------------------------------------


@contextmanager
def _shown(hosts: Sequence[str], patience_s: float) -> Iterator[list[Lane]]:
    """A live table on a terminal; elsewhere only lines, each with its host's name."""
    if not sys.stdout.isatty():
        yield [Lane(name, _print, patience_s) for name in hosts]
        return
    from rich.console import Console
    from rich.live import Live
    from rich.markup import escape
    from rich.table import Table

    console = Console()

    def kept(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    lanes = [Lane(name, kept, patience_s) for name in hosts]

    def table() -> Table:
        made = Table("host", "state", "trials", "invalid", "left")
        for lane in lanes:
            trials = f"{lane.done}/{lane.planned}"
            made.add_row(escape(lane.name), lane.state, trials, str(lane.invalid), lane.left)
        return made

    with Live(console=console, get_renderable=table, refresh_per_second=4):
        yield lanes


def _print(line: str) -> None:
    print(line, flush=True)
