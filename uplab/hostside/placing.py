"""Where a cell places each probe site: untouched, in the kernel, or in userspace."""

from __future__ import annotations

from uplab.hostside.attest import Placement
from uplab.hostside.spec import Cell, ModeSpec, Placing, TracerAdapter


def chosen(mode: ModeSpec, cell: Cell) -> Placing | None:
    """The placement that a userspace cell names; None where it names none of the mode's."""
    return mode.placements.get(cell.placement or "")


def places(tracer: TracerAdapter, cell: Cell) -> dict[str, Placement]:
    """The placement of each declared site by its name.

    Args:
        tracer: declares the sites and the mode's placements.
        cell: its mode, and in userspace modes the name of its placement.

    Returns:
        all sites; none of them in a mode whose sites nobody knows beforehand.
    """
    mode = tracer.modes[cell.mode]
    if mode.placement == "any":
        return {}
    if mode.placement != "userspace":
        return {site.name: mode.placement for site in tracer.sites}
    placing = mode.placements[str(cell.placement)]
    found: dict[str, Placement] = {site.name: "untouched" for site in tracer.sites}
    found |= dict.fromkeys(placing.userspace, "userspace")
    found |= dict.fromkeys(placing.kernel, "kernel")
    return found
