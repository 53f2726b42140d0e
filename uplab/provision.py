"""Is a host set up as today's checkout says, and if not, let Ansible do it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from uplab import adapters, hostzip, inventory, playbook
from uplab.adapters import Registry
from uplab.errors import HostError, UsageError
from uplab.remote import Host, LocalHost, reason_against, require_root

#: Zipapps and caches, beside the checkout's files and ignored by git.
CACHE = ".uplab"
_PYTHON = "/usr/bin/python3"


def connect(project: Path, name: str, registry: Registry, chosen: Path | None = None) -> Host:
    """The host with hostside ready to be called; one behind SSH is connected to when it is asked.

    Args:
        project: the checkout.
        name: of the host in the inventory.
        registry: the adapters whose files travel along.
        chosen: an inventory of somebody's own instead of uplab's.

    Raises:
        UsageError: not in the inventory, or its variables cannot be used.
        HostError: this machine's root cannot be had.
    """
    if inventory.is_local(inventory.host(project, name, chosen)):
        require_root(name)
    return host_for(project, name, registry, chosen)


def host_for(project: Path, name: str, registry: Registry, chosen: Path | None = None) -> Host:
    """As :func:`connect`, for questions that do not take root.

    Raises:
        UsageError: not in the inventory, or its variables cannot be used.
    """
    variables = inventory.host(project, name, chosen)
    zipapp = hostzip.write(registry, project / CACHE / "hostside")
    root = variables.get("uplab_root")
    options = ("--root", str(root)) if root else ()
    python = str(variables.get("ansible_python_interpreter", _PYTHON))
    python = _PYTHON if python.startswith("auto") else python
    if inventory.is_local(variables):
        return LocalHost(name, zipapp, options, python, chosen)
    # Here, because it takes a quarter of a second that this machine alone never needs.
    from uplab.ssh import SshHost
    from uplab.sshconfig import endpoint

    there = endpoint(name, inventory.unlocked(project, variables))
    return SshHost(name, there, zipapp, options, python, chosen)


def is_current(
    project: Path, name: str, chosen: Path | None = None, known: Host | None = None
) -> bool:
    """Whether the host's manifest names exactly these roles, pins, sources and variables.

    Args:
        project: the checkout.
        name: of the host in the inventory.
        chosen: an inventory of somebody's own instead of uplab's.
        known: the host, where there is a connection to it already.

    Raises:
        as :func:`connect`.
    """
    host = known or connect(project, name, adapters.load([project]), chosen)
    wanted = digest(project, inventory.host(project, name, chosen))
    return bool(host.inspect({})["manifest"].get("digest") == wanted)


def outdated(project: Path, names: Sequence[str], chosen: Path | None = None) -> list[str]:
    """Those of the hosts whose manifest is not up to date; says which ones are."""
    current = [name for name in names if is_current(project, name, chosen)]
    for name in current:
        print(f"host {name} is up to date (its manifest names today's roles, pins and variables)")
    return [name for name in names if name not in current]


def digest(project: Path, variables: dict[str, Any]) -> str:
    """What the manifest of a host that is up to date names; passwords are no part of it."""
    return playbook.digest(project, inventory.public(variables))


def require_ready(project: Path, name: str, chosen: Path | None = None) -> None:
    """See that Ansible can work on a host, before it says so in its own words.

    Raises:
        HostError: it cannot be reached, its key is not known, it has no Python or no root for us.
    """
    host = connect(project, name, adapters.load([project]), chosen)
    against = reason_against(host.facts(), host.python, become=True)
    if against:
        raise HostError(f"host {name}: {against}")


def converge(
    project: Path,
    names: Sequence[str],
    *,
    only: Iterable[str] = (),
    check: bool = False,
    diff: bool = False,
    stock: bool = False,
    extra: Mapping[str, Any] | None = None,
    bundle: Path | None = None,
    chosen: Path | None = None,
) -> None:
    """Converge hosts with Ansible: one first, then the others, ending at the first failure.

    Args:
        project: the checkout.
        names: of the hosts in the inventory.
        only: roles; empty means all.
        check: change nothing.
        diff: show what changes in files.
        stock: with Ansible's own strategy instead of mitogen's.
        extra: further variables.
        bundle: a file that holds what would be fetched; it is checked before anything changes.
        chosen: an inventory of somebody's own instead of uplab's.

    Raises:
        UsageError: not in the inventory, no such role, or a bundle that must not be used.
        HostError: one cannot be reached, or lacks what Ansible stands on.
        GateError: ansible-playbook failed.
    """
    require_roles(project, only)
    digests: dict[str, str] = {}
    for name in names:
        variables = inventory.host(project, name, chosen)
        require_ready(project, name, chosen)
        digests[name] = digest(project, variables)
    more = dict(extra or {})
    if bundle is not None:
        # Here, because only who has a bundle needs it.
        from uplab.bundle import use

        more |= use.bring(project, names, bundle, check=check, stock=stock, chosen=chosen)
    argv = playbook.build_argv(
        project,
        ",".join(names),
        digests,
        only=only,
        check=check,
        diff=diff,
        extra=more,
        chosen=chosen,
    )
    playbook.run(project, argv, stock=stock)


def require_roles(project: Path, only: Iterable[str]) -> None:
    """Raise UsageError for a role that there is not; with the nearest name and all of them."""
    known = sorted(path.name for path in (project / "roles").iterdir() if path.is_dir())
    for role in only:
        if role not in known:
            hint = adapters.nearest(role, known)
            raise UsageError(f"no role {role!r}{hint} There are {', '.join(known)}")
