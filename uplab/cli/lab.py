"""The tasks of the namespace ``lab``: hosts, and what is installed on them."""

from __future__ import annotations

from invoke.collection import Collection
from invoke.context import Context

from uplab.cli.common import PROJECT_ROOT, command

ns = Collection("lab")


@command(
    ns,
    flags={
        "host": "name of a host in the inventory",
        "only": "roles to converge, separated by commas; default: all",
        "check": "change nothing, say what would change",
        "diff": "show what changes in files",
        "stock": "run Ansible with its own strategy instead of mitogen's",
        "if_changed": "run Ansible only if roles, pins, sources or host variables changed",
    },
)
def setup(
    c: Context,
    host: str = "local",
    only: str | None = None,
    check: bool = False,
    diff: bool = False,
    stock: bool = False,
    if_changed: bool = False,
) -> None:
    """Install and build on a host what a run needs, at its pins."""
    from uplab import provision

    if if_changed and provision.is_current(PROJECT_ROOT, host):
        print(f"host {host} is up to date (its manifest names today's roles, pins and variables)")
        return
    roles = tuple(part.strip() for part in only.split(",")) if only else ()
    provision.converge(PROJECT_ROOT, host, only=roles, check=check, diff=diff, stock=stock)
