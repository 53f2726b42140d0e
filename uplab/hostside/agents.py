"""Load agents on this machine, as the controller asks for them: which loads can run, start, stop.

An agent (see ``loadagent``) has a folder of its own, named after the run that it drives a load for.
"""

from __future__ import annotations

import ipaddress
import json
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from uplab.hostside import launch, store
from uplab.hostside.control import Process
from uplab.hostside.decode import build
from uplab.hostside.errors import HostError
from uplab.hostside.export import check_run_id
from uplab.hostside.rundir import write_json
from uplab.hostside.spec import LoadAdapter

_START_TIMEOUT_S = 20.0
_POLL_S = 0.02
_FOLDER = "load-"


@dataclass(frozen=True)
class Task:
    """What an agent is started for.

    ``address`` (and ``port``, 0 for any) is where it listens, ``server_address`` the only one that
    it loads; ``artifacts`` are the programs with the digests that the plan was made for.
    """

    run_id: str
    address: str
    server_address: str
    loads: dict[str, LoadAdapter]
    artifacts: dict[str, str]
    port: int = 0

    def __post_init__(self) -> None:
        check_run_id(self.run_id)
        for address in (self.address, self.server_address):
            ipaddress.IPv4Address(address)


def folder_of(state: Path, run_id: str) -> Path:
    """Where the agent of a run keeps what it needs; HostError where that is no name of a run."""
    return state / f"{_FOLDER}{check_run_id(run_id)}"


def forget(folder: Path) -> None:
    """Remove what an agent has on this machine; nothing happens where it has nothing."""
    # An agent that ends and whoever stops it may both be at it, and either finds files gone. What
    # stays is found by the next agent here, which begins with this.
    shutil.rmtree(folder, ignore_errors=True)


def look(root: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Say which loads can run here.

    Args:
        root: of the store.
        request: ``loads``, by name.

    Returns:
        ``missing`` (load to the reason why it cannot run) and ``artifacts`` of the others.
    """
    installed = store.load(root)
    missing: dict[str, str] = {}
    artifacts: dict[str, str] = {}
    for name, data in dict(request.get("loads") or {}).items():
        adapter = build(LoadAdapter, data)
        refs = list(adapter.programs.values())
        reasons = [reason for ref in refs if (reason := installed.missing(ref)) is not None]
        if reasons:
            missing[name] = reasons[0]
            continue
        artifacts |= {ref.name: installed.sha256(ref) for ref in refs if ref.name is not None}
    return {"missing": missing, "artifacts": artifacts}


def start(places: launch.Places, program: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Start an agent; one that was started for the same run is found and not started twice.

    Args:
        places: of this machine.
        program: hostside itself, which is copied beside the agent.
        request: a :class:`Task`.

    Returns:
        ``port``, ``token`` (hex), ``pid``.

    Raises:
        HostError: it does not start, with its reason; nothing is left of it.
        ValueError: no task.
    """
    task = build(Task, request)
    _remove_dead(places.state)
    folder = folder_of(places.state, task.run_id)
    ready = _ready(folder)
    if ready is None:
        forget(folder)
        folder.mkdir(mode=0o700, parents=True)
        copy = folder / "hostside.pyz"
        shutil.copyfile(program, copy)
        write_json(folder / "task.json", asdict(task))
        unit = launch.unit_named(f"uplab-{_FOLDER}{task.run_id}.service")
        argv = [sys.executable, "-I", str(copy), *places.options]
        try:
            launch.start_detached(argv, ["load-agent", task.run_id], unit, folder / "output.txt")
        except HostError:
            forget(folder)
            raise
        ready = _wait_until_ready(folder)
    return {"port": ready["port"], "token": ready["token"], "pid": ready["process"]["pid"]}


def stop(state: Path, request: dict[str, Any]) -> dict[str, Any]:
    """End the agent of a run, and remove what it left; nothing happens where there is none."""
    folder = folder_of(state, str(request.get("run_id")))
    process = _process(folder)
    if process is not None and process.lives():
        process.send(signal.SIGTERM)
        if not process.wait(5.0):
            process.send(signal.SIGKILL)
            process.wait(5.0)
    # Of one that was killed, its load has died with it.
    forget(folder)
    return {"stopped": process is not None}


def _remove_dead(state: Path) -> None:
    """Remove what agents left that were killed."""
    for folder in state.glob(f"{_FOLDER}*/"):
        process = _process(folder)
        if process is None or not process.lives():
            forget(folder)


def _ready(folder: Path) -> dict[str, Any] | None:
    """What an agent that lives has noted; None where there is none."""
    process = _process(folder)
    if process is None or not process.lives():
        return None
    found: dict[str, Any] = json.loads((folder / "ready.json").read_text())
    return found


def _process(folder: Path) -> Process | None:
    try:
        return build(Process, json.loads((folder / "ready.json").read_text())["process"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _wait_until_ready(folder: Path) -> dict[str, Any]:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if (ready := _ready(folder)) is not None:
            return ready
        with suppress(OSError, ValueError):
            said = json.loads((folder / "failed.json").read_text())
            forget(folder)
            raise HostError(str(said["said"]), int(said["code"]))
        time.sleep(_POLL_S)
    output = (folder / "output.txt").read_text(errors="replace").strip().splitlines()
    forget(folder)
    raise HostError(f"the agent did not start: {output[-1] if output else 'it said nothing'}")
