"""What goes wrong on a host: each fault ends in its reason, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.system.lab import (
    QUICK,
    ROOT,
    Lab,
    Outcome,
    Started,
    lives,
    probe_files,
    send,
    wait_gone,
)
from uplab import matrix
from uplab import plan as planning

STOP_LIMIT_S = 5.0
TRACED = "server=http,mode=kernel-uprobe"
CELL = "http-kernel-uprobe-gotrace-12B"
PLAIN = "http-none-12B"
STEPS = ("start", "ready", "attach", "attached", "attest", "warm-up", "measure", "check")


def standin_tracer(lab: Lab, behaviour: str, **changes: Any) -> str:
    """An adapter for the stand-in tracer that says it probes one site."""
    return lab.adapter(
        "tracer",
        "standin",
        {
            "programs": {"program": {"component": "standins", "file": "tracer.py"}},
            "argv": ["{program}", behaviour, "{pid}"],
            "env": {"PYTHONPATH": str(ROOT)},
            "modes": {"kernel-uprobe": {"placement": "kernel"}},
            "hit_cost": [],
            "userspace_hit_cost": [],
            "sites": [
                {
                    "name": "casgstatus",
                    "symbol": "runtime.casgstatus",
                    "at": "entry",
                    "hits": [{"minimum": 0, "maximum": 1000, "per_connection": 1e6}],
                }
            ],
            **changes,
        },
        base="gotrace",
    )


def standin_server(lab: Lab, behaviour: str) -> str:
    """An adapter for the stand-in server."""
    return lab.adapter(
        "server",
        "standin",
        {
            "programs": {"program": {"component": "standins", "file": "server.py"}},
            "argv": ["{program}", behaviour, "{port}"],
            "ready_timeout_s": 1.0,
            # The script is of the working tree, which may lie where only root gets.
            "user": "root",
            "parameters": {
                "port": {
                    "default": lab.ports["http"],
                    "minimum": 1,
                    "maximum": 65535,
                    "unit": "port",
                    "help": "where it listens",
                }
            },
        },
        base="http",
    )


def measure_standin_tracer(lab: Lab, behaviour: str, **changes: Any) -> Outcome:
    return lab.measure(
        standin_tracer(lab, behaviour, **changes), "factors.tracer=[standin]", only=TRACED
    )


def reasons(outcome: Outcome, cell_id: str) -> list[tuple[str, str]]:
    found = outcome.trial(cell_id)["verdict"]["reasons"]
    return [(reason["code"], reason["text"]) for reason in found]


def assert_nothing_left(lab: Lab, pids: list[int], probes: set[str]) -> None:
    assert wait_gone(pids, STOP_LIMIT_S) == []
    assert probe_files() <= probes
    for port in lab.ports.values():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


# ---- interruptions -----------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_at_any_step_leaves_nothing_and_keeps_finished_trials(
    lab: Lab, step: str, name: str
) -> None:
    probes = probe_files()
    started = lab.start("blocks=2", "warm_up_s=1", only=TRACED)
    started.wait_for(lambda event: event["event"] == "trial-end")
    started.wait_for_step(step)
    pids = list(started.children().values())
    began_s = time.monotonic()
    started.running.process.send_signal(signal.Signals[name])
    outcome = started.finish()
    assert time.monotonic() - began_s < STOP_LIMIT_S
    assert outcome.code == 130
    assert outcome.run["outcome"] == "interrupted"
    assert [trial["verdict"]["valid"] for trial in outcome.trials] == [True]
    assert_nothing_left(lab, pids, probes)


def test_a_second_signal_does_not_break_the_clean_up(lab: Lab) -> None:
    probes = probe_files()
    started = lab.start(only=TRACED)
    started.wait_for_step("measure")
    pids = list(started.children().values())
    for _ in range(3):
        started.running.process.send_signal(signal.SIGINT)
    outcome = started.finish()
    assert outcome.code == 130
    assert_nothing_left(lab, pids, probes)


def test_hostside_killed_takes_its_children_along_and_the_next_run_works(lab: Lab) -> None:
    probes = probe_files()
    started = lab.start(only=TRACED)
    started.wait_for_step("measure")
    load = started.child("load")
    pids = [*started.children().values(), load]
    started.running.process.kill()
    started.finish_reading()
    started.running.finish()
    assert_nothing_left(lab, pids, probes)
    again = lab.measure(only=TRACED)
    assert again.code == 0
    assert [trial["verdict"]["valid"] for trial in again.trials] == [True]


# ---- who may run -------------------------------------------------------------------------------


def test_the_second_run_on_a_host_is_refused_with_the_name_of_the_first(lab: Lab) -> None:
    host, made, _ = lab.plan(only="server=https,mode=none")
    first = lab.start("load.duration_s=5", only="server=http,mode=none")
    first.wait_for_step("measure")
    second = host.start(asdict(made))
    assert list(second.events()) == []
    code, stderr = second.finish()
    assert code == 4
    assert f"this host is busy: run {first.run_id} (pid " in stderr
    assert first.finish().code == 0
    assert lab.measure(only="server=https,mode=none").code == 0


def test_without_root_the_cells_say_so(lab: Lab) -> None:
    for path in (lab.folder, *lab.folder.parents):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)
    host, _, _ = lab.plan()
    unprivileged = ["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    done = subprocess.run(
        [*unprivileged, host.python, str(host.zipapp), *host.options, "run"],
        input="{}",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert "Traceback" not in done.stderr


def test_without_bpf_the_traced_cells_are_unavailable_with_the_kernels_answer(lab: Lab) -> None:
    experiment = matrix.load("smoke", ROOT, QUICK, "server=http")
    host = lab.host(experiment.registry)
    without = ["/usr/bin/setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-all", "--"]
    done = subprocess.run(
        [*without, host.python, str(host.zipapp), *host.options, "inspect"],
        input=json.dumps(planning.inspect_request(experiment)),
        capture_output=True,
        text=True,
        check=True,
    )
    cells = json.loads(done.stdout)["cells"]
    status, reason = cells[CELL]
    assert status == "not available here"
    assert "the kernel refuses BPF programs (EPERM)" in reason


# ---- ports and servers -------------------------------------------------------------------------


@pytest.fixture
def taken(lab: Lab) -> Iterator[socket.socket]:
    """Somebody else listens on the port of the HTTP server."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", lab.ports["http"]))
        yield other


