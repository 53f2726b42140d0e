"""What all tests share: what this machine cannot measure, and that no test leaves a process."""

import ctypes
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import configuration, settings

ROOT = Path(__file__).resolve().parents[1]
LEFT_BEHIND_GRACE_S = 2.0
POLL_INTERVAL_S = 0.01
PR_SET_CHILD_SUBREAPER = 36
BPF_PROG_LOAD = 5
BPF_PROG_TYPE_KPROBE = 2
BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}
NOT_MEASURABLE = pytest.StashKey[list[str]]()
NOT_PROVIDED = pytest.StashKey[list[str]]()

configuration.set_hypothesis_home_dir(ROOT / ".uplab" / "cache" / "hypothesis")
# A shared, noisy machine: how long one example takes says nothing about the code.
# The same examples each time: a run that fails can be repeated, and a change is what made it fail.
settings.register_profile("uplab", deadline=None, derandomize=True, database=None)
settings.load_profile("uplab")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[NOT_MEASURABLE] = []
    config.stash[NOT_PROVIDED] = []
    # What a test's process leaves behind becomes our child, so that the guard below can see it.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # A shell that puts the tests in the background has SIGINT ignored, for us and every child.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def not_measurable(request: pytest.FixtureRequest) -> Callable[[str], NoReturn]:
    """A function for a test to say that this machine cannot measure something, and why.

    The test is then listed under "not measurable here" at the end. Where BPF and uprobes work, or
    ``UPLAB_REQUIRE_BPF=1`` is set (CI), it fails instead: there is no such excuse.
    """

    def say(reason: str) -> NoReturn:
        __tracebackhide__ = True
        if os.environ.get("UPLAB_REQUIRE_BPF") == "1":
            pytest.fail(f"must be measured here (UPLAB_REQUIRE_BPF=1), but: {reason}")
        if bpf_works():
            pytest.fail(f"must be measured here (BPF and uprobes work), but: {reason}")
        line = f"{request.node.nodeid}: {reason}"
        request.config.stash[NOT_MEASURABLE].append(line)
        pytest.skip(f"not measurable here: {reason}")

    return say


@pytest.fixture
def not_provided(request: pytest.FixtureRequest) -> Callable[[str], NoReturn]:
    """A function for a test to say that a program is not here that only some hosts have, and why.

    Such are the tracers and runtimes that uplab measures and does not ship. The test is then listed
    under a heading of its own, so that nobody takes the stand-in's tests for the real one's.
    """

    def say(reason: str) -> NoReturn:
        __tracebackhide__ = True
        request.config.stash[NOT_PROVIDED].append(f"{request.node.nodeid}: {reason}")
        pytest.skip(f"not measurable here: {reason}")

    return say


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Before pytest's closing line: what was not measured, and which earlier steps failed."""
    for title, key in (
        ("not measurable on this machine", NOT_MEASURABLE),
        ("not measurable without the real program", NOT_PROVIDED),
    ):
        if config.stash[key]:
            terminalreporter.section(title)
        for reason in config.stash[key]:
            terminalreporter.line(f"not measurable here: {reason}")
    failed = [name for name in os.environ.get("UPLAB_FAILED_STEPS", "").split(",") if name]
    if failed:
        terminalreporter.section("steps that failed before the tests", red=True)
        for name in failed:
            terminalreporter.line(f"FAILED {name}", red=True)


def bpf_works() -> bool:
    """Whether a program for uprobes can be loaded, and the kernel has uprobes."""
    has_uprobes = Path("/sys/bus/event_source/devices/uprobe/type").exists()
    return has_uprobes and _loads_a_program()


def _loads_a_program() -> bool:
    number = BPF_SYSCALL.get(os.uname().machine)
    if number is None:
        return False
    # The shortest program that the kernel takes: return 0.
    code = ctypes.create_string_buffer(bytes.fromhex("b700000000000000" + "9500000000000000"))
    text = ctypes.create_string_buffer(b"GPL\0")
    attributes = struct.pack(
        "=IIQQIIQII16sI",
        BPF_PROG_TYPE_KPROBE,
        2,
        ctypes.addressof(code),
        ctypes.addressof(text),
        0,
        0,
        0,
        0,
        0,
        b"uplab_test",
        0,
    )
    buffer = ctypes.create_string_buffer(attributes)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = int(libc.syscall(number, BPF_PROG_LOAD, buffer, len(attributes)))
    if descriptor < 0:
        return False
    os.close(descriptor)
    return True


@pytest.fixture(autouse=True)
def leaves_no_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test after which a process that it started still runs, and ends that process."""
    before = _children()
    yield
    left = _wait_for_the_end(_children() - before)
    if left:
        names = ", ".join(f"{pid} ({_command(pid)})" for pid in sorted(left))
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        _wait_for_the_end(left)
        pytest.fail(f"{request.node.name} left processes behind: {names}")


def _children() -> set[int]:
    """The pids of our children, of all threads."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        # A thread may end while it is looked at; its children are then another one's.
        with suppress(FileNotFoundError, ProcessLookupError):
            found.update(int(pid) for pid in path.read_text(encoding="ascii").split())
    return found


def _wait_for_the_end(pids: set[int]) -> set[int]:
    """Out: those of ``pids`` that still run after a grace period; ended ones are reaped."""
    deadline_s = time.monotonic() + LEFT_BEHIND_GRACE_S
    running = {pid for pid in pids if _runs(pid)}
    while running and time.monotonic() < deadline_s:
        time.sleep(POLL_INTERVAL_S)
        running = {pid for pid in running if _runs(pid)}
    return running


def _runs(pid: int) -> bool:
    try:
        ended, _ = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return False
    return ended == 0


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "ended"
    return b" ".join(words).decode(errors="replace").strip()
