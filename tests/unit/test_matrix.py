"""uplab/matrix.py: factors to cells, and every wrong field with file, line and what is allowed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from uplab import adapters, matrix
from uplab.errors import EXIT_USAGE, UsageError
from uplab.hostside.spec import MODES, UNTRACED_MODES, RuntimeOptions
from uplab.matrix import Experiment, size_name

ROOT = Path(__file__).parents[2]
ADAPTERS = ROOT / "tests" / "data" / "adapters"
REGISTRY = adapters.load([ADAPTERS])
GOOD: dict[str, Any] = {
    "schema": 1,
    "name": "mini",
    "adapters": [str(ADAPTERS)],
    "factors": {
        "server": ["echo"],
        "tracer": ["mute"],
        "mode": ["none", "tracer-only"],
        "body_bytes": [12],
    },
    "load": {"name": "fetch", "requests": 5},
    "servers": {"echo": {"port": 18001}},
    "blocks": 2,
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout without adapters of its own, and with two matrices."""
    (tmp_path / "matrices").mkdir()
    write(tmp_path / "matrices" / "mini.yml", GOOD)
    write(tmp_path / "matrices" / "other.yml", {**GOOD, "name": "other"})
    return tmp_path


def write(path: Path, data: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return str(path)


def load(project: Path, *settings: str, only: str | None = None, **changes: Any) -> Experiment:
    path = write(project / "m.yml", {**GOOD, **changes})
    return matrix.load(path, project, settings, only)


def refusal(project: Path, *settings: str, only: str | None = None, **changes: Any) -> str:
    with pytest.raises(UsageError) as caught:
        load(project, *settings, only=only, **changes)
    assert caught.value.exit_code == EXIT_USAGE
    return caught.value.message.replace(f"{project}/", "")


def factors(**changes: Any) -> dict[str, Any]:
    return {**GOOD["factors"], **changes}


def ids(experiment: Experiment) -> list[str]:
    return [cell.id for cell in experiment.cells]


# --- the shipped ones -----------------------------------------------------------------------------


USERSPACE = [
    f"userspace-uprobe-{tracer}-{placement}{loader}"
    for tracer in ("deepflow", "gotrace")
    for placement in ("hybrid", "entries", "hybrid-entries")
    for loader in ("", "-daemon")
]
PUBLISHED = [
    "none",
    "none-again",
    *(f"{mode}-{tracer}" for mode in MODES[2:4] for tracer in ("deepflow", "gotrace")),
    *USERSPACE,
]


def as_published(experiment: Experiment) -> None:
    """The load, the warm-up and the ports of the published experiment."""
    for cell in experiment.cells:
        load = cell.load_parameters
        assert (load["threads"], load["connections"], load["duration_s"]) == (10, 100, 10)
        assert cell.server_parameters["port"] == {"https": 446, "http": 447}[cell.server]
        assert cell.runtime in (None, RuntimeOptions())
    assert (experiment.matrix.warm_up_s, experiment.matrix.blocks) == (2, 6)


def test_the_published_experiment() -> None:
    seed = matrix.load("seed", ROOT)
    assert seed.source == "matrices/seed.yml"
    assert ids(seed) == [f"{server}-{way}-12B" for server in ("https", "http") for way in PUBLISHED]
    assert len(seed.cells) == 36
    as_published(seed)


def test_the_published_experiment_over_the_published_sizes() -> None:
    sizes = matrix.load("sizes", ROOT)
    names = ("12B", "1KiB", "2KiB", "4KiB", "16KiB", "128KiB", "256KiB")
    assert ids(sizes) == [
        f"{server}-{way}-{size}"
        for server in ("https", "http")
        for size in names
        for way in PUBLISHED
    ]
    assert len(sizes.cells) == 252
    as_published(sizes)


def test_a_minute_shows_every_mode() -> None:
    smoke = matrix.load("smoke", ROOT)
    assert [(cell.server, cell.mode) for cell in smoke.cells] == [
        (server, mode) for server in ("https", "http") for mode in MODES if mode != "as-shipped"
    ]
    seconds = smoke.matrix.warm_up_s + smoke.cells[0].load_parameters["duration_s"]
    assert 45 <= smoke.matrix.blocks * len(smoke.cells) * seconds <= 75


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "matrices").glob("*.yml")))
def test_every_shipped_matrix_is_named_like_its_file(name: str) -> None:
    assert matrix.load(name, ROOT).matrix.name == name


