"""uplab/plan.py: which cells run, and what makes two runs the same plan."""

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uplab import __version__, adapters, matrix, plan
from uplab.hostside.decode import build
from uplab.hostside.doctor import AVAILABLE, NOT_APPLICABLE, NOT_AVAILABLE
from uplab.hostside.spec import Adapters, Cell, Limits, Plan
from uplab.matrix import Experiment, Matrix

ADAPTERS = Path(__file__).parents[1] / "data" / "adapters"
NOW = datetime(2026, 11, 22, 13, 17, 51, tzinfo=UTC)
REGISTRY = adapters.load([ADAPTERS])
DATA: dict[str, Any] = {
    "schema": 1,
    "name": "mini",
    "factors": {
        "server": ["echo"],
        "tracer": ["mute"],
        "mode": ["none", "tracer-only", "kernel-uprobe"],
    },
    "load": {"name": "fetch"},
    "blocks": 4,
    "seed": 7,
    "warm_up_s": 2,
}


def experiment(**changes: Any) -> Experiment:
    model = Matrix.model_validate({**DATA, **changes})
    cells = tuple(matrix.expand(model, REGISTRY))
    return Experiment(model, REGISTRY, cells, "m.yml", "f" * 64, {"some": "content"})


def answer(wanted: Experiment, **status: tuple[str, str | None]) -> dict[str, Any]:
    """hostside's answer: everything available but what ``status`` names by mode."""
    judged = {
        cell.id: list(status.get(cell.mode.replace("-", "_"), (AVAILABLE, None)))
        for cell in wanted.cells
    }
    return {
        "manifest": {"pins": {"thing": {"version": "1"}}},
        "cells": judged,
        "artifacts": {"thing/bin/x": "a" * 64},
        "root": True,
    }


def made(wanted: Experiment, **status: tuple[str, str | None]) -> Plan:
    return plan.make(wanted, "local", answer(wanted, **status), NOW)[0]


def test_available_cells_are_planned_and_the_others_carried_with_their_reason() -> None:
    wanted = experiment()
    result, judged = plan.make(
        wanted,
        "local",
        answer(
            wanted,
            tracer_only=(NOT_AVAILABLE, "no tracer"),
            kernel_uprobe=(NOT_APPLICABLE, "mute does not offer kernel-uprobe"),
        ),
        NOW,
    )
    assert [cell.id for cell in result.cells] == ["echo-none-12B"]
    assert [(entry.cell.mode, entry.status, entry.reason) for entry in judged] == [
        ("none", AVAILABLE, None),
        ("tracer-only", NOT_AVAILABLE, "no tracer"),
        ("kernel-uprobe", NOT_APPLICABLE, "mute does not offer kernel-uprobe"),
    ]
    carried = result.header["cells"]
    assert [(cell["id"], cell["status"]) for cell in carried] == [
        ("echo-none-12B", "available"),
        ("echo-tracer-only-mute-12B", "not available here"),
        ("echo-kernel-uprobe-mute-12B", "not applicable"),
    ]
    assert carried[1]["reason"] == "no tracer"


def test_a_plan_says_where_it_came_from() -> None:
    result = made(experiment())
    assert result.run_id == "20261122T131751Z-local-mini"
    assert result.seed == 7
    assert result.blocks == 4
    assert result.artifacts == {"thing/bin/x": "a" * 64}
    assert result.header["host"] == "local"
    assert result.header["uplab_version"] == __version__
    assert result.header["pins"] == {"thing": {"version": "1"}}
    assert result.header["matrix"] == {
        "name": "mini",
        "source": "m.yml",
        "sha256": "f" * 64,
        "content": {"some": "content"},
    }
    assert result.header["loads"] == {"fetch": {"loop": "closed"}}
    # Of the traced cells that the tracer offers.
    assert list(result.header["declared"]) == ["echo-tracer-only-mute-12B"]


def test_hostside_reads_the_plan_that_is_made() -> None:
    result = made(experiment())
    assert build(Plan, asdict(result)) == result


def test_a_host_that_was_never_set_up_has_no_pins() -> None:
    wanted = experiment()
    said = {**answer(wanted), "manifest": {}}
    assert plan.make(wanted, "local", said, NOW)[0].header["pins"] == {}


def test_a_seed_is_drawn_where_the_matrix_names_none() -> None:
    seeds = {made(experiment(seed=None)).seed for _ in range(8)}
    assert len(seeds) == 8
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    assert made(experiment(seed=0)).seed == 0


def test_hostside_is_asked_for_all_cells_with_their_adapters() -> None:
    wanted = experiment()
    request = plan.inspect_request(wanted)
    assert [build(Cell, cell) for cell in request["cells"]] == list(wanted.cells)
    assert build(Adapters, request["adapters"]) == plan.adapters_of(wanted)
    assert list(request["adapters"]["tracers"]) == ["mute"]


