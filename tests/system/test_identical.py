"""lab.setup --from: a fresh host gets the binaries of this machine, and no compiler, over SSH."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tasks
from tests.conftest import bpf_works
from tests.system.lab import ROOT
from uplab import adapters, box, matrix, plan, provision
from uplab.box import Box

# Two boxes, packages of Debian, and perhaps the image that boxes stand on.
pytestmark = pytest.mark.timeout(300)

LIMIT_S = 240.0
#: What this machine builds for, and a release that it does not.
OURS = platform.freedesktop_os_release()["VERSION_ID"]
SUITES = {"12": "bookworm", "13": "trixie"}
THEIRS = {"12": "13", "13": "12"}[OURS]
COMPILERS = ("gcc", "g++", "golang-go", "clang", "llvm", "rustc", "libc6-dev")
BUILDS = ("gotrace", "servers")
#: In the host: a server of the store on any free port is asked once while the tracer looks at it.
TRACED = """
set -eu
cd "$(mktemp -d)"
/opt/uplab/current/servers/bin/go-server-http -address 127.0.0.1 -port 0 > server &
server=$!
until grep -q ^ready server; do kill -0 $server; sleep 0.02; done
url=$(cut -d' ' -f2 server)
/opt/uplab/current/gotrace/bin/gotrace --pid $server > tracer 2> said &
tracer=$!
until grep -q '"attached"' tracer; do kill -0 $tracer || { cat said >&2; exit 1; }; sleep 0.02; done
/opt/uplab/current/wrk/bin/wrk -t 1 -c 1 -d 1s "$url"
kill -TERM $tracer; wait $tracer
kill -TERM $server; wait $server || :
cat tracer
"""


def lab(task: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a task; Ansible keeps no connection, which would be a process that stays."""
    env = {**os.environ, "ANSIBLE_SSH_ARGS": "-o ControlMaster=no"}
    return tasks.run(f"lab.{task}", *arguments, timeout_s=LIMIT_S, env=env)


def run_in(host: Box, *command: str, stdin: str = "") -> str:
    """What a command in a box prints; the test fails where the command does."""
    done = subprocess.run(
        box.ssh_argv(host, *command),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def recap(done: subprocess.CompletedProcess[str], host: Box) -> str:
    """The line of a host in the recap of a setup that went well."""
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"{host.name} ")]
    return line


@pytest.fixture(scope="module")
def source() -> dict[str, Any]:
    """This machine, set up as this checkout says; out: its status."""
    done = lab("setup", "--if-changed")
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((provision_root() / "manifest.json").read_text())
    return found


def provision_root() -> Path:
    from uplab import inventory

    return Path(inventory.host(ROOT, "local")["uplab_root"])


@pytest.fixture(scope="module")
def host(source: dict[str, Any]) -> Iterator[Box]:
    """A fresh box that was set up from this machine."""
    assert set(BUILDS) <= set(source["components"])
    with box.running(ROOT, suite=SUITES[OURS]) as running:
        done = lab("setup", "--host", running.name, "--from", "local")
        assert "failed=0" in recap(done, running)
        assert "servers 0.1.0 of local: " in done.stdout
        yield running


def manifest(host: Box) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_in(host, "cat", "/opt/uplab/manifest.json"))
    return found


def test_it_has_the_same_files_and_says_whose_they_are(host: Box, source: dict[str, Any]) -> None:
    found = manifest(host)
    for name in BUILDS:
        ours, theirs = source["components"][name], found["components"][name]
        assert theirs["hash"] == ours["hash"]
        assert theirs["artifacts"] == ours["artifacts"]
        assert theirs["built_utc"] == ours["built_utc"]
        assert theirs["from"]["host"] == "local"
        for file, noted in theirs["artifacts"].items():
            seen = run_in(host, "sha256sum", f"/opt/uplab/current/{name}/{file}").split()[0]
            assert seen == noted["sha256"]
    assert found["left_out"] == ["golang"]
    assert run_in(host, "ls", "/opt/uplab/cache") == ""


def test_no_compiler_came_along(host: Box) -> None:
    states = run_in(host, "dpkg-query", "--show", "--showformat='${db:Status-Abbrev}${Package}\\n'")
    installed = {line[3:].strip() for line in states.splitlines() if line.startswith("ii")}
    assert set(COMPILERS) & installed == set()
    assert {"wrk", "openssl", "libbpf1"} <= installed


def test_the_server_answers_and_the_tracer_sees_it(
    host: Box, not_measurable: Callable[[str], None]
) -> None:
    if not bpf_works():
        not_measurable("neither BPF nor uprobes work on this machine")
    said = run_in(host, "sh", stdin=TRACED)
    assert "requests in 1." in said
    events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert events[0]["event"] == "attached"
    assert events[-1]["event"] == "end"


