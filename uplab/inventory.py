"""Ansible's inventory, asked through ``ansible-inventory``: the one source of host variables."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from uplab.adapters import nearest
from uplab.errors import HostError, UsageError

GROUP = "uplab"
_OWN = "inventory/hosts.yml"
#: What ``lab.add`` writes; git ignores it.
_PRIVATE = "inventory/private/hosts.yml"
#: The disposable hosts that are up, beside those of ``inventory/``.
_BOXES = ".uplab/boxes/inventory.yml"
#: What ansible-inventory makes of a variable that is locked by itself.
_VAULT = "__ansible_vault"
_UNLOCKING = threading.Lock()
_SECRET = re.compile(r"pass|secret|token", re.IGNORECASE)


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


def options(project: Path, chosen: Path | None = None) -> list[str]:
    """The options that name the inventory to Ansible; none where ansible.cfg's own is all.

    Args:
        project: the checkout.
        chosen: an inventory of somebody's own, which takes the place of all others.

    Raises:
        UsageError: there is no such inventory.
    """
    if chosen is not None:
        if not chosen.exists():
            raise UsageError(f"no inventory {chosen}")
        return ["-i", str(chosen.absolute())]
    # The later one wins, so what is private may fill in an example of ours.
    more = [path for name in (_PRIVATE, _BOXES) if (path := project / name).exists()]
    sources = [project / _OWN, *more] if more else []
    return [word for source in sources for word in ("-i", str(source))]


def flags(name: str, chosen: Path | None = None) -> str:
    """How a host is named on the command line, for commands to copy."""
    return f"--host {shlex.quote(name)}{flag(chosen)}"


def flag(chosen: Path | None) -> str:
    """What goes behind a command to copy, so that it sees the same inventory; often nothing."""
    return "" if chosen is None else f" --inventory {shlex.quote(str(chosen))}"


def public(variables: dict[str, Any]) -> dict[str, Any]:
    """A host's variables without its passwords: those that may be written down."""
    return {name: value for name, value in variables.items() if not _SECRET.search(name)}


@cache
def _ask_once(project: Path, chosen: Path) -> dict[str, Any]:
    """As _ask, for an inventory of somebody's own: one command sees one state of it."""
    return _ask(project, chosen)


def _ask(project: Path, chosen: Path | None) -> dict[str, Any]:
    """All hosts with their variables, as ``ansible-inventory --list`` prints them."""
    argv = [program("ansible-inventory"), "--list", "--playbook-dir", str(project / "playbooks")]
    argv += options(project, chosen)
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


def hosts(project: Path, chosen: Path | None = None) -> dict[str, dict[str, Any]]:
    """The hosts of uplab's group with their variables.

    Those of ``inventory/`` and its private part, and the boxes that are up. Asking takes most of a
    second, so the answer is kept until a file of the inventory or of ``playbooks/group_vars``
    changes. Of an inventory that was ``chosen`` instead nothing outlives the process, nor do
    passwords.

    Raises:
        HostError: ansible-inventory failed.
        UsageError: there is no such inventory.
    """
    if chosen is not None:
        return _members(_ask_once(project, chosen))
    kept = project / ".uplab" / "inventory" / f"{_key(project)[:16]}.json"
    try:
        known: dict[str, dict[str, Any]] = json.loads(kept.read_text())
        return known
    except (OSError, ValueError):
        found = _members(_ask(project, None))
    if all(public(variables) == variables for variables in found.values()):
        _keep(kept, json.dumps(found))
    return found


def _members(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The hosts of uplab's group, and of the groups in it, in an answer of ansible-inventory."""
    variables = answer.get("_meta", {}).get("hostvars", {})
    return {name: variables.get(name, {}) for name in _of_group(answer, GROUP)}


def _key(project: Path) -> str:
    """A digest over everything that the answer depends on."""
    digest = hashlib.sha256(tree_sha256(project, ["inventory", "playbooks/group_vars"]).encode())
    with suppress(FileNotFoundError):
        digest.update((project / _BOXES).read_bytes())
    return digest.hexdigest()


def _keep(cache: Path, text: str) -> None:
    """Write the cache; a checkout that cannot be written is only slower."""
    part = cache.with_suffix(f".{os.getpid()}.part")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        part.touch(mode=0o600)
        part.write_text(text)
        part.replace(cache)
    except OSError:
        return


def host(project: Path, name: str, chosen: Path | None = None) -> dict[str, Any]:
    """The variables of one host.

    Raises:
        UsageError: the inventory has no such host; with the nearest name and all of them.
    """
    known = hosts(project, chosen)
    if name not in known:
        names = ", ".join(sorted(known))
        raise UsageError(
            f"no host {name!r} in group {GROUP} of the inventory{nearest(name, known)} "
            f"There are {names}"
        )
    return known[name]


def select(project: Path, text: str, chosen: Path | None = None) -> list[str]:
    """The hosts that a person names: one, several with commas between them, or groups of them.

    Args:
        project: the checkout.
        text: names of hosts and of groups; of a group, those of its hosts that are uplab's count.
        chosen: an inventory of somebody's own instead of uplab's.

    Returns:
        Their names, each once, in the order in which they were named.

    Raises:
        UsageError: nothing of that name, or a group without a host of uplab's.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("no host was named. Run: invoke lab.check --host local")
    known = hosts(project, chosen)
    found: list[str] = []
    for name in names:
        if name in known:
            found.append(name)
            continue
        answer = _ask(project, None) if chosen is None else _ask_once(project, chosen)
        group = [one for one in _of_group(answer, name) if one in known]
        if not group:
            # Raises what a wrong name of a host gets.
            host(project, name, chosen)
        found += group
    return list(dict.fromkeys(found))


def _of_group(answer: dict[str, Any], name: str) -> list[str]:
    """The hosts of a group and of the groups in it, each once; [] where there is no such group."""
    groups, names = [name], list[str]()
    for group in groups:
        entry = answer.get(group, {})
        groups += [child for child in entry.get("children", []) if child not in groups]
        names += entry.get("hosts", [])
    return list(dict.fromkeys(names))


def unlocked(project: Path, variables: dict[str, Any]) -> dict[str, Any]:
    """A host's variables, with the passwords out of ansible-vault that can be had from it.

    ansible-inventory gives a variable that is locked by itself as it is. Whose vault's password
    is not known (``ANSIBLE_VAULT_PASSWORD_FILE``, ansible.cfg) stays locked.
    """
    locked = {
        name: value[_VAULT]
        for name, value in variables.items()
        if isinstance(value, dict) and _SECRET.search(name) and isinstance(value.get(_VAULT), str)
    }
    with _UNLOCKING:
        opened = {name: _open_vault(project, text) for name, text in locked.items()}
    return {**variables, **{name: text for name, text in opened.items() if text is not None}}


@cache
def _open_vault(project: Path, text: str) -> str | None:
    """What is locked, by Ansible's own program; None where it cannot open it."""
    done = subprocess.run(
        [program("ansible-vault"), "decrypt"],
        input=text,
        env={**os.environ, "ANSIBLE_CONFIG": str(project / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
        # Without a terminal: it would ask there, and ansible-playbook, which comes later, not.
        start_new_session=True,
    )
    return done.stdout if done.returncode == 0 else None


def is_local(variables: dict[str, Any]) -> bool:
    """Whether a host is this machine."""
    return variables.get("ansible_connection") == "local"
