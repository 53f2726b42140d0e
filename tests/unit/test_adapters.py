"""uplab/adapters.py: the shipped adapters, wrong ones of every kind, and the published schemas."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from uplab import adapters
from uplab.adapters import KINDS, Registry
from uplab.errors import EXIT_USAGE, UsageError
from uplab.hostside.decode import build
from uplab.hostside.spec import LoadAdapter, ServerAdapter, TracerAdapter
from uplab.hostside.templates import placeholders

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "adapters"
SCHEMAS = ROOT / "docs" / "reference" / "schemas"
SHIPPED = sorted(
    path for folder, _ in KINDS.values() for path in (ROOT / folder).glob("*/adapter.yml")
)
EXAMPLES = sorted(DATA.glob("*/*/adapter.yml"))
KIND_OF = {folder: kind for kind, (folder, _) in KINDS.items()}

SERVER: dict[str, Any] = {
    "schema": 1,
    "kind": "server",
    "name": "mine",
    "summary": "s",
    "argv": ["{program}", "{port}", "{body_bytes}", "{root}"],
    "url": "http://127.0.0.1:{port}/",
    "ready_line": "^ready",
    "programs": {"program": {"path": "/bin/true"}},
    "parameters": {
        "port": {"default": 1, "minimum": 1, "maximum": 2, "unit": "TCP port", "help": "h"}
    },
}
TRACER: dict[str, Any] = {
    "schema": 1,
    "kind": "tracer",
    "name": "mine",
    "summary": "s",
    "argv": ["{program}", "{pid}", "{mode_args}"],
    "modes": {"kernel-uprobe": {"placement": "kernel", "args": ["--all"]}},
    "programs": {"program": {"path": "/bin/true"}},
    "hit_cost": ["{program}", "{root}"],
    "sites": [{"name": "a", "symbol": "b", "at": "entry", "hits": [{"minimum": 0, "maximum": 1}]}],
}
LOAD: dict[str, Any] = {
    "schema": 1,
    "kind": "load",
    "name": "mine",
    "summary": "s",
    "loop": "closed",
    "argv": ["{program}", "{url}", "{scratch}", "{adapter}", "{duration_s}"],
    "python": "adapter.py",
    "programs": {"program": {"path": "/bin/true"}},
    "parameters": {
        "duration_s": {"default": 1, "minimum": 1, "maximum": 2, "unit": "s", "help": "h"}
    },
}
GOOD = {"server": SERVER, "tracer": TRACER, "load": LOAD}
Change = Callable[[dict[str, Any]], object]


def put(root: Path, kind: str, data: object, name: str = "mine") -> Path:
    """Write an adapter where it belongs; out: its adapter.yml."""
    folder = root / KINDS[kind][0] / name
    folder.mkdir(parents=True)
    (folder / "adapter.py").write_text("")
    (folder / "adapter.yml").write_text(yaml.safe_dump(data, sort_keys=False))
    return folder / "adapter.yml"


def refusal(root: Path, kind: str, change: Change) -> str:
    data = copy.deepcopy(GOOD[kind])
    change(data)
    path = put(root, kind, data)
    with pytest.raises(UsageError) as caught:
        adapters.load([root])
    assert caught.value.exit_code == EXIT_USAGE
    assert str(path) in caught.value.message
    return caught.value.message.replace(f"{path.parent}/", "")


def line_of(data: dict[str, Any], text: str) -> int:
    """The line of the first field of a written adapter that begins like this."""
    lines = yaml.safe_dump(data, sort_keys=False).splitlines()
    return next(n for n, line in enumerate(lines, 1) if line.strip().startswith(text))


# --- good ones ------------------------------------------------------------------------------------


def test_the_shipped_adapters_are_read() -> None:
    registry = adapters.load([ROOT])
    assert set(registry.folders.values()) == {path.parent for path in SHIPPED}
    assert len(registry.servers) + len(registry.tracers) + len(registry.loads) == len(SHIPPED)
    assert len(SHIPPED) >= 4


def test_the_shipped_tracers_declare_what_their_servers_need() -> None:
    """Each site has a rule for every shipped server that the tracer fits."""
    registry = adapters.load([ROOT])
    for tracer in registry.tracers.values():
        for server in registry.servers.values():
            if set(tracer.needs_traits) <= set(server.traits):
                for site in tracer.sites:
                    assert any(set(rule.traits) <= set(server.traits) for rule in site.hits)


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_adapter_is_taken(tmp_path: Path, kind: str) -> None:
    put(tmp_path, kind, GOOD[kind])
    registry = adapters.load([tmp_path])
    tables: dict[str, dict[str, Any]] = {
        "server": registry.servers,
        "tracer": registry.tracers,
        "load": registry.loads,
    }
    table = tables[kind]
    assert list(table) == ["mine"]
    assert registry.folders == {(KINDS[kind][0], "mine"): tmp_path / KINDS[kind][0] / "mine"}


def test_a_folder_without_adapters_holds_none(tmp_path: Path) -> None:
    assert adapters.load([tmp_path]) == Registry()
    assert adapters.load([]) == Registry()


def test_further_folders_add_to_the_project_s(tmp_path: Path) -> None:
    put(tmp_path / "a", "server", SERVER)
    put(tmp_path / "b", "server", {**SERVER, "name": "other"}, "other")
    registry = adapters.load([tmp_path / "a", tmp_path / "b"])
    assert sorted(registry.servers) == ["mine", "other"]


def test_a_subset_is_sorted_and_holds_each_once(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        put(tmp_path, "server", {**SERVER, "name": name}, name)
    put(tmp_path, "load", LOAD)
    part = adapters.load([tmp_path]).subset(["b", "a", "b"], [], ["mine"])
    assert list(part.servers) == ["a", "b"]
    assert (part.tracers, list(part.loads)) == ({}, ["mine"])


# --- wrong ones -----------------------------------------------------------------------------------


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"^{tmp_path}/no: no such folder of adapters$"):
        adapters.load([tmp_path / "no"])


def test_two_adapters_of_one_kind_and_name(tmp_path: Path) -> None:
    first = put(tmp_path / "a", "server", SERVER)
    second = put(tmp_path / "b", "server", SERVER)
    put(tmp_path / "c", "tracer", TRACER)
    adapters.load([tmp_path / "a", tmp_path / "c"])
    with pytest.raises(UsageError) as caught:
        adapters.load([tmp_path / "a", tmp_path / "b"])
    assert caught.value.message == f"{second}: server mine is already in {first.parent}"


@pytest.mark.parametrize("kind", KINDS)
def test_each_field_that_must_be_there_is_missed(tmp_path: Path, kind: str) -> None:
    said = refusal(tmp_path, kind, dict.clear)
    model: Any = KINDS[kind][1]
    for name in ("schema", "kind", "name", "summary", "argv"):
        assert f"adapter.yml:1: {name}: this field is missing" in said.splitlines()
        assert name in model.__dataclass_fields__


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_field_is_told_with_the_known_ones(tmp_path: Path, kind: str) -> None:
    said = refusal(tmp_path, kind, lambda data: data.update(colour="red"))
    line = len(yaml.safe_dump(GOOD[kind], sort_keys=False).splitlines()) + 1
    assert said.startswith(f"adapter.yml:{line}: colour: no such field; allowed are a")


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_another_schema_kind_or_name(tmp_path: Path, kind: str) -> None:
    said = refusal(tmp_path / "schema", kind, lambda data: data.update(schema=2))
    assert said == "adapter.yml:1: schema: allowed is 1"
    said = refusal(tmp_path / "name", kind, lambda data: data.update(name="theirs"))
    assert said == f"adapter.yml:3: name: this folder must hold {kind} mine"
    other = "load" if kind == "server" else "server"
    said = refusal(tmp_path / "kind", kind, lambda data: data.update(kind=other))
    assert said == f"adapter.yml:2: kind: input should be '{kind}', found '{other}'"


@pytest.mark.parametrize(
    ("kind", "change", "field"),
    [
        ("server", lambda d: d["argv"].append("{pid}"), "argv.4"),
        ("server", lambda d: d.update(url="http://{host}/"), "url"),
        ("server", lambda d: d.update(env={"A": "{pid}"}), "env.A"),
        ("server", lambda d: d["programs"].clear(), "argv.0"),
        ("server", lambda d: d["programs"].update(key={"path": "{home}/key"}), "programs.key.path"),
        ("tracer", lambda d: d["argv"].append("{url}"), "argv.3"),
        ("tracer", lambda d: d.update(env={"A": "{url}"}), "env.A"),
        ("tracer", lambda d: d["hit_cost"].append("{url}"), "hit_cost.2"),
        ("tracer", lambda d: d["hit_cost"].append("{pid}"), "hit_cost.2"),
        ("tracer", lambda d: d["argv"].append("--args={mode_args}"), "argv.3"),
        (
            "tracer",
            lambda d: d["modes"]["kernel-uprobe"]["args"].append("{url}"),
            "modes.kernel-uprobe.args.1",
        ),
        ("load", lambda d: d["argv"].append("{pid}"), "argv.5"),
        ("load", lambda d: d.update(env={"A": "{threads}"}), "env.A"),
    ],
)
def test_a_placeholder_that_has_no_value_there(
    tmp_path: Path, kind: str, change: Change, field: str
) -> None:
    """Here, not on the host in the middle of a run."""
    said = refusal(tmp_path, kind, change)
    data = copy.deepcopy(GOOD[kind])
    change(data)
    value: Any = data
    for part in field.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]
    (name,) = placeholders(value)
    prefix, place, rest = said.split(": ", 2)
    assert prefix.startswith("adapter.yml:")
    assert place == field
    assert rest.startswith(f"{{{name}}} has no value here; there are ")
    assert name not in rest.split("there are ")[1].split(", ")


def test_the_line_of_a_wrong_argument_is_its_own(tmp_path: Path) -> None:
    said = refusal(tmp_path, "server", lambda data: data["argv"].append("{pid}"))
    line = line_of({**SERVER, "argv": [*SERVER["argv"], "{pid}"]}, "- '{pid}'")
    assert said.startswith(f"adapter.yml:{line}: argv.4: ")


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "server",
            lambda d: d["programs"].update(program={}),
            "either component and file, or path",
        ),
        (
            "server",
            lambda d: d["programs"].update(program={"component": "a", "path": "/b"}),
            "programs.program",
        ),
        ("server", lambda d: d["parameters"]["port"].update(default=3), "default 3 is not in 1..2"),
        (
            "server",
            lambda d: d["parameters"]["port"].pop("unit"),
            "parameters.port.unit: this field",
        ),
        ("server", lambda d: d.update(argv="program"), "argv: "),
        ("server", lambda d: d.update(argv=[]), "argv: "),
        (
            "server",
            lambda d: d.update(argv=["{program}", 8]),
            "argv.1: input should be a valid str",
        ),
        ("server", lambda d: d.update(ready_line="("), "ready_line: "),
        ("server", lambda d: d.update(stop_signal="SIGNOPE"), "stop_signal: "),
        ("server", lambda d: d.update(stop_timeout_s=-1), "stop_timeout_s: "),
        ("server", lambda d: d.update(ready_timeout_s=float("nan")), "ready_timeout_s: "),
        (
            "server",
            lambda d: d.update(ready_timeout_s="soon"),
            "ready_timeout_s: input should be a",
        ),
        ("server", lambda d: d.update(url="ftp://127.0.0.1:{port}/"), "url: "),
        ("server", lambda d: d.update(answer={"code": 200}), "answer.code: no such field"),
        ("tracer", lambda d: d.update(modes={"none": {}}), "modes: none has no tracer"),
        (
            "tracer",
            lambda d: d.update(modes={"magic": {}}),
            "'kernel-uprobe', 'userspace-uprobe' or 'as-shipped'",
        ),
        (
            "tracer",
            lambda d: d["modes"]["kernel-uprobe"].update(placement="moon"),
            "modes.kernel-uprobe.placement: input should be 'untouched', 'kernel', 'userspace' or "
            "'any'",
        ),
        (
            "tracer",
            lambda d: d["sites"][0].update(at="exit"),
            "sites.0.at: input should be 'entry'",
        ),
        ("tracer", lambda d: d["sites"][0]["hits"][0].update(maximum=-1), "sites.0.hits.0"),
        ("tracer", lambda d: d["sites"].append(copy.deepcopy(d["sites"][0])), "sites.1"),
        ("tracer", lambda d: d.update(counters_signal="USR1"), "counters_signal: "),
        ("tracer", lambda d: d.update(event_line="x"), "event_line: for tracers that have a ready"),
        ("tracer", lambda d: d.update(self_test=["x"]), "self_test: for tracers that have a ready"),
        ("tracer", lambda d: d.update(ready_line="x", event_line="("), "event_line: no regular"),
        ("tracer", lambda d: d.update(ready_line="x", lost_line="x"), "lost_line: exactly one"),
        ("tracer", lambda d: d.update(causes=[{"line": "(", "text": ""}]), "causes.0.line: no reg"),
        (
            "tracer",
            lambda d: d.update(ready_line="x", event_line="PID {server}"),
            "event_line: {server} has no value here; there are pid",
        ),
        (
            "tracer",
            lambda d: d.update(ready_line="x", self_test=["{pid}"]),
            "self_test.0: {pid} has no value here; there are adapter, ",
        ),
        ("load", lambda d: d.update(loop="spiral"), "loop: input should be 'closed' or 'open'"),
        ("load", lambda d: d.update(python="other.py"), "files: other.py is not in "),
        ("load", lambda d: d.update(files=["done.lua"]), "files: done.lua is not in "),
        ("load", lambda d: d.update(files=["../mine/adapter.py"]), "files.0: "),
        ("load", lambda d: d.update(python="/etc/hostname"), "python: "),
        ("load", lambda d: d.update(parameters={}), "parameters"),
    ],
)
def test_a_wrong_value_is_told(tmp_path: Path, kind: str, change: Change, message: str) -> None:
    assert message in refusal(tmp_path, kind, change)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data.update(schema=2, name="theirs", files=["a", "b"])

    assert len(refusal(tmp_path, "load", change).splitlines()) == 4


def test_a_near_name_is_offered() -> None:
    """It ends the sentence, whether there is one or not."""
    assert adapters.nearest("mien", ["mine", "other"]) == "; did you mean mine?"
    assert adapters.nearest("zzz", ["mine", "other"]) == "."


# --- the published schemas ------------------------------------------------------------------------


def schema_of(kind: str) -> Any:
    return json.loads((SCHEMAS / f"adapter-{kind}.schema.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_the_published_schema_is_the_model_s(kind: str) -> None:
    wanted = json.dumps(adapters.json_schema(kind), indent=2) + "\n"
    path = SCHEMAS / f"adapter-{kind}.schema.json"
    assert path.read_text() == wanted, f"{path} is out of date. Run: ./invoke build.reference"


@pytest.mark.parametrize("kind", KINDS)
def test_the_published_schema_is_one(kind: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema_of(kind))


@pytest.mark.parametrize(
    "path", [*SHIPPED, *EXAMPLES], ids=lambda path: "/".join(path.parts[-3:-1])
)
def test_every_adapter_fits_the_published_schema(path: Path) -> None:
    kind = KIND_OF[path.parent.parent.name]
    jsonschema.validate(yaml.safe_load(path.read_text()), schema_of(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_the_published_schema_refuses_what_the_model_refuses(kind: str) -> None:
    for wrong in ({**GOOD[kind], "colour": 1}, {}, {**GOOD[kind], "kind": "x"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema_of(kind))


def test_the_examples_are_read(tmp_path: Path) -> None:
    shutil.copytree(DATA, tmp_path / "adapters")
    registry = adapters.load([tmp_path / "adapters"])
    assert len(registry.folders) == len(EXAMPLES) > 0


def test_hostside_builds_what_the_schema_lets_through() -> None:
    """Both sides read one model: an adapter.yml as it is, is what hostside understands."""
    models: dict[str, Any] = {
        "server": ServerAdapter,
        "tracer": TracerAdapter,
        "load": LoadAdapter,
    }
    for path in SHIPPED:
        data = yaml.safe_load(path.read_text())
        kind = KIND_OF[path.parent.parent.name]
        assert build(models[kind], data) == adapters.read(path, kind, models[kind])
