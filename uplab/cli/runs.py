"""Which run directories a task's words mean."""

from __future__ import annotations

from pathlib import Path

from uplab.cli.common import PROJECT_ROOT


def run_dirs(named: list[str]) -> list[Path]:
    """The run directories meant: paths, names in results/, or the newest one."""
    from uplab import results

    home = PROJECT_ROOT / "results"
    if not named:
        return [results.newest(home)]
    return [home / run if not Path(run).exists() else Path(run) for run in named]
