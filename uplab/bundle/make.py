"""What ``lab.bundle`` does: gathers everything in a cache, then writes it as one file."""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uplab import inventory
from uplab import pins as pinned
from uplab.adapters import nearest
from uplab.box import lock
from uplab.box.steps import Steps
from uplab.bundle import borrowed, crates, debs, gitparts, sources, wheels, writing
from uplab.bundle import index as indexes
from uplab.bundle.index import Index, Part
from uplab.bundle.meter import Meter
from uplab.errors import GateError, HostError, UsageError

#: Below the checkout, ignored by git.
FOLDER = Path(".uplab") / "bundle"
_HERE = "local"
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Wishes:
    """What a bundle shall hold.

    Args:
        components: by their names in the pins; empty for all.
        releases: of Debian whose packages shall be in it, by their names.
        levels: of the wheels: none, ``runtime``, or ``runtime`` and ``dev``.
        toolchains: whether the archives of toolchains come along that only a host with the policy
            ``upstream`` uses.
    """

    components: tuple[str, ...] = ()
    releases: tuple[str, ...] = ()
    levels: tuple[str, ...] = ("runtime",)
    toolchains: bool = True


@dataclass
class Gathered:
    """The parts so far, and the files that hold them."""

    parts: list[Part] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)

    def add(self, path: str, file: Path, kind: str, components: Iterable[str], **facts: str) -> str:
        """Take a file in; out: its sha256."""
        with file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        size = file.stat().st_size
        self.parts.append(Part(path, sha256, size, kind, tuple(sorted(components)), facts))
        self.files[path] = file
        return sha256


def mirrors(project: Path, chosen: Path | None = None) -> dict[str, Any]:
    """Where this machine fetches from: ``uplab_mirrors`` of the host ``local``, if there is one.

    Raises:
        UsageError: there is no such inventory.
    """
    known = inventory.hosts(project, chosen)
    return dict(known.get(_HERE, {}).get("uplab_mirrors") or {})


def make(
    project: Path, out: Path, wishes: Wishes, site: Mapping[str, Any], steps: Steps
) -> list[str]:
    """Make a bundle.

    Args:
        project: the checkout.
        out: the file to write.
        wishes: what shall be in it.
        site: from :func:`mirrors`.
        steps: told what is going on.

    Returns:
        lines about what was made.

    Raises:
        UsageError: no such component or release, or the file cannot be written; or a program is
            missing here.
        GateError: the pins are none.
        HostError: something cannot be fetched, or the disk is full.
    """
    began_s = time.monotonic()
    pins = _pins(project)
    components = _components(project, pins, wishes.components)
    for release in wishes.releases:
        debs.require_release(release)
    if not out.parent.is_dir():
        raise UsageError(f"{out}: there is no directory {out.parent}")
    folder = project / FOLDER
    try:
        with lock.hold(folder, "bundle", steps):
            found, files = gather(project, wishes, pins, components, site, steps)
            writing.write(out, found, files, Meter(steps, f"writing {out.name}").progress)
    except OSError as error:
        raise HostError(f"{error.filename or out}: {error.strerror}") from error
    return described(out, found, time.monotonic() - began_s)


def _pins(project: Path) -> dict[str, Any]:
    pins = pinned.read(project)
    problems = pinned.problems(pins)
    if problems:
        raise GateError(f"{pinned.FILE}: {'; '.join(problems)}")
    return pins


def _components(project: Path, pins: Mapping[str, Any], named: Iterable[str]) -> list[str]:
    """The named components, or all, with what builds them; UsageError for one without a pin."""
    names = list(named) or list(pins)
    for name in names:
        if name not in pins:
            hint = nearest(name, pins)
            raise UsageError(f"no component {name!r}{hint} There are {', '.join(sorted(pins))}")
    wanted: list[str] = borrowed.filters(project, "uplab_pins").wanted(names, pins, {})
    return sorted(set(wanted))


def gather(
    project: Path,
    wishes: Wishes,
    pins: Mapping[str, Any],
    components: list[str],
    site: Mapping[str, Any],
    steps: Steps,
) -> tuple[Index, dict[str, Path]]:
    """Bring everything into the cache; out: the index, and the files that hold its parts."""
    folder = project / FOLDER
    found = Gathered()
    trees = folder / "trees"
    # Mostly there is none; what cannot be removed is in the way of the next step, which says so.
    shutil.rmtree(trees, ignore_errors=True)
    try:
        wanted = sources.needed(project, pins, components, toolchains=wishes.toolchains)
        cache = folder / "cache"
        fetched = sources.fetch(project, wanted, site, cache, trees, steps)
        _add_sources(found, fetched, cache, steps)
        _add_crates(found, fetched, site, folder, steps)
    finally:
        # Scratch: after a failure its reason matters more than what is left of it.
        shutil.rmtree(trees, ignore_errors=True)
    if wishes.levels:
        index = str(site.get("python", ""))
        _add_wheels(found, wheels.fetch(project, wishes.levels, index, folder / "wheels", steps))
    for release in wishes.releases:
        names, by_release = packages(project, pins, components)
        apt = debs.Apt(release, (folder / "apt" / release).absolute())
        _add_debs(found, apt, debs.names_for(release, names, by_release), steps)
    parts = tuple(sorted(found.parts, key=lambda part: part.order))
    made_from = indexes.made_from(project)
    index_of = Index(made_from, tuple(components), tuple(sorted(wishes.releases)), parts)
    return index_of, found.files