# --- finding --------------------------------------------------------------------------------------


def test_a_name_is_looked_up_and_a_path_is_taken(project: Path) -> None:
    assert matrix.find("mini", project) == project / "matrices" / "mini.yml"
    assert matrix.find("./mini", project) == Path("./mini")
    assert matrix.find("mini.yml", project) == Path("mini.yml")
    assert matrix.load("mini", project).source == "matrices/mini.yml"


def test_an_unknown_name_is_told_with_the_nearest_and_all(project: Path) -> None:
    with pytest.raises(UsageError) as caught:
        matrix.find("minni", project)
    assert caught.value.message == (
        "no matrix 'minni'; did you mean mini? There are mini, other; or give the path of a file"
    )
    with pytest.raises(UsageError, match=r"^no matrix 'xyz'\. There are mini, other;"):
        matrix.find("xyz", project)


def test_a_path_that_is_not_there(project: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.yml: No such file or directory"):
        matrix.load(str(project / "nothing.yml"), project)


# --- cells ----------------------------------------------------------------------------------------


def test_factors_become_cells_in_the_order_of_the_file(project: Path) -> None:
    experiment = load(project, factors=factors(mode=list(MODES), body_bytes=[12, 4096]))
    assert ids(experiment) == [
        "echo-none-12B",
        "echo-none-again-12B",
        "echo-tracer-only-mute-12B",
        "echo-kernel-uprobe-mute-12B",
        "echo-userspace-uprobe-mute-hybrid-12B",
        "echo-as-shipped-mute-12B",
        "echo-none-4KiB",
        "echo-none-again-4KiB",
        "echo-tracer-only-mute-4KiB",
        "echo-kernel-uprobe-mute-4KiB",
        "echo-userspace-uprobe-mute-hybrid-4KiB",
        "echo-as-shipped-mute-4KiB",
    ]


def test_a_cell_has_all_its_parameters(project: Path) -> None:
    none, traced = load(project).cells
    assert (none.tracer, traced.tracer) == (None, "mute")
    assert none.load_parameters == {"duration_s": 1, "requests": 5, "rate_per_s": 0}
    assert none.server_parameters == {"port": 18001}
    assert load(project, servers={}).cells[0].server_parameters == {"port": 18473}


def test_what_does_not_apply_is_dropped_and_equal_cells_are_merged(project: Path) -> None:
    root = project / "more"
    for name in ("one", "two"):
        folder = root / "tracers" / name
        folder.mkdir(parents=True)
        text = (ADAPTERS / "tracers" / "mute" / "adapter.yml").read_text()
        (folder / "adapter.yml").write_text(text.replace("name: mute", f"name: {name}"))
    experiment = load(
        project,
        adapters=[str(ADAPTERS), "more"],
        factors=factors(tracer=["one", "two"], mode=["none", "tracer-only", "none"]),
    )
    assert ids(experiment) == [
        "echo-none-12B",
        "echo-tracer-only-one-12B",
        "echo-tracer-only-two-12B",
    ]


def test_without_tracers_untraced_modes_are_enough(project: Path) -> None:
    experiment = load(project, factors={"server": ["echo"], "mode": ["none", "none-again"]})
    assert ids(experiment) == ["echo-none-12B", "echo-none-again-12B"]


def userspace(project: Path, **changes: Any) -> Experiment:
    """The cells of one userspace mode, with these factors."""
    return load(project, factors=factors(mode=["none", "userspace-uprobe"], **changes))


@pytest.mark.parametrize(
    ("factor", "values", "parts"),
    [
        ("placement", ["entries", "hybrid"], ["entries", "hybrid"]),
        ("loader", ["syscall-server", "daemon"], ["hybrid", "hybrid-daemon"]),
        ("jit", [True, False], ["hybrid", "hybrid-nojit"]),
        ("shm_mb", [50, 100], ["hybrid", "hybrid-shm100"]),
        ("map_kind", ["array", "percpu-hash"], ["hybrid", "hybrid-percpu-hash"]),
        ("bpftime_prefix", ["", "/opt/a/b"], ["hybrid", "hybrid-bpftime2"]),
    ],
)
def test_a_factor_of_userspace_modes_is_named_where_it_is_not_the_default(
    project: Path, factor: str, values: list[Any], parts: list[str]
) -> None:
    experiment = userspace(project, **{factor: values})
    wanted = [f"echo-userspace-uprobe-mute-{part}-12B" for part in parts]
    assert ids(experiment) == ["echo-none-12B", *wanted]
    none, *varied = experiment.cells
    assert (none.placement, none.loader, none.runtime) == (None, None, None)
    seen = [
        getattr(cell if factor in ("placement", "loader") else cell.runtime, factor)
        for cell in varied
    ]
    assert seen == values


def test_a_userspace_cell_has_the_defaults_of_the_factors(project: Path) -> None:
    cell = userspace(project).cells[1]
    assert (cell.placement, cell.loader) == ("hybrid", "syscall-server")
    assert cell.runtime == RuntimeOptions(jit=True, shm_mb=50, map_kind="array", bpftime_prefix="")


def test_placement_and_loader_can_be_chosen(project: Path) -> None:
    changes = factors(
        mode=["none", "userspace-uprobe"],
        placement=["hybrid", "entries"],
        loader=["syscall-server", "daemon"],
    )
    kept = load(project, only="placement=entries,loader=daemon", factors=changes)
    assert ids(kept) == ["echo-userspace-uprobe-mute-entries-daemon-12B"]


def test_a_placement_that_no_tracer_knows_is_misspelt() -> None:
    with pytest.raises(
        UsageError, match=r"factors\.placement\.0: no 'hybird'; allowed are entries"
    ):
        matrix.load("seed", ROOT, ["factors.placement=[hybird]"])


@given(
    st.lists(st.sampled_from(MODES), min_size=1, max_size=6),
    st.lists(st.integers(1, 1 << 30), min_size=1, max_size=4),
)
def test_every_combination_is_there_once(modes: list[str], sizes: list[int]) -> None:
    data = {**GOOD, "factors": factors(mode=modes, body_bytes=sizes)}
    cells = matrix.expand(matrix.Matrix.model_validate(data), REGISTRY)
    assert len({cell.id for cell in cells}) == len(cells)
    assert {(cell.mode, cell.body_bytes) for cell in cells} == {
        (mode, size) for mode in modes for size in sizes
    }
    assert len(cells) == len(set(modes)) * len(set(sizes))
    assert all((cell.tracer is None) == (cell.mode in UNTRACED_MODES) for cell in cells)


@pytest.mark.parametrize(
    ("size", "name"),
    [(1, "1B"), (12, "12B"), (1023, "1023B"), (1024, "1KiB"), (1025, "1025B"), (1 << 17, "128KiB")],
)
def test_the_name_of_a_size(size: int, name: str) -> None:
    assert size_name(size) == name


@given(st.integers(1, 1 << 40), st.integers(1, 1 << 40))
def test_two_sizes_have_two_names(one: int, other: int) -> None:
    assert (size_name(one) == size_name(other)) == (one == other)
    assert size_name(1 << 21) == "2MiB"


# --- its identity ---------------------------------------------------------------------------------


def test_the_digest_is_of_the_content_not_of_its_layout(project: Path) -> None:
    first = load(project)
    text = (project / "m.yml").read_text()
    (project / "m.yml").write_text("# a comment\n" + text + "\nwarm_up_s: 2\n")
    again = matrix.load(str(project / "m.yml"), project)
    assert again.sha256 == first.sha256
    assert load(project, "blocks=3").sha256 != first.sha256
    assert load(project, "load.requests=6").sha256 != first.sha256


def test_the_content_is_json_with_the_file_s_names(project: Path) -> None:
    content = load(project).content
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["schema"] == 1
    assert content["load"] == {"name": "fetch", "requests": 5}
    assert content["limits"]["over"] == "flag"


def test_a_folder_of_adapters_is_found_beside_the_matrix(project: Path) -> None:
    (project / "inner").mkdir()
    (project / "inner" / "mine").symlink_to(ADAPTERS)
    path = write(project / "inner" / "m.yml", {**GOOD, "adapters": ["mine"]})
    assert list(matrix.load(path, project).registry.servers) == ["echo", "nginx"]


# --- --set and --only -----------------------------------------------------------------------------


def test_settings_are_applied(project: Path) -> None:
    experiment = load(project, "blocks=9", "load.requests=7", "servers.echo.port=18002", "seed=3")
    assert experiment.matrix.blocks == 9
    assert experiment.matrix.seed == 3
    assert experiment.cells[0].load_parameters["requests"] == 7
    assert experiment.cells[0].server_parameters["port"] == 18002


def test_a_load_s_parameter_that_only_its_adapter_names_can_be_set(project: Path) -> None:
    assert load(project, "load.duration_s=30").cells[0].load_parameters["duration_s"] == 30


@pytest.mark.parametrize(
    ("only", "kept"),
    [
        ("mode=none", ["echo-none-12B", "echo-none-1KiB"]),
        ("mode=none,body_bytes=1024", ["echo-none-1KiB"]),
        (
            "body_bytes=12,mode=none,mode=tracer-only",
            ["echo-none-12B", "echo-tracer-only-mute-12B"],
        ),
        ("tracer=mute, body_bytes=12", ["echo-tracer-only-mute-12B"]),
        (
            "server=echo,load=fetch,body_bytes=12",
            ["echo-none-12B", "echo-tracer-only-mute-12B"],
        ),
    ],
)
def test_only_keeps_what_it_names(project: Path, only: str, kept: list[str]) -> None:
    assert ids(load(project, only=only, factors=factors(body_bytes=[12, 1024]))) == kept


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("mode", "--only mode: expected FACTOR=VALUE with one of server, mode, tracer"),
        ("color=red", "--only color=red: expected FACTOR=VALUE with one of server, mode, tracer"),
        ("mode=none,", "--only : expected FACTOR=VALUE"),
        ("mode=nune", "--only mode=nune: not in this matrix; there are none, tracer-only"),
        ("body_bytes=13", "--only body_bytes=13: not in this matrix; there are 12"),
        ("mode=none,tracer=mute", "--only mode=none,tracer=mute: no cell of the matrix fits all"),
    ],
)
def test_a_wrong_only_is_told(project: Path, only: str, message: str) -> None:
    assert refusal(project, only=only).startswith(message)


