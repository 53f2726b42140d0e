"""How ``lab.setup --from`` goes: the source itself first, then the others with what it has."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uplab import inventory
from uplab.errors import UsageError

if TYPE_CHECKING:
    from uplab.transfer.fetching import Transfer
    from uplab.transfer.index import Entry

#: Pins of what is built on a host.
_BUILT = ("own", "build")


@dataclass(frozen=True)
class Stage:
    """Hosts that are set up together, the variables that make it so, and what to say of it."""

    names: list[str]
    extra: dict[str, Any] = field(default_factory=dict)
    news: list[str] = field(default_factory=list)


def stages(
    project: Path, names: Sequence[str], source: str | None, chosen: Path | None = None
) -> Iterator[Stage]:
    """The hosts to set up in their order; what comes from the source is fetched in between.

    Args:
        project: the checkout.
        names: of the hosts.
        source: a host whose builds the others get, or a file of them; None for neither.
        chosen: an inventory of somebody's own instead of uplab's.

    Raises:
        UsageError: neither a host nor a file; or it has no builds of what they want.
        UplabError: as :func:`uplab.transfer.fetching.from_host` and ``from_file``.
    """
    first = [name for name in names if source in (None, name)]
    if first:
        yield Stage(first)
    others = [name for name in names if name not in first]
    if others and source is not None:
        hosts = {name: inventory.host(project, name, chosen) for name in others}
        wanted = {component for each in hosts.values() for component in wanted_builds(each)}
        transfer = find(project, source, sorted(wanted), chosen)
        yield Stage(others, variables(transfer), list(_news(transfer, hosts)))


def find(project: Path, source: str, wanted: Sequence[str], chosen: Path | None) -> Transfer:
    """Fetch the builds of some components from a host or out of a file.

    Raises:
        as :func:`stages`.
    """
    # Here, because a setup without --from needs none of it.
    from uplab.transfer import fetching

    if source not in inventory.hosts(project, chosen) and Path(source).is_file():
        transfer = fetching.from_file(project, Path(source))
    else:
        # Raises what a wrong name of a host gets.
        inventory.host(project, source, chosen)
        print(f"asking {source} for its builds", file=sys.stderr)
        transfer = fetching.from_host(project, source, wanted, chosen)
    if not set(transfer.index.components) & set(wanted):
        raise UsageError(f"{source} has no finished builds of {', '.join(wanted) or 'anything'}")
    return transfer


def export(project: Path, name: str, out: Path, chosen: Path | None = None) -> str:
    """Put all finished builds of a host into a file; returns what to say about it.

    Raises:
        UsageError: no such host, it has no builds, or the file cannot be written.
        UplabError: as :func:`uplab.transfer.fetching.from_host`.
    """
    from uplab.status import size_text
    from uplab.transfer import fetching

    pins = inventory.host(project, name, chosen).get("uplab_pins", {})
    every = wanted_builds({"uplab_pins": pins, "uplab_components": list(pins)})
    transfer = find(project, name, every, chosen)
    fetching.export(transfer, out)
    built = ", ".join(transfer.index.components)
    return f"{out}: {built} of {name}, {size_text(out.stat().st_size)}"


def wanted_builds(variables: Mapping[str, Any]) -> list[str]:
    """The components of a host that may come from elsewhere: all but what only builds others."""
    pins: Mapping[str, Any] = variables.get("uplab_pins", {})
    builders = {need for pin in pins.values() for need in pin.get("needs", [])}
    return [n for n in variables.get("uplab_components", []) if n in pins and n not in builders]


def variables(transfer: Transfer) -> dict[str, Any]:
    """What the playbook is told of a transfer."""
    index = transfer.index
    return {
        "uplab_from": {
            "host": index.host,
            "archive": str(transfer.path),
            "sha256": transfer.sha256,
            "debian": index.debian,
            "entries": {entry.record.component: _facts(entry) for entry in index.entries},
        }
    }


def _facts(entry: Entry) -> dict[str, Any]:
    """What a host has to know of a build before it has come."""
    from uplab.transfer.index import artifacts_sha256

    return {
        "hash": entry.record.hash,
        "artifacts_sha256": artifacts_sha256(entry),
        "architecture": entry.record.inputs.architecture,
        "kernel": entry.record.inputs.kernel or {},
        "glibc": entry.glibc or "",
        "packages": sorted(set(entry.libraries.values())),
    }


def _news(transfer: Transfer, hosts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What comes from elsewhere, and what is built nevertheless."""
    from uplab.status import size_text

    index = transfer.index
    for entry in index.entries:
        size = size_text(entry.size_bytes)
        yield f"{entry.record.component} {entry.record.version} of {index.host}: {size}, checked"
    for name, variables in hosts.items():
        pins = variables.get("uplab_pins", {})
        built = [c for c in wanted_builds(variables) if pins[c].get("policy") in _BUILT]
        lacking = [component for component in built if component not in index.components]
        if lacking:
            yield f"{name} builds {', '.join(lacking)} itself: {index.host} has none"
