"""lab.check, lab.status, lab.pins, lab.add and lab.setup's first look, against a real sshd."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import sshd, tasks
from uplab import inventory

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0
CANARY = "canary-51c0de"
#: The tasks that do something on a host or ask it, with what keeps them from asking a person.
WORKING = {"status": [], "setup": [], "gc": [], "teardown": ["--yes"]}
#: What the tasks read of a checkout.
PARTS = ("uplab", "playbooks", "roles", "matrices", "servers", "tracers", "loads", "inventory")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    with sshd.running(tmp_path_factory.mktemp("sshd")) as started:
        yield started


def lab(
    task: str, *arguments: str, checkout: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a task of a checkout, without an agent or a terminal."""
    env = {key: value for key, value in os.environ.items() if key != "SSH_AUTH_SOCK"}
    env |= environment
    return tasks.run(f"lab.{task}", *arguments, timeout_s=LIMIT_S, checkout=checkout, env=env)


Inventory = Path


@pytest.fixture
def write(server: sshd.Server, tmp_path: Path) -> Any:
    """Write an inventory of somebody's own with one host, ``h1``; out: its path."""

    def make(**changes: Any) -> Inventory:
        variables = {**server.variables(), "uplab_root": str(tmp_path / "root"), **changes}
        path = tmp_path / "their hosts.yml"
        path.write_text(yaml.safe_dump({"uplab": {"hosts": {"h1": variables}}}))
        return path

    return make


