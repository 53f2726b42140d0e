"""The tasks of `report` as a user types them."""

import json
import subprocess
from pathlib import Path

import pytest

from tests import tasks
from tests.runs import make_run

ROOT = Path(__file__).resolve().parents[3]
RUNS = """Running 10s test @ http://127.0.0.1:8080/
  2 threads and 10 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   635.91us    0.89ms  12.92ms   93.69%
    Req/Sec    56.20k     8.07k   62.00k    86.54%
  1119000 requests in 10.00s, 130.00MB read
Requests/sec: 111900.00
Transfer/sec:     13.00MB
"""


def invoke(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return tasks.run(*arguments, cwd=tasks.ROOT, stdin=stdin)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", blocks=3, servers=("https",))


def test_show_prints_the_answer(run_dir: Path) -> None:
    done = invoke("report.show", str(run_dir))
    assert (done.returncode, done.stderr) == (0, "")
    assert "kernel-uprobe (gotrace) costs the https server" in done.stdout
    assert "\x1b" not in done.stdout


def test_html_writes_the_page_and_prints_its_path(run_dir: Path) -> None:
    done = invoke("report.html", str(run_dir))
    assert (done.stdout, done.stderr) == (f"{run_dir / 'report' / 'report.html'}\n", "")
    assert len(list((run_dir / "report" / "charts").glob("*.pdf"))) == 5


def test_md_writes_the_report_and_prints_its_path(run_dir: Path) -> None:
    done = invoke("report.md", str(run_dir))
    assert done.stdout == f"{run_dir / 'report' / 'report.md'}\n"
    assert (run_dir / "report" / "trials.csv").is_file()


def test_md_prints_the_same_report_on_demand(run_dir: Path) -> None:
    printed = invoke("report.md", str(run_dir), "--stdout").stdout
    assert not (run_dir / "report").exists()
    invoke("report.md", str(run_dir))
    assert printed == (run_dir / "report" / "report.md").read_text(encoding="utf-8")


def test_a_changed_run_is_refused_until_asked_for(run_dir: Path) -> None:
    (run_dir / "events.jsonl").write_text("changed")
    done = invoke("report.show", str(run_dir))
    assert done.returncode == 1
    assert done.stderr.startswith(f"report.show: {run_dir} does not match its SHA256SUMS: changed")
    assert "Traceback" not in done.stderr
    shown = invoke("report.show", str(run_dir), "--unverified")
    assert shown.returncode == 0
    assert "NOT verified" in shown.stdout


@pytest.mark.parametrize("task", ["report.show", "report.md"])
def test_what_is_no_run_is_bad_input(tmp_path: Path, task: str) -> None:
    done = invoke(task, str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == f"{task}: {tmp_path} holds no run.json, so it is not a run directory\n"


def test_parse_prints_a_line_per_run_and_goes_on_after_an_error(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text(RUNS + RUNS)
    bad.write_text("unable to connect to 127.0.0.1:446 Connection refused\n")
    done = invoke("report.parse", str(bad), str(good))
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 2
    assert [run["requests"] for run in runs] == [1_119_000, 1_119_000]
    assert runs[0]["source"] == str(good)
    assert done.stderr.startswith(f"report.parse: {bad}:1: ")
    assert "unable to connect" in done.stderr


def test_parse_of_good_files_ends_well(tmp_path: Path) -> None:
    good = tmp_path / "good.txt"
    good.write_text(RUNS)
    done = invoke("report.parse", str(good), "--load", "wrk", str(good))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2


def test_parse_reads_stdin() -> None:
    done = invoke("report.parse", "--files", "-", stdin=RUNS)
    assert done.returncode == 0
    assert json.loads(done.stdout)["source"] == "stdin"


def test_parse_without_a_file_is_wrong_usage() -> None:
    done = invoke("report.parse")
    assert done.returncode == 2
    assert done.stderr == "report.parse: no file given. Run: invoke report.parse FILE...\n"
