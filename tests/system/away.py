"""Boxes as measured hosts: with the programs in them, and what a test asks of them from here.

A test module makes the boxes that it needs in a fixture of its own, by :func:`prepared`; a test
then takes one as an :class:`Away`, by :func:`clean`, which sees to it that nothing is left there.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import tasks
from tests.system.lab import ROOT, free_port, probe_files
from tests.tarball import packed
from tests.waiting import wait_for
from uplab import box, checksums
from uplab.box.record import Box, Network

LIMIT_S = 120.0
RUNS = "/var/lib/uplab/runs"
PROGRAMS = "/opt/programs"
#: What the load generator and the tracer are linked with.
PACKAGES = ("wrk", "libbpf1", "libelf1", "libzydis4.0")
CELLS = ["http-none-12B", "http-kernel-uprobe-gotrace-12B"]
ONLY = "server=http,mode=none,mode=kernel-uprobe"
_ARCHIVES = "/var/cache/apt/archives"


@contextmanager
def prepared(
    programs: Path,
    tls_files: tuple[Path, Path],
    count: int = 1,
    *,
    network: Network = "shared",
    packages: Sequence[str] = PACKAGES,
) -> Iterator[list[Box]]:
    """Boxes with a store: the programs that the tests build, and packages of Debian's.

    Args:
        programs: the fixture of that name.
        tls_files: the fixture of that name.
        count: how many boxes.
        network: whose network they have, see ``box.up``.
        packages: of Debian; fetched once, with the machine's network.
    """
    with ExitStack() as stack:
        boxes = [stack.enter_context(box.running(ROOT, network=network)) for _ in range(count)]
        first, *others = (Away(each, Path()) for each in boxes)
        first.outside("apt-get", "update", "-qq")
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends"]
        first.outside(*install, "-o", "APT::Keep-Downloaded-Packages=true", *packages)
        fetched = first.run_bytes("sh", "-c", f"cd {_ARCHIVES} && tar -c *.deb") if others else b""
        for other in others:
            other.run("tar", "-x", "-C", _ARCHIVES, stdin=fetched)
            other.run("sh", "-c", f"dpkg --install {_ARCHIVES}/*.deb")
        for away in (first, *others):
            _fill_store(away, programs, tls_files)
        yield boxes


def _fill_store(away: Away, programs: Path, tls_files: tuple[Path, Path]) -> None:
    away.run("mkdir", "-p", PROGRAMS, "/opt/uplab/tls")
    away.run("tar", "-x", "-C", PROGRAMS, stdin=packed(programs))
    for name, path in zip(("cert.pem", "key.pem"), tls_files, strict=True):
        away.run("tee", f"/opt/uplab/tls/{name}", stdin=path.read_bytes())
    prefixes = {"servers": PROGRAMS, "gotrace": PROGRAMS, "wrk": "/usr"}
    components = {name: {"prefix": prefix} for name, prefix in prefixes.items()}
    manifest = {"schema": 1, "digest": None, "pins": {}, "components": components}
    away.run("tee", "/opt/uplab/manifest.json", stdin=json.dumps(manifest).encode())


@contextmanager
def clean(host: Box, folder: Path) -> Iterator[Away]:
    """A box with nothing of an earlier test in it, and nothing left in it afterwards.

    Args:
        host: the box.
        folder: of the test; the results go below it.
    """
    found = Away(host, folder / "results")
    found.folder.mkdir(exist_ok=True)
    probes = probe_files()
    yield found
    wait_for(lambda: found.traces() == set())
    # Whoever else uses uprobes on this machine just now is not meant.
    wait_for(lambda: probe_files() <= probes)


@dataclass(frozen=True)
class Away:
    """A box that was set up by hand, and how it is measured from here."""

    box: Box
    folder: Path

    def run(self, *command: str, stdin: bytes = b"") -> str:
        """What a command there prints."""
        return self.run_bytes(*command, stdin=stdin).decode()

    def run_bytes(self, *command: str, stdin: bytes = b"") -> bytes:
        """What a command there writes."""
        return _done(box.ssh_argv(self.box, shlex.join(command)), stdin)

    def outside(self, *command: str) -> str:
        """What a command there prints that has the machine's network: it installs packages."""
        return _done(box.outside_argv(self.box, *command)).decode()

    def cut(self) -> None:
        """From now on nothing goes through to it; both ends keep their link."""
        box.cut(self.box)

    def mend(self) -> None:
        """Everything goes through again."""
        box.mend(self.box)

    def argv(self, task: str, *words: str) -> list[str]:
        """The command of a task on it."""
        return tasks.argv(task, "--host", self.box.name, *words)

    def invoke(self, task: str, *words: str, code: int = 0) -> str:
        """What a task prints; the test fails on another exit code."""
        own = ["--host", self.box.name]
        return tasks.ended(task, *own, *words, timeout_s=LIMIT_S, code=code).stdout

    def invoke_bare(self, task: str, *words: str) -> str:
        """What a task prints that names its host by itself."""
        return tasks.ended(task, *words, timeout_s=LIMIT_S).stdout

    def refused(self, task: str, *words: str, code: int, host: str | None = None) -> str:
        """What a task says on stderr that ends with an exit code."""
        own = ["--host", host or self.box.name]
        return tasks.ended(task, *own, *words, timeout_s=LIMIT_S, code=code).stderr

    def all(self, *words: str, only: str = ONLY) -> list[str]:
        """The words of bench.all: one server, with and without uprobes, short."""
        settings = ["load.duration_s=1", "load.connections=10", "warm_up_s=0", "blocks=2", "seed=1"]
        settings += ["repeat.per_block=0", "limits.steal_pct=100", "limits.foreign_pct=100"]
        settings += [f"servers.http.port={free_port()}"]
        fixed = ["--matrix", "smoke", "--no-setup", "--only", only, "--results", self.results]
        return [*fixed, *(f"--set={setting}" for setting in settings), *words]

    @property
    def results(self) -> str:
        return str(self.folder)

    def collected(self) -> Path:
        """The one run that is here."""
        (run_dir,) = self.folder.iterdir()
        return run_dir

    def state(self) -> str | None:
        """What the host says of its one run."""
        answer = json.loads(self.invoke("bench.status", "--json"))["hosts"][self.box.name]
        return answer[0]["state"] if answer else None

    def traces(self) -> set[str]:
        """What a run could leave there: processes, units, files."""
        script = (
            "ps -eo args | grep -E 'hostside|wrk|gotrace|go-server' | grep -v grep || :\n"
            "systemctl list-units --all --plain --no-legend 'uplab-*'\n"
            f"ls -A {RUNS}; ls -A /tmp | grep uplab || :\n"
        )
        return set(self.run("sh", "-c", script).splitlines())


def _done(argv: Sequence[str], stdin: bytes = b"") -> bytes:
    done = subprocess.run(argv, input=stdin, capture_output=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def follow_until(process: subprocess.Popen[str], text: str) -> None:
    """Read what a controller prints until a line holds a text."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"it ended without {text!r}")


def assert_complete(run_dir: Path, blocks: int = 2) -> dict[str, Any]:
    """The run is whole and true: what is here is what the host signed off, every trial valid."""
    assert checksums.differences(run_dir) == []
    record = json.loads((run_dir / "run.json").read_text())
    assert record["outcome"] == "complete"
    trials = [json.loads(path.read_text()) for path in run_dir.glob("trials/*/trial.json")]
    assert sorted(trial["cell"]["id"] for trial in trials) == sorted(CELLS * blocks)
    assert [trial["verdict"]["reasons"] for trial in trials if trial["verdict"]["reasons"]] == []
    traced = [trial for trial in trials if trial["cell"]["mode"] == "kernel-uprobe"]
    assert all(trial["hits"]["by_name"] for trial in traced)
    assert isinstance(record, dict)
    return record
