# SPDX-License-Identifier: Apache-2.0
"""Ansible filter: which sources of the pins a host's components are built from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

#: A pin's fields that are its sources where it says ``policy: upstream``.
UPSTREAM = "upstream"


def needed_sources(
    wanted: Iterable[str],
    pins: Mapping[str, Any],
    policies: Mapping[str, str],
    chosen: Mapping[str, Any] | None = None,
) -> list[dict[str, str]]:
    """What has to be fetched for these components.

    Args:
        wanted: components, from the filter ``uplab_wanted``.
        pins: ``uplab_pins``.
        policies: where each component comes from, where that is not what its pin says; ``path``
            is an installation of somebody's own and needs nothing.
        chosen: a host's variables; its ``<component>_url`` and ``<component>_commit`` go before
            the pin's.

    Returns:
        for each source ``component``, ``kind`` (git, archive or crates), ``url``, and ``commit``,
        ``sha256`` or (for crates) ``manifest``, the folder of the repository that needs them.
    """
    found: list[dict[str, str]] = []
    for name in wanted:
        policy = policies.get(name) or pins[name].get("policy")
        if policy == "path":
            continue
        sources = _sources(name, pins[name], policy, chosen or {})
        found += [{"component": name, **source} for source in sources]
    return found


def _sources(
    name: str, pin: Mapping[str, Any], policy: str, chosen: Mapping[str, Any]
) -> Iterator[dict[str, str]]:
    if policy == UPSTREAM:
        yield from _below(pin.get(UPSTREAM, {}))
        return
    own = {key: value for key, value in pin.items() if key != UPSTREAM}
    if "commit" in own:
        own |= {key: chosen.get(f"{name}_{key}") or own[key] for key in ("url", "commit")}
    yield from _below(own)


def _below(value: Any) -> Iterator[dict[str, str]]:
    """The sources in a part of a pin: whatever has an address and what decides its content."""
    if isinstance(value, Mapping):
        url = str(value.get("url", ""))
        for kind, field in (("git", "commit"), ("archive", "sha256")):
            if url and field in value:
                yield {"kind": kind, "url": url, field: str(value[field])}
        if url and "crates" in value:
            yield {
                "kind": "crates",
                "url": url,
                "commit": str(value["commit"]),
                "manifest": str(value["crates"]),
            }
        for inner in value.values():
            yield from _below(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _below(inner)


class FilterModule:
    """``uplab_sources``."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by their names."""
        return {"uplab_sources": needed_sources}
