"""uplab/hostside/check_lab.py: leftovers, store, modes, ports and apt, good and bad."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.hostside.machines import by_check, machine, process, write
from uplab.hostside import check_lab
from uplab.hostside.check_lab import Places, Request
from uplab.hostside.spec import (
    Adapters,
    Cell,
    FileRef,
    LoadAdapter,
    ModeSpec,
    Parameter,
    ServerAdapter,
    TracerAdapter,
)
from uplab.hostside.system import Line, System

PLACES = Places(Path("/opt/uplab"), Path("/run/uplab"), Path("/var/lib/uplab/runs"))
SERVER = ServerAdapter(1, "server", "s", "", ("p",), "http://127.0.0.1/", "ready", traits=("go",))
TRACER = TracerAdapter(
    1,
    "tracer",
    "t",
    "",
    ("{p}",),
    modes={
        "tracer-only": ModeSpec(),
        "userspace-uprobe": ModeSpec(needs=("component:agent",)),
    },
    needs_traits=("go",),
    programs={"p": FileRef(component="tracer", file="bin/t")},
)
DURATION = {"duration_s": Parameter(1, 1, 9, "s", "how long")}
LOAD = LoadAdapter(1, "load", "l", "", "closed", ("p",), "adapter.py", parameters=DURATION)
CELL = Cell("c", "s", "tracer-only", "t", 12, "l", {"duration_s": 1}, {"port": 446})
CELLS = (
    replace(CELL, mode="none", tracer=None),
    CELL,
    replace(CELL, mode="userspace-uprobe"),
    replace(CELL, mode="kernel-uprobe"),
)
REQUEST = Request("h1", Adapters({"s": SERVER}, {"t": TRACER}, {"l": LOAD}), CELLS, ("tracer",))
BINARY = "the tracer"


def set_up(root: Path, **changes: object) -> None:
    """A store with one component."""
    artifact = {"sha256": hashlib.sha256(BINARY.encode()).hexdigest(), "bytes": len(BINARY)}
    # The prefix is a path of the made-up machine.
    prefix = str(root / "opt/uplab/store/tracer-1")
    record = {"prefix": prefix, "artifacts": {"bin/t": artifact}, **changes}
    manifest = {"schema": 1, "components": {"tracer": record}}
    write(root, {"opt/uplab/manifest.json": json.dumps(manifest)})
    write(root, {"opt/uplab/store/tracer-1/bin/t": BINARY})


# --- ports ----------------------------------------------------------------------------------------


def test_a_port_is_free_or_names_who_has_it(tmp_path: Path) -> None:
    (line,) = check_lab.ports(machine(tmp_path), REQUEST)
    assert (line.check, line.state, line.seen) == ("port-446", "ok", "free (s)")
    system = machine(tmp_path, listeners=lambda port: [f"nginx (pid {port})"])
    (line,) = check_lab.ports(system, REQUEST)
    assert (line.state, line.seen) == ("fail", "used by nginx (pid 446)")
    assert "--set servers.s.port=N" in line.mend


# --- leftovers ------------------------------------------------------------------------------------


def leftovers(system: System) -> dict[str, Line]:
    return by_check(check_lab.leftovers(system, PLACES, REQUEST))


def test_a_machine_without_leftovers(tmp_path: Path) -> None:
    found = leftovers(machine(tmp_path))
    assert {line.state for line in found.values()} == {"ok"}
    names = ["left-builds", "left-processes", "left-runs", "left-tuned", "run-under-way"]
    assert sorted(found) == names


def ledger(*entries: object) -> dict[str, str | None]:
    return {"run/uplab/children.json": json.dumps(list(entries))}


def test_processes_of_a_crashed_run_are_known_by_pid_and_start(tmp_path: Path) -> None:
    system = machine(
        tmp_path,
        ledger(
            {"pid": 50, "start_ticks": 7, "name": "server"},
            {"pid": 51, "start_ticks": 6, "name": "somebody else now"},
            {"pid": 52, "start_ticks": 7, "name": "gone"},
        ),
    )
    process(tmp_path, 50, ["server"])
    process(tmp_path, 51, ["vim"])
    line = leftovers(system)["left-processes"]
    assert line.state == "fail"
    assert line.seen == "server (pid 50), of a run that did not end by itself"


@pytest.mark.parametrize("text", ["{", "[1]", '[{"pid": 1}]', '{"a": 1}'])
def test_a_damaged_ledger_is_told(tmp_path: Path, text: str) -> None:
    line = leftovers(machine(tmp_path, {"run/uplab/children.json": text}))["left-processes"]
    assert (line.state, line.seen) == ("warn", "the ledger is damaged")
    assert line.mend == "rm /run/uplab/children.json"


def test_a_run_that_goes_on_is_no_leftover(tmp_path: Path) -> None:
    holder = {"run_id": "r1", "pid": 50, "since_utc": "2026-11-22T13:00:00Z"}
    files: dict[str, str | None] = {
        **ledger({"pid": 50, "start_ticks": 7, "name": "server"}),
        "run/uplab/lock": json.dumps(holder),
        "proc/locks": "1: POSIX  ADVISORY  WRITE 9 fd:01:1 0 EOF\n"
        "2: FLOCK  ADVISORY  WRITE 50 fd:01:2 0 EOF\n",
        "var/lib/uplab/runs/r1/run.json": "{}",
    }
    system = machine(tmp_path, files)
    process(tmp_path, 50, ["server"])
    found = leftovers(system)
    assert found["run-under-way"].state == "warn"
    assert found["run-under-way"].seen == "run r1 (pid 50, since 2026-11-22T13:00:00Z)"
    assert "left-processes" not in found
    assert found["left-runs"].state == "ok"


def test_a_lock_that_nobody_holds_is_no_run(tmp_path: Path) -> None:
    for text in ('{"run_id": "r1", "pid": 50}', "", "{"):
        found = leftovers(machine(tmp_path, {"run/uplab/lock": text}))
        assert found["run-under-way"].state == "ok"


def test_runs_that_nobody_collected_are_told_and_which_were_cut_off(tmp_path: Path) -> None:
    files: dict[str, str | None] = {
        "var/lib/uplab/runs/r1/run.json": "{}",
        "var/lib/uplab/runs/r2/trials/.part-0003-x/load.txt": "",
    }
    line = leftovers(machine(tmp_path, files))["left-runs"]
    assert (line.state, line.seen) == ("warn", "r1, r2; cut off in a trial: r2")
    assert line.mend.startswith("rm -r /var/lib/uplab/runs/r1 ")


def test_builds_that_were_cut_off_are_told(tmp_path: Path) -> None:
    files: dict[str, str | None] = {"opt/uplab/store/.part-x-123/build/x.o": ""}
    line = leftovers(machine(tmp_path, files))["left-builds"]
    assert (line.state, line.seen) == ("warn", "under way or cut off: .part-x-123")
    assert line.mend == "invoke lab.setup --host h1"


# --- the store ------------------------------------------------------------------------------------


def stored(system: System) -> Line:
    (line,) = check_lab.stored(system, PLACES, REQUEST)
    return line


def test_a_store_that_is_whole(tmp_path: Path) -> None:
    system = replace(machine(tmp_path), root=Path("/"))
    set_up(tmp_path)
    places = replace(PLACES, root=tmp_path / "opt/uplab")
    (line,) = check_lab.stored(system, places, REQUEST)
    assert (line.state, line.seen) == ("ok", "tracer")
    (tmp_path / "opt/uplab/store/tracer-1/bin/t").write_text("cut")
    (line,) = check_lab.stored(system, places, REQUEST)
    assert line.state == "fail"
    assert line.seen.startswith("missing or of another size: /")
    assert line.mend == "invoke lab.setup --host h1"


def test_what_only_builds_is_not_missed_where_its_builds_were_copied(tmp_path: Path) -> None:
    text = '{"schema": 1, "components": {}, "left_out": ["tracer"]}'
    line = stored(machine(tmp_path, {"opt/uplab/manifest.json": text}))
    assert line.state == "ok"


def test_a_host_that_was_never_set_up_is_no_failure(tmp_path: Path) -> None:
    line = stored(machine(tmp_path))
    assert (line.state, line.seen) == ("warn", "not set up (no /opt/uplab/manifest.json)")
    assert line.mend == "invoke lab.setup --host h1"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("{", "manifest.json is damaged"),
        ("[]", "manifest.json is not a manifest"),
        ('{"schema": 1, "components": {}}', "not installed: tracer"),
    ],
)
def test_a_store_that_is_not_whole(tmp_path: Path, text: str, seen: str) -> None:
    line = stored(machine(tmp_path, {"opt/uplab/manifest.json": text}))
    assert line.state == "fail"
    assert seen in line.seen
    assert line.mend == "invoke lab.setup --host h1"


# --- modes ----------------------------------------------------------------------------------------


def test_each_mode_can_run_or_says_why_not(tmp_path: Path) -> None:
    system = machine(tmp_path)
    set_up(tmp_path)
    found = by_check(check_lab.modes(system, PLACES, REQUEST))
    # What the tracer does not offer has no line.
    assert sorted(found) == ["mode-none", "mode-t-tracer-only", "mode-t-userspace-uprobe"]
    assert found["mode-none"].seen == found["mode-t-tracer-only"].seen == "can run"
    line = found["mode-t-userspace-uprobe"]
    assert line.state == "warn"
    assert line.seen.startswith("cannot run because no agent on this host")
    assert line.mend == (
        "Add agent to the host's uplab_components, then run: invoke lab.setup --host h1"
    )
    (tmp_path / "opt/uplab/manifest.json").unlink()
    found = by_check(check_lab.modes(system, PLACES, REQUEST))
    assert found["mode-t-tracer-only"].mend.startswith("invoke lab.setup --host h1 ")


def test_a_port_in_use_keeps_no_mode_from_running(tmp_path: Path) -> None:
    system = machine(tmp_path, listeners=lambda _port: ["nginx (pid 1)"])
    set_up(tmp_path)
    assert by_check(check_lab.modes(system, PLACES, REQUEST))["mode-none"].state == "ok"


def test_servers_that_differ_are_named(tmp_path: Path) -> None:
    system = machine(tmp_path)
    set_up(tmp_path)
    lacking = replace(SERVER, name="z", programs={"p": FileRef(path="/nothing/here")})
    adapters = replace(REQUEST.adapters, servers={"s": SERVER, "z": lacking})
    cells = (CELLS[0], replace(CELLS[0], server="z"))
    (line,) = check_lab.modes(system, PLACES, replace(REQUEST, adapters=adapters, cells=cells))
    assert (line.state, line.seen) == (
        "warn",
        "can run (s); cannot run (z) because /nothing/here is missing",
    )


def test_a_tracer_that_does_not_start_here_is_told_as_a_plan_tells_it(tmp_path: Path) -> None:
    system = machine(tmp_path)
    set_up(tmp_path)
    (tmp_path / "files/tracers/t").mkdir(parents=True)
    tracer = replace(TRACER, ready_line="r", self_test=("sh", "-c", "echo no limits; exit 3"))
    request = replace(REQUEST, adapters=replace(REQUEST.adapters, tracers={"t": tracer}))
    places = replace(PLACES, state=tmp_path / "run", adapters=lambda: tmp_path / "files")
    line = by_check(check_lab.modes(system, places, request))["mode-t-tracer-only"]
    assert (line.state, line.seen) == (
        "warn",
        "cannot run because t does not start here: exit code 3, last line: no limits",
    )


# --- apt ------------------------------------------------------------------------------------------

LIST = "etc/apt/sources.list.d/pve-enterprise.list"
SOURCES = "etc/apt/sources.list.d/pve.sources"
ENTERPRISE = "deb https://enterprise.proxmox.com/debian/pve bookworm pve-enterprise\n"
STANZA = "Types: deb\nURIs: https://enterprise.proxmox.com/debian/pve\nSuites: trixie\n"


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ({}, "ok"),
        ({LIST: ENTERPRISE}, "fail"),
        ({LIST: f"# {ENTERPRISE}"}, "ok"),
        ({LIST: ENTERPRISE, "etc/subscription": "key"}, "ok"),
        ({SOURCES: STANZA}, "fail"),
        ({SOURCES: f"{STANZA}Enabled: no\n"}, "ok"),
        ({SOURCES: f"{STANZA}Enabled: no\n\n{STANZA}"}, "fail"),
        ({f"{LIST}.disabled": ENTERPRISE}, "ok"),
        ({"etc/apt/sources.list": ENTERPRISE}, "fail"),
    ],
)
def test_the_enterprise_repository_needs_a_subscription(
    tmp_path: Path, files: dict[str, str | None], state: str
) -> None:
    system = machine(tmp_path, files)
    (line,) = check_lab.apt_sources(system, REQUEST)
    assert line.state == state
    if state == "fail":
        assert "base_pve_no_subscription: true" in line.mend
        (line,) = check_lab.apt_sources(system, replace(REQUEST, no_subscription=True))
        assert line.state == "ok"
        assert "lab.setup replaces it" in line.seen