def test_a_port_in_use_is_seen_before_the_run_with_its_owner(
    lab: Lab, taken: socket.socket
) -> None:
    taken.listen()
    _, _, judged = lab.plan(only="server=http,mode=none")
    (entry,) = judged
    assert entry.status == "not available here"
    assert f"port {lab.ports['http']} is in use by" in str(entry.reason)
    assert f"(pid {os.getpid()})" in str(entry.reason)


def test_a_port_taken_during_the_run_makes_the_trial_invalid(
    lab: Lab, taken: socket.socket
) -> None:
    host, made, _ = lab.plan(only="server=http,mode=none")
    taken.listen()
    started = Started(lab, host.start(asdict(made)), made.run_id)
    outcome = started.finish()
    ((code, text),) = reasons(outcome, PLAIN)
    assert code == "port-in-use"
    assert f"(pid {os.getpid()})" in text
    assert outcome.code == 0


@pytest.mark.parametrize(
    ("behaviour", "code", "text"),
    [
        ("late", "no-answer", "Connection refused"),
        ("silent", "server-not-ready", "server was not ready within 1 s"),
        (
            "wrong",
            "wrong-answer",
            "wanted {'status': 200, 'protocol': 'HTTP/1.1', 'body_bytes': 12}",
        ),
    ],
)
def test_a_server_that_is_not_what_it_says(lab: Lab, behaviour: str, code: str, text: str) -> None:
    outcome = lab.measure(
        standin_server(lab, behaviour), "factors.server=[standin]", only="mode=none"
    )
    ((seen, words),) = reasons(outcome, "standin-none-12B")
    assert seen == code
    assert text in words


