"""Tasks of a checkout, run as on the command line; no terminal is there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


def argv(task: str, *words: str, checkout: Path = ROOT) -> list[str]:
    """The command of a task of a checkout."""
    return [sys.executable, str(checkout / "tasks.py"), task, *words]


def run(
    task: str,
    *words: str,
    timeout_s: float,
    checkout: Path = ROOT,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a task to its end, whatever that is; where one starts does not matter to it."""
    return subprocess.run(
        argv(task, *words, checkout=checkout),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd="/",
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
