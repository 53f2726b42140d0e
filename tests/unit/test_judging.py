"""Gates as a user types them: report.gate, report.compare and bench.all, files and exit codes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests import tasks
from tests.runs import make_run
from uplab import judging, results
from uplab.errors import EXIT_GATE, EXIT_INVALID, EXIT_UNDECIDED, EXIT_USAGE, UsageError
from uplab.report import model

ROOT = Path(__file__).resolve().parents[2]
KERNEL = "https-kernel-uprobe-gotrace-12B"
FAILS = "overhead[mode=kernel-uprobe]<=5%"
PASSES = "overhead[mode=kernel-uprobe]<=99%"


def invoke(*arguments: str) -> subprocess.CompletedProcess[str]:
    return tasks.run(*arguments, cwd=tasks.ROOT)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return small(tmp_path / "run", blocks=6)


def small(path: Path, **changes: Any) -> Path:
    spec: dict[str, Any] = {"servers": ("https",), "histogram_buckets": 10, "logs": False}
    return make_run(path, **{**spec, **changes})


# --- report.gate ----------------------------------------------------------------------------------


def test_a_gate_that_passes_ends_well(run_dir: Path) -> None:
    done = invoke("report.gate", str(run_dir), "--gate", PASSES)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Gates: 1 passed." in done.stdout


def test_a_gate_that_fails_names_gate_cell_and_figure(run_dir: Path) -> None:
    done = invoke("report.gate", str(run_dir), "--gate", PASSES, "--gate", FAILS)
    assert done.returncode == EXIT_GATE
    assert done.stderr.startswith(f"report.gate: gate failed: {FAILS} on {KERNEL} (8")
    assert "Gates: 1 passed, 1 failed." in done.stdout


def test_an_undecided_gate_has_a_code_of_its_own_or_the_one_that_is_wanted(tmp_path: Path) -> None:
    run = str(small(tmp_path / "few", blocks=2))
    done = invoke("report.gate", run, "--gate", PASSES)
    assert done.returncode == EXIT_UNDECIDED
    assert "n = 2, too few for an interval" in done.stderr
    assert "Run: invoke bench.resume 20261122T131751Z-local-seed --more-blocks 6" in done.stderr
    assert invoke("report.gate", run, "--gate", PASSES, "--undecided", "pass").returncode == 0
    done = invoke("report.gate", run, "--gate", PASSES, "--undecided", "fail")
    assert done.returncode == EXIT_GATE


def test_files_for_a_ci_page(run_dir: Path, tmp_path: Path) -> None:
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    files = ["--junit", str(junit), "--summary", str(summary)]
    done = invoke("report.gate", str(run_dir), "--gate", PASSES, "--gate", FAILS, *files)
    assert done.returncode == EXIT_GATE
    suite = ElementTree.parse(junit).getroot()
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "2",
        "failures": "1",
        "errors": "0",
        "skipped": "0",
    }
    cases = [(c.get("classname"), c.get("name"), c.find("failure") is None) for c in suite]
    assert cases == [(PASSES, KERNEL, True), (FAILS, KERNEL, False)]
    text = summary.read_text(encoding="utf-8")
    assert "Gates: 1 passed, 1 failed." in text
    assert "kernel-uprobe (gotrace) costs the https server" in text


def test_json_holds_what_was_decided(run_dir: Path) -> None:
    done = invoke("report.gate", str(run_dir), "--gate", FAILS, "--json")
    document = json.loads(done.stdout)
    (row,) = document["gates"]
    assert (row["gate"], row["cell"], row["outcome"]) == (FAILS, KERNEL, "failed")
    assert document["exit_code"] == done.returncode == EXIT_GATE


def test_a_wrong_gate_is_wrong_usage(run_dir: Path, tmp_path: Path) -> None:
    run = str(run_dir)
    for flags, said in (
        (["--gate", "overhead<5"], "overhead has the unit %"),
        (["--gate", "overhead(x)<5%"], "no tracer 'x' in this matrix"),
        ([], "no gate. Run: invoke report.gate"),
        (["--junit", "x.xml"], "--junit belongs to --gate"),
        (["--gate", PASSES, "--undecided", "maybe"], "--undecided maybe: expected fail or pass"),
        (["--gate", PASSES, "--junit", str(tmp_path / "no" / "x")], "cannot be written"),
    ):
        done = invoke("report.gate", run, *flags)
        assert done.returncode == EXIT_USAGE, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr


# --- report.compare -------------------------------------------------------------------------------


def test_compare_shows_the_difference_and_why(run_dir: Path, tmp_path: Path) -> None:
    other = small(tmp_path / "b", blocks=6, seed=3, kept={"kernel-uprobe": 0.10})
    gate = "overhead(B)[mode=kernel-uprobe]-overhead(A)[mode=kernel-uprobe]<=1pp"
    done = invoke("report.compare", str(run_dir), str(other))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"worse (1): {KERNEL}" in done.stdout
    assert "Why different?" in done.stdout
    summary = tmp_path / "compare.md"
    flags = ["--gate", gate, "--summary", str(summary), "--json"]
    done = invoke("report.compare", str(run_dir), str(other), *flags)
    assert done.returncode == EXIT_GATE
    document = json.loads(done.stdout)
    assert [row["outcome"] for row in document["gates"]] == ["failed"]
    assert "## Why different?" in summary.read_text(encoding="utf-8")


def test_runs_that_must_not_be_compared_are_refused(run_dir: Path) -> None:
    done = invoke("report.compare", str(run_dir), str(run_dir))
    assert done.returncode == EXIT_USAGE
    assert "is given twice" in done.stderr


def test_nothing_to_compare_is_nothing_measured(run_dir: Path, tmp_path: Path) -> None:
    empty = small(tmp_path / "empty", blocks=0)
    done = invoke("report.compare", str(run_dir), str(empty))
    assert done.returncode == EXIT_INVALID
    assert done.stderr == "report.compare: no cell has figures in both runs\n"


# --- bench.all ------------------------------------------------------------------------------------


def test_a_summary_needs_no_gate(run_dir: Path, tmp_path: Path) -> None:
    wanted = judging.read((), summary=str(tmp_path / "s.md"))
    judging.conclude(model.build(results.load(run_dir)), wanted)
    assert (tmp_path / "s.md").read_text(encoding="utf-8").startswith("# local, matrix seed")


def test_gates_are_for_one_run_that_is_waited_for() -> None:
    wanted = judging.read([PASSES])
    judging.require_one_run(wanted, 1, detach=False)
    judging.require_one_run(judging.Wanted(), 5, detach=True)
    with pytest.raises(UsageError, match="for one host"):
        judging.require_one_run(wanted, 2, detach=False)
    with pytest.raises(UsageError, match="--detach and --gate"):
        judging.require_one_run(wanted, 1, detach=True)
