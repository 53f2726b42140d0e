"""Put back what a run left tuned, outside any run: the command ``restore``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from uplab.hostside import lock
from uplab.hostside.settings import Settings
from uplab.hostside.tuning import Tuning
from uplab.hostside.tuning_journal import journal_of


def restore(runs: Path, state: Path, kernel: Path = Path("/")) -> dict[str, Any]:
    """Put back what a run left tuned; a run that goes on keeps its tuning.

    Args:
        runs: where runs are kept.
        state: hostside's own below ``/run``.
        kernel: the root below which the settings lie.

    Returns:
        see :class:`uplab.hostside.tuning.Restored`.

    Raises:
        HostError: a run is under way, or the journal is damaged.
    """
    with lock.hold(state, "lab.restore"):
        return Tuning(Settings(kernel), journal_of(runs)).restore().as_json()