# --- wrong files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "m.yml:1: schema: input should be 1, found 2"),
        ({"name": "My Matrix"}, "m.yml:2: name: string should match pattern"),
        ({"name": "a/b"}, "m.yml:2: name: string should match pattern"),
        (
            {"colour": "red"},
            "m.yml:22: colour: no such field; allowed are adapters, blocks, factors, limits, load, "
            "name, repeat, schema, seed, servers, summary, tracers, warm_up_s",
        ),
        ({"blocks": 0}, "m.yml:21: blocks: input should be greater than or equal to 1, found 0"),
        ({"blocks": "many"}, "m.yml:21: blocks: input should be a valid integer"),
        ({"blocks": True}, "m.yml:21: blocks: input should be a valid integer"),
        ({"warm_up_s": -1}, "m.yml:22: warm_up_s: input should be greater than or equal to 0"),
        ({"warm_up_s": 0.5}, "m.yml:22: warm_up_s: input should be a valid integer"),
        ({"seed": -1}, "m.yml:22: seed: input should be greater than or equal to 0, found -1"),
        (
            {"factors": factors(mode=["none", "kernel"])},
            "m.yml:12: factors.mode.1: input should be 'none', 'none-again', 'tracer-only', "
            "'kernel-uprobe', 'userspace-uprobe' or 'as-shipped', found 'kernel'",
        ),
        ({"factors": factors(server=[])}, "m.yml:6: factors.server: "),
        ({"factors": factors(mode=[])}, "m.yml:"),
        (
            {"factors": factors(body_bytes=[0])},
            "m.yml:14: factors.body_bytes.0: input should be gr",
        ),
        ({"factors": factors(placement=[])}, "m.yml:"),
        (
            {"factors": factors(loader=["deamon"])},
            "m.yml:16: factors.loader.0: input should be 'syscall-server' or 'daemon', found 'dea",
        ),
        ({"factors": factors(jit=["no"])}, "m.yml:16: factors.jit.0: input should be a valid boo"),
        ({"factors": factors(shm_mb=[5])}, "m.yml:16: factors.shm_mb.0: input should be greater"),
        (
            {"factors": factors(map_kind=["tree"])},
            "m.yml:16: factors.map_kind.0: input should be 'array', 'hash', 'percpu-array' or",
        ),
        (
            {"factors": factors(bpftime_prefix=["own"])},
            "m.yml:16: factors.bpftime_prefix.0: string should match pattern",
        ),
        ({"factors": factors(body_bytes=[1 << 31])}, "m.yml:14: factors.body_bytes.0: input shoul"),
        ({"factors": factors(size=1)}, "m.yml:15: factors.size: no such field; allowed are body_b"),
        (
            {"factors": factors(server=["eco"])},
            "m.yml:7: factors.server.0: no 'eco'; allowed are e",
        ),
        (
            {"factors": factors(tracer=["loud"])},
            "m.yml:9: factors.tracer.0: no 'loud'; allowed are",
        ),
        ({"factors": factors(tracer=[])}, "m.yml:5: factors: traced modes need a tracer"),
        ({"load": {"name": "curl"}}, "m.yml:16: load.name: no 'curl'; allowed are fetch, h2load"),
        ({"load": {"requests": 5}}, "m.yml:15: load.name: this field is missing"),
        (
            {"load": {"name": "fetch", "threads": 1}},
            "m.yml:17: load.threads: no such field; allowed are duration_s, rate_per_s, requests",
        ),
        (
            {"load": {"name": "fetch", "requests": 100_001}},
            "m.yml:17: load.requests: allowed are 0 to 100000 (requests), found 100001",
        ),
        (
            {"load": {"name": "fetch", "requests": "x"}},
            "m.yml:17: load.requests: expected a whole number (requests), found 'x'",
        ),
        (
            {"load": {"name": "fetch", "requests": True}},
            "m.yml:17: load.requests: expected a whole number (requests), found True",
        ),
        (
            {"load": {"name": "fetch", "requests": 1.5}},
            "m.yml:17: load.requests: expected a whole number (requests), found 1.5",
        ),
        (
            {"servers": {"echo": {"port": 0}}},
            "m.yml:20: servers.echo.port: allowed are 1 to 65535 (TCP port), found 0",
        ),
        (
            {"servers": {"echo": {"gate": 1}}},
            "m.yml:20: servers.echo.gate: no such field; allowed are port",
        ),
        ({"servers": {"eco": {}}}, "m.yml:19: servers.eco: no 'eco'; allowed are echo, nginx"),
        ({"tracers": {"mut": {}}}, "m.yml:23: tracers.mut: no 'mut'; allowed are bpftrace, mute"),
        (
            {"tracers": {"mute": {"attached_timeout_s": 0}}},
            "m.yml:24: tracers.mute.attached_timeout_s: input should be greater than 0, found 0",
        ),
        (
            {"tracers": {"mute": {"attached_timeout_s": 3601}}},
            "m.yml:24: tracers.mute.attached_timeout_s: input should be less than or equal to 3600",
        ),
        (
            {"tracers": {"mute": {"attached_timeout_s": "soon"}}},
            "m.yml:24: tracers.mute.attached_timeout_s: input should be a valid number",
        ),
        (
            {"tracers": {"mute": {"timeout": 5}}},
            "m.yml:24: tracers.mute.timeout: no such field; allowed are adapter, attached_timeout_",
        ),
        (
            {"tracers": {"pr": {"adapter": "mut"}}},
            "m.yml:23: tracers.pr.adapter: no 'mut'; allowed are bpftrace, mute",
        ),
        (
            {"tracers": {"mute": {"adapter": "bpftrace"}}},
            "m.yml:23: tracers.mute: that is the name of an adapter; give it another one",
        ),
        (
            {"tracers": {"a/b": {"adapter": "bpftrace"}}},
            "m.yml:23: tracers.a/b: allowed in a name are letters, digits, '.', '_' and '-'",
        ),
        (
            {"tracers": {"pr": {"adapter": "mute", "path": "/srv/pr"}}},
            "m.yml:23: tracers.pr.path: adapter mute has no program called program",
        ),
        (
            {"tracers": {"pr": {"adapter": "bpftrace", "path": "build/pr"}}},
            "m.yml:25: tracers.pr.path: string should match pattern",
        ),
        (
            {"tracers": {"pr": {"adapter": "bpftrace", "path": "/srv/{root}"}}},
            "m.yml:25: tracers.pr.path: string should match pattern",
        ),
        (
            {"limits": {"steal": 1}},
            "m.yml:23: limits.steal: no such field; allowed are foreign_pct",
        ),
        (
            {"limits": {"over": "ignore"}},
            "m.yml:23: limits.over: input should be 'flag' or 'invali",
        ),
        ({"limits": {"steal_pct": -1}}, "m.yml:23: limits.steal_pct: "),
        ({"limits": {"steal_pct": float("nan")}}, "m.yml:23: limits.steal_pct: "),
        ({"repeat": {"per_block": -1}}, "m.yml:23: repeat.per_block: "),
        ({"repeat": {"per_run": 1.5}}, "m.yml:23: repeat.per_run: input should be a valid integer"),
        ({"adapters": ["nowhere"]}, "nowhere: no such folder of adapters"),
    ],
)
def test_a_wrong_field_is_told_with_its_line_and_what_is_allowed(
    project: Path, changes: dict[str, Any], message: str
) -> None:
    said = refusal(project, **changes)
    assert any(line.startswith(message) for line in said.splitlines()), said


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "load.threads=1",
            "load.threads: no such field; allowed are duration_s, rate_per_s, requests",
        ),
        ("load.requests=-1", "load.requests: allowed are 0 to 100000 (requests), found -1"),
        (
            "load.name=curl",
            "load.name: no 'curl'; allowed are fetch, h2load, h2load-closed",
        ),
        ("factors.server=[eco]", "factors.server.0: no 'eco'; allowed are echo, nginx"),
        ("servers.eco.port=1", "servers.eco: no 'eco'; allowed are echo, nginx"),
        ("blocks=0", "blocks: input should be greater than or equal to 1, found 0"),
        ("limits.over=ignore", "limits.over: input should be 'flag' or 'invalid', found 'ignore'"),
    ],
)
def test_a_wrong_setting_is_told_like_the_file(project: Path, setting: str, message: str) -> None:
    assert refusal(project, setting) == f"--set {setting}: {message}"


