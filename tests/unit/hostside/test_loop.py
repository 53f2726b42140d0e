"""uplab/hostside/loop.py: waiting for everything at once, with real signals and descriptors."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.waiting import LIMIT_S
from uplab.hostside.errors import Interrupted
from uplab.hostside.loop import Loop

ROOT = Path(__file__).parents[3]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def test_what_becomes_readable_is_called() -> None:
    reader, writer = os.pipe()
    got: list[bytes] = []
    with Loop() as loop:
        loop.add(reader, lambda: got.append(os.read(reader, 10)))
        os.write(writer, b"first")
        loop.pump(5)
        assert got == [b"first"]
        loop.remove(reader)
        os.write(writer, b"second")
        loop.pump(0)
        assert got == [b"first"]
    os.close(reader)
    os.close(writer)


def test_what_was_forgotten_meanwhile_is_not_called() -> None:
    """Both are ready; the one that is called first gives the other's place to somebody else."""
    pipes = [os.pipe(), os.pipe()]
    called: list[int] = []
    with Loop() as loop:

        def take(number: int) -> None:
            called.append(number)
            other = pipes[1 - number][0]
            loop.remove(other)
            loop.add(other, lambda: None)

        for number, (reader, writer) in enumerate(pipes):
            os.write(writer, b"x")
            loop.add(reader, functools.partial(take, number))
        loop.pump(5)
        assert len(called) == 1
    for descriptor in (*pipes[0], *pipes[1]):
        os.close(descriptor)


def test_what_is_polled_no_more_is_not_called() -> None:
    called: list[int] = []
    with Loop() as loop:

        def take(number: int) -> None:
            called.append(number)
            loop.no_poll(callbacks[1 - number])

        callbacks = [functools.partial(take, number) for number in range(2)]
        for callback in callbacks:
            loop.poll(callback)
        loop.pump(0)
        assert called == [0]


def test_what_is_polled_is_called_every_few_milliseconds() -> None:
    called: list[float] = []

    def note() -> None:
        called.append(time.monotonic())

    with Loop() as loop:
        loop.poll(note)
        assert loop.until(lambda: len(called) == 5, 10.0)
        loop.no_poll(note)
        loop.pump(0.05)
    assert len(called) == 5
    assert called[-1] - called[0] >= 0.03


def test_a_pump_waits_no_longer_than_it_may() -> None:
    with Loop() as loop:
        began_s = time.monotonic()
        loop.pump(0.05)
        assert time.monotonic() - began_s >= 0.05
        loop.pump(-1)


def test_until_asks_after_everything_that_happens() -> None:
    reader, writer = os.pipe()
    got: list[bytes] = []
    with Loop() as loop:
        loop.add(reader, lambda: got.append(os.read(reader, 1)))
        os.write(writer, b"abc")
        # The next look without anything that happens would come too late.
        assert loop.until(lambda: len(got) == 3, LIMIT_S, 2 * LIMIT_S)
        loop.remove(reader)
    os.close(reader)
    os.close(writer)


def test_until_says_when_the_time_is_over() -> None:
    asked = 0

    def never() -> bool:
        nonlocal asked
        asked += 1
        return False

    with Loop() as loop:
        assert not loop.until(never, 0.05, step_s=0.01)
        assert not loop.until(never, 0.0)
    assert asked >= 4


def test_until_a_condition_that_no_descriptor_announces(tmp_path: Path) -> None:
    path = tmp_path / "there"
    with Loop() as loop, subprocess.Popen(["touch", path]):
        assert loop.until(path.exists, 5.0, step_s=0.01)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_raised_at_the_next_wait_and_not_before(number: signal.Signals) -> None:
    with Loop() as loop:
        os.kill(os.getpid(), number)
        steps = ["still here"]
        with pytest.raises(Interrupted, match=f"signal {number.value}") as caught:
            loop.pump(5)
        assert steps
        assert caught.value.signal_number == number


def test_a_signal_ends_a_wait_at_once() -> None:
    with Loop() as loop, subprocess.Popen(["sh", "-c", f"kill -TERM {os.getpid()}"]):
        began_s = time.monotonic()
        with pytest.raises(Interrupted):
            loop.until(lambda: False, LIMIT_S, step_s=LIMIT_S)
        assert time.monotonic() - began_s < LIMIT_S


def test_shielded_a_signal_waits() -> None:
    with Loop() as loop:
        with loop.shielded():
            os.kill(os.getpid(), signal.SIGTERM)
            with loop.shielded():
                loop.pump(0.01)
            loop.pump(0.01)
        with pytest.raises(Interrupted):
            loop.pump(0.0)


def test_an_interruption_stays_until_the_loop_ends() -> None:
    """Every wait after it ends at once: no later step goes on as if nothing had been said."""
    with Loop() as loop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(2):
            with pytest.raises(Interrupted, match=f"signal {signal.SIGINT.value}$"):
                loop.pump(0.0)


def test_signals_mean_what_they_meant_before() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    descriptors = sorted(os.listdir("/proc/self/fd"))
    with Loop() as loop:
        loop.pump(0.0)
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert signal.set_wakeup_fd(wakeup) == wakeup
    assert sorted(os.listdir("/proc/self/fd")) == descriptors


def test_a_flood_of_signals_does_no_harm() -> None:
    program = (
        "import os, signal\n"
        "from uplab.hostside.errors import Interrupted\n"
        "from uplab.hostside.loop import Loop\n"
        "with Loop() as loop:\n"
        "    for _ in range(70_000): os.kill(os.getpid(), signal.SIGTERM)\n"
        "    try: loop.pump(1)\n"
        "    except Interrupted as stop: print(stop.signal_number)\n"
    )
    argv = [sys.executable, "-S", "-c", program]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "15\n", "")
