"""How the plans of ``uplab/setupplan.py`` read, for people and for programs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from uplab.checkup import clean
from uplab.setupplan import HostPlan, Package, Packages
from uplab.status import size_text

_UNKNOWN = "which units the others have is not known before they are unpacked"


def as_json(plans: Sequence[HostPlan], exit_code: int) -> str:
    """The plans for programs."""
    hosts = [{**asdict(plan), "exit_code": plan.exit_code} for plan in plans]
    return json.dumps({"hosts": hosts, "exit_code": exit_code}, indent=1)


def as_text(plans: Sequence[HostPlan]) -> str:
    """The plans for people, one host after the other."""
    return "\n\n".join("\n".join(_host(plan)) for plan in plans)


def _host(plan: HostPlan) -> Iterator[str]:
    """A host's lines: what is done to it, and in the last line what comes next."""
    name = clean(plan.host)
    if not plan.reached:
        yield f"{name}: {_one_line(plan.problems[0])}"
        return
    yield f"{name}: lab.setup would"
    yield from _packages(plan.packages)
    yield from _section("build", [_build(b.component, b.last_build_s) for b in plan.builds])
    yield from _section("record what is installed", plan.registered)
    yield from _section("write", plan.paths)
    yield from _services(plan.packages)
    yield "  reboot: never"
    yield from (f"  it would not succeed: {_one_line(text)}" for text in plan.against)
    if plan.against:
        yield f"{name}: mend that first. Ansible's own output: {plan.log}"
    elif plan.nothing:
        yield f"{name}: up to date, there is nothing to set up"
    else:
        yield f"{name}: nothing was changed. Run: invoke lab.setup --host {shlex.quote(name)}"


def _packages(found: Packages) -> Iterator[str]:
    download = f", {size_text(found.download_bytes)} to download"
    yield from _section("add packages", _rows(found.added), download if found.added else "")
    yield from _section("upgrade packages", _rows(found.upgraded))
    yield from _section("remove packages", _rows(found.removed))
    held = [
        f"{name}: on hold (apt-mark hold), and apt would have to change it" for name in found.held
    ]
    held += [f"{name}: kept back by apt" for name in found.kept_back]
    if held:
        yield from _section("leave packages", held)
    sources = [f"add {path}" for path in found.sources_added]
    sources += [f"remove {path}" for path in found.sources_removed]
    sources += [f"switch off a source in {path}" for path in found.sources_switched_off]
    sources += [f"put back {path}" for path in found.sources_restored]
    yield from _section("change sources of packages", sources)


def _services(found: Packages) -> Iterator[str]:
    """What the packages do to services, as far as it can be known beforehand."""
    lines = [
        f"{name} brings a service, which Debian starts when it is installed"
        for name in found.services
    ]
    gone = {package.name for package in found.removed}
    for name, units in sorted(found.units.items()):
        what = "would be stopped" if name in gone else "may be started anew"
        lines.append(f"{', '.join(units)} of {name} {what}")
    if found.added:
        lines.append(
            f"of {len(found.added)} added packages {len(found.services)} say so; {_UNKNOWN}"
        )
    yield from _section("start or stop services", lines, count=False)


def _section(what: str, lines: Iterable[str], more: str = "", *, count: bool = True) -> list[str]:
    """A heading with its lines below; in one line where there are none."""
    rows = [f"    {clean(line)}" for line in lines]
    if not rows:
        return [f"  {what}: none"]
    return [f"  {what}: {len(rows)}{more}" if count else f"  {what}:", *rows]


def _rows(packages: Sequence[Package]) -> list[str]:
    """Name, version and size of each package, below each other."""
    name_width = max((len(package.name) for package in packages), default=0)
    versions = [_version(package) for package in packages]
    version_width = max(map(len, versions), default=0)
    return [
        f"{package.name:<{name_width}}  {version:<{version_width}}  "
        f"{size_text(package.download_bytes) if package.download_bytes else ''}".rstrip()
        for package, version in zip(packages, versions, strict=True)
    ]


def _version(package: Package) -> str:
    return f"{package.before} -> {package.version}" if package.before else package.version


def _build(component: str, last_build_s: float | None) -> str:
    if last_build_s is None:
        return f"{component} (never built there: how long it takes is not known)"
    return f"{component} (the last build took {last_build_s:.1f} s)"


def _one_line(text: str) -> str:
    return clean(" ".join(text.split()))
