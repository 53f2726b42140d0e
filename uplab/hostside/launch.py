"""Start a run that outlives whoever started it, and say so only once it holds the host's lock."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uplab.hostside import errors
from uplab.hostside.control import Control, Process
from uplab.hostside.decode import build
from uplab.hostside.errors import HostError
from uplab.hostside.export import check_run_id
from uplab.hostside.spec import Plan

_START_TIMEOUT_S = 60.0
_POLL_S = 0.01
#: How often systemd is asked whether a unit that says nothing has ended.
_LOOK_S = 0.25
_SYSTEMD = Path("/run/systemd/system")
#: No process of the run ends another's life: a server that runs out of memory is a trial's fault.
#: At shutdown the run's own process is told first, so that it keeps what is finished.
_PROPERTIES = {
    "OOMPolicy": "continue",
    "KillMode": "mixed",
    "TimeoutStopSec": "20",
    "TasksMax": "infinity",
}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Places:
    """Where hostside keeps things: the store's root, its state below /run, the runs."""

    root: Path
    state: Path
    runs: Path

    @property
    def options(self) -> list[str]:
        """The same places for another hostside."""
        return ["--root", f"{self.root}", "--state", f"{self.state}", "--runs", f"{self.runs}"]


def launch(places: Places, program: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Start a run; started again under the same name, it is found and not started twice.

    Args:
        places: of this host.
        program: hostside itself, which is copied beside the run.
        request: ``plan``, and ``load_agent`` (``port``, ``token``) where a second machine loads.

    Returns:
        ``run_id``, ``pid``, ``start_ticks``, ``unit`` (None where systemd does not run it).

    Raises:
        HostError: it does not start, with the reason that it gave itself; nothing is left of it.
        ValueError: no plan.
    """
    plan = build(Plan, request.get("plan"))
    control = Control(places.runs / check_run_id(plan.run_id))
    started: Started | None = None
    if control.process() is None:
        _prepare(control, program, request)
        unit = unit_named(f"uplab-{plan.run_id}.service")
        argv = [sys.executable, "-I", str(control.program), *places.options]
        try:
            started = start_detached(argv, ["run-detached", plan.run_id], unit, control.output)
        except HostError:
            _forget(control)
            raise
    process = _wait_until_it_runs(control, started)
    return {
        "run_id": plan.run_id,
        "pid": process.pid,
        "start_ticks": process.start_ticks,
        "unit": process.unit,
    }


def _prepare(control: Control, program: Path, request: dict[str, Any]) -> None:
    """Write what the run needs of us."""
    control.run.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if control.run.exists() and not control.folder.exists():
        raise HostError(f"there is a run of this name: {control.run}", errors.USAGE)
    control.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.copyfile(program, control.program)
    control.plan.write_text(json.dumps(request["plan"]))
    if request.get("load_agent") is not None:
        control.load_agent.write_text(json.dumps(request["load_agent"]))


def unit_named(name: str) -> str | None:
    """The name of a transient unit; None where no systemd would start it."""
    usable = _SYSTEMD.is_dir() and shutil.which("systemd-run") is not None
    return name if usable else None


@dataclass(frozen=True)
class Started:
    """What was started: a unit of systemd, or a process of its own."""

    unit: str | None = None
    process: subprocess.Popen[bytes] | None = None

    def gone(self) -> bool:
        """Whether it has ended, or never got as far as to run."""
        if self.process is not None:
            return self.process.poll() is not None
        argv = ["systemctl", "show", "--property=ActiveState", "--value", str(self.unit)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        # One that has ended is forgotten at once, and then called inactive too.
        return done.stdout.strip() in ("inactive", "failed")


def start_detached(argv: list[str], words: list[str], unit: str | None, output: Path) -> Started:
    """Start hostside as a unit, or else in a session of its own.

    Args:
        argv: hostside.
        words: its command; a unit is told its own name after them.
        unit: see :func:`unit_named`.
        output: gets what it says.
    """
    # Made here, because systemd would let everybody read it.
    output.touch(mode=0o600)
    environment = {
        "PATH": _PATH,
        "LC_ALL": "C.UTF-8",
        "HOME": pwd.getpwuid(os.geteuid()).pw_dir,
    }
    if unit is not None and _start_unit(argv, words, unit, environment, output):
        return Started(unit)
    with output.open("ab") as file:
        process = subprocess.Popen(
            [*argv, *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            cwd="/",
            env=environment,
        )
    return Started(process=process)


def _start_unit(
    argv: list[str], command: list[str], unit: str, environment: dict[str, str], output: Path
) -> bool:
    """Whether systemd started it; it does not in a container that has only a part of it.

    Raises:
        HostError: there is a systemd, and it could not: outside of it, what it forbids its units
            would not hold.
    """
    systemd = ["systemd-run", "--quiet", "--collect", "--service-type=exec", f"--unit={unit}"]
    systemd += [f"--property={name}={value}" for name, value in _PROPERTIES.items()]
    systemd += [f"--property=Standard{stream}=append:{output}" for stream in ("Output", "Error")]
    systemd += [f"--setenv={name}={value}" for name, value in environment.items()]
    # systemd puts the values of variables into the words of a command; two dollars stand for one.
    program, *words = argv
    words = [word.replace("$", "$$") for word in words]
    whole = [*systemd, "--", program, *words, *command, "--unit", unit]
    done = subprocess.run(whole, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return True
    if _has_manager():
        said = (done.stderr + output.read_text(errors="replace")).strip().splitlines()
        why = f" ({said[-1]})" if said else ""
        raise HostError(f"systemd does not start {unit}{why}. There, run: journalctl --unit {unit}")
    return False


def _has_manager() -> bool:
    """Whether a systemd answers that could have started a unit."""
    show = ["systemctl", "show", "--property=Version"]
    return subprocess.run(show, capture_output=True, check=False).returncode == 0


def _wait_until_it_runs(control: Control, started: Started | None) -> Process:
    """Wait for its first event, which comes after the lock and all that may stop a run."""
    began_s = looked_s = time.monotonic()
    while True:
        gone = False
        if started is not None and time.monotonic() - looked_s > _LOOK_S:
            # Before what it wrote is read: what is gone now has written all of it.
            gone, looked_s = started.gone(), time.monotonic()
        process = control.process()
        ended = control.exit()
        if process is not None and control.events.exists():
            return process
        if ended is not None:
            _forget(control)
            raise HostError(ended.said, ended.code)
        if process is not None:
            gone = not process.lives() and control.exit() is None
        if gone:
            if started is not None:
                # Where it is our child, it has to be waited for.
                started.gone()
            said = control.output.read_text(errors="replace").strip().splitlines()
            _forget(control)
            reason = said[-1] if said else "it was killed"
            raise HostError(f"the run ended before it began: {reason}")
        if time.monotonic() - began_s > _START_TIMEOUT_S:
            raise HostError(
                f"the run did not begin within {_START_TIMEOUT_S:g} s; what it said: "
                f"{control.output}"
            )
        time.sleep(_POLL_S)


def _forget(control: Control) -> None:
    """Remove a run that never began."""
    shutil.rmtree(control.run)


def detached(control: Control, unit: str | None, measure: Callable[[Plan], int]) -> int:
    """Be the process of a run: note who we are, measure, note how it ended; out: the exit code."""
    output = os.open(control.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    control.began(Process.own(unit))
    said = ""
    try:
        code = measure(build(Plan, json.loads(control.plan.read_text())))
    except HostError as error:
        code, said = error.exit_code, str(error)
    except Exception as error:
        code, said = errors.HOST, f"hostside: {type(error).__name__}: {error}"
        control.ended(code, said)
        raise
    control.ended(code, said)
    return code
