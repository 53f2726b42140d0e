"""The tasks of the namespace ``lab`` that install, build, copy and remove."""

from __future__ import annotations

import sys
from pathlib import Path

from invoke.context import Context
from invoke.exceptions import Exit

from uplab.cli.common import PROJECT_ROOT, command
from uplab.cli.hosts import HOST_FLAGS, HOSTS_FLAGS, INVENTORY, chosen_inventory, ns

# The tasks of both modules are in it.
__all__ = ["ns"]

_BUNDLE = "file of lab.bundle to take from instead of the network; default: none"
_FROM = "host or file of lab.export whose builds are taken; default: build them there"
_ALLOW_UPGRADE = "also upgrade kernel, boot loader, C library and Proxmox VE"


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",")) if text else ()


@command(
    ns,
    flags={
        **HOSTS_FLAGS,
        "only": "roles to converge, separated by commas; default: all",
        "check": "change nothing, say what would change",
        "diff": "show what changes in files",
        "stock": "run Ansible with its own strategy instead of mitogen's",
        "allow_upgrade": _ALLOW_UPGRADE,
        "bundle": _BUNDLE,
        "from_": _FROM,
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
    allow_upgrade: bool = False,
    bundle: str | None = None,
    from_: str | None = None,
    if_changed: bool = False,
    inventory: str | None = None,
) -> None:
    """Install and build on a host what a run needs, at its pins."""
    from uplab import inventory as hosts
    from uplab import provision
    from uplab.transfer import stages

    chosen = chosen_inventory(inventory)
    names = hosts.select(PROJECT_ROOT, host, chosen)
    if if_changed:
        names = provision.outdated(PROJECT_ROOT, names, chosen)
    for stage in stages.stages(PROJECT_ROOT, names, from_, chosen):
        for line in stage.news:
            print(line)
        provision.converge(
            PROJECT_ROOT,
            stage.names,
            only=_words(only),
            check=check,
            diff=diff,
            stock=stock,
            extra={**stage.extra, **({"uplab_allow_upgrade": True} if allow_upgrade else {})},
            bundle=None if bundle is None else Path(bundle),
            chosen=chosen,
        )


@command(ns, flags={**HOST_FLAGS, "out": "file to write, as in builds.tar.zst"})
def export(c: Context, out: str, host: str = "local", inventory: str | None = None) -> None:
    """Put a host's finished builds into a file for --from."""
    from uplab.transfer import stages

    print(stages.export(PROJECT_ROOT, host, Path(out), chosen_inventory(inventory)))


@command(
    ns,
    flags={
        **HOSTS_FLAGS,
        "json": "print JSON",
        "allow_upgrade": _ALLOW_UPGRADE,
        "bundle": _BUNDLE,
        "from_": _FROM,
    },
)
def plan(
    c: Context,
    host: str = "local",
    json: bool = False,
    allow_upgrade: bool = False,
    bundle: str | None = None,
    from_: str | None = None,
    inventory: str | None = None,
) -> None:
    """Say what lab.setup would do to a host; change nothing."""
    from uplab import inventory as hosts
    from uplab import setupplan, setupplan_text
    from uplab.transfer import stages

    chosen = chosen_inventory(inventory)
    names = hosts.select(PROJECT_ROOT, host, chosen)
    if bundle is not None:
        from uplab.bundle import use

        out = sys.stderr if json else sys.stdout
        print(*use.lacking(PROJECT_ROOT, names, Path(bundle), chosen), sep="\n", file=out)
    found = [
        each
        for stage in stages.stages(PROJECT_ROOT, names, from_, chosen)
        for each in setupplan.make(
            PROJECT_ROOT,
            stage.names,
            allow_upgrade=allow_upgrade,
            extra=stage.extra,
            chosen=chosen,
        )
    ]
    code = max(each.exit_code for each in found)
    print(setupplan_text.as_json(found, code) if json else setupplan_text.as_text(found))
    if code:
        raise Exit(code=code)


@command(
    ns,
    flags={
        **HOSTS_FLAGS,
        "verify": "compare what comes out with what is there, change nothing",
        "only": "components to build, separated by commas; default: all",
        "stock": "run Ansible with its own strategy instead of mitogen's",
        "json": "print JSON",
    },
)
def rebuild(
    c: Context,
    host: str = "local",
    verify: bool = False,
    only: str | None = None,
    stock: bool = False,
    json: bool = False,
    inventory: str | None = None,
) -> None:
    """Build all on a host again, to replace or to compare."""
    from uplab import inventory as hosts
    from uplab import rebuild as again

    chosen = chosen_inventory(inventory)
    names = hosts.select(PROJECT_ROOT, host, chosen)
    found = again.run(
        PROJECT_ROOT, names, verify=verify, only=_words(only), stock=stock, chosen=chosen
    )
    print(again.as_json(found) if json else again.as_text(found))
    if found.exit_code:
        raise Exit(code=found.exit_code)


@command(
    ns,
    flags={
        "out": "file to write, as in lab.tar.zst",
        "components": "components to bundle, separated by commas; default: all that are pinned",
        "debs": "Debian releases whose packages come along, bookworm,trixie; default: none",
        "wheels": "take the Python packages of uplab itself along",
        "dev": "also those that the tests need",
        "toolchains": "take archives along that only a host with a policy of upstream uses",
        **INVENTORY,
    },
)
def bundle(
    c: Context,
    out: str,
    components: str | None = None,
    debs: str | None = None,
    wheels: bool = True,
    dev: bool = False,
    toolchains: bool = True,
    inventory: str | None = None,
) -> None:
    """Put all that a lab is made from into one file."""
    from uplab.box.steps import Printed
    from uplab.bundle import make

    levels = (("runtime", "dev") if dev else ("runtime",)) if wheels else ()
    wishes = make.Wishes(_words(components), _words(debs), levels, toolchains)
    mirrors = make.mirrors(PROJECT_ROOT, chosen_inventory(inventory))
    with Printed() as steps:
        for line in make.make(PROJECT_ROOT, Path(out), wishes, mirrors, steps):
            steps.say(line)


@command(
    ns,
    flags={
        **HOSTS_FLAGS,
        "packages": "also remove the Debian packages that setup added",
        "runs": "also remove runs that nobody has collected",
        "check": "change nothing, say what would go",
        "yes": "do not ask",
        "json": "print JSON; does not ask, so it takes --yes or --check",
    },
)
def teardown(
    c: Context,
    host: str = "local",
    packages: bool = False,
    runs: bool = False,
    check: bool = False,
    yes: bool = False,
    json: bool = False,
    inventory: str | None = None,
) -> None:
    """Remove from a host what setup put there."""
    from uplab import addhost, removal
    from uplab import inventory as hosts
    from uplab import teardown as taking

    chosen = chosen_inventory(inventory)
    names = hosts.select(PROJECT_ROOT, host, chosen)
    wish = taking.Wish(names, packages, runs)
    if not (yes or check):
        ask = None if json else addhost.asker()
        taking.confirm(PROJECT_ROOT, wish, ask, chosen=chosen)
    done = taking.run(PROJECT_ROOT, wish, check=check, chosen=chosen)
    print(removal.as_json(done) if json else taking.as_text(done))
    done.require_success()


@command(ns, flags={**HOSTS_FLAGS, "json": "print JSON"})
def restore(
    c: Context, host: str = "local", json: bool = False, inventory: str | None = None
) -> None:
    """Put back settings that a tuned run could not put back."""
    from uplab import inventory as hosts
    from uplab import restore as restoring

    chosen = chosen_inventory(inventory)
    done = restoring.run(PROJECT_ROOT, hosts.select(PROJECT_ROOT, host, chosen), chosen)
    print(restoring.as_json(done) if json else restoring.as_text(done))
    code = max(each.exit_code for each in done)
    if code:
        raise Exit(code=code)


@command(
    ns,
    flags={
        **HOSTS_FLAGS,
        "keep_days": "keep builds that came to the host later than so many days ago",
        "cache": "also remove what was fetched and compiled before",
        "check": "change nothing, say what would go",
        "json": "print JSON",
    },
)
def gc(
    c: Context,
    host: str = "local",
    keep_days: int = 0,
    cache: bool = False,
    check: bool = False,
    json: bool = False,
    inventory: str | None = None,
) -> None:
    """Remove builds from a host that it does not use any more."""
    from uplab import gc as collection
    from uplab import inventory as hosts
    from uplab import removal

    chosen = chosen_inventory(inventory)
    names = hosts.select(PROJECT_ROOT, host, chosen)
    done = collection.run(
        PROJECT_ROOT, names, keep_days=keep_days, cache=cache, check=check, chosen=chosen
    )
    print(removal.as_json(done) if json else collection.as_text(done))
    done.require_success()
