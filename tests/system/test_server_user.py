"""Servers run as a user of their own, with no more than they need, and see nothing of ours."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.system.lab import QUICK, ROOT, Lab, Outcome, Started
from uplab import matrix, results
from uplab import plan as planning
from uplab.hostside import procfs, serveruser
from uplab.report import sentences

LIMIT_S = 30.0
PORT = "servers.http.port"
HTTPS_TRACED = "server=https,mode=kernel-uprobe"


@pytest.fixture
def open_lab(
    programs: Path, tls_files: tuple[Path, Path], readable_folder: Path, tmp_path: Path
) -> Lab:
    """A lab whose folder everybody may enter, so that what is in it has to keep others out."""
    folder = readable_folder / tmp_path.name
    folder.mkdir()
    return Lab(folder, programs, tls_files)


def seen(trial: dict[str, Any]) -> dict[str, Any]:
    """What the kernel said of the only kind of process that a server had."""
    (entry,) = trial["server_user"]["seen"]
    found: dict[str, Any] = entry
    return found


def users_in_report(outcome: Outcome) -> str:
    """Who ran the servers, as the report has it."""
    assert outcome.run_dir is not None
    return sentences.servers_users(results.load(outcome.run_dir))


# ---- who it is ---------------------------------------------------------------------------------


def test_the_server_is_nobody_in_every_mode(lab: Lab) -> None:
    outcome = lab.measure(only="server=https")
    assert {trial["cell"]["mode"] for trial in outcome.trials} >= {"none", "kernel-uprobe"}
    for trial in outcome.trials:
        assert trial["verdict"]["reasons"] == []
        entry = seen(trial)
        (uid,) = set(entry["uids"] + entry["gids"])
        assert uid in serveruser.UIDS
        assert (entry["groups"], entry["capabilities"]) == ([], [])
        assert entry["no_new_privs"]
        assert trial["server_user"]["asked"] == "own"
        assert not any("root" in flag for flag in trial["verdict"]["flags"])
    assert users_in_report(outcome) == "https: an unprivileged user, without any capability"


def test_a_port_that_takes_a_right_gets_it_and_no_other(lab: Lab) -> None:
    # In a network of its own, where ports below 1024 take one whatever this machine says.
    python = lab.folder / "python"
    python.write_text(
        "#!/bin/sh\nexec unshare --net sh -c 'ip link set lo up && "
        "echo 1024 > /proc/sys/net/ipv4/ip_unprivileged_port_start && "
        'exec /usr/bin/python3 "$@"\' sh "$@"\n'
    )
    python.chmod(0o755)
    host, made, _ = lab.plan(f"{PORT}=447", only="server=http,mode=none,mode=kernel-uprobe")
    outcome = Started(
        lab, replace(host, python=str(python)).start(asdict(made)), made.run_id
    ).finish()
    assert [trial["verdict"]["reasons"] for trial in outcome.trials] == [[], []]
    assert [seen(trial)["capabilities"] for trial in outcome.trials] == [["net_bind_service"]] * 2
    assert users_in_report(outcome) == "http: an unprivileged user, with net_bind_service"


def test_a_server_that_asks_for_root_is_root_and_the_report_says_so(lab: Lab) -> None:
    adapters = lab.adapter("server", "asking", {"user": "root"}, base="http")
    settings = (adapters, "factors.server=[asking]", f"servers.asking.port={lab.ports['http']}")
    outcome = lab.measure(*settings, only="mode=none")
    (trial,) = outcome.trials
    assert trial["verdict"]["reasons"] == []
    assert set(seen(trial)["uids"]) == {0}
    assert not any("root" in flag for flag in trial["verdict"]["flags"])
    assert users_in_report(outcome) == "asking: root, as its adapter asks"


# ---- what it leaves ----------------------------------------------------------------------------


def forking(lab: Lab) -> tuple[str, ...]:
    """What puts a server into a matrix that starts a program in a session of its own."""
    script = 'setsid sleep 600 </dev/null >/dev/null 2>&1 & exec "$0" "$@"'
    argv = ["{shell}", "-c", script, "{program}", "-port", "{port}", "-body-bytes", "{body_bytes}"]
    programs = {
        "program": {"component": "servers", "file": "bin/go-server-http"},
        "shell": {"path": "/bin/sh"},
    }
    adapters = lab.adapter("server", "forking", {"argv": argv, "programs": programs}, base="http")
    return (adapters, "factors.server=[forking]", f"servers.forking.port={lab.ports['http']}")


def test_what_a_server_starts_elsewhere_is_found_by_its_user_and_ended(lab: Lab) -> None:
    (trial,) = lab.measure(*forking(lab), only="mode=none").trials
    (reason,) = trial["verdict"]["reasons"]
    assert reason["code"] == "left-behind"
    assert re.fullmatch(
        r"processes of the server outlived it and were ended: sleep \(pid \d+\)", reason["text"]
    )
    assert [pid for uid in set(seen(trial)["uids"]) for pid in procfs.of_user(uid)] == []


def test_all_of_it_goes_also_after_a_crash(lab: Lab) -> None:
    started = lab.start(*forking(lab), only="mode=none")
    folder, server = borrowed(lab, started), started.child("server")
    uid = (folder / "scratch").stat().st_uid
    started.running.process.kill()
    started.finish_reading()
    started.running.finish()
    assert folder.is_dir()
    (left,) = [pid for pid in procfs.of_user(uid) if pid != server]
    assert procfs.named(left) == f"sleep (pid {left})"
    again = lab.measure(only="server=http,mode=none")
    assert not folder.exists()
    (removed,) = [event["files"] for event in again.events if event["event"] == "leftovers-removed"]
    assert removed == [f"{folder}/"]
    names = [event["processes"] for event in again.events if event["event"] == "leftovers-ended"]
    assert f"server (pid {server})" in names[0]
    assert procfs.of_user(uid) == []


def borrowed(lab: Lab, started: Started) -> Path:
    """The folder of the server, once the load runs."""
    started.wait_for_step("measure")
    started.child("load")
    (folder,) = json.loads((lab.state / "leftovers.json").read_text())
    return Path(folder)


# ---- what it can reach -------------------------------------------------------------------------


def as_user(uid: int, *command: object) -> subprocess.CompletedProcess[bytes]:
    """Run a command as a user, with what a server of that user has."""
    setpriv = ["setpriv", *serveruser.ServerUser(uid).options(None), "--"]
    return subprocess.run([*setpriv, *map(str, command)], capture_output=True, check=False)


def can_read(uid: int, path: Path) -> bool:
    """Whether a user gets at what is there; it is tried."""
    return as_user(uid, "ls" if path.is_dir() else "cat", path).returncode == 0


def test_it_reads_what_it_was_lent_and_nothing_else_of_ours(open_lab: Lab) -> None:
    lab = open_lab
    started = lab.start("load.duration_s=3", only="server=https,mode=none")
    folder = borrowed(lab, started)
    server, run = started.child("server"), lab.runs / started.run_id
    (uid,) = set(procfs.status(server)["Uid"].split())
    key = lab.store / "tls" / "key.pem"
    (lent,) = folder.glob("*-key.pem")
    ours = [key, lab.runs, run, run / "run.json", run / "events.jsonl", run / "trials", lab.state]
    ours += [lab.state / "lock", lab.state / "children.json"]
    ours += [Path(f"/proc/{started.running.process.pid}/{name}") for name in ("environ", "fd")]
    ours += [Path(entry) for entry in adapter_folders()]
    assert [str(path) for path in ours if not path.exists()] == []
    assert [str(path) for path in ours if can_read(int(uid), path)] == []
    # The same attempts succeed where nothing forbids it.
    assert can_read(int(uid), lab.store / "manifest.json")
    assert as_user(int(uid), "cat", lent).stdout == key.read_bytes()
    assert as_user(int(uid), "sh", "-c", f"echo x >> {lent}").returncode != 0
    assert not can_read(serveruser.draw().uid, lent)
    assert started.finish().trials[0]["verdict"]["reasons"] == []
    assert not folder.exists()


def test_what_is_on_the_host_is_root_s_alone(open_lab: Lab) -> None:
    lab = open_lab
    host, made, _ = lab.plan("load.duration_s=2", only=HTTPS_TRACED)
    # As a run begins that outlives the connection, with its plan and program beside it.
    host.ask("launch", {"plan": asdict(made)})
    wait_for(lambda: "load" in (lab.state / "children.json").read_text())
    loan = {Path(path) for path in json.loads((lab.state / "leftovers.json").read_text())}
    names = {path.name for path in walk([lab.runs])}
    assert {"plan.json", "hostside.pyz", "run.json", "server.log", "tracer.log"} <= names
    assert open_to_others([lab.runs, lab.state, *adapter_folders()]) == []
    assert [stat.filemode(path.stat().st_mode) for path in loan] == ["drwx--x---"]
    assert [str(path) for path in walk(loan) if path.stat().st_mode & 0o007] == []
    described = {"run_id": made.run_id}
    wait_for(lambda: host.ask("describe", described)["state"] == "finished")
    assert (lab.runs / made.run_id / "SHA256SUMS").exists()
    assert open_to_others([lab.runs, lab.state]) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o601])
def test_the_look_at_the_files_finds_one_that_is_open(tmp_path: Path, mode: int) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    file = tmp_path / "folder" / "file"
    file.touch(mode=0o600)
    assert open_to_others([tmp_path / "folder"]) == []
    file.chmod(mode)
    assert open_to_others([tmp_path / "folder"]) == [str(file)]
    file.chmod(0o600)
    os.chown(file, serveruser.UIDS[0], 0)
    assert open_to_others([tmp_path / "folder"]) == [str(file)]


def walk(folders: Iterable[Path]) -> Iterator[Path]:
    """Folders and all that is in them; what goes meanwhile is left out."""
    for folder in folders:
        yield folder
        for path in folder.rglob("*"):
            if path.exists():
                yield path


def open_to_others(folders: Iterable[Path]) -> list[str]:
    """What somebody else than root owns or may use."""
    found = []
    for path in walk(folders):
        try:
            about = path.lstat()
        except FileNotFoundError:
            continue
        if about.st_uid != 0 or about.st_mode & 0o077:
            found.append(str(path))
    return found


def adapter_folders() -> list[Path]:
    """Where runs keep the adapters' files."""
    return list(Path("/tmp").glob("uplab-adapters-*"))


