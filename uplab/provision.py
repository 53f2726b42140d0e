"""Is a host set up as today's checkout says, and if not, let Ansible do it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from uplab import adapters, hostzip, inventory, playbook
from uplab.adapters import Registry
from uplab.errors import UsageError
from uplab.remote import Host, LocalHost, require_root

#: Zipapps and caches, beside the checkout's files and ignored by git.
CACHE = ".uplab"


def connect(project: Path, name: str, registry: Registry) -> Host:
    """The host with hostside ready to be called.

    Args:
        project: the checkout.
        name: of the host in the inventory.
        registry: the adapters whose files travel along.

    Raises:
        UsageError: not in the inventory, or not this machine.
        HostError: its root cannot be had.
    """
    variables = inventory.host(project, name)
    if not inventory.is_local(variables):
        raise UsageError(
            f"host {name} is not this machine, and this version measures the machine it runs on. "
            "Log in there and run: ./invoke bench.all"
        )
    require_root(name)
    zipapp = hostzip.write(registry, project / CACHE / "hostside")
    root = variables.get("uplab_root")
    options = ("--root", str(root)) if root else ()
    python = str(variables.get("ansible_python_interpreter", "/usr/bin/python3"))
    return LocalHost(name, zipapp, options, python)


def is_current(project: Path, name: str) -> bool:
    """Whether the host's manifest names exactly these roles, pins, sources and variables."""
    host = connect(project, name, adapters.load([project]))
    wanted = playbook.digest(project, inventory.host(project, name))
    return bool(host.inspect({})["manifest"].get("digest") == wanted)


def converge(
    project: Path,
    name: str,
    *,
    only: Iterable[str] = (),
    check: bool = False,
    diff: bool = False,
    stock: bool = False,
) -> None:
    """Converge a host with Ansible.

    Args:
        project: the checkout.
        name: of the host in the inventory.
        only: roles; empty means all.
        check: change nothing.
        diff: show what changes in files.
        stock: with Ansible's own strategy instead of mitogen's.

    Raises:
        UsageError: not in the inventory, or no such role.
        GateError: ansible-playbook failed.
    """
    variables = inventory.host(project, name)
    known = sorted(path.name for path in (project / "roles").iterdir() if path.is_dir())
    for role in only:
        if role not in known:
            hint = adapters.nearest(role, known)
            raise UsageError(f"no role {role!r}{hint} There are {', '.join(known)}")
    if inventory.is_local(variables):
        require_root(name)
    wanted = playbook.digest(project, variables)
    argv = playbook.build_argv(project, name, wanted, only=only, check=check, diff=diff)
    playbook.run(project, argv, stock=stock)
