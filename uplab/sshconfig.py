"""Where and how a host is reached by SSH: asked of OpenSSH itself, so that Ansible sees the same.

The inventory's variables become the options that Ansible gives to ``ssh``; ``ssh -G`` then says
what follows from them and from the user's own configuration (ProxyJump, keys, known_hosts).
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from uplab.errors import HostError, UsageError

_CONNECT_TIMEOUT_S = 10
_SSH_TIMEOUT_S = 15.0
#: In the order in which Ansible itself gives them to ssh.
_ARGUMENT_VARIABLES = ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")
_KEY_VARIABLE = "ansible_ssh_private_key_file"
_PASSWORD_VARIABLES = ("ansible_password", "ansible_ssh_pass", "ansible_ssh_password")


@dataclass(frozen=True)
class Endpoint:
    """One SSH server and how to log in there.

    Args:
        address: a name or an address.
        port: TCP port.
        user: to log in as.
        key_name: the name that known_hosts has the server's keys under.
        key_files: private keys to try.
        known_hosts: files with the keys of servers, the first one is written to.
        jump: the server to go through, or None.
        proxy_command: a command whose stdin and stdout are the connection, or None.
        timeout_s: for connecting.
        password: from the inventory's vault; never shown.
    """

    address: str
    port: int
    user: str
    key_name: str
    key_files: tuple[str, ...] = ()
    known_hosts: tuple[Path, ...] = ()
    jump: Endpoint | None = None
    proxy_command: str | None = None
    timeout_s: int = _CONNECT_TIMEOUT_S
    password: str | None = field(default=None, repr=False)

    @property
    def place(self) -> str:
        """``user@address:port``."""
        return f"{self.user}@{self.address}:{self.port}"

    def command(self, program: str = "ssh") -> str:
        """The command with which a person reaches the same place."""
        argv = [program, "-p", str(self.port)]
        # Where ssh writes a key that is accepted.
        for path in self.known_hosts[:1]:
            argv += ["-o", f'UserKnownHostsFile="{path}"']
        return shlex.join([*argv, f"{self.user}@{self.address}"])


def endpoint(name: str, variables: Mapping[str, Any]) -> Endpoint:
    """How a host of the inventory is reached.

    Args:
        name: of the host in the inventory; its address too, where the variables name none.
        variables: of the host, as ``ansible-inventory`` gives them.

    Raises:
        UsageError: a variable that cannot be used.
        HostError: there is no ssh, or it refuses the options.
    """
    words: list[str] = []
    for key, option in (("ansible_port", "-p"), ("ansible_user", "-l")):
        if variables.get(key) is not None:
            words += [option, _plain(name, key, variables[key])]
    if variables.get(_KEY_VARIABLE):
        key_file = Path(_plain(name, _KEY_VARIABLE, variables[_KEY_VARIABLE])).expanduser()
        words += ["-i", str(key_file)]
    for key in _ARGUMENT_VARIABLES:
        if variables.get(key):
            words += _split(name, key, _plain(name, key, variables[key]))
    address = _plain(name, "ansible_host", variables.get("ansible_host", name))
    return _resolve(f"host {name}", address, words, _password(name, variables), ())


def _plain(name: str, key: str, value: Any) -> str:
    """A variable's value as text; ansible-inventory does not fill in templates, nor do we."""
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise UsageError(f"host {name}: {key} must be a plain value in the inventory")
    text = str(value)
    if "{{" in text or "{%" in text:
        raise UsageError(f"host {name}: {key} is a template; write its value into the inventory")
    is_option = text.startswith("-") and key not in _ARGUMENT_VARIABLES
    if is_option or not text.isprintable():
        raise UsageError(f"host {name}: {key} cannot be {text!r}")
    return text


def _split(name: str, key: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"host {name}: {key} cannot be read ({error}): {text}") from error


def _password(name: str, variables: Mapping[str, Any]) -> str | None:
    """The password, where the inventory has one that is not locked in a vault."""
    for key in _PASSWORD_VARIABLES:
        value = variables.get(key)
        if isinstance(value, dict):
            raise UsageError(
                f"host {name}: {key} is locked in ansible-vault. "
                "Run: export ANSIBLE_VAULT_PASSWORD_FILE=FILE   (or use a key: ssh-copy-id)"
            )
        if value is not None:
            return str(value)
    return None