def wait_for(condition: Any) -> None:
    """Until something is so."""
    deadline_s = time.monotonic() + LIMIT_S
    while not _holds(condition):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def _holds(condition: Any) -> bool:
    try:
        return bool(condition())
    except OSError:
        return False


# ---- where it cannot be ------------------------------------------------------------------------


@pytest.mark.parametrize("right", ["setuid", "setgid"])
def test_a_host_that_gives_no_user_says_so_and_measures_nothing(lab: Lab, right: str) -> None:
    experiment = matrix.load("smoke", ROOT, QUICK, "server=http,mode=none")
    host = lab.host(experiment.registry)
    without = ["/usr/bin/setpriv", f"--bounding-set=-{right}", "--inh-caps=-all", "--"]

    def ask(command: str, request: dict[str, Any]) -> dict[str, Any]:
        done = subprocess.run(
            [*without, host.python, str(host.zipapp), *host.options, command],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=True,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    (judged,) = ask("inspect", planning.inspect_request(experiment))["cells"].values()
    assert judged[0] == "not available here"
    assert "no user of its own for the server: setpriv: " in judged[1]
    lines = {line["check"]: line for line in ask("checkup", {"host": "here"})["lines"]}
    assert lines["server-user"]["state"] == "fail"
    assert "Operation not permitted" in lines["server-user"]["seen"]
