# SPDX-License-Identifier: Apache-2.0
"""Ansible filters: which components a host wants, and which Debian packages they need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any


def wanted(
    components: Iterable[str], pins: Mapping[str, Any], given: Mapping[str, str]
) -> list[str]:
    """The named components and what builds them.

    Args:
        components: as the host names them; a name without a pin is left out here and refused by
            the role base.
        pins: ``uplab_pins``; a pin's ``needs`` are the components that its build needs.
        given: the path of an installation that the host has already, by component; one that is
            not empty is not built, so its needs do not count.
    """
    result = [name for name in components if name in pins]
    for name in list(result):
        if not given.get(name):
            result += [need for need in pins[name].get("needs", []) if need not in result]
    return result


def needed_packages(
    wanted: Iterable[str], pins: Mapping[str, Any], policies: Mapping[str, str]
) -> dict[str, Any]:
    """What apt has to bring for these components.

    Args:
        wanted: components, from the filter ``uplab_wanted``.
        pins: ``uplab_pins``.
        policies: where each component comes from, where that is not what its pin says; ``path``
            is an installation of somebody's own and needs nothing.

    Returns:
        ``names`` of packages, ``by_release`` (further names by the number of the Debian release)
        and ``sources`` (of packages, beside the host's own).
    """
    names: set[str] = set()
    by_release: dict[str, set[str]] = {}
    sources: list[dict[str, Any]] = []
    for name in wanted:
        pin = pins[name]
        policy = policies.get(name) or pin.get("policy")
        if policy == "path":
            continue
        part = pin.get("upstream", {}) if policy == "upstream" else pin
        names |= set(part.get("packages", []))
        for release, more in part.get("packages_by_release", {}).items():
            by_release.setdefault(release, set()).update(more)
        if "apt" in part:
            sources.append({"name": name, **part["apt"]})
    return {
        "names": sorted(names),
        "by_release": {release: sorted(more) for release, more in sorted(by_release.items())},
        "sources": sources,
    }


class FilterModule:
    """``uplab_wanted`` and ``uplab_packages``."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by their names."""
        return {"uplab_wanted": wanted, "uplab_packages": needed_packages}
