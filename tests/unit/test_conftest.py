"""The rules that tests/conftest.py sets for all tests, seen from outside by a pytest of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_MEASURABLE = """
def test_it(not_measurable):
    not_measurable("no such tracepoint")
"""
WITHOUT_BPF = "import conftest\nconftest.bpf_works = lambda: False\n"


def run_pytest(folder: Path, text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "tests").mkdir()
    for name in ("pyproject.toml", "tests/conftest.py"):
        (folder / name).write_text((ROOT / name).read_text())
    (folder / "tests" / "test_it.py").write_text(text)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("UPLAB_", "PYTEST_"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "--import-mode=prepend", "tests"],
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_cannot_be_measured_is_listed_and_not_passed(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, WITHOUT_BPF + NOT_MEASURABLE)
    assert done.returncode == 0, done.stdout
    assert "not measurable here: tests/test_it.py::test_it: no such tracepoint" in done.stdout
    assert "passed" not in done.stdout.splitlines()[-1]


def test_what_must_be_measured_fails_instead(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, WITHOUT_BPF + NOT_MEASURABLE, UPLAB_REQUIRE_BPF="1")
    assert done.returncode == 1
    assert "must be measured here (UPLAB_REQUIRE_BPF=1), but: no such tracepoint" in done.stdout


def test_where_bpf_works_there_is_no_excuse(tmp_path: Path) -> None:
    text = WITHOUT_BPF.replace("False", "True") + NOT_MEASURABLE
    done = run_pytest(tmp_path, text)
    assert done.returncode == 1
    assert "must be measured here (BPF and uprobes work), but" in done.stdout


def test_a_program_that_a_host_need_not_have_is_listed_under_a_heading_of_its_own(
    tmp_path: Path,
) -> None:
    text = WITHOUT_BPF.replace("False", "True") + NOT_MEASURABLE.replace("measurable", "provided")
    done = run_pytest(tmp_path, text, UPLAB_REQUIRE_BPF="1")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    (heading,) = [n for n, line in enumerate(lines) if "without the real program" in line]
    assert lines[heading + 1].startswith("not measurable here: tests/test_it.py::test_it: no such")
    assert "not measurable on this machine" not in done.stdout
    assert "passed" not in lines[-1]


def test_a_process_that_is_left_behind_fails_its_test_and_ends(tmp_path: Path) -> None:
    # The shell ends at once; its child, orphaned, would run on.
    text = """
import pathlib, subprocess
def test_leaves():
    subprocess.run(["sh", "-c", "sleep 600 >/dev/null & echo $! >pid"], check=True)
def test_after():
    pid = int(pathlib.Path("pid").read_text())
    assert not pathlib.Path(f"/proc/{pid}").exists()
"""
    done = run_pytest(tmp_path, text)
    assert done.returncode == 1
    assert "test_leaves left processes behind" in done.stdout
    assert "sleep 600" in done.stdout
    assert "2 passed, 1 error" in done.stdout.splitlines()[-1]


def test_a_process_that_ends_by_itself_is_waited_for(tmp_path: Path) -> None:
    text = """
import subprocess
def test_it():
    subprocess.run(["sh", "-c", "sleep 0.2 >/dev/null &"], check=True)
"""
    assert run_pytest(tmp_path, text).returncode == 0


def test_a_test_that_hangs_is_ended(tmp_path: Path) -> None:
    text = """
import pytest, signal
@pytest.mark.timeout(0.2)
def test_it():
    signal.pause()
"""
    done = run_pytest(tmp_path, text)
    assert done.returncode == 1
    assert "Timeout" in done.stdout


@pytest.mark.parametrize(("failed", "shown"), [("", False), ("mypy,yamllint", True)])
def test_steps_that_failed_before_stand_above_the_closing_line(
    tmp_path: Path, failed: str, shown: bool
) -> None:
    done = run_pytest(tmp_path, "def test_it(): pass\n", UPLAB_FAILED_STEPS=failed)
    lines = done.stdout.splitlines()
    assert ("FAILED mypy" in lines) is shown
    assert ("FAILED yamllint" in lines) is shown
    assert "1 passed" in lines[-1]
