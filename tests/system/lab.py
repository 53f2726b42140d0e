"""A whole lab in a temporary directory: a store, a spool, results, and hostside as a program.

Servers, wrk, tracer and probes are the real ones; only what a test says is a stand-in.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tests.foreground import ForegroundHost, LocalRun
from uplab import checksums, hostzip, matrix
from uplab import plan as planning
from uplab.hostside.spec import Plan
from uplab.plan import JudgedCell

ROOT = Path(__file__).resolve().parents[2]
STANDINS = ROOT / "tests" / "data" / "standins"
QUICK = ("load.duration_s=1", "blocks=1", "repeat.per_block=0", "seed=1", "load.connections=10")
EVENT_TIMEOUT_S = 30.0


@dataclass
class Outcome:
    """What a run left."""

    code: int
    stderr: str
    events: list[dict[str, Any]]
    run_dir: Path | None
    run: dict[str, Any] = field(default_factory=dict)
    trials: list[dict[str, Any]] = field(default_factory=list)

    def trial(self, cell_id: str) -> dict[str, Any]:
        """The trial of a cell that was measured once."""
        (found,) = [trial for trial in self.trials if trial["cell"]["id"] == cell_id]
        return found

    def codes(self, cell_id: str) -> list[str]:
        """The reasons' codes of that trial."""
        return [reason["code"] for reason in self.trial(cell_id)["verdict"]["reasons"]]


class Started:
    """A run that goes on while the test looks at it."""

    def __init__(self, lab: Lab, running: LocalRun, run_id: str) -> None:
        self._lab = lab
        self.running = running
        self.run_id = run_id
        self.seen: list[dict[str, Any]] = []
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for event in self.running.events():
            self._queue.put(event)
        self._queue.put(None)

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next event that fits."""
        while True:
            event = self._queue.get(timeout=EVENT_TIMEOUT_S)
            assert event is not None, f"the run ended without it; last were {self.seen[-3:]}"
            self.seen.append(event)
            if wanted(event):
                return event

    def wait_for_step(self, step: str, cell_part: str = "") -> dict[str, Any]:
        """The start of a step of a trial."""
        return self.wait_for(
            lambda e: e["event"] == "step" and e["step"] == step and cell_part in e["trial"]
        )

    def children(self) -> dict[str, int]:
        """The PIDs of the run's processes by name, from hostside's ledger."""
        noted = json.loads((self._lab.state / "children.json").read_text())
        return {entry["name"]: entry["pid"] for entry in noted}

    def child(self, name: str) -> int:
        """The PID of one of the run's processes, as soon as it lives."""
        deadline_s = time.monotonic() + EVENT_TIMEOUT_S
        while name not in self.children():
            assert time.monotonic() < deadline_s, f"no {name} was started"
            time.sleep(0.005)
        return self.children()[name]

    def finish_reading(self) -> None:
        """Wait for the end of the events."""
        self._thread.join()
        while (event := self._queue.get()) is not None:
            self.seen.append(event)

    def finish(self) -> Outcome:
        """Wait for the end and bring the run here."""
        self.finish_reading()
        return self._lab.outcome(self.running, self.run_id, self.seen)


