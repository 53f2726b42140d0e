"""uplab/waiting.py: one's turn at a host."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_untilci import plan_of
from uplab.errors import EXIT_HOST, HostError
from uplab.remote import LocalHost
from uplab.view import Screen
from uplab.waiting import Queue


@dataclass
class Clock:
    """Time that passes by sleeping, and a host that says each time who holds its lock."""

    holders: list[str | None]
    now_s: float = 0.0
    asked: int = 0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    def ask(self, command: str, _request: dict[str, Any]) -> dict[str, Any]:
        assert command == "runs"
        self.asked += 1
        holder = self.holders.pop(0) if len(self.holders) > 1 else self.holders[0]
        return {"running": holder}


def queue(
    monkeypatch: pytest.MonkeyPatch, most_s: float | None, *holders: str | None
) -> tuple[Queue, Clock]:
    clock = Clock(list(holders))
    host = LocalHost("r720", Path("no-zipapp"))
    monkeypatch.setattr(LocalHost, "ask", lambda _self, *words: clock.ask(*words))
    return Queue(host, most_s, Screen(), lambda: clock.now_s, clock.sleep), clock


def test_a_host_that_is_free_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, clock = queue(monkeypatch, 60, None)
    waiting.until_free()
    assert clock.slept == []


def test_who_is_waited_for_is_told_once_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting, clock = queue(monkeypatch, 60, "one", "one", "other", None)
    waiting.until_free()
    assert len(clock.slept) == 3
    assert capsys.readouterr().out.splitlines() == [
        "host r720 is busy: run one goes on; waiting up to 1 min 0 s",
        "host r720 is busy: run other goes on; waiting up to 56 s",
    ]


def test_a_host_that_stays_busy_is_an_error_with_who_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting, clock = queue(monkeypatch, 5, "one")
    with pytest.raises(HostError) as caught:
        waiting.until_free()
    assert caught.value.exit_code == EXIT_HOST
    assert caught.value.message == (
        "host r720: run one still goes on after --wait 5 s. Run: invoke bench.status --host r720"
    )
    assert clock.now_s == pytest.approx(5)


def test_the_time_is_for_all_waits_together(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, clock = queue(monkeypatch, 5, "one", "one", None, "other")
    waiting.until_free()
    with pytest.raises(HostError):
        waiting.until_free()
    assert clock.now_s == pytest.approx(5)


def test_without_the_flag_the_host_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, clock = queue(monkeypatch, None, "one")
    waiting.until_free()
    assert waiting.planned(plan_of) == plan_of()
    with pytest.raises(HostError, match="busy"):
        waiting.started(_refuse)
    assert clock.asked == 0


def _refuse() -> None:
    raise HostError("host r720: this host is busy")


def test_a_plan_that_was_made_beside_another_run_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other run's server had the port while the host was asked what can run."""
    waiting, _ = queue(monkeypatch, 60, None, "sneaked-in", "sneaked-in", None)
    plans = iter([plan_of(modes=("none",)), plan_of()])
    assert waiting.planned(lambda: next(plans)) == plan_of()


def test_a_start_that_somebody_was_quicker_than_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting, clock = queue(monkeypatch, 60, "quicker", "quicker", None)
    attempts = []

    def start() -> str:
        attempts.append(clock.now_s)
        if len(attempts) == 1:
            _refuse()
        return "started"

    assert waiting.started(start) == "started"
    assert attempts == [0.0, 2.0]


def test_a_start_that_fails_for_something_else_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, clock = queue(monkeypatch, 60, None)
    with pytest.raises(HostError):
        waiting.started(_refuse)
    assert clock.slept == []
