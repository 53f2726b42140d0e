"""Remove what a host's store does not need any more; what it uses stays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from uplab import removal
from uplab.errors import UsageError
from uplab.removal import Report


def run(
    project: Path,
    names: Sequence[str],
    *,
    keep_days: int = 0,
    cache: bool = False,
    check: bool = False,
    chosen: Path | None = None,
) -> Report:
    """Remove builds that nothing links to, and what killed builds left.

    Args:
        project: the checkout.
        names: of the hosts in the inventory.
        keep_days: builds that came to the host later than so many days ago stay.
        cache: also what was fetched and compiled before.
        check: change nothing, say what would go.
        chosen: an inventory of somebody's own instead of uplab's.

    Raises:
        UsageError: not in the inventory, or a negative number of days.
        HostError: a host cannot be reached, or lacks what Ansible stands on.
    """
    if keep_days < 0:
        raise UsageError(f"--keep-days is {keep_days}; wanted: 0 or more days")
    variables = {"uplab_keep_days": keep_days, "uplab_remove_cache": cache}
    return removal.play(project, names, "gc", variables, check=check, chosen=chosen)


def as_text(report: Report) -> str:
    """What went from each host, and what stays although nothing links to it."""
    lines: list[str] = []
    for host in report.hosts:
        if host.set_up:
            lines += removal.lines(host, check=report.check)
        else:
            lines.append(f"{host.host} is not set up; nothing to remove")
    return "\n".join(lines)
