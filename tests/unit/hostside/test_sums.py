"""uplab/hostside/sums.py: what SHA256SUMS vouches for, judged by sha256sum itself."""

import os
import subprocess
from pathlib import Path

import pytest

from uplab.hostside import sums


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    trial = tmp_path / "trials" / "0001-a-none-12B-b01"
    trial.mkdir(parents=True)
    (tmp_path / "run.json").write_text("{}\n")
    (trial / "trial.json").write_text("{}\n")
    (trial / "load.hist").write_bytes(bytes(range(256)))
    (trial / "a name with blanks").write_text("x")
    return tmp_path


def check(run_dir: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sha256sum", "--strict", "-c", sums.NAME],
        cwd=run_dir,
        capture_output=True,
        text=True,
        check=False,
    )


def test_sha256sum_accepts_it(run_dir: Path) -> None:
    sums.write(run_dir)
    done = check(run_dir)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "run.json: OK",
        "trials/0001-a-none-12B-b01/a name with blanks: OK",
        "trials/0001-a-none-12B-b01/load.hist: OK",
        "trials/0001-a-none-12B-b01/trial.json: OK",
    ]


def test_a_changed_file_is_found(run_dir: Path) -> None:
    sums.write(run_dir)
    (run_dir / "run.json").write_text('{"seed": 1}\n')
    done = check(run_dir)
    assert done.returncode == 1
    assert "run.json: FAILED" in done.stdout.splitlines()


def test_the_report_the_unfinished_and_itself_are_left_out(run_dir: Path) -> None:
    sums.write(run_dir)
    vouched = (run_dir / sums.NAME).read_bytes()
    (run_dir / "report").mkdir()
    (run_dir / "report" / "report.md").write_text("derived")
    (run_dir / ".part-run.json").write_text("half")
    part = run_dir / "trials" / ".part-0002-a-none-12B-b02"
    part.mkdir()
    (part / "server.log").write_text("half")
    sums.write(run_dir)
    assert (run_dir / sums.NAME).read_bytes() == vouched


def test_a_folder_named_report_deeper_inside_is_vouched_for(run_dir: Path) -> None:
    inner = run_dir / "trials" / "report"
    inner.mkdir()
    (inner / "x").write_text("x")
    assert "trials/report/x" in set(sums.files(run_dir))


def test_nothing_is_left_beside_it(run_dir: Path) -> None:
    sums.write(run_dir)
    assert sorted(os.listdir(run_dir)) == [sums.NAME, "run.json", "trials"]
