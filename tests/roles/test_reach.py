"""How far the playbooks reach: hosts of uplab's alone, and never what keeps a host alive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.roles.plays import PLAYBOOKS, REPOSITORY

BOOKS = sorted(path for path in PLAYBOOKS.glob("*.yml"))
TASKS = sorted(REPOSITORY.glob("roles/*/tasks/*.yml")) + sorted(
    REPOSITORY.glob("roles/*/handlers/*.yml")
)
#: Those of uplab's work on packages, apt's sources and what lies below its root; beside them only
#: what writes files or merely looks. None for services, networks, disks, sysctls, modules, reboots.
MODULES = {
    *(path.stem for path in (PLAYBOOKS / "library").glob("uplab_*.py")),
    *("assert", "copy", "debug", "fail", "file", "meta", "set_fact", "setup", "slurp", "stat"),
    *("import_tasks", "include_tasks", "import_role", "include_role", "include_vars"),
}
#: What a task has beside its module.
WORDS = {
    *("name", "when", "register", "changed_when", "failed_when", "check_mode", "tags", "vars"),
    *("loop", "loop_control", "notify", "block", "rescue", "always", "become", "no_log", "diff"),
    *("until", "retries", "delay", "run_once", "delegate_to", "any_errors_fatal", "args"),
    *("ignore_unreachable", "throttle", "environment", "listen"),
}
#: Beginnings of packages that no role may ask for: kernels, boot, network, storage, guests.
FOREIGN = (
    *("linux-image", "linux-headers", "pve-", "proxmox-", "grub", "shim", "systemd-boot"),
    *("ifupdown", "network-manager", "bridge-utils", "openvswitch", "zfs", "lvm2", "mdadm"),
    *("ceph", "qemu", "lxc", "corosync", "initramfs-tools", "dracut", "libc-bin"),
)


def tasks_in(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        yield entry
        for inner in ("block", "rescue", "always"):
            yield from tasks_in(entry.get(inner, []))


def modules(entries: list[dict[str, Any]]) -> set[str]:
    """The modules of tasks, without the name of their collection."""
    found = {word for task in tasks_in(entries) for word in set(task) - WORDS}
    return {name.removeprefix("ansible.builtin.") for name in found}


def test_there_is_something_to_look_at() -> None:
    assert len(BOOKS) >= 1
    assert len(TASKS) >= 10


@pytest.mark.parametrize("book", BOOKS, ids=lambda path: path.name)
def test_a_playbook_targets_the_group_of_uplab(book: Path) -> None:
    for play in yaml.safe_load(book.read_text()):
        assert play["hosts"] == "uplab"
        entries = [play.get(part, []) for part in ("pre_tasks", "tasks", "post_tasks", "handlers")]
        for part in entries:
            assert modules(part) <= MODULES


@pytest.mark.parametrize(
    "path", TASKS, ids=lambda path: str(path.relative_to(REPOSITORY / "roles"))
)
def test_a_role_uses_no_module_for_networking_storage_guests_or_the_kernel(path: Path) -> None:
    assert modules(yaml.safe_load(path.read_text())) <= MODULES


def test_no_role_asks_for_a_package_of_those() -> None:
    pins = yaml.safe_load((PLAYBOOKS / "group_vars" / "all" / "pins.yml").read_text())
    named = set(packages(pins))
    assert "wrk" in named
    assert [name for name in named if name.startswith(FOREIGN)] == []


def packages(value: Any) -> Iterator[str]:
    """Every package that a pin names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "packages":
                yield from inner
            elif key == "packages_by_release":
                yield from (name for names in inner.values() for name in names)
            else:
                yield from packages(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from packages(inner)
