"""hostside measuring as a child of a test, which sees its events, its exit code and its last words.

The product starts every run detached (``hostside launch``); a child can be killed and watched.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from uplab.remote import LocalHost


@dataclass
class LocalRun:
    """hostside as a child."""

    process: subprocess.Popen[bytes]

    def events(self) -> Iterator[dict[str, Any]]:
        """The events that hostside prints."""
        if self.process.stdout is None:
            raise AssertionError("stdout is a pipe")
        for line in self.process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event

    def interrupt(self) -> None:
        """SIGINT; hostside ends everything within seconds and keeps the finished trials."""
        self.process.send_signal(signal.SIGINT)

    def finish(self) -> tuple[int, str]:
        """Wait for hostside, whose events have all been read."""
        with self.process:
            # Its few lines fit into the pipe, so it never waits for us to read them.
            said = self.process.stderr.read() if self.process.stderr else b""
            code = self.process.wait()
        return code, said.decode(errors="replace").strip()


class ForegroundHost(LocalHost):
    """This machine, with runs that are children."""

    def start(self, plan: dict[str, Any]) -> LocalRun:
        """Start ``hostside run`` in a session of its own: Ctrl-C reaches it only through us."""
        process = subprocess.Popen(
            [self.python, str(self.zipapp), *self.options, "run"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        if process.stdin is None:
            raise AssertionError("stdin is a pipe")
        # Where it ended before it read the plan, its exit code and stderr say why.
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(plan).encode())
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.stdin = None
        return LocalRun(process)
