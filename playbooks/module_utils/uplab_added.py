# SPDX-License-Identifier: Apache-2.0
"""The Debian packages that setting up added, and their removal: those and no others."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.uplab_apt_get import Apt, complaint
from ansible.module_utils.uplab_apt_plan import parse_plan
from ansible.module_utils.uplab_host import StoreError, dpkg_status, dpkg_unfinished, read_json

#: Not installed, or nothing left of it but settings.
NOT_THERE = frozenset("nc")
PURGE = ("-o", "APT::Get::AutomaticRemove=false", "purge")


def added(record: Path) -> list[str]:
    """The packages that setting up added and that dpkg still knows; raises StoreError.

    Of those that a killed run had only announced, the ones that came.

    Args:
        record: the memory of the module ``uplab_packages``.
    """
    known = read_json(record)
    if known is None:
        return []
    states = {name: status for name, _, status in dpkg_status()}
    there = {name for name, status in states.items() if status[1:2] not in NOT_THERE}
    came = there.intersection(known.get("announced", []))
    return sorted(came.union(states.keys() & set(known.get("added", []))))


def unfinished() -> bool:
    """Whether a killed dpkg left packages half done; raises StoreError."""
    return dpkg_unfinished(dpkg_status())


def refuse_more(apt: Apt, names: list[str]) -> None:
    """Raise StoreError unless removing the packages would change these alone."""
    code, text = apt.run(["apt-get", *apt.options, *PURGE, *names, "--simulate"])
    if code:
        raise StoreError(f"apt cannot remove what uplab added: {complaint(text)}")
    plan = parse_plan(text)
    changes = {
        "remove": sorted({step.name for step in plan.removed} - set(names)),
        "install": sorted({step.name for step in [*plan.added, *plan.upgraded]}),
    }
    if any(changes.values()):
        more = [f"{word} {' '.join(others)}" for word, others in changes.items() if others]
        raise StoreError(
            f"to remove what uplab added, apt would also {' and '.join(more)}; nothing was "
            "removed. Leave the packages where they are (without --packages), or there, run: "
            f"apt-get purge {' '.join(names)}"
        )


def purge(apt: Apt, names: list[str]) -> None:
    """Remove packages with their settings; raises StoreError with the end of apt's output."""
    left = names
    # Twice, because of one that a killed apt had half removed the settings may stay at first.
    for _ in range(2):
        code, text = apt.run(["apt-get", *apt.options, "-y", *PURGE, *left])
        if code:
            raise StoreError(f"apt-get purge failed: {complaint(text)}")
        known = {name for name, _, _ in dpkg_status()}
        left = [name for name in left if name in known]
        if not left:
            return
    raise StoreError(f"apt-get purge left {' '.join(left)}. There, run: dpkg --audit")
