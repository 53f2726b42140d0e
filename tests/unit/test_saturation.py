"""uplab/saturation.py: what a trial ran out of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.handmade import cell, trial
from tests.runs import edit_json, make_run
from uplab import results
from uplab.errors import UsageError
from uplab.hostside import sums
from uplab.measured import Cpu, Trial
from uplab.saturation import (
    BOTH,
    HOST,
    LOAD,
    NEITHER,
    OTHERS,
    SERVER,
    UNKNOWN,
    most_often,
    saturation,
)

MISSING: dict[str, Any] = dict.fromkeys(Cpu.__dataclass_fields__)
WINDOW_S = 10.0


def trial_of(
    server_s: float | None,
    load_s: float | None,
    busy_s: float | None,
    *,
    cores: int = 4,
    threads: Any = 2,
    steal_s: float | None = 0.0,
    foreign_s: float | None = None,
    cpus: dict[str, int] | None = None,
) -> Trial:
    figures = {"window_s": WINDOW_S, "cores": cores, "server_s": server_s, "load_s": load_s}
    figures |= {"busy_s": busy_s, "steal_s": steal_s, "foreign_s": foreign_s}
    cpu = Cpu(**{**MISSING, **figures})
    of = cell("none", load_parameters={} if threads is None else {"threads": threads})
    return replace(trial(1, of, 1, 1000), cpu=cpu, cpus=cpus or {})


@pytest.mark.parametrize(
    ("made", "what"),
    [
        # Two threads of the load on four cores: 20 CPU seconds are all that it can use.
        (trial_of(15, 18.0, 33), LOAD),
        (trial_of(15, 17.9, 33), NEITHER),
        (trial_of(36, 3, 39), SERVER),
        (trial_of(35.9, 2, 37.9), NEITHER),
        (trial_of(20, 17, 38), HOST),
        (trial_of(20, 17, 37.9), NEITHER),
        # Stolen time is time that nobody of ours could use.
        (trial_of(20, 15, 35, steal_s=3.0), HOST),
        (trial_of(19, 15, 34, steal_s=4.0), OTHERS),
        (trial_of(17, 17, 38, foreign_s=4.0), OTHERS),
        (trial_of(10, 17, 31, foreign_s=4.0), NEITHER),
        (trial_of(20, 15, 35, steal_s=None), NEITHER),
        # More threads than cores fill no more than the cores.
        (trial_of(10, 36, 39, threads=64), LOAD),
        # A load that does not say how many threads it has could fill every core.
        (trial_of(10, 19, 30, threads=None), NEITHER),
        (trial_of(10, 19, 30, threads=True), NEITHER),
        # A tuned run gives each part CPUs of its own.
        (trial_of(19, 5, 24, cpus={"server": 2, "load": 1}), SERVER),
        (trial_of(10, 9.5, 24, cpus={"server": 2, "load": 1}), LOAD),
        (trial_of(19, 9.5, 29, cpus={"server": 2, "load": 1}), BOTH),
    ],
)
def test_what_was_saturated(made: Trial, what: str) -> None:
    assert saturation(made).what == what


def test_the_shares_are_of_what_each_part_may_use() -> None:
    found = saturation(trial_of(20, 10, 34, steal_s=2.0))
    assert (found.server_pct, found.load_pct, found.host_pct) == (50.0, 50.0, 90.0)


@pytest.mark.parametrize("lacking", ["server_s", "load_s", "busy_s"])
def test_what_was_not_measured_is_not_known(lacking: str) -> None:
    known: dict[str, Any] = {"server_s": 1.0, "load_s": 1.0, "busy_s": 2.0}
    assert saturation(trial_of(**{**known, lacking: None})).what is None


def test_without_a_window_nothing_is_known() -> None:
    made = trial_of(1, 1, 2)
    assert saturation(replace(made, cpu=None)) == UNKNOWN
    assert made.cpu is not None
    assert saturation(replace(made, cpu=replace(made.cpu, window_s=0.0))) == UNKNOWN


def test_most_often_counts_what_is_known() -> None:
    load, host, unknown = trial_of(15, 19, 33), trial_of(20, 17, 39), trial_of(None, 1, 1)
    assert most_often([host, load, unknown, load]) == (LOAD, 2, 3)
    assert most_often([unknown]) is None


@pytest.mark.parametrize(
    ("tuning", "cpus"),
    [
        (None, {}),
        ({"cpus": {"server": "2-3", "tracer": "1", "load": "0,4-6"}}, [2, 1, 4]),
    ],
)
def test_the_cpus_of_a_tuned_run_are_read(tmp_path: Path, tuning: Any, cpus: Any) -> None:
    run_dir = make_run(tmp_path / "run", servers=("https",), blocks=1)
    for path in run_dir.glob("trials/*/trial.json"):
        edit_json(path, tuning=tuning)
    sums.write(run_dir)
    found = results.load(run_dir).trials[0].cpus
    expected = dict(zip(("server", "tracer", "load"), cpus, strict=True)) if cpus else {}
    assert found == expected


@pytest.mark.parametrize("text", ["", "x", "0-", "1,,2", "0-999999999"])
def test_a_list_of_cpus_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    run_dir = make_run(tmp_path / "run", servers=("https",), blocks=1)
    for path in run_dir.glob("trials/*/trial.json"):
        edit_json(path, tuning={"cpus": {"server": text}})
    sums.write(run_dir)
    with pytest.raises(UsageError, match="a list of CPUs, such as 0-2,5"):
        results.load(run_dir)
