"""What ./invoke test runs, in which order, and how it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from invoke.collection import Collection

from tools import checks
from uplab import provision
from uplab.box import needs
from uplab.cli import program, testing
from uplab.errors import GateError, UsageError

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60.0


def step(name: str, script: str) -> checks.Step:
    return checks.Step(name, [sys.executable, "-c", script])


def test_the_checks_are_those_that_are_promised() -> None:
    steps = {step.name: step.command for step in checks.lint_steps()}
    assert list(steps) == ["ruff check", "ruff format", "mypy", "yamllint", "ansible-lint"]
    assert {"--strict", "uplab", "tools", "tests", "tasks.py"} <= set(steps["mypy"])
    assert "--check" in steps["ruff format"]
    assert steps["ansible-lint"][1:] == ["--offline", "--strict", "--profile", "production"]
    assert not {".uplab", ".venv", "results"}.intersection(steps["yamllint"])


def test_the_adapters_are_type_checked(tmp_path: Path) -> None:
    for name in ("loads/one", "tracers/two"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "adapter.py").touch()
    mypy = {step.name: step.command for step in checks.lint_steps(tmp_path)}["mypy"]
    assert mypy[-2:] == ["loads/one/adapter.py", "tracers/two/adapter.py"]


def test_groups_run_in_one_order_and_unknown_ones_are_named() -> None:
    assert checks.parse_groups("system, lint") == ("lint", "system")
    with pytest.raises(UsageError, match="--only names nix; known are lint,unit,roles,system"):
        checks.parse_groups("unit,nix")
    with pytest.raises(UsageError, match="--only names nothing"):
        checks.parse_groups(" , ")


def test_pytest_gets_the_folders_that_are_there_and_the_expression(tmp_path: Path) -> None:
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    found = checks.pytest_step(("lint", "unit", "roles"), "a and not b", tmp_path)
    assert found is not None
    assert found.command[1:] == ["-m", "pytest", "-k", "a and not b", "tests/unit"]
    assert checks.pytest_step(("lint",), None, tmp_path) is None


def test_all_steps_run_and_each_says_how_it_went(capfd: pytest.CaptureFixture[str]) -> None:
    failed = checks.run_all([step("bad", "raise SystemExit(3)"), step("good", "print('hello')")])
    assert failed == ["bad"]
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "==> bad"
    assert lines[1].startswith("<== bad: FAILED (")
    assert lines[1].endswith(" s)")
    assert lines[2:4] == ["==> good", "hello"]
    assert lines[4].startswith("<== good: ok (")


def test_a_step_finds_the_programs_of_this_environment_first(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert checks.run_step(step("path", "import os; print(os.environ['PATH'])"))
    path = capfd.readouterr().out
    assert path.startswith(str(Path(sys.executable).parent) + os.pathsep)


def test_an_interrupt_reaches_the_step_and_lets_it_clean_up(tmp_path: Path) -> None:
    ready, cleaned = tmp_path / "ready", tmp_path / "cleaned"
    script = (
        "import pathlib, signal\n"
        "try:\n"
        f"    pathlib.Path({str(ready)!r}).touch()\n"
        "    signal.pause()\n"
        "finally:\n"
        f"    pathlib.Path({str(cleaned)!r}).touch()\n"
    )
    runner = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tools import checks\n"
        f"checks.run_step(checks.Step('x', [sys.executable, '-c', {script!r}]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", runner], stderr=subprocess.PIPE)
    deadline_s = time.monotonic() + TIMEOUT_S
    while not ready.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode != 0
    assert cleaned.exists()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Exit codes of the steps that the task ``test`` runs here instead of the real ones."""
    codes = {"lint": 0, "pytest": 0}
    script = "import os; print('NAME', os.environ['UPLAB_FAILED_STEPS']); raise SystemExit({})"
    monkeypatch.setattr(checks, "require_dev_packages", lambda: None)
    monkeypatch.setattr(checks, "lint_steps", lambda: [step("lint", script.format(codes["lint"]))])
    monkeypatch.setattr(
        checks,
        "pytest_step",
        lambda groups, _keyword: (
            None if groups == ("lint",) else step("pytest", script.format(codes["pytest"]))
        ),
    )
    monkeypatch.setattr(provision, "is_current", lambda _project, _name: True)
    return codes


def run_test_task(*words: str) -> int:
    """Out: the exit code; 0 also where Invoke just returns."""
    try:
        program.run(Collection(*testing.ns.tasks.values()), ["invoke", "test", *words])
    except SystemExit as ended:
        code = ended.code
    else:
        code = 0
    assert isinstance(code, int)
    return code


def test_pytests_line_is_the_last_one_and_hears_what_failed_before(
    steps: dict[str, int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_test_task() == 0
    steps["lint"] = 1
    capfd.readouterr()
    assert run_test_task() == 1
    captured = capfd.readouterr()
    assert captured.out.splitlines()[-1] == "NAME lint"
    assert captured.err == ""


def test_failing_tests_fail_the_task(steps: dict[str, int]) -> None:
    steps["pytest"] = 2
    assert run_test_task() == 1


def test_failing_checks_alone_are_named_at_the_end(
    steps: dict[str, int], capfd: pytest.CaptureFixture[str]
) -> None:
    steps["lint"] = 1
    assert run_test_task("--only", "lint") == 1
    assert capfd.readouterr().err == "test: failed: lint\n"


@pytest.mark.usefixtures("steps")
def test_only_what_needs_this_machine_set_up_sets_it_up(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(_project: Path, _name: str) -> bool:
        raise GateError("no root")

    monkeypatch.setattr(provision, "is_current", refuse)
    assert run_test_task("--only", "lint,unit") == 0
    capfd.readouterr()
    assert run_test_task("--only", "system") == 1
    lines = capfd.readouterr().out.splitlines()
    first = lines.index("==> provision local")
    assert lines[first + 1] == "no root"
    assert lines[-1] == "NAME provision local"


@pytest.mark.usefixtures("steps")
def test_programs_that_cannot_be_had_are_told_and_the_tests_run_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise GateError("no apt here")

    monkeypatch.setattr(needs, "require_programs", refuse)
    assert run_test_task("--only", "unit") == 1
    lines = capfd.readouterr().out.splitlines()
    assert lines[:2] == ["==> programs of the tests", "no apt here"]
    assert lines[-1] == "NAME programs of the tests"


def test_a_python_that_is_not_uplabs_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(UsageError, match=r"is not uplab's own Python. Run: .*/invoke test"):
        checks.require_dev_packages()


def test_an_environment_without_the_dev_packages_becomes_one_with_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "uplab").mkdir()
    (tmp_path / "uplab" / "place").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["tasks.py", "test", "--only", "unit"])
    monkeypatch.delenv("UPLAB_LEVEL", raising=False)
    calls: list[tuple[str, list[str], str]] = []
    monkeypatch.setattr(
        os, "execve", lambda path, argv, env: calls.append((path, argv, env["UPLAB_LEVEL"]))
    )
    checks.require_dev_packages()
    wrapper = str(ROOT / "invoke")
    assert calls == [(wrapper, [wrapper, "test", "--only", "unit"], "dev")]
    # Once: not again and again.
    monkeypatch.setenv("UPLAB_LEVEL", "dev")
    with pytest.raises(UsageError, match=r"lacks requirements/dev\.lock"):
        checks.require_dev_packages()