def _add_sources(found: Gathered, fetched: sources.Fetched, cache: Path, steps: Steps) -> None:
    for archive, components in fetched.archives.items():
        found.add(f"archives/{archive.name}", archive, "archive", components)
    users: dict[str, set[str]] = {}
    for repository in fetched.repositories:
        users.setdefault(gitparts.path_of(repository), set()).add(repository.component)
    for repository in fetched.repositories:
        path = gitparts.path_of(repository)
        if path in found.files:
            continue
        packed = cache / "packs" / path
        if not packed.exists():
            steps.now(f"packing {repository.url}")
            gitparts.pack(repository, packed)
        facts = {"url": repository.url, "commit": repository.commit}
        found.add(path, packed, "git", users[path], **facts)


def _add_crates(
    found: Gathered,
    fetched: sources.Fetched,
    site: Mapping[str, Any],
    folder: Path,
    steps: Steps,
) -> None:
    for component, manifest in fetched.manifests.items():
        steps.now(f"fetching the crates of {component}")
        path = crates.part_path(component)
        out = folder / "cache" / path
        crates.vendor(component, manifest.folder, site, folder / "trees", out)
        found.add(path, out, "crates", [component], commit=manifest.commit)


def _add_wheels(found: Gathered, by_level: Mapping[str, list[Path]]) -> None:
    for level, paths in by_level.items():
        for path in paths:
            name = f"wheels/{path.name}"
            if name not in found.files:
                found.add(name, path, "wheel", ["controller"], lock=level, python=_PYTHON)


def packages(
    project: Path, pins: Mapping[str, Any], components: list[str]
) -> tuple[set[str], dict[str, set[str]]]:
    """The Debian packages of components, wherever their toolchains come from.

    Those of a source of packages that uplab adds are not among them: such a source is no part of
    Debian, and a host that uses it names a mirror.
    """
    needed = borrowed.filters(project, "uplab_pins").needed_packages
    names: set[str] = set()
    by_release: dict[str, set[str]] = {}
    upstream = [
        name for name in components if "apt" not in pins[name].get("upstream", {"apt": None})
    ]
    for policies in ({}, dict.fromkeys(upstream, "upstream")):
        found = needed(upstream if policies else components, pins, policies)
        names.update(found["names"])
        for release, more in found["by_release"].items():
            by_release.setdefault(release, set()).update(more)
    return names, by_release


def _add_debs(found: Gathered, apt: debs.Apt, names: list[str], steps: Steps) -> None:
    uris = debs.fetch(apt, names, steps)
    folder, facts = f"debs/{apt.release}", {"release": apt.release}
    sums: dict[str, str] = {}
    here = {uri.name for uri in debs.closure(apt, debs.ON_THE_CONTROLLER)}
    for uri in uris:
        package, version = uri.package
        more = {**facts, "package": package, "version": version}
        path = apt.downloads / uri.cached
        users = ["controller", "host"] if uri.name in here else ["host"]
        sums[uri.name] = found.add(f"{folder}/{uri.name}", path, "deb", users, **more)
    listing = apt.folder / debs.PACKAGES
    listing.write_bytes(debs.index(apt, uris, sums))
    found.add(f"{folder}/{debs.PACKAGES}", listing, "deb", ["host"], **facts)


def described(out: Path, found: Index, took_s: float) -> list[str]:
    """What a bundle holds, for a person; the last line is what to compare after carrying it."""
    lines = []
    for kind in indexes.KINDS:
        parts = found.of(kind)
        if parts:
            size_mib = sum(part.bytes for part in parts) / (1 << 20)
            lines.append(f"{kind:8} {len(parts):4} parts {size_mib:8.1f} MiB")
    with out.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size_mib = out.stat().st_size / (1 << 20)
    lines.append(f"{out}: {size_mib:.1f} MiB in {took_s:.0f} s, for {', '.join(found.components)}")
    return [*lines, f"sha256 {sha256}"]
