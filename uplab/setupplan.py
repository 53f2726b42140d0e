"""What ``lab.setup`` would do to a host: its own playbook in check mode, which changes nothing.

How a plan reads is in ``uplab/setupplan_text.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uplab import inventory, playbook, provision
from uplab.errors import EXIT_GATE, EXIT_HOST, EXIT_OK, HostError
from uplab.outcome import Outcome, problems

_PACKAGES = "uplab_packages"
_BUILD = "uplab_build"
_STORE = "uplab_store"


@dataclass(frozen=True)
class Package:
    """A Debian package that comes, or is replaced or removed.

    Args:
        name: of the package.
        version: that comes; of one that is removed the one that is there.
        before: the version that is replaced; None where there is none.
        download_bytes: to be fetched for it; 0 where apt has it already.
    """

    name: str
    version: str
    before: str | None = None
    download_bytes: int = 0


@dataclass(frozen=True)
class Packages:
    """What apt would do.

    Args:
        added, upgraded, removed: packages.
        held: packages that somebody put on hold and apt would have to change.
        kept_back: packages that apt itself does not upgrade.
        protected: of those added and upgraded the ones that need ``--allow-upgrade``.
        download_bytes: to be fetched in all.
        sources_added, sources_removed: files of sources of packages.
        sources_switched_off: files of the host's own in which a source is switched off.
        sources_restored: such files that get their original back.
        services: packages added that bring a service, as far as the package lists tell.
        units: systemd units of packages that are upgraded or removed, by package.
        refused: why setup would refuse; empty where it would not.
        problem: why there is no plan of the packages; empty where there is one.
    """

    added: tuple[Package, ...] = ()
    upgraded: tuple[Package, ...] = ()
    removed: tuple[Package, ...] = ()
    held: tuple[str, ...] = ()
    kept_back: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    download_bytes: int = 0
    sources_added: tuple[str, ...] = ()
    sources_removed: tuple[str, ...] = ()
    sources_switched_off: tuple[str, ...] = ()
    sources_restored: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    units: dict[str, list[str]] = field(default_factory=dict)
    refused: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Build:
    """A component that would be built; ``last_build_s`` is None where it never was here."""

    component: str
    last_build_s: float | None


@dataclass(frozen=True)
class HostPlan:
    """What setting up a host would do.

    Args:
        host: its name in the inventory.
        reached: whether it could be asked at all.
        packages: what apt would do.
        builds: components that would be built.
        registered: components of Debian packages, or of the host's own, that would be recorded.
        paths: what would be written beside the packages' own files.
        problems: why setup would fail, or has not got as far as that.
        log: Ansible's own output; None where it did not run.
        reboot: whether the host would have to be started anew: setup never asks for that.
    """

    host: str
    reached: bool
    packages: Packages = Packages()
    builds: tuple[Build, ...] = ()
    registered: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    log: str | None = None
    reboot: bool = False

    @property
    def nothing(self) -> bool:
        """Whether setup would change nothing at all."""
        apt = self.packages
        coming = (*apt.added, *apt.upgraded, *apt.removed, *apt.sources_added)
        coming += (*apt.sources_removed, *apt.sources_switched_off, *apt.sources_restored)
        return not (coming or self.builds or self.registered or self.paths)

    @property
    def against(self) -> tuple[str, ...]:
        """Everything that would keep setup from succeeding."""
        return tuple(filter(None, (self.packages.refused, self.packages.problem, *self.problems)))

    @property
    def exit_code(self) -> int:
        """4 where the host could not be asked, 1 where setup would refuse or fail, else 0."""
        if not self.reached:
            return EXIT_HOST
        return EXIT_GATE if self.against else EXIT_OK


def make(
    project: Path,
    names: Sequence[str],
    *,
    allow_upgrade: bool = False,
    extra: Mapping[str, Any] | None = None,
    chosen: Path | None = None,
) -> list[HostPlan]:
    """Plan the setup of hosts, one after the other; a host that fails stops no other.

    Args:
        project: the checkout.
        names: of the hosts in the inventory.
        allow_upgrade: plan as if ``--allow-upgrade`` were given to lab.setup.
        extra: further variables.
        chosen: an inventory of somebody's own instead of uplab's.

    Raises:
        UsageError: not in the inventory.
    """
    more = {**(extra or {}), **({"uplab_allow_upgrade": True} if allow_upgrade else {})}
    return [_of_host(project, name, more, chosen) for name in names]


def _of_host(project: Path, name: str, extra: Mapping[str, Any], chosen: Path | None) -> HostPlan:
    digest = provision.digest(project, inventory.host(project, name, chosen))
    try:
        provision.require_ready(project, name, chosen)
    except HostError as error:
        return HostPlan(name, reached=False, problems=(error.message,))
    argv = playbook.build_argv(
        project, name, {name: digest}, check=True, extra=extra, chosen=chosen
    )
    return judge(name, playbook.collect(project, argv, stock=False))


def judge(host: str, outcome: Outcome) -> HostPlan:
    """The plan of a host, from what the tasks of setup returned in check mode."""
    changed = [r for r in outcome.results if r.state == "changed"]
    registered = [str(r.result["component"]) for r in changed if _registers(r.action, r.result)]
    written = [str(path) for r in changed for path in r.result.get("paths", [])]
    return HostPlan(
        host,
        reached=all(result.state != "unreachable" for result in outcome.results),
        packages=_packages(outcome),
        builds=tuple(_builds(outcome)),
        registered=tuple(registered),
        paths=tuple(dict.fromkeys([*written, *_of_builds(outcome)])),
        problems=tuple(problems(outcome)),
        log=str(outcome.log),
    )


def _registers(action: str, result: dict[str, Any]) -> bool:
    """Whether a task records files where they lie."""
    return action == _STORE and "component" in result


def _packages(outcome: Outcome) -> Packages:
    """Of the one task that installs packages; nothing where the play did not come so far."""
    found = next((r.result["plan"] for r in outcome.of(_PACKAGES) if "plan" in r.result), None)
    if found is None:
        return Packages()
    sources = found["sources"]
    return Packages(
        added=_rows(found["added"]),
        upgraded=_rows(found["upgraded"]),
        removed=_rows(found["removed"]),
        held=tuple(found["held"]),
        kept_back=tuple(found["kept_back"]),
        protected=tuple(found["protected"]),
        download_bytes=int(found["download_bytes"]),
        sources_added=tuple(sources["added"]),
        sources_removed=tuple(sources["removed"]),
        sources_switched_off=tuple(sources["switched_off"]),
        sources_restored=tuple(sources["restored"]),
        services=tuple(found["services"]),
        units=dict(found["units"]),
        refused=str(found["refused"]),
        problem=str(found["problem"]),
    )


def _rows(rows: list[dict[str, Any]]) -> tuple[Package, ...]:
    return tuple(
        Package(str(r["name"]), str(r["version"]), r.get("before"), int(r.get("bytes", 0)))
        for r in rows
    )


def _builds(outcome: Outcome) -> Iterator[Build]:
    """What would be built, with the time that each probe found in the host's records."""
    probed = {r.result.get("component"): r.result.get("last_build_s") for r in outcome.of(_STORE)}
    for result in outcome.of(_BUILD):
        for component, answer in result.result.get("builds", {}).items():
            if answer.get("changed"):
                seconds = probed.get(component)
                yield Build(component, None if seconds is None else float(seconds))


def _of_builds(outcome: Outcome) -> Iterator[str]:
    """What builds write: their entry in the store, the link to it, their log."""
    for result in outcome.of(_BUILD):
        for component, answer in result.result.get("builds", {}).items():
            if answer.get("changed"):
                log = Path(answer["log"])
                # Before its tools are there, nobody can say which inputs it will have.
                name = f"{component}-{answer.get('hash') or '<hash of its inputs>'}"
                yield str(log.parent.parent / "store" / name)
                yield str(log.parent.parent / "current" / component)
                yield str(log)