class Lab:
    """A store with the real programs, and hostside called as it is called for real."""

    def __init__(self, folder: Path, programs: Path, tls: tuple[Path, Path]) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.state = folder / "state"
        self.runs = folder / "runs"
        self.results = folder / "results"
        self.ports = {"https": free_port(), "http": free_port()}
        (self.store / "tls").mkdir(parents=True)
        shutil.copy(tls[0], self.store / "tls" / "cert.pem")
        shutil.copy(tls[1], self.store / "tls" / "key.pem")
        self.prefixes = {
            "servers": str(programs),
            "gotrace": str(programs),
            "wrk": str(Path(shutil.which("wrk") or "/usr/bin/wrk").parents[1]),
            "standins": str(STANDINS),
        }
        self.write_manifest()

    def write_manifest(self) -> None:
        """Say what is installed."""
        components = {name: {"prefix": prefix} for name, prefix in self.prefixes.items()}
        manifest = {"schema": 1, "digest": None, "pins": {}, "components": components}
        (self.store / "manifest.json").write_text(json.dumps(manifest))

    def host(self, registry: Any, python: str = "/usr/bin/python3") -> ForegroundHost:
        """The host, with everything in this lab's directories."""
        zipapp = hostzip.write(registry, self.folder / "zipapps")
        options = ("--root", self.store, "--state", self.state, "--runs", self.runs)
        return ForegroundHost("local", zipapp, tuple(map(str, options)), python)

    def plan(
        self, *settings: str, only: str | None = None, name: str = "smoke"
    ) -> tuple[ForegroundHost, Plan, list[JudgedCell]]:
        """Plan a short run on this lab's own ports."""
        ports = [f"servers.{name}.port={port}" for name, port in self.ports.items()]
        experiment = matrix.load(name, ROOT, [*QUICK, *ports, *settings], only)
        host = self.host(experiment.registry)
        answer = host.inspect(planning.inspect_request(experiment))
        made, judged = planning.make(experiment, "local", answer, datetime.now(UTC))
        return host, made, judged

    def start(self, *settings: str, only: str | None = None, name: str = "smoke") -> Started:
        """Start a run."""
        host, made, _ = self.plan(*settings, only=only, name=name)
        return Started(self, host.start(asdict(made)), made.run_id)

    def measure(self, *settings: str, only: str | None = None, name: str = "smoke") -> Outcome:
        """Run to the end."""
        return self.start(*settings, only=only, name=name).finish()

    def outcome(self, running: LocalRun, run_id: str, events: list[dict[str, Any]]) -> Outcome:
        """Collect what a finished run left."""
        code, stderr = running.finish()
        if not (self.runs / run_id / "run.json").exists():
            return Outcome(code, stderr, events, None)
        run_dir = self.results / run_id
        unfinished = shutil.ignore_patterns(".part-*")
        shutil.copytree(self.runs / run_id, run_dir, ignore=unfinished)
        if (run_dir / checksums.SUMS_FILE).exists():
            assert checksums.differences(run_dir) == []
        trials = [
            json.loads(path.read_text()) for path in sorted(run_dir.glob("trials/*/trial.json"))
        ]
        run = json.loads((run_dir / "run.json").read_text())
        return Outcome(code, stderr, events, run_dir, run, trials)

    def adapter(self, kind: str, name: str, changes: dict[str, Any], base: str) -> str:
        """Write a further adapter: a shipped one with changes; out: the --set for the matrix."""
        return write_adapter(self.folder, kind, name, changes, base)


def write_adapter(folder: Path, kind: str, name: str, changes: dict[str, Any], base: str) -> str:
    """Write an adapter that is a shipped one with changes; out: the --set for the matrix."""
    adapters = folder / "adapters"
    made, source = adapters / f"{kind}s" / name, ROOT / f"{kind}s" / base
    made.mkdir(parents=True)
    for path in source.glob("*"):
        if path.suffix in (".lua", ".py"):
            shutil.copy(path, made)
    data = yaml.safe_load((source / "adapter.yml").read_text())
    data.update({"name": name, **changes})
    (made / "adapter.yml").write_text(yaml.safe_dump(data))
    return f"adapters=[{adapters}]"


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def lives(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def wait_gone(pids: list[int], timeout_s: float) -> list[int]:
    """Those processes that still live after a while."""
    deadline_s = time.monotonic() + timeout_s
    while (left := [pid for pid in pids if lives(pid)]) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return left


def probe_files() -> set[str]:
    """The BPF links of the machine, as the kernel lists them, that come from uprobes."""
    done = subprocess.run(["bpftool", "-j", "link"], capture_output=True, check=True, text=True)
    links = json.loads(done.stdout or "[]")
    return {
        str(link["id"]) for link in links if "uprobe" in str(link) or link["type"] == "perf_event"
    }


def send(pid: int, name: str) -> None:
    """Send a signal."""
    os.kill(pid, signal.Signals[name])
