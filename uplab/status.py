"""What is installed on a host, beside what the pins want; every artifact is read again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from uplab import adapters, inventory, provision
from uplab.checkup import clean
from uplab.errors import EXIT_GATE, EXIT_OK

_HEAD = ("component", "pin wanted", "pin installed", "version", "sha256", "size", "built", "took")
_UNITS = ("B", "KiB", "MiB", "GiB")


@dataclass(frozen=True)
class Component:
    """One component of the lab on a host.

    Args:
        name: of the component.
        pin_wanted: version or commit by today's pins, in short; None where nothing wants it.
        problems: what is wrong with it.
        pin_installed: the same of when it was installed; None where it is not.
        version: what is really there.
        source: ``build``, ``distro`` or ``path``.
        copied_from: the host that built it, where that was another one.
        size_bytes: of all artifacts.
        files: how many artifacts there are.
        built_utc, build_s: when, and for how long, in seconds.
    """

    name: str
    pin_wanted: str | None
    problems: tuple[str, ...]
    pin_installed: str | None = None
    version: str | None = None
    source: str | None = None
    size_bytes: int | None = None
    files: int | None = None
    built_utc: str | None = None
    build_s: float | None = None
    copied_from: str | None = None


@dataclass(frozen=True)
class Status:
    """All components of a host; ``up_to_date`` is whether setting up again would do nothing."""

    host: str
    set_up: bool
    up_to_date: bool
    components: tuple[Component, ...]

    @property
    def exit_code(self) -> int:
        """1 where the host is not set up or something is wrong with a component."""
        wrong = not self.set_up or any(component.problems for component in self.components)
        return EXIT_GATE if wrong else EXIT_OK


def look(project: Path, name: str, chosen: Path | None = None) -> Status:
    """Ask a host what is installed there.

    Raises:
        UsageError: not in the inventory.
        HostError: it cannot be reached, or cannot answer.
    """
    variables = inventory.host(project, name, chosen)
    host = provision.host_for(project, name, adapters.load([project]), chosen)
    answer = host.ask("status", {})
    wanted = wanted_pins(variables, answer)
    digest = provision.digest(project, variables)
    return judge(name, wanted, answer, digest)


def wanted_pins(variables: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """The pins of what a host is to have: its components and what builds them.

    An installation of the host's own needs nothing that would build it. ``policy`` of a pin is the
    host's where it has another one than the pin (``golang_policy`` and the like).
    """
    pins: Mapping[str, Any] = variables.get("uplab_pins", {})
    installed: Mapping[str, Any] = answer.get("components", {})
    # What only builds others is not to be there where those came from another host.
    known = set(pins) - set(answer.get("left_out", []))
    names = [name for name in variables.get("uplab_components", pins) if name in known]
    for name in names:
        if installed.get(name, {}).get("source") != "path":
            needs = pins[name].get("needs", [])
            names += [need for need in needs if need in known and need not in names]
    return {
        name: {**pins[name], "policy": variables.get(f"{name}_policy", pins[name].get("policy"))}
        for name in names
    }


def judge(host: str, wanted: Mapping[str, Any], answer: Mapping[str, Any], digest: str) -> Status:
    """Put what is wanted beside what a host answered.

    Args:
        host: its name in the inventory.
        wanted: from :func:`wanted_pins`.
        answer: of hostside's ``status``.
        digest: what the manifest of a host names that is up to date.
    """
    installed: Mapping[str, Any] = answer.get("components", {})
    pins: Mapping[str, Any] = answer.get("pins", {})
    names = sorted({*wanted, *installed})
    components = tuple(
        _component(name, wanted.get(name), pins.get(name), installed.get(name)) for name in names
    )
    return Status(host, bool(answer.get("set_up")), answer.get("digest") == digest, components)


def _component(name: str, wanted: Any, pin: Any, found: Any) -> Component:
    policy = (wanted or pin or {}).get("policy")
    wanted, pin = _used(wanted, policy), _used(pin, policy)
    if found is None:
        return Component(clean(name), _short(wanted), ("not installed",))
    seconds = found.get("build_s")
    problems = [*_differences(wanted, pin, found), *map(str, found.get("problems", []))]
    return Component(
        name=clean(name),
        pin_wanted=_short(wanted),
        pin_installed=_short(pin),
        version=_text(found.get("version")),
        source=_text(found.get("source")),
        size_bytes=int(found.get("bytes", 0)),
        files=int(found.get("files", 0)),
        built_utc=_text(found.get("built_utc")),
        build_s=float(seconds) if isinstance(seconds, int | float) else None,
        copied_from=_text((found.get("from") or {}).get("host")),
        problems=tuple(map(clean, problems)),
    )


def _used(pin: Any, policy: Any) -> dict[str, Any] | None:
    """The part of a pin that counts where a component comes from ``policy``."""
    if not isinstance(pin, dict):
        return None
    if policy == "upstream" and isinstance(pin.get("upstream"), dict):
        return {**pin["upstream"], "policy": policy}
    return {**{key: value for key, value in pin.items() if key != "upstream"}, "policy": policy}


def _differences(wanted: Any, pin: Any, found: Mapping[str, Any]) -> list[str]:
    """Why what is installed is not what is wanted."""
    source = found.get("source")
    if wanted is None:
        return ["nothing wants it here"]
    if source == "path":
        # An installation of the host's own has no pin.
        return []
    packaged = ("distro", "upstream")
    if source in packaged and wanted["policy"] in packaged and source != wanted["policy"]:
        return [f"installed from {source}, wanted from {wanted['policy']}"]
    return [] if _comparable(wanted) == _comparable(pin) else ["installed from another pin"]


def _comparable(pin: Any) -> Any:
    """A pin without what installing adds to it: the exact versions of its Debian packages."""
    if not isinstance(pin, dict):
        return pin
    return {
        key: sorted(value) if key == "packages" else _comparable(value)
        for key, value in pin.items()
    }


def _text(value: Any) -> str | None:
    return None if value is None else clean(str(value))


def _short(pin: Any) -> str | None:
    """A pin in a word: its version, else its commit, else where it comes from."""
    if not isinstance(pin, dict):
        return None
    commit = str(pin.get("commit", ""))[:12]
    words = [str(pin.get("policy", ""))]
    words += [str(word) for word in (pin.get("version"), commit) if word]
    return clean(" ".join(word for word in words if word)) or None


def as_json(status: Status) -> str:
    """The status for programs."""
    return json.dumps({**asdict(status), "exit_code": status.exit_code}, indent=1)


def as_text(status: Status) -> str:
    """The status as a table, and a line for each thing that is wrong."""
    if not status.set_up:
        return (
            f"{status.host} is not set up. Run: invoke lab.setup --host {shlex.quote(status.host)}"
        )
    rows = [_HEAD, *(_row(component) for component in status.components)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [
        "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    problems = [(c.name, problem) for c in status.components for problem in c.problems]
    lines += [f"{name}: {problem}" for name, problem in problems]
    command = f"invoke lab.setup --host {shlex.quote(status.host)}"
    if problems:
        lines.append(f"{len(problems)} problems. Run: {command}")
    elif not status.up_to_date:
        lines.append(
            f"all of it is intact; roles, sources or variables changed since. Run: {command}"
        )
    else:
        lines.append("all of it is intact and up to date")
    return "\n".join(lines)


def _row(component: Component) -> tuple[str, ...]:
    if component.files is None:
        agrees = "-"
    else:
        bad = any("sha256" in problem or "/" in problem for problem in component.problems)
        agrees = "differs" if bad else f"same ({component.files})"
    took = "-" if component.build_s is None else f"{component.build_s:.1f} s"
    return (
        component.name,
        component.pin_wanted or "-",
        component.pin_installed or "-",
        component.version or "-",
        agrees,
        "-" if component.size_bytes is None else size_text(component.size_bytes),
        _built(component),
        took,
    )


def _built(component: Component) -> str:
    """When it was built, and where that was another host."""
    where = f" on {component.copied_from}" if component.copied_from else ""
    return f"{component.built_utc or '-'}{where}"


def size_text(size_bytes: float) -> str:
    """A number of bytes for a person, as in ``1.3 GiB``."""
    for unit in _UNITS:
        if size_bytes < 1024 or unit == _UNITS[-1]:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    raise AssertionError("the last unit takes everything")
