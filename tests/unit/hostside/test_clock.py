"""uplab/hostside/clock.py: a wall clock that is set is seen; time that passes is not."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from uplab.hostside.clock import Clock


@pytest.fixture
def set_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that sets the wall clock, as this process sees it, by some seconds."""
    real = time.time_ns

    def set_it(seconds: float) -> None:
        monkeypatch.setattr(time, "time_ns", lambda: real() + int(seconds * 1e9))

    return set_it


def test_a_clock_that_runs_was_not_set() -> None:
    assert Clock().jump_s() is None


@pytest.mark.parametrize("seconds", [3600.0, -86400.0, 0.5, -0.5])
def test_by_how_much_it_was_set(set_by: Callable[[float], None], seconds: float) -> None:
    clock = Clock()
    set_by(seconds)
    assert clock.jump_s() == pytest.approx(seconds, abs=0.1)


def test_what_passes_between_two_readings_is_no_jump(set_by: Callable[[float], None]) -> None:
    clock = Clock()
    set_by(0.01)
    assert clock.jump_s() is None


def test_a_clock_that_was_set_back_again_is_as_before(set_by: Callable[[float], None]) -> None:
    clock = Clock()
    set_by(60.0)
    assert clock.jump_s() is not None
    set_by(0.0)
    assert clock.jump_s() is None
