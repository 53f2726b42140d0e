"""Passwords of the inventory are nowhere but in memory: found by searching for canaries.

A whole run behind a real sshd, from an inventory whose passwords are partly in a vault, in a
process whose every child, log line and word is written down.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests import sshd
from tests.unit.test_campaign import ROOT, matrix_of
from uplab import inventory
from uplab.errors import UsageError
from uplab.sshconfig import endpoint

LOCKED, LOGIN, BECOME = "canary-locked-7f3a", "canary-login-91bc", "canary-become-04de"
CANARIES = (LOCKED, LOGIN, BECOME)
#: Runs what it is asked to, and writes down what that was and how.
LOGIN_SHELL = '#!/bin/sh\nprintf "%s\\n" "$SSH_ORIGINAL_COMMAND" >> {log}\nenv >> {log}\n'
PROGRAM = """
import logging, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
folder = Path(sys.argv[2])
started = (folder / "seen" / "started.txt").open("w")

def note(event, arguments):
    if event.startswith(("subprocess.", "os.exec", "os.spawn", "os.posix_spawn", "os.system")):
        started.write(f"{event} {arguments!r}\\n")

sys.addaudithook(note)
logging.basicConfig(level=0, filename=folder / "seen" / "log.txt")
from dataclasses import replace
from uplab import campaign, provision
from uplab.cli.common import error_edge

def connect(project, name, registry, chosen):
    host = provision.host_for(project, name, registry, chosen)
    options = tuple(f"--{part}={folder / part}" for part in ("root", "runs", "state"))
    host = replace(host, options=options)
    print(host, host.endpoint)
    assert host.endpoint.password == sys.argv[3], "the password was not there to be leaked"
    return host

provision.connect = connect
chosen = folder / "hosts.yml"
request = campaign.Request(
    folder, "lab1", str(folder / "m.yml"), setup=False, tune=False, chosen=chosen
)
with error_edge("bench.all"):
    campaign.run(request)
"""


@dataclass(frozen=True)
class Place:
    """A folder with an inventory, a matrix, and a host that is let in by key."""

    folder: Path
    server: sshd.Server

    def write_inventory(self, text: str) -> None:
        variables = {**self.server.variables(), "ansible_become_password": BECOME}
        hosts = {"uplab": {"hosts": {"lab1": variables}}}
        indented = "\n".join(f"      {line}" for line in text.splitlines())
        (self.folder / "hosts.yml").write_text(f"{yaml.safe_dump(hosts)}{indented}\n")

    def everything_else(self) -> Iterator[tuple[str, bytes]]:
        """What was written anywhere, but for the inventory itself."""
        for path in [*self.folder.rglob("*"), *self.server.folder.rglob("*")]:
            if path.is_file() and path != self.folder / "hosts.yml":
                yield str(path), path.read_bytes()

    def measure(self, password: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, str(ROOT), str(self.folder), password],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    folder, there = tmp_path / "here", tmp_path / "there"
    (folder / "seen").mkdir(parents=True)
    there.mkdir()
    shell = LOGIN_SHELL.format(log=there / "commands.txt") + 'exec sh -c "$SSH_ORIGINAL_COMMAND"\n'
    program = sshd.write_program(there / "login", shell)
    (folder / "m.yml").write_text(matrix_of())
    with sshd.running(there, f"ForceCommand {program}") as server:
        yield Place(folder, server)


def locked(folder: Path, text: str) -> tuple[str, Path]:
    """A variable in a vault, as YAML, and the file that opens it."""
    key = folder / "vault-key"
    key.write_text("opens it\n")
    argv = [inventory.program("ansible-vault"), "encrypt_string", "--vault-password-file", str(key)]
    argv += ["--stdin-name", "ansible_password"]
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=True)
    return done.stdout, key


def leaks(place: Place, done: subprocess.CompletedProcess[str]) -> list[str]:
    """Where a canary was found."""
    said = [("stdout", done.stdout.encode()), ("stderr", done.stderr.encode())]
    return [
        f"{canary} in {where}"
        for where, text in [*said, *place.everything_else()]
        for canary in CANARIES
        if canary.encode() in text
    ]


@pytest.mark.parametrize("kind", ["plain", "vault"])
def test_no_password_is_seen_anywhere(place: Place, tmp_path: Path, kind: str) -> None:
    if kind == "plain":
        place.write_inventory(f"ansible_password: {LOGIN}")
        done = place.measure(LOGIN)
    else:
        text, key = locked(tmp_path, LOCKED)
        place.write_inventory(text)
        done = place.measure(LOCKED, ANSIBLE_VAULT_PASSWORD_FILE=str(key))
    assert done.returncode == 0, done.stderr
    # All of it was looked at: children, the host's commands, log lines, the run and its report.
    written = dict(place.everything_else())
    assert b"ansible-inventory" in written[f"{place.folder}/seen/started.txt"]
    assert b"paramiko" in written[f"{place.folder}/seen/log.txt"]
    assert b"uplab-hostside" in written[f"{place.server.folder}/commands.txt"]
    names = " ".join(written)
    assert "/report/report.md" in names
    assert "/trial.json" in names
    assert leaks(place, done) == []


def test_a_leak_would_be_found(place: Place) -> None:
    place.write_inventory(f"ansible_password: {LOGIN}")
    (place.folder / "seen" / "started.txt").write_text(f"sshpass -p {LOGIN}")
    done = subprocess.CompletedProcess([], 0, f"with {BECOME}", "")
    assert sorted(leaks(place, done)) == [
        f"{BECOME} in stdout",
        f"{LOGIN} in {place.folder}/seen/started.txt",
    ]


def test_a_vault_that_is_locked_is_told_without_its_content(place: Place, tmp_path: Path) -> None:
    text, _ = locked(tmp_path, LOCKED)
    place.write_inventory(text)
    variables = inventory.host(ROOT, "lab1", place.folder / "hosts.yml")
    assert inventory.unlocked(ROOT, variables) == variables
    with pytest.raises(UsageError, match=r"locked in ansible-vault\. Run: export") as caught:
        endpoint("lab1", variables)
    assert "ANSIBLE_VAULT;" not in caught.value.message
