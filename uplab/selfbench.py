"""uplab's own speed: runs the programs in ``benchmarks/`` and shows what they printed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from uplab.adapters import nearest
from uplab.errors import GateError, UsageError

_PREFIX = "bench_"


def names(project: Path) -> list[str]:
    """The benchmarks that there are."""
    found = (project / "benchmarks").glob(f"{_PREFIX}*.py")
    return sorted(path.stem.removeprefix(_PREFIX) for path in found)


def run(project: Path, only: tuple[str, ...] = ()) -> None:
    """Run benchmarks one after the other and print each of their figures.

    Args:
        project: the checkout.
        only: names; empty means all.

    Raises:
        UsageError: no benchmark of that name.
        GateError: one failed, or missed a limit that it names.
    """
    known = names(project)
    for name in only:
        if name not in known:
            raise UsageError(
                f"no benchmark {name!r}{nearest(name, known)} There are {', '.join(known)}"
            )
    failed = [name for name in only or known if not _run(project, name)]
    if failed:
        raise GateError(f"missed a limit or failed: {', '.join(failed)}")


def _run(project: Path, name: str) -> bool:
    """Run one benchmark; out: whether it kept its limits."""
    print(f"{name}:", flush=True)
    argv = [sys.executable, "-m", f"benchmarks.{_PREFIX}{name}"]
    with subprocess.Popen(argv, cwd=project, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(f"  {_readable(line)}", flush=True)
    return process.returncode == 0


def _readable(line: str) -> str:
    """A JSON line as ``name value`` pairs; other text as it is."""
    try:
        figures: Any = json.loads(line)
    except ValueError:
        return line.rstrip()
    if not isinstance(figures, dict):
        return line.rstrip()
    return "  ".join(f"{name}={value}" for name, value in figures.items() if value is not None)
