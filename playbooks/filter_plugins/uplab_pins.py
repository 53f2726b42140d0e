# SPDX-License-Identifier: Apache-2.0
"""Ansible filters: which components a host wants, which are copied, which packages they need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any


def copied(
    components: Iterable[str], source: Mapping[str, Any], given: Mapping[str, str]
) -> dict[str, Any]:
    """The named components that come from another host, each with what is known of its build.

    Args:
        components: as the host names them.
        source: ``uplab_from``; empty where nothing comes from elsewhere.
        given: the path of an installation that the host has already, by component.
    """
    entries: Mapping[str, Any] = source.get("entries", {})
    return {name: entries[name] for name in components if name in entries and not given.get(name)}


def wanted(
    components: Iterable[str],
    pins: Mapping[str, Any],
    given: Mapping[str, str],
    copies: Iterable[str] = (),
) -> list[str]:
    """The named components and what builds them.

    Args:
        components: as the host names them; a name without a pin is left out here and refused by
            the role base.
        pins: ``uplab_pins``; a pin's ``needs`` are the components that its build needs.
        given: the path of an installation that the host has already, by component; one that is
            not empty is not built, so its needs do not count.
        copies: components that come from another host, from the filter ``uplab_copied``.  They are
            not built either, and what would only have built them is left out, also where it is
            named.
    """
    from_elsewhere = set(copies)
    named = [name for name in components if name in pins]
    built = [name for name in named if not given.get(name) and name not in from_elsewhere]
    needs = [need for name in built for need in pins[name].get("needs", [])]
    spared = {need for name in from_elsewhere for need in pins[name].get("needs", [])} - set(needs)
    return list(dict.fromkeys([name for name in named if name not in spared] + needs))


def needed_packages(
    wanted: Iterable[str],
    pins: Mapping[str, Any],
    policies: Mapping[str, str],
    copies: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What apt has to bring for these components.

    Args:
        wanted: components, from the filter ``uplab_wanted``.
        pins: ``uplab_pins``.
        policies: where each component comes from, where that is not what its pin says; ``path``
            is an installation of somebody's own and needs nothing.
        copies: components that come from another host, from the filter ``uplab_copied``: they
            need what runs them, and nothing that builds them.

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
        if name in (copies or {}):
            names |= {*(copies or {})[name]["packages"], *pin.get("run_packages", [])}
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
    """``uplab_copied``, ``uplab_wanted`` and ``uplab_packages``."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by their names."""
        return {
            "uplab_copied": copied,
            "uplab_wanted": wanted,
            "uplab_packages": needed_packages,
        }
