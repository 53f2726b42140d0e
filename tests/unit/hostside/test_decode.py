"""uplab/hostside/decode.py: the model of both sides survives the way through JSON."""

import json
import re
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uplab.hostside import spec
from uplab.hostside.decode import build
from uplab.hostside.spec import (
    Adapters,
    Answer,
    Cell,
    FileRef,
    HitsRule,
    Limits,
    LoadAdapter,
    ModeSpec,
    Parameter,
    Placing,
    Plan,
    Repeat,
    RuntimeOptions,
    ServerAdapter,
    Site,
    TracerAdapter,
)

TRACED = ("tracer-only", "kernel-uprobe", "userspace-uprobe")

texts = st.text(max_size=8)
names = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=8)
seconds = st.floats(min_value=0.001, max_value=86_000)
percents = st.floats(min_value=0, max_value=100)
argvs = st.lists(texts, max_size=3).map(tuple)
environments = st.dictionaries(names, texts, max_size=2)
numbers = st.dictionaries(names, st.integers(0, 1 << 40), max_size=3)
file_refs = st.one_of(
    st.builds(FileRef, component=texts, file=texts, path=st.none()),
    st.builds(FileRef, component=st.none(), file=st.none(), path=texts),
)
programs = st.dictionaries(names, file_refs, max_size=2)
parameters = st.dictionaries(
    names,
    st.tuples(st.integers(-9, 0), st.integers(0, 9)).map(
        lambda bounds: Parameter(0, bounds[0], bounds[1], "s", "a number")
    ),
    max_size=2,
)
common = {
    "schema": st.just(spec.SCHEMA),
    "name": names,
    "summary": texts,
    "argv": argvs.filter(bool),
    "role": st.none() | names,
    "programs": programs,
    "env": environments,
    "stop_signal": st.sampled_from(["SIGTERM", "SIGINT"]),
}
RATE = Parameter(1000, 1, 1_000_000, "requests/s", "how many")
DURATION = Parameter(1, 1, 9, "s", "how long")
servers = st.builds(
    ServerAdapter,
    **common,
    kind=st.just("server"),
    url=texts.map(lambda text: f"http://{text}"),
    ready_line=texts.map(re.escape),
    traits=argvs,
    parameters=parameters,
    answer=st.builds(Answer, status=st.integers(100, 599), protocol=texts),
    ready_timeout_s=seconds,
    stop_timeout_s=seconds,
)
rules = st.builds(
    lambda bounds, more, traits: HitsRule(min(bounds), max(bounds), more, traits),
    st.tuples(seconds, seconds),
    seconds,
    argvs,
)
sites = st.builds(
    Site,
    name=names,
    symbol=texts,
    at=st.sampled_from(["entry", "ret"]),
    hits=st.lists(rules, max_size=2).map(tuple),
)
mode_specs = st.builds(
    ModeSpec,
    args=argvs,
    needs=argvs,
    placement=st.sampled_from(["untouched", "kernel"]),
    events=st.lists(rules, max_size=1).map(tuple),
)
#: Their placements name sites, which a tracer must have.
userspace_specs = st.builds(
    ModeSpec,
    placement=st.just("userspace"),
    placements=st.just({"entries": Placing(userspace=("enter",))}),
    loaders=st.sampled_from([("daemon",), ("syscall-server", "daemon")]),
    preload=st.sampled_from(["tracer", "own"]),
    daemon_args=argvs,
)
tracers = st.builds(
    TracerAdapter,
    **common,
    kind=st.just("tracer"),
    modes=st.dictionaries(st.sampled_from(TRACED), mode_specs | userspace_specs, min_size=1),
    needs_traits=argvs,
    sites=st.lists(sites, max_size=2, unique_by=lambda site: site.name).map(
        lambda more: (Site("enter", "traced", "entry", ()), *(s for s in more if s.name != "enter"))
    ),
    counters_signal=st.just("SIGUSR1"),
    attached_timeout_s=seconds,
    stop_timeout_s=seconds,
    hit_cost=argvs,
)
loads = st.builds(
    LoadAdapter,
    **common,
    kind=st.just("load"),
    loop=st.sampled_from(["closed", "open"]),
    python=st.just("adapter.py"),
    parameters=parameters.map(lambda known: {**known, "duration_s": DURATION, "rate_per_s": RATE}),
    files=st.lists(st.sampled_from(["a.lua", "more/b.lua"]), max_size=2).map(tuple),
    overrun_s=seconds,
)
cells = st.builds(
    Cell,
    id=names,
    server=names,
    mode=st.sampled_from(spec.MODES),
    tracer=st.none() | names,
    body_bytes=st.integers(1, 1 << 20),
    load=names,
    load_parameters=numbers,
    server_parameters=numbers,
    loader=st.sampled_from([None, "syscall-server", "daemon"]),
    placement=st.none() | names,
    runtime=st.none()
    | st.builds(
        RuntimeOptions,
        jit=st.booleans(),
        shm_mb=st.integers(20, 4096),
        map_kind=st.sampled_from(["array", "hash"]),
        bpftime_prefix=texts,
    ),
)
adapters = st.builds(
    Adapters,
    servers=st.dictionaries(names, servers, max_size=1),
    tracers=st.dictionaries(names, tracers, max_size=1),
    loads=st.dictionaries(names, loads, max_size=1),
)
plans = st.builds(
    Plan,
    schema=st.just(spec.SCHEMA),
    run_id=names,
    seed=st.integers(0, (1 << 63) - 1),
    blocks=st.integers(1, 100_000),
    warm_up_s=st.integers(0, 3600),
    plan_sha256=texts,
    cells=st.lists(cells, max_size=2).map(tuple),
    limits=st.builds(
        Limits, steal_pct=percents, foreign_pct=percents, over=st.sampled_from(["flag", "invalid"])
    ),
    repeat=st.builds(Repeat, per_block=st.integers(0, 9), per_run=st.integers(0, 9)),
    adapters=adapters,
    artifacts=environments,
    header=st.dictionaries(names, st.lists(st.integers()), max_size=2),
)

