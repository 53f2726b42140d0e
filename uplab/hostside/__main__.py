"""The program on the host: ``python3 uplab-hostside.pyz COMMAND``.

Exit codes are those of the project; the last line on stderr says why.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from uplab.hostside import bpftime, doctor, errors, export, store
from uplab.hostside.decode import build
from uplab.hostside.errors import HostError
from uplab.hostside.spec import Adapters, Cell, FileRef, Plan

DEFAULT_STATE = Path("/run/uplab")
DEFAULT_RUNS = Path("/var/lib/uplab/runs")


def inspect(
    root: Path, state: Path, adapters_folder: Callable[[], Path], request: dict[str, Any]
) -> dict[str, Any]:
    """Say what is installed and which cells can run.

    Args:
        root: of the store.
        state: hostside's own below ``/run``, where the answers of tracers' self-tests are.
        adapters_folder: gives the folder with the adapters' files.
        request: ``cells`` and ``adapters`` of a plan; both may be missing. Where ``start_tracers``
            is false, no tracer is started to see whether it does.

    Returns:
        ``manifest``, ``cells`` (id to ``[status, reason]``), ``artifacts`` (``component/file``
        or path, of the available cells, to sha256), ``root`` (whether this is root), ``untested``
        (tracers of which it is not known whether they start), ``touched`` (what available cells
        would alter beside the server: tracer and processes).
    """
    # Here, because the other commands are done before these modules are read.
    from uplab.hostside import goprograms
    from uplab.hostside.selftest import SelfTests

    installed = store.load(root)
    start = bool(request.get("start_tracers", True))
    tests = SelfTests(installed, state, adapters_folder, start)
    adapters = build(
        Adapters, request.get("adapters") or {"servers": {}, "tracers": {}, "loads": {}}
    )
    cells = [build(Cell, cell) for cell in request.get("cells", [])]
    judged = {cell.id: doctor.judge(cell, adapters, installed, tests) for cell in cells}
    available = [cell for cell in cells if judged[cell.id][0] == doctor.AVAILABLE]
    artifacts: dict[str, str] = {}
    for cell in available:
        for ref in _programs(cell, adapters):
            name = ref.name
            if name is not None and name not in artifacts:
                artifacts[name] = installed.sha256(ref)
    return {
        "manifest": installed.manifest,
        "cells": judged,
        "artifacts": artifacts,
        "root": os.geteuid() == 0,
        "untested": sorted(tests.untested),
        "touched": goprograms.touched(available, adapters),
    }


def checkup(
    root: Path,
    state: Path,
    runs: Path,
    adapters_folder: Callable[[], Path],
    request: dict[str, Any],
) -> dict[str, Any]:
    """Look at everything that a run here needs.

    Args:
        root: of the store.
        state: hostside's own below ``/run``.
        runs: where runs are kept.
        adapters_folder: gives the folder with the adapters' files.
        request: see :class:`uplab.hostside.check_lab.Request`.

    Returns:
        ``lines``: each with ``check``, ``state`` (ok, warn, fail), ``seen``, ``wanted``, ``mend``.
    """
    # Here, because the other commands are done before these modules are read.
    from uplab.hostside.check_lab import Places, Request
    from uplab.hostside.checkup import run
    from uplab.hostside.system import System

    places = Places(root, state, runs, adapters_folder)
    return {"lines": run(System(), places, build(Request, request))}


def status(root: Path) -> dict[str, Any]:
    """Say what is installed, with every artifact read again; see ``installed.look``."""
    from uplab.hostside import installed

    return installed.look(root)


def _store_export(arguments: argparse.Namespace) -> int:
    from uplab.hostside import transfer

    transfer.write(arguments.root, json.loads(sys.stdin.read() or "{}"), sys.stdout.buffer)
    return errors.OK


def _programs(cell: Cell, adapters: Adapters) -> list[FileRef]:
    refs = [*adapters.servers[cell.server].programs.values()]
    refs += adapters.loads[cell.load].programs.values()
    if cell.tracer is not None:
        refs += adapters.tracers[cell.tracer].programs.values()
    return refs + bpftime.refs(cell)


@contextmanager
def _adapters_folder() -> Iterator[Callable[[], Path]]:
    """A function that gives the folder with the adapters' files, made when first asked for."""
    with ExitStack() as stack:

        @functools.cache
        def folder() -> Path:
            into = Path(tempfile.mkdtemp(prefix="uplab-adapters-"))
            stack.callback(shutil.rmtree, into)
            _unpack_adapters(into)
            return into

        yield folder


