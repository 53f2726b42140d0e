"""Where a run is shown: on a terminal of its own, or beside others."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from uplab.detached import PATIENCE_S, DetachedRun
from uplab.hostside.spec import Plan
from uplab.progress import Progress


class Shown(Protocol):
    """A run that is being shown."""

    def show(self, event: dict[str, Any]) -> None:
        """Take in one event of hostside."""

    def note(self, line: str) -> None:
        """Say something that is no event of the run."""


class View(Protocol):
    """Where the run of one host is shown."""

    @property
    def patience_s(self) -> float:
        """How long who watches waits for a host that is away."""

    def say(self, text: str) -> None:
        """Show some lines."""

    def progress(self, plan: Plan) -> AbstractContextManager[Shown]:
        """Show a run while it goes on."""

    def started(self, running: DetachedRun) -> None:
        """Take note of a run that is on its way."""


class Screen:
    """One run has the whole terminal.

    Args:
        patience_s: how long a host may be away before it is left to itself.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self.patience_s = patience_s

    def say(self, text: str) -> None:
        """Print some lines; what a host says in them cannot move the cursor."""
        lines = ("".join(c if c.isprintable() else "?" for c in line) for line in text.split("\n"))
        print(*lines, sep="\n", flush=True)

    def progress(self, plan: Plan) -> Progress:
        """One live line on a terminal, plain lines elsewhere."""
        return Progress(plan)

    def started(self, running: DetachedRun) -> None:
        """Nothing to note: who presses Ctrl-C means this run."""