def checked(*arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code and lines of ``lab.check --json``."""
    done = lab("check", "--json", *arguments)
    decoded = json.loads(done.stdout)
    assert decoded["exit_code"] == done.returncode, done.stderr
    return done.returncode, {line["check"]: line for line in decoded["lines"]}


# --- lab.check ------------------------------------------------------------------------------------

ALWAYS = {
    *("ssh", "become", "python", "distribution", "kernel", "kernel-config", "btf", "uprobes"),
    *("kprobes", "tracefs", "bpf", "bpf-write-user", "perf-event-paranoid", "bpf-jit-enable"),
    *("platform", "memory", "disk-store", "disk-runs", "governor", "turbo", "smt", "numa", "thp"),
    *("aslr", "guests", "quiet", "time-sync", "apt-sources", "run-under-way", "left-runs"),
    *("left-builds", "store", "mode-gotrace-kernel-uprobe", "port-446", "port-447"),
}


def test_this_machine_is_checked_in_one_go() -> None:
    code, lines = checked()
    assert set(lines) >= ALWAYS
    assert code == (1 if "fail" in {line["state"] for line in lines.values()} else 0)
    assert lines["store"]["state"] == "ok"
    assert lines["mode-gotrace-kernel-uprobe"]["seen"] == "can run"
    done = lab("check")
    assert done.returncode in (0, 1), done.stderr
    assert f"{lines['btf']['seen']}" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("local: ")


def test_a_host_that_was_never_set_up_is_checked_over_ssh(
    write: Any, server: sshd.Server, tmp_path: Path
) -> None:
    code, lines = checked("--host", "h1", "--inventory", str(write()))
    assert set(lines) >= ALWAYS
    assert code in (0, 1)
    assert server.fingerprint() in lines["ssh"]["seen"]
    assert lines["store"]["seen"].startswith("not set up ")
    assert lines["store"]["mend"] == "invoke lab.setup --host h1"
    assert lines["mode-gotrace-kernel-uprobe"]["state"] == "warn"
    assert "is not installed" in lines["mode-gotrace-kernel-uprobe"]["seen"]
    assert not (tmp_path / "root").exists()


def test_a_host_without_python_says_so(write: Any) -> None:
    theirs = write(ansible_python_interpreter="/no/python")
    code, lines = checked("--host", "h1", "--inventory", str(theirs))
    assert code == 4
    assert lines["ssh"]["state"] == lines["become"]["state"] == "ok"
    assert lines["python"]["seen"] == "no Python at /no/python"
    assert lines["python"]["mend"] == "There, run: apt-get install python3"


def test_a_host_that_cannot_be_trusted_is_one_line(
    write: Any, server: sshd.Server, tmp_path: Path
) -> None:
    arguments = server.variables(tmp_path / "empty")["ansible_ssh_common_args"]
    theirs = write(ansible_ssh_common_args=arguments)
    code, lines = checked("--host", "h1", "--inventory", str(theirs))
    assert (code, list(lines)) == (4, ["ssh"])
    assert f"shows an unknown key: ED25519 {server.fingerprint()}" in lines["ssh"]["seen"]
    assert "Run: ssh -p " in lines["ssh"]["mend"]


# --- the others meet an unreachable host ----------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ansible_port": 1}, "nothing listens on 127.0.0.1:1 (connection refused)"),
        ({"ansible_host": "h1.example.invalid"}, "the name h1.example.invalid has no address"),
        ({"ansible_python_interpreter": "/no/python"}, "no Python at /no/python"),
        ({"ansible_ssh_private_key_file": "/no/key"}, "refuses to log us in"),
    ],
)
@pytest.mark.parametrize("task", WORKING)
def test_what_keeps_a_host_from_being_worked_with_is_one_line_and_exit_code_4(
    write: Any, task: str, changes: dict[str, Any], words: str
) -> None:
    arguments = ["--host", "h1", "--inventory", str(write(**changes))]
    done = lab(task, *arguments, *WORKING[task])
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    assert done.stderr.startswith(f"lab.{task}: host h1: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that anybody may look into; pytest's own are closed."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize("task", WORKING)
@pytest.mark.parametrize(
    ("sudo", "words"),
    [
        ("", "user nobody is not root, and there is no sudo. Log in as root"),
        ("#!/bin/sh\nexit 1\n", "sudo wants a password of user nobody. There, run: visudo"),
    ],
)
def test_a_host_where_we_cannot_be_root_is_told_before_anything_is_done(
    write: Any, open_folder: Path, tmp_path: Path, task: str, sudo: str, words: str
) -> None:
    if sudo:
        sshd.write_program(open_folder / "sudo", sudo)
    with sshd.running(tmp_path / "sshd", sshd.as_nobody(open_folder)) as other:
        theirs = str(write(**other.variables()))
        done = lab(task, "--host", "h1", "--inventory", theirs, *WORKING[task])
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    assert done.stderr.startswith(f"lab.{task}: host h1: {words}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("task", [*WORKING, "check"])
def test_an_unknown_host_or_inventory_is_bad_input(task: str, tmp_path: Path) -> None:
    done = lab(task, "--host", "lokal")
    assert done.returncode == 2
    assert "no host 'lokal' in group uplab of the inventory; did you mean local?" in done.stderr
    done = lab(task, "--inventory", str(tmp_path / "none"))
    assert done.returncode == 2
    assert "no inventory" in done.stderr


# --- lab.status -----------------------------------------------------------------------------------


def test_what_is_installed_here_agrees_with_its_records() -> None:
    done = lab("status", "--json")
    decoded = json.loads(done.stdout)
    found = {component["name"]: component for component in decoded["components"]}
    assert {"golang", "wrk", "servers", "gotrace"} <= set(found)
    assert [component["problems"] for component in found.values() if component["problems"]] == []
    assert done.returncode == 0
    assert found["servers"]["files"] == 2
    assert found["servers"]["build_s"] > 0
    text = lab("status").stdout
    assert "same (2)" in text


def test_a_file_that_was_altered_is_told_over_ssh(write: Any, tmp_path: Path) -> None:
    store = tmp_path / "root" / "store"
    (store / "wrk-123456789abc" / "bin").mkdir(parents=True)
    program = store / "wrk-123456789abc" / "bin" / "wrk"
    program.write_text("as it was")
    digest = hashlib.sha256(program.read_bytes()).hexdigest()
    record = {
        "hash": "123456789abc",
        "prefix": str(store / "wrk-123456789abc"),
        "source": "path",
        "artifacts": {"bin/wrk": {"sha256": digest, "bytes": 9}},
    }
    (store / "wrk-123456789abc.json").write_text(json.dumps(record))
    (tmp_path / "root" / "current").mkdir()
    (tmp_path / "root" / "current" / "wrk").symlink_to(store / "wrk-123456789abc")
    manifest = {"schema": 1, "components": {"wrk": record}, "pins": {}}
    (tmp_path / "root" / "manifest.json").write_text(json.dumps(manifest))
    theirs = str(write(uplab_components=["wrk"]))
    done = lab("status", "--host", "h1", "--inventory", theirs)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    program.write_text("otherwise")
    done = lab("status", "--host", "h1", "--inventory", theirs)
    assert done.returncode == 1
    assert "differs" in done.stdout
    assert f"wrk: {program}: sha256 is " in done.stdout
    assert "Run: invoke lab.setup --host h1" in done.stdout


def test_a_host_that_was_never_set_up_has_no_components(write: Any) -> None:
    done = lab("status", "--host", "h1", "--inventory", str(write()))
    assert (done.returncode, done.stdout) == (
        1,
        "h1 is not set up. Run: invoke lab.setup --host h1\n",
    )


def test_the_pins_are_shown() -> None:
    done = lab("pins")
    assert done.returncode == 0, done.stderr
    assert "golang\n  policy: distro\n" in done.stdout


# --- lab.add --------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of this checkout, whose inventory a test may change."""
    copy = tmp_path / "check out"
    copy.mkdir()
    leave_out = shutil.ignore_patterns("private", "__pycache__", "build")
    for part in PARTS:
        shutil.copytree(ROOT / part, copy / part, ignore=leave_out)
    for name in ("tasks.py", "ansible.cfg"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def test_a_host_is_added_checked_and_used_by_ansible_too(
    checkout: Path, server: sshd.Server
) -> None:
    place = f"root@127.0.0.1:{server.port}"
    fingerprint = server.fingerprint()
    flags = ["--fingerprint", fingerprint, "--key", str(server.client_key)]
    done = lab("add", "lab7", place, *flags, checkout=checkout)
    assert done.returncode in (0, 1), done.stderr
    assert f"127.0.0.1:{server.port} shows ED25519 {fingerprint}" in done.stdout
    assert "stored in " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("lab7: ")
    private = checkout / "inventory" / "private"
    assert (private / "known_hosts").read_text() == f"{server.key_name} {server.public_key()}\n"
    ping = ansible(checkout)
    assert ping.returncode == 0, ping.stdout + ping.stderr
    # A second time, and under a changed key, it is refused: by us and by Ansible.
    again = lab("add", "lab7", place, *flags, checkout=checkout)
    assert again.returncode == 2
    assert "the inventory has a host lab7 already (127.0.0.1)" in again.stderr
    other = sshd.make_key(checkout / "other").with_suffix(".pub").read_text().split()
    (private / "known_hosts").write_text(f"{server.key_name} {other[0]} {other[1]}\n")
    refused = lab("status", "--host", "lab7", checkout=checkout)
    assert refused.returncode == 4
    assert "shows another key than before" in refused.stderr
    ping = ansible(checkout)
    assert ping.returncode != 0
    assert "Host key verification failed" in ping.stdout + ping.stderr


def ansible(checkout: Path) -> subprocess.CompletedProcess[str]:
    """Let Ansible itself run something on the host that was added."""
    argv = [inventory.program("ansible"), *inventory.options(checkout), "lab7", "-m", "raw"]
    return subprocess.run(
        [*argv, "-a", "true"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        cwd=checkout,
        # No connection is kept: the second call must look at the key again.
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(checkout / "ansible.cfg"),
            "ANSIBLE_SSH_ARGS": "-F none -o ControlMaster=no",
        },
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["local", "root@127.0.0.1:1"], 2, "the inventory has a host local already (this machine)"),
        (["Bad Name", "root@127.0.0.1:1"], 2, "cannot be the name of a host"),
        (["lab7", "127.0.0.1"], 2, "expected USER@ADDRESS"),
        (["lab7", "root@127.0.0.1:1"], 4, "nothing listens on 127.0.0.1:1"),
        (["lab7", "{place}"], 2, "nobody can be asked whether that is the host's key"),
        (["lab7", "{place}", "--fingerprint", "SHA256:x"], 4, "has no key SHA256:x"),
    ],
)
def test_what_cannot_be_added_is_told_and_stores_nothing(
    checkout: Path, server: sshd.Server, arguments: list[str], code: int, words: str
) -> None:
    place = f"root@127.0.0.1:{server.port}"
    done = lab("add", *(a.replace("{place}", place) for a in arguments), checkout=checkout)
    assert done.returncode == code
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (checkout / "inventory" / "private").exists()


