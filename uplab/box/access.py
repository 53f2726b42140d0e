"""The way into a box: keys made for it alone, its host key known beforehand, waiting for SSH."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from uplab.box.record import Box, address
from uplab.box.steps import Steps
from uplab.errors import HostError

LIMIT_S = 90.0
_POLL_S = 0.03
_PROBE_LIMIT_S = 10.0
#: Of a box that has all ports for itself.
PORT = 22
#: The second where the machine's own sshd listens on every address.
_PORTS = (PORT, 7722)


def free_port(name: str) -> int:
    """A port on a box's address that nobody listens on.

    Raises:
        HostError: both are taken.
    """
    for port in _PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address(name), port))
            except OSError:
                continue
            return port
    ports = " and ".join(str(port) for port in _PORTS)
    raise HostError(
        f"{address(name)} has no free port for {name}: {ports} are taken, perhaps by a box of "
        f"another checkout. Run: ss -ltnp src {address(name)}"
    )


def make_keys(box: Box) -> None:
    """Make the client's key and the host's, and a known_hosts of that one host key."""
    host_key = box.folder / "host_ed25519"
    for path in (box.key_file, host_key):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"uplab-{box.name}"]
        done = subprocess.run([*argv, "-f", str(path)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise HostError(f"ssh-keygen failed for {path}: {done.stderr.strip()}")
    kind, key, *_ = host_key.with_suffix(".pub").read_text().split()
    place = box.address if box.port == 22 else f"[{box.address}]:{box.port}"
    box.known_hosts.write_text(f"{place} {kind} {key}\n")


def give_to_caller(box: Box) -> None:
    """Under sudo, let the user who called log in: the key is theirs."""
    user, group = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    if user and group:
        os.chown(box.key_file, int(user), int(group))


def options(box: Box) -> dict[str, str]:
    """The settings of ssh_config that lead to a box and to no other host."""
    return {
        "IdentityFile": _quoted(box.key_file),
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": _quoted(box.known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
    }


def _quoted(path: Path) -> str:
    """For ssh, to which a blank ends a file's name and % begins a token."""
    return f'"{path}"'.replace("%", "%%") if " " in str(path) else str(path).replace("%", "%%")


def ssh_argv(box: Box, *command: str) -> list[str]:
    """The command that runs a command in a box as root, asking nothing."""
    argv = ["ssh", "-F", "/dev/null", "-o", "BatchMode=yes"]
    argv += [word for name, value in options(box).items() for word in ("-o", f"{name}={value}")]
    argv += ["-o", f"ConnectTimeout={_PROBE_LIMIT_S:.0f}", "-p", str(box.port)]
    return [*argv, f"root@{box.address}", "--", *command]


def wait(box: Box, steps: Steps, limit_s: float = LIMIT_S) -> None:
    """Wait until root can log in.

    Raises:
        HostError: the container ended, or nobody could log in within ``limit_s`` seconds.
    """
    began_s = time.monotonic()
    reason = "sshd does not listen"
    while time.monotonic() - began_s < limit_s:
        if not box.lives():
            raise HostError(f"{box.name} ended while it started")
        steps.now(f"{box.name}: waiting for SSH on {box.address} port {box.port}")
        if _answers(box):
            done = _log_in(box)
            if done is None:
                return
            reason = done
        time.sleep(_POLL_S)
    raise HostError(f"{box.name} let nobody in within {limit_s:.0f} s: {reason}")


def _answers(box: Box) -> bool:
    """Whether something that speaks SSH listens."""
    try:
        with socket.create_connection((box.address, box.port), timeout=1.0) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _log_in(box: Box) -> str | None:
    """Why root cannot log in; None where it can."""
    try:
        done = subprocess.run(
            ssh_argv(box, "true"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "sshd does not answer"
    said = done.stderr.strip().splitlines() or [f"ssh ended with {done.returncode}"]
    return None if done.returncode == 0 else said[-1]


def publish(folder: Path, boxes: Iterable[Box]) -> None:
    """Write the inventory and the ssh_config of the boxes that are up; none without any."""
    members = list(boxes)
    _write(folder / "inventory.yml", _inventory(members) if members else "")
    _write(folder / "ssh_config", "".join(_ssh_config(box) for box in members))


def _write(path: Path, text: str) -> None:
    if not text:
        path.unlink(missing_ok=True)
        return
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    part.replace(path)


def _inventory(boxes: list[Box]) -> str:
    import yaml

    hosts = {}
    for box in boxes:
        settings = options(box)
        del settings["IdentityFile"]
        words = [f"-o{name}={value}" for name, value in settings.items()]
        hosts[box.name] = {
            "ansible_host": box.address,
            "ansible_port": box.port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(box.key_file),
            "ansible_ssh_common_args": shlex.join(words),
            "ansible_python_interpreter": "/usr/bin/python3",
            # Its base may be older than the last release of the C library; nobody boots it.
            "uplab_allow_upgrade": True,
        }
    head = "# Written by lab.box: the boxes that are up.\n"
    return head + yaml.safe_dump({"uplab": {"hosts": hosts}}, sort_keys=False, width=1000)


def _ssh_config(box: Box) -> str:
    lines = [f"Host {box.name}", f"HostName {box.address}", f"Port {box.port}", "User root"]
    lines += [f"{name} {value}" for name, value in options(box).items()]
    return "\n  ".join(lines) + "\n"


def copy_keys(box: Box, ssh_folder: Path) -> None:
    """Copy the host key into a box's ``/etc/ssh``."""
    for name in ("host_ed25519", "host_ed25519.pub"):
        target = ssh_folder / f"ssh_{name.replace('_ed25519', '_ed25519_key', 1)}"
        shutil.copyfile(box.folder / name, target)
        target.chmod(0o644 if name.endswith(".pub") else 0o600)
