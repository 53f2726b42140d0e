"""What making a box says meanwhile: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any


class Steps:
    """Says nothing: for tests, and for callers that have output of their own."""

    def say(self, line: str) -> None:
        """A line that stays."""

    def now(self, text: str) -> None:
        """What is going on; replaced by what comes next."""


class Printed(Steps):
    """Prints; a context manager, because a live line must be ended."""

    def __init__(self) -> None:
        self._status: Any = None
        self._console: Any = None
        self._began_s = time.monotonic()

    def __enter__(self) -> Printed:
        if sys.stdout.isatty():
            from rich.console import Console

            self._console = Console(highlight=False)
            self._status = self._console.status("")
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def say(self, line: str) -> None:
        """Print a line."""
        if self._console is not None:
            self._console.print(line, markup=False)
        else:
            print(line, flush=True)

    def now(self, text: str) -> None:
        """Show the text with the seconds since the start."""
        if self._status is not None:
            from rich.markup import escape

            self._status.update(escape(f"{text} ({time.monotonic() - self._began_s:.0f} s)"))
