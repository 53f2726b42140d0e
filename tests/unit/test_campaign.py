"""uplab/campaign.py: from a matrix to a report, with a real hostside and small real programs."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit import apart
from uplab import budget, campaign, hostzip, judging, provision, results
from uplab.adapters import Registry
from uplab.campaign import Request
from uplab.errors import (
    EXIT_HOST,
    EXIT_INVALID,
    HostError,
    InvalidError,
    Undecided,
    UplabError,
    UsageError,
)
from uplab.progress import duration_in_words
from uplab.remote import LocalHost
from uplab.report import model

ROOT = Path(__file__).parents[2]
ADAPTERS = ROOT / "tests" / "data" / "adapters"
MATRIX: dict[str, Any] = {
    "schema": 1,
    "name": "mini",
    "adapters": [str(ADAPTERS)],
    "factors": {"server": ["echo"], "tracer": ["mute"], "mode": ["none", "tracer-only"]},
    "load": {"name": "fetch"},
    "warm_up_s": 0,
    "blocks": 1,
    "seed": 1,
    "limits": {"steal_pct": 100, "foreign_pct": 100},
    "repeat": {"per_block": 0, "per_run": 0},
}
Ask = Callable[..., Request]


def free_port() -> int:
    """A port that nobody has now: tests of several checkouts may run side by side."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def matrix_of(**changes: Any) -> str:
    """The text of a matrix file whose server has a port of its own."""
    return yaml.safe_dump({**MATRIX, "servers": {"echo": {"port": free_port()}}, **changes})


def host_of(folder: Path, name: str, registry: Registry) -> LocalHost:
    """This machine, with a store, a spool and a lock that are the test's own."""
    options = tuple(f"--{part}={folder / part}" for part in ("root", "runs", "state"))
    return LocalHost(name, hostzip.write(registry, folder / "zips"), options)


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Requests of a project in the test's folder: the matrix, with some fields changed."""

    def connect(
        _project: Path, name: str, registry: Registry, _chosen: Path | None = None
    ) -> LocalHost:
        return host_of(tmp_path, name, registry)

    monkeypatch.setattr(provision, "connect", connect)

    def request(
        *settings: str, only: str | None = None, strict: bool = False, **changes: Any
    ) -> Request:
        path = tmp_path / "m.yml"
        path.write_text(matrix_of(**changes))
        return Request(tmp_path, "local", str(path), settings, only, strict, setup=False)

    return request


def runs_in(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "results").glob("*"))


# --- the whole way --------------------------------------------------------------------------------