CELL: dict[str, Any] = {
    "id": "a-none-12B",
    "server": "a",
    "mode": "none",
    "tracer": None,
    "body_bytes": 12,
    "load": "l",
    "load_parameters": {"duration_s": 1},
}


def through_json(data: object) -> Any:
    return json.loads(json.dumps(data))


@settings(max_examples=25)
@given(plans)
def test_a_plan_survives_json(plan: Plan) -> None:
    assert build(Plan, through_json(asdict(plan))) == plan


@settings(max_examples=25)
@given(servers, tracers, loads, cells)
def test_adapters_and_cells_survive_json(
    server: ServerAdapter, tracer: TracerAdapter, load: LoadAdapter, cell: Cell
) -> None:
    assert build(ServerAdapter, through_json(asdict(server))) == server
    assert build(TracerAdapter, through_json(asdict(tracer))) == tracer
    assert build(LoadAdapter, through_json(asdict(load))) == load
    assert build(Cell, through_json(asdict(cell))) == cell


def test_defaults_fill_what_is_absent() -> None:
    cell = build(Cell, CELL)
    assert cell.server_parameters == {}
    assert cell.loader is None


def test_an_unknown_field_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"^Cell: unknown field colour, taste$"):
        build(Cell, {**CELL, "taste": 1, "colour": 2})


def test_a_missing_field_is_refused_by_name() -> None:
    data = {key: value for key, value in CELL.items() if key != "load"}
    with pytest.raises(ValueError, match=r"^Cell: .*missing.*'load'"):
        build(Cell, data)


def test_a_wrong_field_deep_inside_is_refused() -> None:
    adapter = {"servers": {"a": {"schema": 1}}, "tracers": {}, "loads": {}}
    with pytest.raises(ValueError, match=r"^Adapters.servers: ServerAdapter: .*missing"):
        build(Adapters, adapter)


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_something_that_is_no_object_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match=r"^Cell: expected an object, found "):
        build(Cell, data)


@pytest.mark.parametrize(("field", "value"), [("load_parameters", None), ("load_parameters", [1])])
def test_a_container_of_another_type_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match="load_parameters"):
        build(Cell, {**CELL, field: value})


def test_a_tuple_field_that_is_no_list_is_refused() -> None:
    with pytest.raises(ValueError, match="args"):
        build(ModeSpec, {"args": None})
