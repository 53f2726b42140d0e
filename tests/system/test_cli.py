"""The command line on this machine as it was set up: ./invoke, Ansible's store, real figures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.system.lab import ROOT, free_port, lives

INVOKE = str(ROOT / "invoke")
LIMIT_S = 60.0
STOP_LIMIT_S = 8.0


def quick(results: Path) -> list[str]:
    """A matrix of a few seconds on free ports."""
    settings = ["load.duration_s=1", "blocks=1", "load.connections=10", "repeat.per_block=0"]
    settings += [f"servers.{name}.port={free_port()}" for name in ("https", "http")]
    flags = [part for setting in settings for part in ("--set", setting)]
    return ["--matrix", "smoke", "--results", str(results), *flags]


def invoke(*arguments: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    prefix = [] if user is None else ["setpriv", f"--reuid={user}", "--clear-groups", "--"]
    return subprocess.run(
        [*prefix, INVOKE, *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        cwd="/",
    )


def started(results: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [INVOKE, "bench.all", *quick(results), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line_with(process: subprocess.Popen[str], part: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if part in line:
            return line
    raise AssertionError(f"the output ended without {part!r}")


def processes_of_ours() -> list[int]:
    noted = Path("/run/uplab/children.json")
    if not noted.exists():
        return []
    return [entry["pid"] for entry in json.loads(noted.read_text()) if lives(entry["pid"])]


def test_bench_all_ends_with_a_table_and_the_path_of_a_report(tmp_path: Path) -> None:
    done = invoke("bench.all", *quick(tmp_path), "--only", "server=https")
    assert done.returncode == 0, done.stderr
    assert (
        "https-userspace-uprobe-gotrace-hybrid-12B  not available here: bpftime is" in done.stdout
    )
    assert "Figures: https" in done.stdout
    report = Path(done.stdout.strip().splitlines()[-1].removeprefix("report: "))
    assert report.is_file()
    assert report.is_relative_to(tmp_path)
    assert "kernel-uprobe" in report.read_text()
    assert not list(Path("/var/lib/uplab/runs").iterdir())


def test_strict_fails_for_a_cell_that_is_not_available(tmp_path: Path) -> None:
    arguments = ["--only", "server=http,mode=none,mode=userspace-uprobe", "--strict"]
    done = invoke("bench.all", *quick(tmp_path), *arguments)
    assert done.returncode == 3
    assert "bench.all: no valid trial of http-userspace-uprobe-gotrace-hybrid-12B" in done.stderr


def test_a_matrix_that_cannot_run_at_all_says_so(tmp_path: Path) -> None:
    done = invoke("bench.all", *quick(tmp_path), "--only", "mode=userspace-uprobe")
    assert done.returncode == 3
    assert "no cell of matrix smoke can run on local" in done.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_interrupting_the_command_keeps_finished_trials_and_leaves_nothing(
    tmp_path: Path, name: str
) -> None:
    process = started(tmp_path, "--only", "server=http", "--set", "blocks=20")
    line_with(process, " req/s")
    process.send_signal(signal.Signals[name])
    began_s = time.monotonic()
    out, err = process.communicate(timeout=LIMIT_S)
    assert time.monotonic() - began_s < STOP_LIMIT_S
    assert process.returncode == 130, err
    assert "interrupted; the finished trials are in" in out
    (run_dir,) = tmp_path.iterdir()
    run = json.loads((run_dir / "run.json").read_text())
    assert run["outcome"] == "interrupted"
    assert len(list(run_dir.glob("trials/*/trial.json"))) >= 1
    assert processes_of_ours() == []


def test_a_second_run_is_refused_by_name(tmp_path: Path) -> None:
    first = started(tmp_path, "--only", "server=http,mode=none", "--set", "blocks=5")
    line_with(first, " req/s")
    second = invoke("bench.all", *quick(tmp_path), "--only", "server=https,mode=none")
    _, err = first.communicate(timeout=LIMIT_S)
    assert second.returncode == 4
    assert "bench.all: host local: this host is busy: run " in second.stderr
    assert first.returncode == 0, err


def test_bench_plan_shows_cells_order_and_duration_and_changes_nothing() -> None:
    before = sorted(os.listdir("/opt/uplab")), Path("/opt/uplab/manifest.json").stat().st_mtime_ns
    done = invoke("bench.plan", "--matrix", "seed", "--set", "seed=7")
    assert done.returncode == 0, done.stderr
    assert "8 of 36 cells x 6 blocks = 48 trials, about 9 min" in done.stdout
    assert "block 6: " in done.stdout
    after = sorted(os.listdir("/opt/uplab")), Path("/opt/uplab/manifest.json").stat().st_mtime_ns
    assert before == after
    again = invoke("bench.plan", "--matrix", "seed", "--set", "seed=7")
    assert again.stdout == done.stdout


def test_who_is_not_root_is_told_what_it_takes() -> None:
    done = invoke("bench.plan", user=65534)
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert "root" in done.stderr or "cannot be written" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--host", "lokal"],
            "no host 'lokal' in group uplab of the inventory; did you mean local?",
        ),
        (["--matrix", "sead"], "no matrix 'sead'; did you mean seed?"),
        (["--set", "load.duration=3"], "load.duration: no such field; allowed are"),
        (["--only", "mode=tls"], "--only mode=tls: not in this matrix"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], text: str) -> None:
    done = invoke("bench.all", *arguments)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_host_that_cannot_be_reached_is_one_line_and_exit_code_4() -> None:
    done = invoke("bench.all", "--host", "r720")
    assert done.returncode == 4
    assert "host r720: the name r720.example.invalid has no address" in done.stderr
    assert "Traceback" not in done.stderr


def test_certify_walks_a_tracer_through_its_life() -> None:
    done = invoke("bench.certify", "tracer/gotrace", "--server", "https")
    assert done.returncode == 0, done.stderr
    assert "tracer/gotrace is certified on local" in done.stdout
    for step in ("fence", "start", "ready", "attach", "attached", "measure", "check", "stop"):
        assert f"  {step} " in done.stdout


def test_setup_again_changes_nothing() -> None:
    done = invoke("lab.setup")
    assert done.returncode == 0, done.stderr
    assert "changed=0" in done.stdout


def test_setup_says_at_once_that_nothing_changed() -> None:
    done = invoke("lab.setup", "--if-changed")
    assert done.returncode == 0, done.stderr
    assert "host local is up to date" in done.stdout