def test_the_second_time_nothing_changes(host: Box) -> None:
    before = manifest(host)
    done = lab("setup", "--host", host.name, "--from", "local")
    assert " changed=0 " in recap(done, host)
    assert manifest(host) == before


def test_status_and_preflight_know_that_nothing_is_missing(host: Box) -> None:
    done = lab("status", "--host", host.name, "--json")
    decoded = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert decoded["up_to_date"]
    found = {entry["name"]: entry for entry in decoded["components"]}
    assert set(found) == {"wrk", *BUILDS}
    assert [found[name]["copied_from"] for name in BUILDS] == ["local", "local"]
    assert " on local " in lab("status", "--host", host.name).stdout
    done = lab("check", "--host", host.name, "--json")
    lines = {line["check"]: line for line in json.loads(done.stdout)["lines"]}
    assert lines["store"]["state"] == "ok"


def test_runs_could_use_it(host: Box, not_measurable: Callable[[str], None]) -> None:
    if not bpf_works():
        not_measurable("neither BPF nor uprobes work on this machine")
    smoke = matrix.load("smoke", ROOT)
    remote = provision.connect(ROOT, host.name, adapters.load([ROOT]))
    cells = remote.inspect(plan.inspect_request(smoke))["cells"]
    judged = {name: status for name, (status, _reason) in cells.items() if "user" not in name}
    assert set(judged.values()) == {"available"}
    assert len(judged) == 8


def test_a_file_of_builds_does_the_same_for_a_host_that_sees_no_other(
    host: Box, tmp_path: Path
) -> None:
    file = tmp_path / "builds.tar.zst"
    # What a host was given it gives away in its turn.
    done = lab("export", "--host", host.name, "--out", str(file))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{file}: gotrace, servers of {host.name}, ")
    with box.running(ROOT, suite=SUITES[OURS]) as other:
        damaged = tmp_path / "damaged.tar.zst"
        damaged.write_bytes(file.read_bytes()[:-100])
        done = lab("setup", "--host", other.name, "--from", str(damaged))
        assert (done.returncode, done.stdout) == (2, "")
        assert "damaged.tar.zst is not used: " in done.stderr
        assert "; nothing was changed. Make it again: " in done.stderr
        assert run_in(other, "ls", "/opt") == ""
        planned = json.loads(
            lab("plan", "--host", other.name, "--from", str(file), "--json").stdout
        )["hosts"][0]
        assert planned["builds"] == planned["problems"] == []
        added = {package["name"] for package in planned["packages"]["added"]}
        assert {"wrk"} <= added
        assert set(COMPILERS) & added == set()
        assert run_in(other, "ls", "/opt") == ""
        done = lab("setup", "--host", other.name, "--from", str(file))
        assert "failed=0" in recap(done, other)
        first, second = manifest(host)["components"], manifest(other)["components"]
        for name in BUILDS:
            assert second[name]["artifacts"] == first[name]["artifacts"]
            assert second[name]["from"]["host"] == host.name
        assert " changed=0 " in recap(
            lab("setup", "--host", other.name, "--from", str(file)), other
        )


def test_a_host_of_another_release_refuses_them_before_anything_changes(
    source: dict[str, Any],
) -> None:
    assert set(BUILDS) <= set(source["components"])
    with box.running(ROOT, suite=SUITES[THEIRS]) as other:
        done = lab("setup", "--host", other.name, "--from", "local")
        said = " ".join(done.stdout.split())
        assert done.returncode == 1
        assert f"{other.name} cannot use what local has built: gotrace: it needs " in said
        assert f" of Debian {OURS}, this host is Debian {THEIRS}" in said
        assert "Nothing was changed. Have it built there: " in said
        assert f"invoke lab.setup --host {other.name}" in said
        # What needs no library but an older glibc could run there; it does not come alone.
        assert run_in(other, "ls", "/opt") == ""


@pytest.mark.parametrize(
    ("source_name", "code", "words"),
    [
        ("lokal", 2, "no host 'lokal' in group uplab of the inventory; did you mean local?"),
        ("/no/such/file", 2, "no host '/no/such/file'"),
        ("r720", 4, "host r720: "),
    ],
)
def test_a_source_that_is_none_changes_nothing(
    host: Box, source_name: str, code: int, words: str
) -> None:
    before = manifest(host)
    done = lab("setup", "--host", host.name, "--from", source_name)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert manifest(host) == before