# --- secrets --------------------------------------------------------------------------------------


def test_a_password_is_in_no_argv_no_output_and_no_file(
    checkout: Path, server: sshd.Server, tmp_path: Path
) -> None:
    variables = {**server.variables(), "ansible_password": CANARY}
    hosts = checkout / "inventory" / "private" / "hosts.yml"
    hosts.parent.mkdir()
    hosts.write_text(yaml.safe_dump({"uplab": {"hosts": {"h1": variables}}}))
    argv = [sys.executable, str(checkout / "tasks.py"), "lab.check", "--host", "h1", "--json"]
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out, cwd="/")
        seen: set[bytes] = set()
        while process.poll() is None:
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    seen.update(words_of(entry))
    assert process.returncode in (0, 1), (tmp_path / "out").read_text()
    # The look at the processes was not in vain: it saw the host's side of it too.
    assert any(b"memfd_create" in words for words in seen)
    assert [words for words in seen if CANARY.encode() in words] == []
    assert CANARY not in (tmp_path / "out").read_text()
    holders = [p for p in checkout.rglob("*") if p.is_file() and CANARY.encode() in p.read_bytes()]
    assert holders == [hosts]
    assert CANARY not in (server.folder / "sshd.log").read_text()


def words_of(process: Path) -> list[bytes]:
    """A process's argv, in one piece; nothing of one that has gone."""
    try:
        return [(process / "cmdline").read_bytes()]
    except OSError:
        return []