def test_a_run_ends_with_a_table_and_the_path_of_a_report(
    ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = campaign.run(ask())
    assert runs_in(tmp_path) == [run_dir]
    out = capsys.readouterr().out
    assert out.startswith("matrix mini on local: 2 of 2 cells x 1 blocks = 2 trials, about ")
    assert f"report: {run_dir}/report/report.html" in out.splitlines()
    assert (run_dir / "report" / "report.md").read_text().startswith("#")
    assert "tracer-only" in out
    assert os.listdir(tmp_path / "runs") == [], "the host still keeps the run"
    done = subprocess.run(
        ["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=run_dir, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"")


def test_results_go_where_they_are_wanted(ask: Ask, tmp_path: Path) -> None:
    request = replace(ask(only="mode=none"), results=tmp_path / "elsewhere")
    assert campaign.run(request).parent == tmp_path / "elsewhere"
    assert runs_in(tmp_path) == []


def test_a_cell_that_is_not_available_is_told_and_no_error_unless_it_must_be_there(
    ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = ask(strict=True, factors={**MATRIX["factors"], "mode": ["none", "kernel-uprobe"]})
    with pytest.raises(InvalidError) as caught:
        campaign.run(request)
    assert caught.value.exit_code == EXIT_INVALID
    assert caught.value.message.startswith("no valid trial of echo-kernel-uprobe-mute-12B. Run: ")
    out = capsys.readouterr().out
    assert "echo-kernel-uprobe-mute-12B  not applicable: mute does not offer kernel-uprobe" in out
    (run_dir,) = runs_in(tmp_path)
    assert "mute does not offer kernel-uprobe" in (run_dir / "report" / "report.md").read_text()
    # The same results, judged as without --strict.
    campaign.conclude(model.build(results.load(run_dir)), strict=False)


def test_a_cell_without_a_valid_trial_is_an_error_that_names_the_next_command(
    ask: Ask, tmp_path: Path
) -> None:
    with pytest.raises(InvalidError) as caught:
        campaign.run(ask("load.requests=0"))
    (run_dir,) = runs_in(tmp_path)
    assert caught.value.message == (
        "no valid trial of echo-none-12B, echo-tracer-only-mute-12B. "
        f"Run: invoke report.show {run_dir}"
    )
    assert (run_dir / "report" / "report.md").exists()


def test_nothing_that_can_run_is_an_error_before_anything_is_measured(
    ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(InvalidError, match=r"^no cell of matrix mini can run on local"):
            campaign.run(ask(f"servers.echo.port={port}"))
    assert f"not available here: port {port} is in use by " in capsys.readouterr().out
    assert runs_in(tmp_path) == []


def test_a_wrong_matrix_is_told_before_the_host_is_asked(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provision, "connect", None)
    with pytest.raises(UsageError, match="--set blocks=0: blocks"):
        campaign.run(ask("blocks=0"))


def test_a_busy_host_is_told_with_who_is_there(ask: Ask, tmp_path: Path) -> None:
    holder = (
        "import sys; from pathlib import Path\n"
        "from uplab.hostside import lock\n"
        "with lock.hold(Path(sys.argv[1]), 'the-first-run'):\n"
        "    print(flush=True); sys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", holder, str(tmp_path / "state")]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, cwd=ROOT, stdin=pipe, stdout=pipe) as first:
        assert first.stdout
        first.stdout.readline()
        with pytest.raises(UplabError) as caught:
            campaign.run(ask())
        first.kill()
    assert caught.value.exit_code == EXIT_HOST
    assert caught.value.message.startswith("host local: this host is busy: run the-first-run (pid ")
    assert runs_in(tmp_path) == []


def test_a_run_is_held_against_its_gates_at_its_end(
    ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = judging.read(["overhead<=99%"], junit=str(tmp_path / "junit.xml"))
    with pytest.raises(Undecided, match="n = 1, too few for an interval"):
        campaign.run(replace(ask(), judged=wanted))
    assert "Gates: 1 undecided." in capsys.readouterr().out
    assert "<skipped" in (tmp_path / "junit.xml").read_text()
    # A cell without a valid trial comes before a gate that is undecided, and not before a failure.
    with pytest.raises(InvalidError, match="no valid trial of echo-none-12B"):
        campaign.run(replace(ask("load.requests=0"), judged=wanted))


def test_a_gate_that_means_no_cell_is_refused_before_the_host_is_asked(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provision, "connect", None)
    with pytest.raises(UsageError, match="no tracer 'mut' in this matrix"):
        campaign.run(replace(ask(), judged=judging.read(["overhead(mut)<=5%"])))


def test_a_busy_host_is_waited_for(ask: Ask, tmp_path: Path) -> None:
    """It is free as soon as its run ends; nothing of that run is disturbed."""
    holder = (
        "import sys, time; from pathlib import Path\n"
        "from uplab.hostside import lock\n"
        "with lock.hold(Path(sys.argv[1]), '20260131T120000Z-r720-seed'):\n"
        "    print(flush=True); time.sleep(3)\n"
    )
    argv = [sys.executable, "-c", holder, str(tmp_path / "state")]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as first:
        assert first.stdout
        first.stdout.readline()
        run_dir = campaign.run(replace(ask(), wait_s=60.0))
        assert first.poll() == 0
    assert runs_in(tmp_path) == [run_dir]


def test_a_time_is_filled_with_blocks(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trials of 1.4 s as planned; the clock goes on by as much with each part."""
    clock = iter([0.0, 2.8, 5.6])
    measure = functools.partial(budget.measure, clock=lambda: next(clock))
    monkeypatch.setattr(budget, "measure", measure)
    run = results.load(campaign.run(replace(ask(), budget_s=8.0)))
    assert [(trial.block, trial.number) for trial in run.trials] == [(1, 1), (1, 2), (2, 3), (2, 4)]
    assert run.sequential is None


def test_an_artifact_that_changed_since_the_plan_stops_the_run(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between planning and measuring somebody set the host up anew."""
    make_plan = campaign.make_plan

    def make_and_change(*arguments: Any) -> Any:
        made, judged = make_plan(*arguments)
        return replace(made, artifacts={"thing/bin/x": "0" * 64}), judged

    monkeypatch.setattr(campaign, "make_plan", make_and_change)
    with pytest.raises(UplabError, match=r"thing is not installed .* Run: invoke lab\.setup"):
        campaign.run(ask())
    assert runs_in(tmp_path) == []


FILL = """
import sys, time
from pathlib import Path
spool = Path(sys.argv[1])
deadline_s = time.monotonic() + 20
while not list(spool.glob("*/trials/[0-9]*")) and time.monotonic() < deadline_s:
    time.sleep(0.005)
try:
    with open(spool / "fill", "wb", buffering=0) as out:
        while True:
            out.write(bytes(1 << 16))
except OSError:
    pass
"""


def test_a_full_disk_is_told_and_keeps_the_finished_trials(ask: Ask, tmp_path: Path) -> None:
    """The spool lies on a file system of its own, which is filled after the first trial."""
    spool = tmp_path / "runs"
    spool.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=66m", "tmpfs", str(spool)]
    subprocess.run(mount, check=True)
    try:
        with (
            subprocess.Popen([sys.executable, "-S", "-c", FILL, str(spool)]),
            pytest.raises(HostError) as caught,
        ):
            campaign.run(ask("blocks=50"))
    finally:
        subprocess.run(["umount", str(spool)], check=True)
    assert caught.value.exit_code == EXIT_HOST
    assert "disk full" in caught.value.message
    (run_dir,) = runs_in(tmp_path)
    assert str(run_dir) in caught.value.message
    assert len(list(run_dir.glob("trials/*/trial.json"))) >= 1


# --- interruption ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_campaign_keeps_what_is_finished(
    tmp_path: Path, number: signal.Signals
) -> None:
    """As on the command line: a process group of its own, a signal, and a clean end."""
    (tmp_path / "m.yml").write_text(matrix_of(blocks=500))
    with apart.start(tmp_path) as process:
        assert process.stdout
        assert process.stderr
        for line in process.stdout:
            if line.lstrip().startswith("1/"):
                break
        process.send_signal(number)
        rest, said = process.stdout.read(), process.stderr.read()
    (run_dir,) = runs_in(tmp_path)
    assert f"interrupted; the finished trials are in {run_dir}" in rest
    assert "bench.all: interrupted" in said
    assert json.loads((run_dir / "run.json").read_text())["outcome"] == "interrupted"
    assert len(list(run_dir.glob("trials/*/trial.json"))) >= 1
    assert (run_dir / "report" / "report.md").exists()
    assert os.listdir(tmp_path / "runs") == []


# --- bench.plan -----------------------------------------------------------------------------------


def test_a_preview_shows_cells_order_and_duration_and_touches_nothing(
    ask: Ask, tmp_path: Path
) -> None:
    lines = campaign.preview(ask(blocks=2)).splitlines()
    assert lines[0].startswith(
        "matrix mini on local: 2 of 2 cells x 2 blocks = 4 trials, about 6 s"
    )
    assert lines[0].endswith("seed 1")
    assert lines[1:4] == [
        "  echo-none-12B              available",
        "  echo-tracer-only-mute-12B  available",
        "order:",
    ]
    assert [line.split(":")[0] for line in lines[4:]] == ["  block 1", "  block 2"]
    assert all(line.count("echo-") == 2 for line in lines[4:])
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "state").exists()
    assert runs_in(tmp_path) == []


def test_the_previewed_order_is_the_measured_one(ask: Ask) -> None:
    request = ask(seed=4, factors={**MATRIX["factors"], "body_bytes": [12, 13]})
    wanted = [
        cell
        for line in campaign.preview(request).splitlines()
        if line.startswith("  block")
        for cell in line.split(": ")[1].split(", ")
    ]
    run_dir = campaign.run(request)
    trials = sorted(path.name for path in (run_dir / "trials").iterdir())
    assert [name[5:-4] for name in trials] == wanted


def test_a_preview_of_many_blocks_is_short_and_says_when_the_seed_is_open(ask: Ask) -> None:
    lines = campaign.preview(ask(blocks=100, seed=None)).splitlines()
    assert lines[-2:] == [
        "  ... and 80 more blocks",
        "  (the seed is drawn for each run; --set seed=N fixes it and the order)",
    ]


def test_a_preview_says_when_overheads_cannot_be_paired(ask: Ask) -> None:
    text = campaign.preview(ask(only="mode=tracer-only"))
    assert "no cell `none` for echo: overheads cannot be paired" in text
    assert "cannot be paired" not in campaign.preview(ask())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.6, "1 min 0 s"),
        (61, "1 min 1 s"),
        (3599.9, "1 h 0 min"),
        (7265, "2 h 1 min"),
    ],
)
def test_durations_are_told_in_words(seconds: float, text: str) -> None:
    assert duration_in_words(seconds) == text


# --- tracers that touch more than the server, or may not start ------------------------------------


class Answering:
    """A host that says what it is given, and notes what it was asked."""

    name = "local"

    def __init__(self, **more: Any) -> None:
        self.more = more
        self.asked: list[dict[str, Any]] = []

    def inspect(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        cells = {cell["id"]: ["available", None] for cell in request["cells"]}
        answer = {"cells": cells, "artifacts": {}, "manifest": {}, **self.more}
        known = request.get("start_tracers", True)
        return {**answer, "untested": []} if known else answer


OTHERS = {
    "tracers": ["t"],
    "processes": [{"pid": 7, "name": "containerd", "exe": "/usr/bin/containerd"}],
}


def planned(ask: Ask, host: Any, *, self_test: bool = False, touch_others: bool = False) -> Any:
    """The plan's header, of a tracer that has a self-test or none."""
    request = replace(ask(), touch_others=touch_others)
    experiment = campaign.experiment(request)
    tracer = experiment.registry.tracers["mute"]
    if self_test:
        tracer = replace(tracer, ready_line="x", self_test=("x",), attached_timeout_s=60)
    experiment.registry.tracers["mute"] = tracer
    return campaign.make_plan(request, experiment, host)[0].header


def test_other_programs_are_touched_only_with_leave(ask: Ask) -> None:
    with pytest.raises(UsageError) as caught:
        planned(ask, Answering(touched=OTHERS))
    assert caught.value.message == (
        "host local: t would alter every Go process of this host, and there are others than the "
        "servers: containerd (pid 7, /usr/bin/containerd). End them, or measure with --touch-others"
    )
    header = planned(ask, Answering(touched=OTHERS), touch_others=True)
    assert (header["touch_others"], header["touched"]) == (True, OTHERS)
    header = planned(ask, Answering(touched=None))
    assert (header["touch_others"], header["touched"]) == (False, None)


def test_what_may_take_long_is_said_before(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    host = Answering(untested=["mute"])
    planned(ask, host, self_test=True)
    assert [asked.get("start_tracers") for asked in host.asked] == [False, None]
    assert capsys.readouterr().out == (
        "Starting mute on host local to see whether it can "
        "(once until its next boot, at most 60 s)\n"
    )


def test_what_is_known_is_not_asked_again(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    for self_test in (True, False):
        host = Answering(untested=[])
        planned(ask, host, self_test=self_test)
        assert len(host.asked) == 1
    assert capsys.readouterr().out == ""
