"""Builds on a host behind a real sshd: they are there when it is well, and gone with who asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import sshd
from tests.roles.building import entries, recipe
from tests.roles.plays import ANSIBLE_PLAYBOOK, REPOSITORY, alive, play_environment, poll

pytestmark = pytest.mark.timeout(300)

BOOK = """\
- hosts: all
  gather_facts: false
  become: false
  tasks:
    - name: Prepare
      uplab_store:
        root: "{{ root }}"
        state: layout
        paths: {"./": "0755", "store/": "0755", "current/": "0755", "log/": "0755"}
    - name: Build
      uplab_build:
        root: "{{ root }}"
        jobs: 2
        builds: "{{ builds }}"
"""
UNTIL = "n=0; until test -e %s; do n=$((n+1)); test $n -lt 1200; sleep 0.05; done"
STUBBORN = "trap '' HUP INT TERM; echo $$ > {home}/pid; mv {home}/pid {root}/%s; sleep 1000"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    with sshd.running(tmp_path_factory.mktemp("sshd")) as started:
        yield started


class Setup:
    """A play that builds two components on that host."""

    def __init__(self, server: sshd.Server, top: Path, mitogen: bool) -> None:
        self.root, self.top, self.mitogen = top / "uplab", top, mitogen
        self.variables = server.variables()

    def start(self, scripts: dict[str, str]) -> subprocess.Popen[bytes]:
        (self.top / "book.yml").write_text(BOOK)
        hosts = {"all": {"hosts": {"h1": self.variables}}}
        (self.top / "hosts.yml").write_text(json.dumps(hosts))
        builds = [
            {"component": name, "recipe": recipe(script, "echo > {prefix}/out")}
            for name, script in scripts.items()
        ]
        extra = json.dumps({"root": str(self.root), "builds": builds})
        words = [str(self.top / "book.yml"), "-i", str(self.top / "hosts.yml"), "-e", extra]
        return subprocess.Popen(
            [str(ANSIBLE_PLAYBOOK), *words],
            cwd=REPOSITORY,
            env={**play_environment(self.mitogen), "ANSIBLE_SSH_ARGS": "-o ControlMaster=no"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def compilers(self) -> list[int]:
        """The two that do not end by themselves, as soon as they are there."""
        files = [self.root / name for name in ("a", "b")]
        poll(lambda: all(file.exists() for file in files), deadline_s=120)
        return [int(file.read_text()) for file in files]


@pytest.fixture(params=[False, True], ids=["stock", "mitogen"])
def setup(server: sshd.Server, tmp_path: Path, request: pytest.FixtureRequest) -> Setup:
    return Setup(server, tmp_path, bool(request.param))


def test_builds_on_a_host_run_at_the_same_time(setup: Setup) -> None:
    scripts = {
        name: f"touch {{root}}/{name}; {UNTIL % f'{{root}}/{other}'}"
        for name, other in (("a", "b"), ("b", "a"))
    }
    process = setup.start(scripts)
    said = process.communicate()[0].decode()
    assert process.returncode == 0, said
    assert all((setup.root / "current" / name / "out").exists() for name in ("a", "b"))


@pytest.mark.parametrize("lost", [False, True], ids=["ctrl-c", "lost"])
def test_builds_on_a_host_end_with_who_asked_for_them(setup: Setup, lost: bool) -> None:
    """By Ctrl-C, and by a controller that is gone from one moment to the next."""
    process = setup.start({name: STUBBORN % name for name in ("a", "b")})
    pids = setup.compilers()
    if lost:
        # Workers and ssh have sessions of their own.
        for pid in family(process.pid):
            os.kill(pid, signal.SIGKILL)
    else:
        os.killpg(process.pid, signal.SIGINT)
    process.communicate()
    poll(lambda: not any(alive(pid) for pid in pids))
    assert not list((setup.root / "store").glob("[ab]-*"))
    assert not list((setup.root / "current").iterdir())
    if not setup.mitogen:
        # The module has seen it, and could tidy up.
        poll(lambda: entries(setup.root) == [])


def family(pid: int) -> list[int]:
    """A process and all that come from it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found
