"""uplab/hostside/series.py: once a second, while the loop is waited in, at little cost."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from uplab.hostside import procfs, series
from uplab.hostside.loop import Loop
from uplab.hostside.series import Series, sampled, values

BURN = (
    "import sys, time\n"
    "end = time.process_time() + float(sys.argv[1])\n"
    "while time.process_time() < end: pass\n"
    "print(flush=True)\n"
    "sys.stdin.read()\n"
)


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop() as opened:
        yield opened


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series, "INTERVAL_S", 0.05)


def sample(at_s: float, busy_s: float, **changes: object) -> series._Sample:
    ours = changes.get("ours", {})
    assert isinstance(ours, dict)
    steal_s, switches = changes.get("steal_s", 0.0), changes.get("switches", 0)
    assert isinstance(steal_s, float)
    assert isinstance(switches, int)
    return series._Sample(at_s, procfs.HostTimes(busy_s, steal_s, switches), ours, 0.0)


def test_neighbours_become_a_series() -> None:
    cores = os.cpu_count() or 1
    taken = Series(list)
    taken.samples = [
        sample(100.0, 0.0, ours={1: 5.0}),
        sample(101.0, 0.5 * cores, ours={1: 5.0 + 0.25 * cores, 2: 0.05 * cores}, switches=10),
        sample(102.5, 0.5 * cores, ours={1: 5.0 + 0.25 * cores}, steal_s=0.15 * cores, switches=12),
    ]
    assert taken.as_json() == {
        "interval_s": 1.0,
        "at_s": "1.00 2.50",
        "steal_pct": "0.0 10.0",
        "foreign_pct": "20.0 -",
        "context_switches": "10 2",
    }


def test_what_is_not_known_is_none_and_never_0() -> None:
    assert values("0.0 - 12.5") == [0.0, None, 12.5]
    assert values("") == []
    with pytest.raises(ValueError, match="what"):
        values("what")


def test_without_a_second_there_is_an_empty_series() -> None:
    assert set(Series(list).as_json().values()) == {1.0, ""}


@pytest.mark.usefixtures("quick")
def test_it_looks_at_the_beginning_and_every_interval(loop: Loop) -> None:
    seen: list[float] = []
    with sampled(loop, [lambda: seen.append(time.monotonic())]):
        assert len(seen) == 1
        assert loop.until(lambda: len(seen) >= 6, 10.0)
    assert min(b - a for a, b in itertools.pairwise(seen)) > 0.0
    assert seen[-1] - seen[0] >= 0.9 * 5 * 0.05


@pytest.mark.usefixtures("quick")
def test_it_waits_for_nothing_and_ends_with_its_block(loop: Loop) -> None:
    seen: list[int] = []
    with pytest.raises(ZeroDivisionError), sampled(loop, [lambda: seen.append(1)]):
        raise ZeroDivisionError
    assert not loop.until(lambda: len(seen) > 1, 0.2)


@pytest.mark.usefixtures("quick")
def test_seconds_that_nobody_could_look_at_become_one_sample(loop: Loop) -> None:
    seen: list[int] = []
    with sampled(loop, [lambda: seen.append(1)]):
        end_s = time.monotonic() + 0.3
        while time.monotonic() < end_s:
            pass
        loop.pump(0.0)
        assert len(seen) == 2


def test_ours_is_not_foreign_and_what_we_started_is_ours() -> None:
    """A process that burns, below one of ours: by its own time it is not foreign."""
    burner = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}, '0.4'])"
    with subprocess.Popen(
        [sys.executable, "-c", burner], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        before_s = series._tree_cpu_s(child.pid)
        assert child.stdout
        child.stdout.readline()
        after_s = series._tree_cpu_s(child.pid)
        taken = Series(lambda: [child.pid])
        taken.take()
        assert before_s is not None
        assert after_s is not None
        assert after_s - before_s >= 0.35
        assert taken.samples[0].ours_s[child.pid] >= after_s
        child.communicate()
    taken.take()
    assert taken.samples[1].ours_s == {}


def test_a_sample_costs_little_of_its_second() -> None:
    taken = Series(lambda: [os.getpid()])
    began_s = time.process_time()
    for _ in range(100):
        taken.take()
    # Ten times what it takes: the machine of the test may be slow, or have many processors.
    assert (time.process_time() - began_s) / 100 < 0.01