def _inspect(arguments: argparse.Namespace, request: dict[str, Any]) -> dict[str, Any]:
    with _adapters_folder() as folder:
        return inspect(arguments.root, arguments.state, folder, request)


def _checkup(arguments: argparse.Namespace, request: dict[str, Any]) -> dict[str, Any]:
    with _adapters_folder() as folder:
        return checkup(arguments.root, arguments.state, arguments.runs, folder, request)


def _unpack_adapters(into: Path) -> None:
    """The adapters' files travel in the zipapp, but programs need real files."""
    with zipfile.ZipFile(sys.argv[0]) as archive:
        for name in archive.namelist():
            if name.startswith("adapters/") and not name.endswith("/"):
                target = into / name.removeprefix("adapters/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))


def _run(arguments: argparse.Namespace) -> int:
    plan = build(Plan, json.loads(sys.stdin.read()))
    with _adapters_folder() as folder:
        return _measure(arguments, plan, arguments.adapters or folder(), follow=True)


def _run_detached(arguments: argparse.Namespace) -> int:
    from uplab.hostside import launch
    from uplab.hostside.control import Control

    control = Control(export.run_path(arguments.runs, arguments.run_id))

    def measure(plan: Plan) -> int:
        adapters = arguments.adapters
        if adapters is None:
            # It goes with the run: a process that is killed removes nothing.
            adapters = control.adapters
            _unpack_adapters(adapters)
        return _measure(arguments, plan, adapters, follow=False)

    return launch.detached(control, arguments.unit, measure)


def _launch(arguments: argparse.Namespace, request: dict[str, Any]) -> dict[str, Any]:
    from uplab.hostside import launch

    places = launch.Places(arguments.root, arguments.state, arguments.runs)
    return launch.launch(places, Path(sys.argv[0]), request)


def _restore(arguments: argparse.Namespace) -> dict[str, Any]:
    """Put back what a run left tuned."""
    from uplab.hostside import restoring

    return restoring.restore(arguments.runs, arguments.state)


def _ask_runs(arguments: argparse.Namespace) -> dict[str, Any]:
    """All runs of this host, and the one that goes on."""
    from uplab.hostside import runs

    return {"runs": runs.listed(arguments.runs), "running": runs.running(arguments.state)}


def _describe(arguments: argparse.Namespace, request: dict[str, Any]) -> dict[str, Any]:
    from uplab.hostside import runs

    return runs.described(arguments.runs, str(request.get("run_id")))


def _load_start(arguments: argparse.Namespace, request: dict[str, Any]) -> dict[str, Any]:
    from uplab.hostside import agents, launch

    places = launch.Places(arguments.root, arguments.state, arguments.runs)
    return agents.start(places, Path(sys.argv[0]), request)


def _load_look(arguments: argparse.Namespace, request: dict[str, Any]) -> dict[str, Any]:
    from uplab.hostside import agents

    return agents.look(arguments.root, request)


def _load_stop(arguments: argparse.Namespace, request: dict[str, Any]) -> dict[str, Any]:
    from uplab.hostside import agents

    return agents.stop(arguments.state, request)


def _load_reach(_arguments: argparse.Namespace, request: dict[str, Any]) -> dict[str, Any]:
    """Whether the server's ports on this host can be reached from a second machine."""
    from uplab.hostside import reaching

    return reaching.reach(request)


def _load_agent(arguments: argparse.Namespace) -> int:
    from uplab.hostside import launch, loadagent

    places = launch.Places(arguments.root, arguments.state, arguments.runs)
    return loadagent.serve(places, arguments.run_id, _unpack_adapters)


def _stop(arguments: argparse.Namespace, request: dict[str, Any]) -> dict[str, Any]:
    from uplab.hostside import runs

    return runs.stop(arguments.runs, arguments.state, str(request.get("run_id")))


def _forget(arguments: argparse.Namespace, request: dict[str, Any]) -> dict[str, Any]:
    from uplab.hostside import runs

    run_id = str(request.get("run_id"))
    runs.forget(arguments.runs, run_id)
    return {"run_id": run_id}


def _write_stream(arguments: argparse.Namespace) -> int:
    """The commands with a long answer; JSON request on stdin."""
    from uplab.hostside import follow, pack

    request = json.loads(sys.stdin.read())
    run, out = export.run_path(arguments.runs, str(request.get("run_id"))), sys.stdout.buffer
    if arguments.command == "follow":
        follow.follow(run, int(request.get("from", 0)), out)
    elif arguments.command == "list":
        pack.write_list(run, out)
    else:
        pack.write_pack(run, [str(name) for name in request.get("names", [])], out)
    return errors.OK


def _measure(arguments: argparse.Namespace, plan: Plan, adapters: Path, *, follow: bool) -> int:
    # Here, because the other commands are done before these modules are read.
    from uplab.hostside.run import Run

    out = arguments.runs / plan.run_id
    return Run(plan, out, arguments.root, arguments.state, adapters, follow=follow).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="uplab-hostside", description=__doc__)
    parser.add_argument("--root", type=Path, default=store.DEFAULT_ROOT, help="the store's root")
    parser.add_argument("--state", type=Path, default=DEFAULT_STATE, help="lock and ledger")
    parser.add_argument("--runs", type=Path, default=DEFAULT_RUNS, help="where runs are kept")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in _QUESTIONS:
        commands.add_parser(name, help="JSON request on stdin, JSON answer on stdout")
    commands.add_parser("store-export", help="write finished builds as tar to stdout")
    for name, text in _STREAMS.items():
        commands.add_parser(name, help=f"JSON request on stdin; {text} on stdout")
    run = commands.add_parser("run", help="measure the plan on stdin; events on stdout")
    detached = commands.add_parser("run-detached", help="what launch starts")
    agent = commands.add_parser("load-agent", help="what load-start starts")
    for started in (detached, agent):
        started.add_argument("run_id")
        started.add_argument("--unit", help="systemd's unit that it runs in")
    for measuring in (run, detached):
        measuring.add_argument("--adapters", type=Path, help="their folder (default: the zipapp's)")
    return parser


