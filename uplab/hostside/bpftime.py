"""bpftime in one trial: its programs, its environment, its loaders, the attach, what it leaves.

What its own programs say proves nothing: ``attach`` prints success and exits 0 whatever happened in
the server, so the server's bytes are watched instead. Sources: bpftime's ``tools/cli``,
``daemon/user`` and ``runtime/src/bpftime_config.cpp``.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uplab.hostside import attest, elf, procfs
from uplab.hostside.attest import ExpectedSite
from uplab.hostside.children import Child
from uplab.hostside.context import Context
from uplab.hostside.errors import TrialError
from uplab.hostside.judge import Reason
from uplab.hostside.placing import places
from uplab.hostside.serveruser import ServerUser
from uplab.hostside.spec import Cell, FileRef, RuntimeOptions, TracerAdapter
from uplab.hostside.store import Store
from uplab.hostside.templates import Scalar

COMPONENT = "bpftime"
LAUNCHER, DAEMON = "bpftime", "bpftime_daemon"
AGENT, PRELOAD = "libbpftime-agent.so", "libbpftime-syscall-server.so"
_PROGRAMS = {"syscall-server": (LAUNCHER, AGENT, PRELOAD), "daemon": (LAUNCHER, AGENT, DAEMON)}

_SHARED_MEMORY = Path("/dev/shm")
_MOCK_PREFIX = "/tmp/bpftime-mock."
#: The daemon puts a program there for the kernel to probe instead of the server.
_DUMMY = Path("/a")
#: The agent works on after `attach` has ended; where there is no shared memory it gives up after 3.
_SETTLE_TIMEOUT_S = 6.0
_POLL_S = 0.05
_FAILED = "ailed"
#: Stops itself, so that the daemon can be told its PID before it makes a system call of interest.
_STOPPED = ("sh", "-c", 'kill -STOP $$; exec "$@"', "sh")


def refs(cell: Cell) -> list[FileRef]:
    """The files of bpftime that a cell needs; none where it traces in no userspace."""
    if cell.runtime is None or cell.loader is None:
        return []
    prefix = cell.runtime.bpftime_prefix
    names = _PROGRAMS[cell.loader]
    if prefix:
        return [FileRef(path=f"{prefix}/{name}") for name in names]
    return [FileRef(component=COMPONENT, file=name) for name in names]


def folder(options: RuntimeOptions, store: Store) -> Path:
    """Where bpftime's programs lie."""
    if options.bpftime_prefix:
        return Path(options.bpftime_prefix)
    return store.path(FileRef(component=COMPONENT, file=AGENT)).parent


def environment(options: RuntimeOptions, shared_memory: str) -> dict[str, str]:
    """What bpftime reads, in the server, the tracer and its own programs.

    Args:
        options: of the cell.
        shared_memory: a name in ``/dev/shm``.
    """
    wanted = {
        "BPFTIME_GLOBAL_SHM_NAME": shared_memory,
        "BPFTIME_SHM_MEMORY_MB": str(options.shm_mb),
        "BPFTIME_LOG_OUTPUT": "console",
        "BPFTIME_VM_NAME": "llvm",
        "SPDLOG_LEVEL": "info",
    }
    # Its being there counts, not its value.
    return wanted if options.jit else {**wanted, "BPFTIME_DISABLE_JIT": "1"}


def new_name() -> str:
    """A name in ``/dev/shm`` that nobody has."""
    return f"uplab-{secrets.token_hex(8)}"


def memory(name: str) -> Path:
    """The file behind a name of shared memory."""
    return _SHARED_MEMORY / name


