"""A real sshd on a loopback address, with keys of its own, for the tests of what speaks SSH."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SSHD = Path("/usr/sbin/sshd")
ADDRESS = "127.0.0.1"
_PRIVILEGE_SEPARATION = Path("/run/sshd")
_READY_TIMEOUT_S = 10.0
_POLL_S = 0.02
_KINDS = ("ed25519", "rsa")


@dataclass(frozen=True)
class Server:
    """A running sshd, and what a client needs to speak to it."""

    folder: Path
    port: int

    @property
    def key_name(self) -> str:
        """Its name in known_hosts."""
        return f"[{ADDRESS}]:{self.port}"

    @property
    def client_key(self) -> Path:
        """The private key that it lets in."""
        return self.folder / "client"

    @property
    def known_hosts(self) -> Path:
        """A file with all of its keys."""
        return self.folder / "known_hosts"

    def public_key(self, kind: str = "ed25519") -> str:
        """Kind and base64 of one of its keys."""
        return " ".join((self.folder / f"host_{kind}.pub").read_text().split()[:2])

    def fingerprint(self, kind: str = "ed25519") -> str:
        """The fingerprint of one of its keys, by ssh-keygen."""
        argv = ["ssh-keygen", "-lf", str(self.folder / f"host_{kind}.pub")]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()[1]

    def variables(self, known_hosts: Path | None = None) -> dict[str, Any]:
        """The variables of a host in an inventory."""
        file = known_hosts or self.known_hosts
        return {
            "ansible_host": ADDRESS,
            "ansible_port": self.port,
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_ssh_private_key_file": str(self.client_key),
            # Nothing of who runs the tests: no configuration, no known_hosts, no agent.
            "ansible_ssh_common_args": (
                f"-F none -o 'UserKnownHostsFile=\"{file}\"' -o GlobalKnownHostsFile=none"
            ),
        }


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A new pair of keys."""
    argv = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path)]
    if kind == "rsa":
        argv += ["-b", "2048"]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return path


@contextmanager
def running(folder: Path, *settings: str) -> Iterator[Server]:
    """Start an sshd; in: a folder for its files, lines for its configuration."""
    if not SSHD.exists():
        raise AssertionError("these tests need openssh-server. Run: apt-get install openssh-server")
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server((ADDRESS, 0)) as free:
        server = Server(folder, free.getsockname()[1])
    keys = [make_key(folder / f"host_{kind}", kind) for kind in _KINDS]
    make_key(server.client_key)
    shutil.copy(folder / "client.pub", folder / "authorized_keys")
    lines = [f"{server.key_name} {server.public_key(kind)}" for kind in _KINDS]
    server.known_hosts.write_text("\n".join(lines) + "\n")
    config = folder / "sshd_config"
    config.write_text(
        "\n".join(
            [
                *settings,
                f"ListenAddress {ADDRESS}:{server.port}",
                *(f"HostKey {key}" for key in keys),
                f"AuthorizedKeysFile {folder}/authorized_keys",
                "PidFile none",
                "StrictModes no",
                "UsePAM no",
                "PasswordAuthentication no",
                "KbdInteractiveAuthentication no",
                "PermitRootLogin yes",
                "",
            ]
        )
    )
    made = _make_privilege_separation()
    log = (folder / "sshd.log").open("wb")
    process = subprocess.Popen(
        [str(SSHD), "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stderr=log
    )
    try:
        _wait(server, process)
        yield server
    finally:
        process.terminate()
        process.wait(_READY_TIMEOUT_S)
        log.close()
        if made:
            _PRIVILEGE_SEPARATION.rmdir()


def _make_privilege_separation() -> bool:
    """Debian's sshd wants this folder, which its service makes; out: whether it was made here."""
    try:
        _PRIVILEGE_SEPARATION.mkdir(mode=0o755)
    except FileExistsError:
        return False
    return True


def _wait(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < deadline_s:
        assert process.poll() is None, (server.folder / "sshd.log").read_text()
        try:
            with socket.create_connection((ADDRESS, server.port), timeout=1.0):
                return
        except OSError:
            time.sleep(_POLL_S)
    raise AssertionError("sshd did not listen in time")


def write_program(path: Path, text: str) -> Path:
    """A program that anybody may run."""
    path.write_text(text)
    path.chmod(0o755)
    return path


def as_nobody(folder: Path) -> str:
    """A setting that runs every command as nobody, with ``folder`` as the whole of PATH."""
    setpriv = "/usr/bin/setpriv --reuid 65534 --regid 65534 --clear-groups --"
    shell = f'/usr/bin/env PATH={folder} /bin/sh -c "$SSH_ORIGINAL_COMMAND"'
    program = write_program(folder / "login", f"#!/bin/sh\nexec {setpriv} {shell}\n")
    for name in ("sh", "id"):
        (folder / name).symlink_to(Path(shutil.which(name) or f"/bin/{name}"))
    folder.chmod(0o755)
    return f"ForceCommand {program}"