def _resolve(
    what: str, address: str, words: list[str], password: str | None, seen: tuple[str, ...]
) -> Endpoint:
    """Ask ``ssh -G`` what it would do; follow ProxyJump."""
    if address in seen:
        raise HostError(f"{what}: ProxyJump leads back to {address}. Look into ~/.ssh/config")
    settings = _ask_ssh(what, [*words, "--", address])

    def one(key: str, default: str = "") -> str:
        return settings.get(key, [default])[-1]

    port = int(one("port", "22"))
    host = one("hostname", address)
    timeout = one("connecttimeout", "none")
    jump = one("proxyjump", "none")
    command = one("proxycommand", "none")
    tokens = {"%": "%", "h": host, "n": address, "p": str(port), "r": one("user")}
    return Endpoint(
        address=host,
        port=port,
        user=one("user"),
        key_name=one("hostkeyalias") or (host if port == 22 else f"[{host}]:{port}"),
        key_files=_key_files(settings.get("identityfile", [])),
        known_hosts=_files(one("userknownhostsfile")) + _files(one("globalknownhostsfile")),
        jump=_jump(what, jump, words, (*seen, address)) if jump != "none" else None,
        proxy_command=_filled(command, tokens) if command != "none" else None,
        timeout_s=int(timeout) if timeout.isdigit() else _CONNECT_TIMEOUT_S,
        password=password,
    )


def _filled(command: str, tokens: Mapping[str, str]) -> str:
    """A ProxyCommand with its ``%h`` and the like; Fabric by itself takes every port for 22."""
    return re.sub(r"%(.)", lambda match: tokens.get(match[1], match[0]), command)


def _jump(what: str, text: str, outer: list[str], seen: tuple[str, ...]) -> Endpoint:
    """The last hop of a ProxyJump; the hops before it are its own way there.

    As with OpenSSH, of the options given for the host only its configuration file holds here too.
    """
    *before, last = text.split(",")
    match = re.fullmatch(r"(?:ssh://)?(?:([^@]+)@)?(\[[^\]]+\]|[^:@]+)(?::(\d+))?", last)
    if match is None:
        raise HostError(f"{what}: ProxyJump {last!r} cannot be read")
    user, address, port = match.groups()
    words = [word for pair in pairwise(outer) if pair[0] == "-F" for word in pair]
    words += ["-l", user] if user else []
    words += ["-p", port] if port else []
    words += ["-J", ",".join(before)] if before else []
    return _resolve(what, address.strip("[]"), words, None, seen)


def _ask_ssh(what: str, words: list[str]) -> dict[str, list[str]]:
    """What ``ssh -G`` prints: each setting, in lower case, with its values."""
    argv = ["ssh", "-G", *words]
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SSH_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise HostError(
            f"{what}: this machine has no ssh. Run: apt-get install openssh-client"
        ) from None
    except subprocess.TimeoutExpired:
        raise HostError(
            f"{what}: {shlex.join(argv)} did not end within {_SSH_TIMEOUT_S:g} s"
        ) from None
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise HostError(f"{what}: ssh refuses its options: {said}. Run: {shlex.join(argv)}")
    settings: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        settings.setdefault(key, []).append(value)
    return settings


def _files(text: str) -> tuple[Path, ...]:
    """The files of a setting; they may hold spaces, but each one is an absolute path."""
    if text in ("", "none"):
        return ()
    return tuple(Path(name).expanduser() for name in re.split(r" (?=[/~])", text))


def _key_files(names: Iterable[str]) -> tuple[str, ...]:
    """Those private keys that are there; ssh lists the usual names whether or not they are."""
    paths = [Path(name).expanduser() for name in names]
    return tuple(dict.fromkeys(str(path) for path in paths if path.is_file()))


# ---- keys of servers -----------------------------------------------------------------------------


@dataclass(frozen=True)
class HostKey:
    """A server's public key, and where it was read."""

    kind: str
    base64: str
    where: str = ""
    revoked: bool = False

    @property
    def fingerprint(self) -> str:
        """``SHA256:...`` as ssh-keygen prints it."""
        return fingerprint(base64.b64decode(self.base64))

    @property
    def short(self) -> str:
        """Kind and fingerprint, for a person to compare."""
        return f"{kind_name(self.kind)} {self.fingerprint}"


def fingerprint(blob: bytes) -> str:
    """The fingerprint of a public key, as ssh-keygen prints it."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


def kind_name(kind: str) -> str:
    """``ED25519`` for ``ssh-ed25519``, as ssh-keygen names them."""
    return next((name for name in ("ED25519", "ECDSA", "RSA") if name.lower() in kind), kind)


def parse_keys(text: str, where: str) -> list[HostKey]:
    """The keys in lines of known_hosts, as ssh-keygen and ssh-keyscan print them."""
    keys = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        marker = words.pop(0) if words[0].startswith("@") else ""
        # Keys of authorities certify other keys, which paramiko cannot check.
        if len(words) < 3 or marker == "@cert-authority":
            continue
        try:
            base64.b64decode(words[2], validate=True)
        except ValueError:
            continue
        keys.append(HostKey(words[1], words[2], where, marker == "@revoked"))
    return keys


def known_keys(files: Iterable[Path], key_name: str) -> list[HostKey]:
    """A server's keys in known_hosts files, by OpenSSH's own rules (hashes, patterns, markers)."""
    keys = []
    for path in files:
        if path.is_file():
            argv = ["ssh-keygen", "-F", key_name, "-f", str(path)]
            done = subprocess.run(
                argv, capture_output=True, text=True, errors="replace", check=False
            )
            keys += parse_keys(done.stdout, str(path))
    return keys
