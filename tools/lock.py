"""Remakes the lock files: ``./invoke build.lock``. Needs uv, which is one of the dev packages."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from uplab.errors import GateError, UsageError

ROOT = Path(__file__).resolve().parents[1]
LOWEST_PYTHON = "3.11"


def compile_command(uv: Path, name: str, *, upgrade: bool) -> list[str]:
    """Out: the argv that makes ``requirements/<name>.lock``, to be run in the checkout.

    One version of each package for every Python (``fewest``), so that a report is the same under
    all of them; a hash for every file; and nothing of this machine: no index, no paths.
    """
    command = [str(uv), "pip", "compile", "--quiet", "--universal", "--generate-hashes"]
    command += ["--python-version", LOWEST_PYTHON, "--fork-strategy", "fewest"]
    command += ["--no-emit-index-url", "--no-emit-find-links"]
    command += ["--custom-compile-command", "./invoke build.lock"]
    if upgrade:
        command.append("--upgrade")
    if name == "dev":
        # Both are installed into one environment: a package in both must be the same one.
        command += ["--constraint", "requirements/runtime.lock"]
    return [*command, f"requirements/{name}.in", "--output-file", f"requirements/{name}.lock"]


def remake(*, upgrade: bool, root: Path = ROOT) -> Iterator[str]:
    """Remake both lock files. In: ``upgrade`` to leave the pins of the present ones.

    Out: a line for each, saying whether it changed.
    Raises UsageError where uv is missing, GateError with uv's last words where it fails.
    """
    uv = Path(sys.executable).parent / "uv"
    if not uv.exists():
        raise UsageError(f"no uv beside {sys.executable}. Run: ./invoke build.lock")
    for name in ("runtime", "dev"):
        lock = root / "requirements" / f"{name}.lock"
        before = lock.read_bytes() if lock.exists() else b""
        _run(compile_command(uv, name, upgrade=upgrade), root)
        changed = "changed" if lock.read_bytes() != before else "unchanged"
        yield f"requirements/{name}.lock: {changed}"


def _run(command: list[str], root: Path) -> None:
    done = subprocess.run(
        command,
        cwd=root,
        env=os.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise GateError(f"uv could not make {command[-1]}: {' '.join(said[-3:]) or 'no output'}")