_QUESTIONS: dict[str, Callable[[argparse.Namespace, dict[str, Any]], dict[str, Any]]] = {
    "inspect": _inspect,
    "checkup": _checkup,
    "status": lambda arguments, _request: status(arguments.root),
    "restore": lambda arguments, _request: _restore(arguments),
    "launch": _launch,
    "runs": lambda arguments, _request: _ask_runs(arguments),
    "describe": _describe,
    "stop": _stop,
    "forget-run": _forget,
    "load-look": _load_look,
    "load-start": _load_start,
    "load-stop": _load_stop,
    "load-reach": _load_reach,
}
_STREAMS = {"follow": "events", "list": "files and digests", "pack": "the files asked for"}


def main() -> int:
    """Run one command; out: the exit code."""
    arguments = _parser().parse_args()
    os.umask(0o077)
    try:
        if arguments.command in _QUESTIONS:
            request = json.loads(sys.stdin.read() or "{}")
            json.dump(_QUESTIONS[arguments.command](arguments, request), sys.stdout)
            return errors.OK
        if arguments.command in _STREAMS:
            return _write_stream(arguments)
        if arguments.command == "run-detached":
            return _run_detached(arguments)
        if arguments.command == "load-agent":
            return _load_agent(arguments)
        if arguments.command == "store-export":
            return _store_export(arguments)
        return _run(arguments)
    except HostError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except (OSError, ValueError) as error:
        print(f"hostside: {type(error).__name__}: {error}", file=sys.stderr)
        return errors.HOST


if __name__ == "__main__":
    sys.exit(main())