def test_a_server_that_dies_in_mid_trial(lab: Lab) -> None:
    started = lab.start("blocks=2", "load.duration_s=2", only=TRACED)
    started.wait_for_step("measure")
    started.child("load")
    send(started.child("server"), "SIGSEGV")
    outcome = started.finish()
    first, second = outcome.trials
    ((code, text),) = [(r["code"], r["text"]) for r in first["verdict"]["reasons"]]
    assert code == "server-died"
    assert text.startswith("server died: ")
    assert second["verdict"]["valid"]
    assert outcome.code == 0


def test_a_tracer_that_dies_in_mid_trial(lab: Lab) -> None:
    started = lab.start("load.duration_s=2", only=TRACED)
    started.wait_for_step("measure")
    started.child("load")
    send(started.child("tracer"), "SIGKILL")
    outcome = started.finish()
    ((code, text),) = reasons(outcome, CELL)
    assert code == "tracer-died"
    assert "SIGKILL" in text


def test_a_server_that_hangs(lab: Lab) -> None:
    started = lab.start(only="server=http,mode=none")
    started.wait_for_step("measure")
    started.child("load")
    server = started.child("server")
    send(server, "SIGSTOP")
    outcome = started.finish()
    codes = outcome.codes(PLAIN)
    # Whether wrk reports it, too, depends on when the signal came: what was answered before counts.
    assert "no-answer" in codes
    assert not lives(server)


# ---- tracers that lie --------------------------------------------------------------------------


def test_a_tracer_that_claims_success_without_touching_the_process(lab: Lab) -> None:
    outcome = measure_standin_tracer(lab, "claims")
    found = reasons(outcome, CELL.replace("gotrace", "standin"))
    assert {code for code, _ in found} == {"site-unchanged"}
    assert all("probe site unchanged: casgstatus" in text for _, text in found)


@pytest.mark.parametrize(
    ("behaviour", "code", "text"),
    [
        ("silent", "tracer-not-ready", "tracer was not attached within 1 s"),
        ("dies", "tracer-died", "exit code 1, last line: stand-in: cannot attach"),
        ("mute", "no-counters", "tracer printed no counters"),
        ("lossy", "events-lost", "events lost: 7"),
    ],
)
def test_a_tracer_that_does_not_do_its_part(lab: Lab, behaviour: str, code: str, text: str) -> None:
    outcome = measure_standin_tracer(lab, behaviour, attached_timeout_s=1.0)
    found = dict(reasons(outcome, CELL.replace("gotrace", "standin")))
    assert text in found[code]


def test_a_flood_of_output_is_capped_and_counted(lab: Lab) -> None:
    outcome = measure_standin_tracer(lab, "flood")
    assert outcome.run_dir is not None
    (log,) = outcome.run_dir.glob("trials/*/tracer.log")
    assert log.stat().st_size < 17 << 20
    assert "further bytes were not kept]" in log.read_bytes()[-200:].decode()


def test_hits_outside_the_declared_range(lab: Lab) -> None:
    path = ROOT / "tracers" / "gotrace" / "adapter.yml"
    sites = yaml.safe_load(path.read_text())["sites"]
    sites[0]["hits"] = [{"minimum": 1000, "maximum": 2000}]
    setting = lab.adapter("tracer", "strict", {"sites": sites}, base="gotrace")
    outcome = lab.measure(setting, "factors.tracer=[strict]", only=TRACED)
    ((code, text),) = reasons(outcome, CELL.replace("gotrace", "strict"))
    assert code == "hits"
    assert "declared are 1000 to 2000 per request" in text


def test_a_site_that_is_not_where_the_adapter_says(lab: Lab) -> None:
    outcome = measure_standin_tracer(
        lab,
        "claims",
        sites=[
            {
                "name": "casgstatus",
                "symbol": "runtime.mallocgc",
                "at": "entry",
                "hits": [{"minimum": 0, "maximum": 1}],
            }
        ],
    )
    ((code, text),) = reasons(outcome, CELL.replace("gotrace", "standin"))
    assert code == "sites-disagree"
    assert "runtime.mallocgc starts at" in text