def test_only_the_adapters_that_are_used_travel() -> None:
    wanted = experiment(factors={"server": ["echo"], "mode": ["none"], "tracer": ["mute"]})
    used = plan.adapters_of(wanted)
    assert (list(used.servers), used.tracers, list(used.loads)) == (["echo"], {}, ["fetch"])


def test_the_expected_duration_is_that_of_its_trials() -> None:
    result = made(experiment(), kernel_uprobe=(NOT_AVAILABLE, ""))
    each_s = plan.trial_s(result, result.cells[0])
    # Warm-up and measurement, and a little around them.
    assert 3.0 < each_s < 4.0
    assert plan.duration_s(result) == pytest.approx(4 * 2 * each_s)


# --- the hash -------------------------------------------------------------------------------------


def digest(wanted: Experiment, seed: int = 7, artifacts: dict[str, str] | None = None) -> str:
    return plan.sha256(plan.matter(wanted, list(wanted.cells), seed, artifacts or {"a/b": "c"}))


def test_the_hash_of_the_same_plan_is_the_same() -> None:
    assert digest(experiment()) == digest(experiment())
    assert len(digest(experiment())) == 64
    first, second = {"a/b": "1", "c/d": "2"}, {"c/d": "2", "a/b": "1"}
    assert digest(experiment(), artifacts=first) == digest(experiment(), artifacts=second)


@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_the_number_of_blocks_does_not_change_the_hash(one: int, other: int) -> None:
    assert digest(experiment(blocks=one)) == digest(experiment(blocks=other))
    assert made(experiment(blocks=one)).plan_sha256 == made(experiment(blocks=other)).plan_sha256


@given(st.integers(0, 1 << 62), st.integers(0, 1 << 62))
def test_the_seed_changes_the_hash(one: int, other: int) -> None:
    assert (digest(experiment(), one) == digest(experiment(), other)) == (one == other)


@given(st.floats(0, 100), st.floats(0, 100))
def test_the_limits_change_the_hash(one: float, other: float) -> None:
    def of(limit: float) -> str:
        return digest(experiment(limits=Limits(steal_pct=limit)))

    assert (of(one) == of(other)) == (one == other)


FACTORS = DATA["factors"]
DIFFERENT: dict[str, Callable[[], Experiment]] = {
    "warm-up": lambda: experiment(warm_up_s=3),
    "limit": lambda: experiment(limits={"foreign_pct": 11}),
    "consequence": lambda: experiment(limits={"over": "invalid"}),
    "size": lambda: experiment(factors={**FACTORS, "body_bytes": [13]}),
    "modes": lambda: experiment(factors={**FACTORS, "mode": ["none"]}),
    "load's parameter": lambda: experiment(load={"name": "fetch", "requests": 21}),
    "load's duration": lambda: experiment(load={"name": "fetch", "duration_s": 2}),
    "server's parameter": lambda: experiment(servers={"echo": {"port": 18002}}),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_whatever_else_differs_changes_the_hash(what: str) -> None:
    assert digest(DIFFERENT[what]()) != digest(experiment())


@pytest.mark.parametrize("artifacts", [{}, {"a/b": "d"}, {"a/c": "c"}, {"a/b": "c", "e/f": "g"}])
def test_the_artifacts_change_the_hash(artifacts: dict[str, str]) -> None:
    wanted = experiment()
    cells = list(wanted.cells)
    assert plan.sha256(plan.matter(wanted, cells, 7, artifacts)) != digest(wanted)


def test_an_adapter_that_says_something_else_changes_the_hash() -> None:
    wanted = experiment()
    slower = replace(REGISTRY.servers["echo"], ready_timeout_s=11.0)
    registry = replace(REGISTRY, servers={"echo": slower})
    assert digest(replace(wanted, registry=registry)) != digest(wanted)


def test_cells_that_are_left_out_change_the_hash() -> None:
    wanted = experiment()
    assert made(wanted, kernel_uprobe=(NOT_AVAILABLE, "")).plan_sha256 != made(wanted).plan_sha256


def test_trials_of_a_tuned_host_are_no_trials_of_another_one() -> None:
    wanted = experiment()
    tuned, _ = plan.make(wanted, "local", answer(wanted), NOW, tune=True)
    assert tuned.tune
    assert not made(wanted).tune
    assert tuned.plan_sha256 != made(wanted).plan_sha256
    assert build(Plan, asdict(tuned)) == tuned


def test_when_and_where_it_was_made_is_not_in_the_hash() -> None:
    wanted = experiment()
    later = datetime(2027, 1, 1, tzinfo=UTC)
    first = plan.make(wanted, "local", answer(wanted), NOW)[0]
    second = plan.make(wanted, "elsewhere", answer(wanted), later)[0]
    assert first.plan_sha256 == second.plan_sha256
    assert first.run_id != second.run_id
