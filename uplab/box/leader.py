"""Processes that outlive whoever starts them: each is noted before it does anything."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from uplab.box.record import Process
from uplab.errors import HostError


@contextmanager
def started(
    argv: Sequence[str], cwd: Path, failure: str, env: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """Start a script that prints its PID and waits for a line; it goes on when the block ends.

    Where the block fails, or we are killed in it, the line never comes, and the script ends.

    Args:
        argv: of the script, which detaches itself from us.
        cwd: where it starts.
        failure: what cannot be done without it, for the message.
        env: its environment; None is ours.

    Raises:
        HostError: it did not start, with what it said.
    """
    with subprocess.Popen(
        argv,
        cwd=cwd,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as starter:
        if starter.stdin is None or starter.stdout is None:
            raise AssertionError("both are pipes")
        said = starter.stdout.readline().strip()
        if not said.isdigit():
            raise HostError(f"{failure}: {said or 'its leader said nothing'}")
        yield Process.of(int(said))
        # Where it has ended, whoever waits for what it should do says so.
        with suppress(BrokenPipeError):
            starter.stdin.write("go\n")
            starter.stdin.close()