def test_somebody_elses_probe_is_seen_in_the_mode_none(lab: Lab, programs: Path) -> None:
    started = lab.start("load.duration_s=2", only="server=http,mode=none")
    started.wait_for_step("measure")
    started.child("load")
    tracer = subprocess.Popen(
        [str(programs / "bin" / "gotrace"), "--pid", str(started.child("server"))],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert tracer.stdout is not None
        assert '"attached"' in tracer.stdout.readline()
        outcome = started.finish()
    finally:
        tracer.terminate()
        tracer.communicate(timeout=10)
    found = reasons(outcome, PLAIN)
    assert any("is no declared probe site" in text for code, text in found if code == "bytes")


# ---- loads and disks ---------------------------------------------------------------------------


def test_a_load_that_never_ends(lab: Lab) -> None:
    setting = lab.adapter(
        "load",
        "standin",
        {
            "programs": {"program": {"component": "standins", "file": "load.sh"}},
            "overrun_s": 0.5,
        },
        base="wrk",
    )
    outcome = lab.measure(setting, "load.name=standin", only="server=http,mode=none")
    ((code, text),) = reasons(outcome, PLAIN)
    assert code == "load-hung"
    assert "did not end within 1.5 s" in text


def test_a_full_disk_ends_the_run_with_its_name_and_keeps_finished_trials(lab: Lab) -> None:
    lab.runs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "none", str(lab.runs)], check=True)
    try:
        started = lab.start("blocks=50", only="server=http,mode=none")
        started.wait_for(lambda event: event["event"] == "trial-end")
        _fill(lab.runs / "ballast")
        outcome = started.finish()
        assert outcome.code == 4
        assert "disk full" in outcome.stderr
        assert outcome.run["outcome"] == "failed"
        assert [trial["verdict"]["valid"] for trial in outcome.trials][:1] == [True]
    finally:
        subprocess.run(["umount", str(lab.runs)], check=True)


def test_a_disk_that_is_nearly_full_is_refused_before_the_run(lab: Lab) -> None:
    lab.runs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(lab.runs)], check=True)
    try:
        outcome = lab.measure(only="server=http,mode=none")
        assert outcome.code == 4
        assert "disk full" in outcome.stderr
        assert "a run needs 64 MiB" in outcome.stderr
    finally:
        subprocess.run(["umount", str(lab.runs)], check=True)


def _fill(path: Path) -> None:
    """Write until the file system has no room left."""
    with path.open("wb", buffering=0) as ballast:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    ballast.write(bytes(size))
            except OSError:
                continue


# ---- judging noise -----------------------------------------------------------------------------


@pytest.fixture
def noise() -> Iterator[None]:
    """Somebody else who uses a core."""
    with subprocess.Popen(["sh", "-c", "while :; do :; done"]) as other:
        yield
        other.kill()


@pytest.mark.usefixtures("noise")
def test_a_noisy_host_flags_or_invalidates_as_the_matrix_says(lab: Lab) -> None:
    only = "server=http,mode=none"
    flagged = lab.measure("limits.foreign_pct=1", only=only).trial(PLAIN)["verdict"]
    assert flagged["valid"]
    assert "of the host's CPU > 1 %" in flagged["flags"][-1]
    refused = lab.measure("limits.foreign_pct=1", "limits.over=invalid", only=only)
    assert set(refused.codes(PLAIN)) == {"noise"}


@pytest.mark.usefixtures("noise")
def test_a_block_with_an_invalid_trial_is_measured_again_up_to_the_cap(lab: Lab) -> None:
    outcome = lab.measure(
        "limits.foreign_pct=1",
        "limits.over=invalid",
        "blocks=3",
        "repeat.per_block=1",
        "repeat.per_run=2",
        "warm_up_s=0",
        only="server=http,mode=none",
    )
    attempts = [(trial["block"], trial["attempt"]) for trial in outcome.trials]
    assert attempts == [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1)]
    assert outcome.trials[1]["trial"] == "0002-http-none-12B-b01-a2"
