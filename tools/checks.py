"""What ``./invoke test`` runs: each check is a step with a name, an argv and a duration."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from uplab.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
GROUPS = ("lint", "unit", "roles", "system")
PROGRAMS = {
    "sshd": "openssh-server",
    "nginx": "nginx-light",
    "bpftrace": "bpftrace",
    "h2load": "nghttp2-client",
    "visudo": "sudo",
    "chromium": "chromium",
}
"""What tests start beside uplab's own needs, and the Debian packages that they come with."""
NEEDS_PROVISIONING = frozenset({"roles", "system"})
STOP_TIMEOUT_S = 10.0
FAILED_STEPS_VARIABLE = "UPLAB_FAILED_STEPS"
"""Carries the names of failed steps to tests/conftest.py, whose summary shows them at the end."""


@dataclass(frozen=True)
class Step:
    """One check: its name and the command to run in the checkout."""

    name: str
    command: list[str]


def parse_groups(text: str) -> tuple[str, ...]:
    """In: the value of ``--only``. Out: its groups, in the order in which they run.

    Raises UsageError naming an unknown group and the known ones.
    """
    wanted = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [word for word in wanted if word not in GROUPS]
    if unknown or not wanted:
        named = ", ".join(unknown) or "nothing"
        raise UsageError(f"--only names {named}; known are {','.join(GROUPS)}")
    return tuple(group for group in GROUPS if group in wanted)


def lint_steps(root: Path = ROOT) -> list[Step]:
    """Out: the checks that read the source and run none of it."""
    python = sys.executable
    typed = ["uplab", "tools", "tests", "benchmarks", "tasks.py"]
    adapters = [str(path.relative_to(root)) for path in sorted(root.glob("*/*/adapter.py"))]
    mypy = [python, "-m", "mypy", "--strict", *(name for name in typed if (root / name).exists())]
    steps = [
        Step("ruff check", [python, "-m", "ruff", "check", "."]),
        Step("ruff format", [python, "-m", "ruff", "format", "--check", "."]),
        Step("mypy", [*mypy, *adapters]),
        Step("yamllint", [python, "-m", "yamllint", "--strict", *_source_folders(root)]),
    ]
    if (root / "playbooks").exists():
        lint = [_beside_python("ansible-lint"), "--offline", "--strict", "--profile", "production"]
        steps.append(Step("ansible-lint", lint))
    return steps


def _source_folders(root: Path) -> list[str]:
    """Out: the folders of the checkout, without hidden ones (environments) and measured data."""
    folders = (path.name for path in root.iterdir() if path.is_dir())
    return sorted(name for name in folders if not name.startswith(".") and name != "results")


def pytest_step(groups: Iterable[str], keyword: str | None, root: Path = ROOT) -> Step | None:
    """Out: the run of pytest over those groups that are tests; None if there is none of them."""
    folders = [f"tests/{group}" for group in groups if group != "lint"]
    folders = [folder for folder in folders if (root / folder).is_dir()]
    if not folders:
        return None
    chosen = ["-k", keyword] if keyword else []
    return Step("pytest", [sys.executable, "-m", "pytest", *chosen, *folders])


def run_step(step: Step, failed_before: Iterable[str] = (), root: Path = ROOT) -> bool:
    """Run one step with its output passed on. Out: whether it succeeded.

    The step runs in a process group of its own, so that Ctrl-C reaches it once, from here, and
    pytest can take down what its tests have started.
    """
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        FAILED_STEPS_VARIABLE: ",".join(failed_before),
    }
    process = subprocess.Popen(
        step.command, cwd=root, env=environment, stdin=subprocess.DEVNULL, process_group=0
    )
    try:
        return process.wait() == 0
    except BaseException:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise


@dataclass
class Outcome:
    """How a step went."""

    good: bool = True

    def fail(self, reason: str = "") -> None:
        """The step failed; ``reason`` is said where its output has not said it."""
        self.good = False
        if reason:
            print(reason, flush=True)


@contextmanager
def timed(name: str) -> Iterator[Outcome]:
    """Announce a step, and say afterwards how it went and how long it took."""
    print(f"==> {name}", flush=True)
    started_s = time.monotonic()
    outcome = Outcome()
    yield outcome
    verdict = "ok" if outcome.good else "FAILED"
    print(f"<== {name}: {verdict} ({time.monotonic() - started_s:.1f} s)", flush=True)


def run_all(steps: Iterable[Step], root: Path = ROOT) -> list[str]:
    """Run steps one after the other, also after one has failed. Out: the names of the failed."""
    failed = []
    for step in steps:
        with timed(step.name) as outcome:
            if not run_step(step, root=root):
                outcome.fail()
                failed.append(step.name)
    return failed


def require_dev_packages(root: Path = ROOT) -> None:
    """See that this environment has requirements/dev.lock; else become ./invoke, which adds it.

    Raises UsageError where this is not an environment of ./invoke's, or adding did not help.
    """
    marks = Path(sys.prefix) / "uplab"
    wanted = (root / "requirements" / "dev.lock").read_bytes()
    mark = marks / "dev.lock"
    if mark.exists() and mark.read_bytes() == wanted:
        return
    if not (marks / "place").exists():
        raise UsageError(f"{sys.executable} is not uplab's own Python. Run: {root}/invoke test")
    if os.environ.get("UPLAB_LEVEL") == "dev":
        raise UsageError(f"{sys.prefix} lacks requirements/dev.lock. Run: rm {root}/.venv")
    wrapper = str(root / "invoke")
    os.execve(wrapper, [wrapper, *sys.argv[1:]], {**os.environ, "UPLAB_LEVEL": "dev"})


def _beside_python(name: str) -> str:
    return str(Path(sys.executable).parent / name)
