"""The tasks of the namespace ``lab`` about hosts: what they lack, what they have; boxes."""

from __future__ import annotations

from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit

from uplab.cli.common import PROJECT_ROOT, command
from uplab.errors import GateError

ns = Collection("lab")

INVENTORY = {
    "inventory": "path of an inventory of your own; default: inventory/ of this checkout",
}
HOST_FLAGS = {
    "host": "name of a host in the inventory",
    **INVENTORY,
}
HOSTS_FLAGS = {
    "host": "names of hosts or groups in the inventory, separated by commas",
    **INVENTORY,
}


def chosen_inventory(inventory: str | None) -> Path | None:
    """The path of an inventory that was named."""
    return None if inventory is None else Path(inventory)


@command(ns, flags={**HOST_FLAGS, "json": "print JSON"})
def check(
    c: Context, host: str = "local", json: bool = False, inventory: str | None = None
) -> None:
    """Say all that a host lacks for a run; change nothing."""
    from uplab import checkup

    found = checkup.run(PROJECT_ROOT, host, chosen_inventory(inventory))
    print(checkup.as_json(found) if json else checkup.as_text(found))
    if found.exit_code:
        raise Exit(code=found.exit_code)


@command(ns, flags={**HOST_FLAGS, "json": "print JSON"})
def status(
    c: Context, host: str = "local", json: bool = False, inventory: str | None = None
) -> None:
    """Show what is installed on a host beside the pins, checked."""
    from uplab import status as state

    found = state.look(PROJECT_ROOT, host, chosen_inventory(inventory))
    print(state.as_json(found) if json else state.as_text(found))
    if found.exit_code:
        raise Exit(code=found.exit_code)


@command(ns, flags={})
def pins(c: Context) -> None:
    """Show the pins, check their form, say what hangs on each."""
    from uplab import pins as pinned

    text, problems = pinned.as_text(PROJECT_ROOT)
    print(text)
    if problems:
        raise GateError(f"{pinned.FILE}: {'; '.join(problems)}")


@command(
    ns,
    flags={
        "name": "its name in the inventory",
        "place": "USER@ADDRESS[:PORT]",
        "fingerprint": "fingerprint that its key must have (SHA256:...); default: ask",
        "key": "private key file to log in with; default: those that ssh tries",
    },
)
def add(
    c: Context, name: str, place: str, fingerprint: str | None = None, key: str | None = None
) -> None:
    """Put a host into the inventory once its key is confirmed."""
    from uplab import addhost, checkup

    new = addhost.parse(name, place, None if key is None else Path(key).absolute())
    print(f"stored in {addhost.add(PROJECT_ROOT, new, fingerprint, addhost.asker())}")
    found = checkup.run(PROJECT_ROOT, name)
    print(checkup.as_text(found))
    if found.exit_code:
        raise Exit(code=found.exit_code)


@command(
    ns,
    flags={
        "action": "up, down, reset, restart or list",
        "name": "a box to act on, box1 to box254; by default box1",
        "suite": "Debian release of a box that is made, bookworm or trixie; default: bookworm",
        "network": "shared (the machine's) or own (other boxes and the machine); default: shared",
    },
    rest="name",
)
def box(
    c: Context,
    action: str,
    name: list[str],
    suite: str | None = None,
    network: str | None = None,
) -> None:
    """Make, reset and remove disposable hosts on this machine."""
    from uplab.box import commands
    from uplab.box.steps import Printed

    with Printed() as steps:
        commands.act(PROJECT_ROOT, action, name, commands.wish(suite, network), steps)