def test_all_wrong_names_are_told_at_once(project: Path) -> None:
    said = refusal(project, factors=factors(server=["a", "b"]), load={"name": "c"})
    assert len(said.splitlines()) == 3


def test_a_matrix_may_say_how_long_a_tracer_may_take(project: Path) -> None:
    before = load(project).registry.tracers["mute"]
    patient = load(project, tracers={"mute": {"attached_timeout_s": 61}}).registry.tracers["mute"]
    assert patient == replace(before, attached_timeout_s=61)
    assert load(project, tracers={"mute": {}}).registry.tracers["mute"] == before


# --- several builds of one tracer -----------------------------------------------------------------

BUILDS: dict[str, Any] = {
    "tracers": {
        "main": {"adapter": "bpftrace", "path": "/srv/main/tracer"},
        "pr": {"adapter": "bpftrace", "path": "/srv/pr/tracer"},
    },
    "factors": {"server": ["echo"], "tracer": ["main", "pr"], "mode": ["none", "kernel-uprobe"]},
}


def test_builds_of_one_tracer_are_cells_of_the_same_blocks(project: Path) -> None:
    experiment = load(project, **BUILDS)
    assert [cell.id for cell in experiment.cells] == [
        "echo-none-12B",
        "echo-kernel-uprobe-main-12B",
        "echo-kernel-uprobe-pr-12B",
    ]
    tracers = experiment.registry.tracers
    programs = {name: tracers[name].programs["program"].name for name in ("main", "pr")}
    assert programs == {"main": "/srv/main/tracer", "pr": "/srv/pr/tracer"}
    base = tracers["bpftrace"]
    others = {**tracers["pr"].programs, "program": base.programs["program"]}
    assert replace(tracers["pr"], name="bpftrace", programs=others) == base


def test_the_files_of_a_build_s_adapter_travel_under_its_name(project: Path) -> None:
    registry = load(project, **BUILDS).registry
    travelling = [
        (name, file) for kind, name, file, _ in registry.travelling() if kind == "tracers"
    ]
    assert ("pr", "start.sh") in travelling
    assert ("main", "start.sh") in travelling


def test_a_build_may_take_an_adapter_s_place(project: Path) -> None:
    settings = {"bpftrace": {"path": "/srv/pr/tracer", "attached_timeout_s": 7}}
    tracer = load(project, tracers=settings).registry.tracers["bpftrace"]
    assert tracer.programs["program"].name == "/srv/pr/tracer"
    assert tracer.attached_timeout_s == 7


def test_a_run_with_builds_can_be_taken_up_again(project: Path) -> None:
    first = load(project, **BUILDS)
    ids = [cell.id for cell in first.cells]
    again = matrix.restore(first.content, "matrices/m.yml", project, ids)
    assert again.cells == first.cells
    assert again.registry.tracers["pr"] == first.registry.tracers["pr"]
