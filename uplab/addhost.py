"""Puts a host into the inventory's private part: its key is confirmed first, and kept."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from uplab import inventory
from uplab.errors import GateError, HostError, UsageError
from uplab.sshconfig import HostKey, endpoint, known_keys

#: Ignored by git: addresses and keys are nobody else's business.
PRIVATE = Path("inventory") / "private"

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_PLACE = re.compile(r"(?P<user>[^@\s]+)@(?P<address>\[[^\]]+\]|[^:\s]+)(:(?P<port>\d{1,5}))?")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_RESERVED = ("all", "ungrouped", inventory.GROUP)
#: The end of names that can never resolve: a host with one is an example to be replaced.
_PLACEHOLDER = ".invalid"
_HEAD = "# Written by lab.add; yours to change, git ignores it.\n"

Ask = Callable[[str], str]


@dataclass(frozen=True)
class NewHost:
    """A host that is to be added."""

    name: str
    user: str
    address: str
    port: int
    key_file: Path | None = None

    @property
    def key_name(self) -> str:
        """The name that known_hosts gives its keys."""
        return self.address if self.port == 22 else f"[{self.address}]:{self.port}"

    def variables(self, known_hosts: Path) -> dict[str, Any]:
        """Its variables in the inventory; Ansible and Fabric both hold its key against the file."""
        files = f'UserKnownHostsFile="{known_hosts}" ~/.ssh/known_hosts'
        found: dict[str, Any] = {
            "ansible_host": self.address,
            "ansible_port": self.port,
            "ansible_user": self.user,
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_ssh_common_args": shlex.join(["-o", files, "-o", "StrictHostKeyChecking=yes"]),
        }
        if self.key_file is not None:
            found["ansible_ssh_private_key_file"] = str(self.key_file)
        return found


def parse(name: str, place: str, key_file: Path | None = None) -> NewHost:
    """Check what was typed.

    Args:
        name: for the inventory.
        place: ``USER@ADDRESS[:PORT]``; an IPv6 address in brackets.
        key_file: private key to log in with; None for those that ssh tries.

    Raises:
        UsageError: with what is allowed.
    """
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise UsageError(
            f"{name!r} cannot be the name of a host: allowed are lower-case letters, digits, "
            f"'-' and '.', and none of {', '.join(_RESERVED)}"
        )
    match = _PLACE.fullmatch(place)
    if match is None or not _USER.fullmatch(match["user"]):
        raise UsageError(
            f"{place!r}: expected USER@ADDRESS or USER@ADDRESS:PORT ([ADDRESS] for IPv6)"
        )
    address = match["address"]
    if address.startswith("["):
        address = address[1:-1]
        if not _is_ipv6(address):
            raise UsageError(f"{place!r}: {address!r} is no IPv6 address")
    elif not _HOSTNAME.fullmatch(address):
        raise UsageError(f"{place!r}: {address!r} is neither a name nor an address")
    port = int(match["port"] or 22)
    if not 0 < port < 1 << 16:
        raise UsageError(f"{place!r}: {port} is no port")
    if key_file is not None and not key_file.is_file():
        raise UsageError(f"no key file {key_file}")
    return NewHost(name, match["user"], address, port, key_file)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def add(
    project: Path, new: NewHost, fingerprint: str | None = None, ask: Ask | None = None
) -> Path:
    """Confirm a host's key and store the host.

    Args:
        project: the checkout.
        new: from :func:`parse`.
        fingerprint: that its key must have; None to be asked.
        ask: puts a question to a person; None where there is nobody to ask.

    Returns:
        the file with its variables.

    Raises:
        UsageError: its name is taken, or nobody can be asked.
        HostError: nothing answers there, or it shows another key than it should.
        GateError: the person did not say yes.
    """
    refuse_taken(inventory.hosts(project), new.name)
    keys = offered(project, new)
    for key in keys:
        print(f"{new.address}:{new.port} shows {key.short}", flush=True)
    return store(project, new, confirmed(new, keys, fingerprint, ask))


def refuse_taken(known: dict[str, dict[str, Any]], name: str) -> None:
    """Raise UsageError where the inventory has the name, unless as an example to be replaced."""
    if name in known and not str(known[name].get("ansible_host", "")).endswith(_PLACEHOLDER):
        place = known[name].get("ansible_host", "this machine")
        raise UsageError(
            f"the inventory has a host {name} already ({place}). "
            f"Run: invoke lab.check --host {name}"
        )


def offered(project: Path, new: NewHost) -> list[HostKey]:
    """The keys that its server shows, one of each kind that it has.

    Raises:
        HostError: nothing answers, or another key was known for this address.
    """
    from uplab import sshlink

    place = endpoint(new.name, new.variables(project / PRIVATE / "known_hosts"))
    keys = sshlink.offered_keys(new.name, place)
    known = known_keys(place.known_hosts, place.key_name)
    valid = [key for key in known if not key.revoked]
    agreeing = {key.base64 for key in valid} & {key.base64 for key in keys}
    if valid and not agreeing:
        remove = shlex.join(["ssh-keygen", "-R", place.key_name, "-f", valid[0].where])
        raise HostError(
            f"host {new.name}: {place.place} shows {keys[0].short}, but {valid[0].where} has "
            f"{valid[0].short}. Somebody may be in between; only if the host was installed anew, "
            f"run: {remove}"
        )
    return keys


def confirmed(
    new: NewHost, keys: Sequence[HostKey], fingerprint: str | None, ask: Ask | None
) -> list[HostKey]:
    """The keys that are to be trusted: the one of the fingerprint, or all after a yes."""
    if fingerprint is not None:
        same = [key for key in keys if key.fingerprint == fingerprint]
        if not same:
            shown = ", ".join(key.fingerprint for key in keys)
            raise HostError(
                f"host {new.name}: {new.address}:{new.port} has no key {fingerprint}; "
                f"it shows {shown}. Nothing was stored"
            )
        return same
    if ask is None:
        raise UsageError(
            "nobody can be asked whether that is the host's key (no terminal). "
            f"Run: invoke lab.add {new.name} {new.user}@{new.address}:{new.port} "
            "--fingerprint SHA256:...   (from the host's own console)"
        )
    print("Compare on the host's own console: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub")
    answer = ask("Are these its keys? Type yes or a fingerprint: ").strip()
    if answer in {key.fingerprint for key in keys}:
        return [key for key in keys if key.fingerprint == answer]
    if answer != "yes":
        raise GateError(f"host {new.name} was not added: its key was not confirmed")
    return list(keys)


def asker() -> Ask | None:
    """A way to ask the person at the terminal; None where there is none."""
    return input if sys.stdin.isatty() else None


# ---- what is stored ------------------------------------------------------------------------------


def store(project: Path, new: NewHost, keys: Sequence[HostKey]) -> Path:
    """Write key, variables and name, the name last: a host is in the inventory whole or not."""
    private = project / PRIVATE
    known_hosts = private / "known_hosts"
    variables = private / "host_vars" / f"{new.name}.yml"
    hosts = private / "hosts.yml"
    # First, because it may not be an inventory that a host can be added to.
    with_it = _with_host(hosts, new.name)
    for folder in (private, variables.parent):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    lines = known_hosts.read_text().splitlines() if known_hosts.exists() else []
    more = [f"{new.key_name} {key.kind} {key.base64}" for key in keys]
    _write(known_hosts, "\n".join([*lines, *(line for line in more if line not in lines)]) + "\n")
    _write(variables, _HEAD + _yaml(new.variables(known_hosts)))
    _write(hosts, _HEAD + _yaml(with_it))
    return variables


def _with_host(path: Path, name: str) -> dict[str, Any]:
    """The hosts of the private inventory with one more."""
    try:
        known = yaml.safe_load(path.read_text()) if path.exists() else None
        document: dict[str, Any] = known or {}
        group = document.setdefault(inventory.GROUP, None) or {}
        group["hosts"] = {**(group.get("hosts") or {}), name: None}
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise UsageError(f"{path} is no inventory that a host can be added to") from error
    document[inventory.GROUP] = group
    return document


def _yaml(document: dict[str, Any]) -> str:
    text = yaml.safe_dump(document, sort_keys=False, width=100, allow_unicode=True)
    return re.sub(r": null$", ":", text, flags=re.MULTILINE)


def _write(path: Path, text: str) -> None:
    """Replace a file in one step, readable by its owner alone."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(descriptor)
    part.replace(path)
