"""What is built on a host, built again: it takes the old one's place, or is compared with it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from uplab import adapters, hostzip, inventory, playbook, provision
from uplab.checkup import clean
from uplab.errors import EXIT_GATE, EXIT_OK
from uplab.outcome import Outcome, Result, problems

#: How uplab's own part of a run is called beside the components; it is made on the controller.
ZIPAPP = "hostside"
_PACK = (
    "import sys; from pathlib import Path; from uplab import adapters, hostzip; "
    "sys.stdout.buffer.write(hostzip.pack(adapters.load([Path(sys.argv[1])])))"
)


@dataclass(frozen=True)
class Difference:
    """A file that did not come out as its record says; None where one of both lacks it."""

    file: str
    old_sha256: str | None
    new_sha256: str | None
    old_bytes: int | None
    new_bytes: int | None


@dataclass(frozen=True)
class Component:
    """What came out of building a component again.

    Args:
        name: of the component.
        how: ``built`` again, ``read`` again where it lies (Debian's files, an installation of the
            host's own), or ``packed`` again on the controller.
        files: how many of them were compared; None where nothing was compared.
        differs: those that are not the same.
        problems: what else is wrong.
        build_s: how long it took, in seconds; None where nothing was built.
    """

    name: str
    how: str
    files: int | None = None
    differs: tuple[Difference, ...] = ()
    problems: tuple[str, ...] = ()
    build_s: float | None = None

    @property
    def same(self) -> bool:
        """Whether nothing differs and nothing is wrong."""
        return not self.differs and not self.problems


@dataclass(frozen=True)
class Rebuild:
    """Everything that was built again on the hosts, and why a play failed where one did."""

    verify: bool
    hosts: Mapping[str, tuple[Component, ...]]
    problems: tuple[str, ...]
    log: Path

    @property
    def exit_code(self) -> int:
        """1 where something differs or failed."""
        components = [component for each in self.hosts.values() for component in each]
        wrong = self.problems or not all(component.same for component in components)
        return EXIT_GATE if wrong else EXIT_OK


def run(
    project: Path,
    names: Sequence[str],
    *,
    verify: bool,
    only: Iterable[str] = (),
    stock: bool = False,
    chosen: Path | None = None,
) -> Rebuild:
    """Build again what hosts have.

    Args:
        project: the checkout.
        names: of the hosts in the inventory.
        verify: compare and change nothing; otherwise the new builds take the old ones' places.
        only: components; empty means all.
        stock: with Ansible's own strategy instead of mitogen's.
        chosen: an inventory of somebody's own instead of uplab's.

    Raises:
        UsageError: not in the inventory, or no such component.
        HostError: one cannot be reached, or lacks what Ansible stands on.
    """
    wanted = tuple(only)
    provision.require_roles(project, wanted)
    digests = {}
    for name in names:
        provision.require_ready(project, name, chosen)
        digests[name] = provision.digest(project, inventory.host(project, name, chosen))
    argv = playbook.build_argv(
        project,
        ",".join(names),
        None if verify else digests,
        only=wanted,
        # Nothing but the builds beside the store, which the module makes in check mode too.
        check=verify,
        extra={"uplab_rebuild": "verify" if verify else "replace"},
        chosen=chosen,
    )
    # Stdout is for the answer; a person sees there what is built meanwhile.
    shown = os.dup(sys.stderr.fileno())
    try:
        outcome = playbook.collect(project, argv, stock=stock, progress=shown)
    finally:
        os.close(shown)
    return judge(project, names, outcome, verify=verify, only=wanted)


def judge(
    project: Path, names: Sequence[str], outcome: Outcome, *, verify: bool, only: Sequence[str]
) -> Rebuild:
    """What a run of the playbook gave, by host; the zipapp is compared here."""
    hosts = {}
    for name in names:
        results = [result for result in outcome.results if result.host == name]
        found = {c.name: c for result in results for c in components(result)}
        hosts[name] = tuple(found[key] for key in sorted(found) if not only or key in only)
    if verify and not only:
        packed = zipapp(project)
        hosts = {name: (*found, packed) for name, found in hosts.items()}
    return Rebuild(verify, hosts, tuple(other_problems(outcome)), outcome.log)


def components(result: Result) -> Iterator[Component]:
    """The components that a task's result speaks of."""
    for name, answer in (result.result.get("builds") or {}).items():
        compared = answer.get("compared") or {}
        wrong = [answer["failed"]] if "failed" in answer else compared.get("damaged", [])
        yield Component(
            name=clean(name),
            how="built",
            files=compared.get("files"),
            differs=differences(compared),
            problems=tuple(str(text) for text in wrong),
            build_s=answer.get("build_s"),
        )
    for name, compared in (result.result.get("compared") or {}).items():
        yield Component(clean(name), "read", compared.get("files"), differences(compared))


def differences(compared: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The differences as a module reports them."""
    found = compared.get("differs", [])
    return tuple(Difference(**{**one, "file": clean(str(one["file"]))}) for one in found)


def other_problems(outcome: Outcome) -> list[str]:
    """Why the playbook failed, but for builds: those say so at their component."""
    failed = [r for r in outcome.results if r.state in ("failed", "unreachable")]
    builds = [result for result in failed if "builds" in result.result]
    rest = [result for result in outcome.results if result not in builds]
    if builds and len(failed) == len(builds):
        return []
    return problems(Outcome(outcome.code, rest, outcome.log))


def zipapp(project: Path) -> Component:
    """The part of uplab that travels to hosts, packed twice: here, and by another Python.

    The other one has other seeds of hashes, another directory and another time zone.
    """
    first = hostzip.pack(adapters.load([project]))
    elsewhere = {"PYTHONHASHSEED": "1", "TZ": "Pacific/Kiritimati", "PYTHONPATH": str(project)}
    done = subprocess.run(
        [sys.executable, "-B", "-c", _PACK, str(project)],
        cwd="/",
        env={**os.environ, **elsewhere},
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return Component(ZIPAPP, "packed", problems=(f"cannot be packed again: {said}",))
    second = done.stdout
    one, other = (hashlib.sha256(data).hexdigest() for data in (first, second))
    differs = Difference("hostside.pyz", one, other, len(first), len(second))
    return Component(ZIPAPP, "packed", 1, () if first == second else (differs,))


def as_json(found: Rebuild) -> str:
    """The result for programs."""
    hosts = {
        name: [{**asdict(component), "same": component.same} for component in components]
        for name, components in found.hosts.items()
    }
    document = {
        "verify": found.verify,
        "hosts": hosts,
        "problems": found.problems,
        "log": str(found.log),
        "exit_code": found.exit_code,
    }
    return json.dumps(document, indent=1)


def as_text(found: Rebuild) -> str:
    """A line for each component of each host, and one below it for each file that differs."""
    lines = []
    for host, components in found.hosts.items():
        width = max((len(component.name) for component in components), default=0)
        for component in components:
            lines.append(f"{host}  {component.name:<{width}}  {_verdict(found, component)}")
            lines += [f"    {_shown(one)}" for one in component.differs]
            lines += [f"    {line}" for text in component.problems for line in text.splitlines()]
    lines += found.problems
    return "\n".join([*lines, _summary(found)])


def _verdict(found: Rebuild, component: Component) -> str:
    took = "" if component.build_s is None else f", built in {component.build_s:.1f} s"
    if component.problems:
        return f"{'failed' if component.files is None else 'damaged where it lies'}{took}"
    if component.differs:
        return f"{len(component.differs)} of {component.files} files differ{took}"
    if found.verify:
        return f"same ({component.files}){took}"
    return "as it was" if component.build_s is None else f"built again in {component.build_s:.1f} s"


def _shown(one: Difference) -> str:
    old = "absent" if one.old_sha256 is None else f"{one.old_sha256} ({one.old_bytes} bytes)"
    new = "absent" if one.new_sha256 is None else f"{one.new_sha256} ({one.new_bytes} bytes)"
    return f"{one.file}: sha256 was {old}, is {new}"


def _summary(found: Rebuild) -> str:
    wrong = [c.name for each in found.hosts.values() for c in each if not c.same]
    if found.problems or wrong:
        named = f"not the same or failed: {', '.join(wrong)}. " if wrong else ""
        return f"{named}Ansible's own output: {found.log}"
    if found.verify:
        return "all of it is the same, byte for byte"
    return "all of it is built again"
