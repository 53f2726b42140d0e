"""Tasks of a checkout, run as on the command line; no terminal is there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Of a task that only reads or refuses.
TIMEOUT_S = 60.0


def argv(task: str, *words: str, checkout: Path = ROOT) -> list[str]:
    """The command of a task of a checkout."""
    return [sys.executable, str(checkout / "tasks.py"), task, *words]


def run(
    task: str,
    *words: str,
    timeout_s: float = TIMEOUT_S,
    checkout: Path = ROOT,
    cwd: Path = Path("/"),
    env: Mapping[str, str] | None = None,
    stdin: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run a task to its end, whatever that is."""
    return subprocess.run(
        argv(task, *words, checkout=checkout),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd=cwd,
        env=env,
    )


def ended(
    task: str,
    *words: str,
    timeout_s: float,
    code: int = 0,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a task; the test fails on another exit code."""
    done = run(task, *words, timeout_s=timeout_s, env=env)
    assert done.returncode == code, done.stdout + done.stderr
    return done