@dataclass
class Runtime:
    """bpftime as one trial uses it.

    Args:
        context: of the run.
        cell: with ``runtime``, ``loader`` and ``placement``.
        options: ``cell.runtime``.
        tracer: the adapter.
        directory: of the trial, for the logs.
    """

    context: Context
    cell: Cell
    options: RuntimeOptions
    tracer: TracerAdapter
    directory: Path
    name: str = field(default_factory=new_name)
    daemon: Child | None = None
    record: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._folder = folder(self.options, self.context.store)
        self.env = environment(self.options, self.name)
        self.context.leftovers.note([memory(self.name)])
        self.record |= {
            "loader": self.cell.loader,
            "prefix": str(self._folder),
            "shared_memory": self.name,
            "places": places(self.tracer, self.cell),
        }

    @property
    def by_daemon(self) -> bool:
        """Whether the daemon loads, and not a library in the tracer."""
        return self.cell.loader == "daemon"

    def values(self) -> dict[str, Scalar]:
        """What the tracer's templates may name beside the usual."""
        placed = self.record["places"]
        return {
            "preload": str(self._folder / PRELOAD),
            "map_kind": self.options.map_kind,
            "userspace_sites": ",".join(n for n, place in placed.items() if place == "userspace"),
            "kernel_sites": ",".join(n for n, place in placed.items() if place == "kernel"),
            "probed_sites": ",".join(n for n, place in placed.items() if place != "untouched"),
        }

    def argv(self, argv: Sequence[str]) -> list[str]:
        """The tracer's argv as this loader wants it."""
        if self.by_daemon:
            return [*_STOPPED, *argv]
        if self.tracer.modes[self.cell.mode].preload == "own":
            return list(argv)
        # By env, because what starts the tracer must not load it, too.
        return ["env", f"LD_PRELOAD={self._folder / PRELOAD}", *argv]

    # ---- the daemon ------------------------------------------------------------------------

    def release(self, server: Child, tracer: Child) -> None:
        """Let the tracer go: under the daemon it waits until its system calls are watched.

        Raises:
            TrialError: ``daemon-died``, ``daemon-not-ready``, ``tracer-died``, ``sites-disagree``.
        """
        if not self.by_daemon:
            return
        whitelist = self._whitelist(server)
        self.record["whitelist"] = whitelist
        self._wait_stopped(tracer)
        if not _DUMMY.exists():
            self.context.leftovers.note([_DUMMY])
        addresses = [part for offset in whitelist["offsets"].values() for part in ("-w", offset)]
        self.daemon = daemon = Child(
            self.context.loop,
            self.context.ledger,
            "daemon",
            [str(self._folder / DAEMON), "-p", str(tracer.pid), *addresses],
            self.directory / "daemon.log",
            self.env,
        )
        self.context.loop.until(
            lambda: daemon.ended or _polls(daemon.pid), self.tracer.attached_timeout_s, _POLL_S
        )
        if daemon.ended:
            raise TrialError("daemon-died", f"bpftime_daemon ended: {daemon.death()}")
        if not _polls(daemon.pid):
            text = f"bpftime_daemon was not ready within {self.tracer.attached_timeout_s:g} s"
            raise TrialError("daemon-not-ready", text)
        tracer.send("SIGCONT")

    def _whitelist(self, server: Child) -> dict[str, Any]:
        """The offsets of the userspace sites by the symbol table of the program that runs."""
        program = Path(f"/proc/{server.pid}/exe")
        wanted = {
            site.name: site.symbol
            for site in self.tracer.sites
            if self.record["places"][site.name] == "userspace" and site.at == "entry"
        }
        try:
            found = elf.symbols(program, wanted.values())
            with program.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            named = str(program.readlink())
        except OSError as error:
            raise TrialError("server-died", f"server died: {server.death()}") from error
        lacking = sorted(set(wanted.values()) - set(found))
        if lacking:
            raise TrialError("sites-disagree", f"{named} has no symbol {', '.join(lacking)}")
        offsets = {name: hex(found[symbol].offset) for name, symbol in wanted.items()}
        return {"binary": named, "sha256": digest, "offsets": offsets}

    def _wait_stopped(self, tracer: Child) -> None:
        """It stops itself right after its start."""

        def stopped() -> bool:
            try:
                return procfs.stat_fields(tracer.pid)[0] == "T"
            except OSError:
                return False

        self.context.loop.until(lambda: tracer.ended or stopped(), 5.0, _POLL_S)
        if tracer.ended:
            raise TrialError("tracer-died", f"tracer died at its start: {tracer.death()}")

    # ---- the attach ------------------------------------------------------------------------

    def attach(
        self,
        server: Child,
        tracer: Child,
        expected: Sequence[ExpectedSite],
        user: ServerUser | None = None,
    ) -> dict[str, Any]:
        """Bring the agent into the server and wait for the bytes of the userspace sites.

        Args:
            server: its process gets the agent.
            tracer: is attached, by its own word.
            expected: all sites with their placement.
            user: the server's; None where it is ours.

        Returns:
            what is to be kept of it; whether the bytes are right is for the attestation to say.

        Raises:
            TrialError: ``attach-failed``, ``no-shared-memory``, ``server-died``, ``daemon-died``.
        """
        self._wait_memory(tracer)
        if user is not None:
            # The tracer made it, and the agent writes to it as the server's user.
            user.share(memory(self.name), 0o660)
        began_s = time.monotonic()
        self._inject(server)
        self._until_or_death(server, lambda: _patched(server.pid, expected), _SETTLE_TIMEOUT_S)
        self._note_mocks([server, tracer])
        self.record["attach_s"] = round(time.monotonic() - began_s, 6)
        return self.record

    def _wait_memory(self, tracer: Child) -> None:
        """Never attach before it is there: the server may crash."""
        there = memory(self.name)
        limit_s = self.tracer.attached_timeout_s
        self.context.loop.until(lambda: there.exists() or tracer.ended, limit_s, _POLL_S)
        if not there.exists():
            text = f"the tracer is attached, but {there} is not there after {limit_s:g} s"
            raise TrialError("no-shared-memory", text)

    def _inject(self, server: Child) -> None:
        argv = [str(self._folder / LAUNCHER), "-i", str(self._folder), "attach", str(server.pid)]
        log = self.directory / "bpftime.log"
        child = Child(self.context.loop, self.context.ledger, "bpftime", argv, log, self.env)
        limit_s = self.tracer.attached_timeout_s
        try:
            self._until_or_death(server, lambda: child.ended, limit_s)
            hangs = not child.ended
        finally:
            child.stop("SIGTERM", 1.0)
        if hangs:
            raise TrialError("attach-failed", f"bpftime attach did not end within {limit_s:g} s")
        if child.returncode != 0:
            raise TrialError("attach-failed", f"bpftime attach: {child.death()}")

    def _until_or_death(
        self, server: Child, condition: Callable[[], bool], timeout_s: float
    ) -> None:
        """Wait; TrialError where the server or the daemon ends meanwhile."""
        loop = self.context.loop
        watched = [child for child in (server, self.daemon) if child is not None]

        def dead() -> list[Child]:
            return [child for child in watched if child.returncode is not None]

        loop.until(lambda: condition() or bool(dead()), timeout_s, _POLL_S)
        for child in dead():
            # Its last line may still be on its way.
            loop.until(functools.partial(_has_ended, child), 1.0)
            text = f"{child.name} died while bpftime was attached: {child.death()}"
            raise TrialError(f"{child.name}-died", text)

    def complaint(self, server: Child) -> str:
        """What the agent said last of a failure; it says so in the server's own output alone."""
        said = server.text["err"] + server.text["out"]
        lines = [line for line in said.decode(errors="replace").splitlines() if _FAILED in line]
        return f"; bpftime says: {lines[-1][:300]}" if lines else ""

    def bystanders(self, ours: Sequence[Child]) -> list[Reason]:
        """Who else has this trial's shared memory: it is private, so only ours may have it.

        Args:
            ours: the server and the tracer; the daemon is known here.
        """
        known = [*ours, *([self.daemon] if self.daemon else [])]
        pids = {pid for child in known for pid in procfs.descendants(child.pid)}
        found = []
        for pid in set(procfs.mapped_by(str(memory(self.name)))) - pids:
            with suppress(OSError):
                text = f"bpftime's memory of this trial is in {procfs.named(pid)}, too"
                found.append(Reason("bystander", text))
        return found

    # ---- the end ---------------------------------------------------------------------------

    def before_stop(self, running: Sequence[Child]) -> None:
        """While its processes live: note which of its small files are ours."""
        self._note_mocks(running)

    def stop(self, most_s: float) -> None:
        """End the daemon and remove what bpftime leaves."""
        if self.daemon is not None:
            self.daemon.stop("SIGINT", min(3.0, most_s))
        self.context.leftovers.remove()

    def _note_mocks(self, running: Sequence[Child]) -> None:
        """Its stand-ins for descriptors are files in /tmp that it never removes."""
        pids = [pid for child in running for pid in procfs.descendants(child.pid)]
        paths = {path for pid in pids for path in procfs.open_files(pid)}
        self.context.leftovers.note([Path(path) for path in paths if path.startswith(_MOCK_PREFIX)])


def _polls(pid: int) -> bool:
    """Whether a process has an epoll descriptor: the daemon makes its ring buffer when it is in."""
    return "anon_inode:[eventpoll]" in procfs.open_files(pid)


def _has_ended(child: Child) -> bool:
    return child.ended


def _patched(pid: int, expected: Sequence[ExpectedSite]) -> bool:
    """Whether all userspace sites of a process differ from its file."""
    places = {(site.file, site.offset) for site in expected if site.placement == "userspace"}
    seen = attest.attest([pid], expected).sites
    altered = {(site.file, site.offset) for site in seen if site.state != "original"}
    return places <= altered
