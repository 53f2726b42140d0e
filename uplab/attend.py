"""Be there while a run goes on: start it, show it, stop it when asked to, bring it here."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from uplab import ahead, arrival, detached
from uplab.detached import DetachedRun, End
from uplab.errors import EXIT_INTERRUPTED, HostError, UplabError
from uplab.hostside.spec import Plan
from uplab.plain import plain
from uplab.remote import Host
from uplab.view import Shown, View

if TYPE_CHECKING:
    from uplab.report.model import Report


def start(host: Host, made: Plan, view: View) -> DetachedRun:
    """Start a run; who interrupts us meanwhile wants none.

    Raises:
        HostError: the host cannot be reached.
        UplabError: it does not start, with hostside's reason.
    """
    try:
        running = detached.start(host, plain(made), view.say)
    except KeyboardInterrupt:
        # It may have begun or not; where it did, it ends.
        with suppress(UplabError):
            host.ask("stop", {"run_id": made.run_id})
        raise
    view.started(running)
    return running


def to_the_end(running: DetachedRun, made: Plan, results_folder: Path, view: View) -> Report:
    """Follow a run to its end, bring it here and write its reports.

    Raises:
        HostError: it ended early; what is finished is here. Or the host is away for too long.
        KeyboardInterrupt: it was interrupted, here or there; what is finished is here.
    """
    with view.progress(made) as shown, _hang_up_leaves():
        running.told, running.patience_s = shown.note, view.patience_s
        ahead.begin(running.host, made.blocks)
        end, interrupted = _follow(running, shown)
    run_dir = arrival.bring(running.host, running.run_id, results_folder, view.say)
    report = reported(run_dir)
    if interrupted or end.code == EXIT_INTERRUPTED:
        view.say(f"interrupted; the finished trials are in {run_dir}")
        raise KeyboardInterrupt
    if end.code != 0:
        reason = end.said.splitlines()[-1] if end.said else f"hostside ended with {end.code}"
        raise HostError(f"host {running.host.name}: {reason}; the finished trials are in {run_dir}")
    return report


def reported(run_dir: Path) -> Report:
    """Write the reports of a run that is here."""
    # Here, because a plan alone needs none of what they compute with.
    from uplab import results
    from uplab.report import model, write

    report = model.build(results.load(run_dir))
    write.write_files(report)
    return report


def _follow(running: DetachedRun, shown: Shown) -> tuple[End, bool]:
    """Show a run until its end; out: how it ended, and whether it was us who interrupted it."""
    try:
        return _follow_or_stop(running, shown)
    except _HungUp:
        # Whoever listened is gone, and so may be what we print on.
        with suppress(OSError):
            shown.note(f"the run goes on by itself. {running.way_back()}")
        raise
    except KeyboardInterrupt:
        shown.note(f"the run may go on by itself. {running.way_back()}")
        raise


def _follow_or_stop(running: DetachedRun, shown: Shown) -> tuple[End, bool]:
    """As _follow; raises the second Ctrl-C wherever it comes, be it just after the first one."""
    try:
        return running.follow(shown.show), False
    except _HungUp:
        raise
    except KeyboardInterrupt:
        shown.note("stopping the run; its finished trials are kept")
    running.stop()
    return running.follow(shown.show), True


class _HungUp(KeyboardInterrupt):
    """The terminal is gone: that ends us, but not the run."""


@contextmanager
def _hang_up_leaves() -> Iterator[None]:
    """Inside, SIGHUP raises _HungUp, unless it is ignored, as under nohup."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise _HungUp

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGHUP, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
