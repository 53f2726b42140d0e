"""Ansible's inventory, asked through ``ansible-inventory``: the one source of host variables."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from uplab.adapters import nearest
from uplab.errors import HostError, UsageError

GROUP = "uplab"


def program(name: str) -> str:
    """One of ansible-core's programs, from the environment that runs uplab."""
    return str(Path(sys.executable).with_name(name))


def tree_sha256(project: Path, folders: Iterable[str], skip: tuple[str, ...] = ()) -> str:
    """A digest over the names and contents of all files below some folders of the checkout.

    What Python and editors leave behind (``__pycache__``, hidden files) does not count, nor do
    files whose names end in one of ``skip``.
    """
    digest = hashlib.sha256()
    for folder in folders:
        for root, inner, names in os.walk(project / folder):
            inner[:] = sorted(n for n in inner if n != "__pycache__" and not n.startswith("."))
            for name in sorted(n for n in names if not n.startswith(".") and not n.endswith(skip)):
                path = Path(root, name)
                data = path.read_bytes()
                digest.update(f"{path.relative_to(project)}\0{len(data)}\0".encode())
                digest.update(data)
    return digest.hexdigest()


def _ask(project: Path) -> dict[str, Any]:
    """All hosts with their variables, as ``ansible-inventory --list`` prints them."""
    argv = [program("ansible-inventory"), "--list", "--playbook-dir", str(project / "playbooks")]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(project / "ansible.cfg")}
    # By itself Ansible only warns of a file that it cannot read, and goes on with no hosts.
    environment["ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED"] = "True"
    done = subprocess.run(
        argv, cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        named = [line for line in said if "ERROR" in line] or said
        raise HostError(f"ansible-inventory failed: {named[-1]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def hosts(project: Path) -> dict[str, dict[str, Any]]:
    """The hosts of uplab's group with their variables.

    Asking takes most of a second, so the answer is kept until a file of the inventory or of
    ``playbooks/group_vars`` changes.

    Raises:
        HostError: ansible-inventory failed.
    """
    key = tree_sha256(project, ["inventory", "playbooks/group_vars"])
    cache = project / ".uplab" / "inventory" / f"{key[:16]}.json"
    try:
        known: dict[str, dict[str, Any]] = json.loads(cache.read_text())
        return known
    except (OSError, ValueError):
        answer = _ask(project)
    variables = answer.get("_meta", {}).get("hostvars", {})
    members = answer.get(GROUP, {}).get("hosts", [])
    found = {name: variables.get(name, {}) for name in members}
    _keep(cache, json.dumps(found))
    return found


def _keep(cache: Path, text: str) -> None:
    """Write the cache; a checkout that cannot be written is only slower."""
    part = cache.with_suffix(f".{os.getpid()}.part")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text)
        part.replace(cache)
    except OSError:
        return


def host(project: Path, name: str) -> dict[str, Any]:
    """The variables of one host.

    Raises:
        UsageError: the inventory has no such host; with the nearest name and all of them.
    """
    known = hosts(project)
    if name not in known:
        names = ", ".join(sorted(known))
        raise UsageError(
            f"no host {name!r} in group {GROUP} of the inventory{nearest(name, known)} "
            f"There are {names}"
        )
    return known[name]


def is_local(variables: dict[str, Any]) -> bool:
    """Whether a host is this machine."""
    return variables.get("ansible_connection") == "local"
