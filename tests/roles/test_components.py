"""The heavy components, opted in to, built from stand-ins that are served from a local path."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.roles.plays import PLAYBOOKS, Play, Runner, write_stand_ins
from tests.roles.standins import UPSTREAM, Upstream, commit, git

pytestmark = [pytest.mark.usefixtures("debian_packages"), pytest.mark.timeout(300)]

SETUP = PLAYBOOKS / "setup.yml"
DEFAULT = ["golang", "wrk", "servers", "gotrace"]
HEAVY = [*DEFAULT, "bpftime", "deepflow"]
ALL = sorted([*HEAVY, "llvm", "rust"])
BPFTIME = [
    "bpftime",
    "bpftime_daemon",
    "bpftimetool",
    "libbpftime-agent.so",
    "libbpftime-syscall-server.so",
]


@dataclass(frozen=True)
class Lab:
    """A store and the stand-ins that it is filled from."""

    root: Path
    upstream: Upstream
    sources: dict[str, str]
    run_play: Runner

    def setup(self, *words: str, mitogen: bool = True, **more: Any) -> Play:
        """Run the playbook as uplab does by default; the fixture and some tests run it plain."""
        variables = {
            "uplab_root": str(self.root),
            "uplab_components": HEAVY,
            **self.sources,
            **self.upstream.variables(),
            **more,
        }
        return self.run_play(SETUP, *words, variables=variables, mitogen=mitogen)

    def components(self) -> dict[str, Any]:
        value = json.loads((self.root / "manifest.json").read_text())["components"]
        assert isinstance(value, dict)
        return value

    def entries(self, component: str) -> list[str]:
        """What the store holds of a component, finished or not."""
        found = (self.root / "store").glob(f"*{component}-*")
        return sorted(path.name for path in found)

    def pins(self, component: str, **changes: Any) -> dict[str, Any]:
        """All pins, with changes in one of them."""
        pins = copy.deepcopy(self.upstream.pins)
        pins[component] |= changes
        return pins


def new_lab(top: Path, run_play: Runner) -> Lab:
    upstream = Upstream(top / "upstream")
    upstream.make()
    return Lab(top / "uplab", upstream, write_stand_ins(top), run_play)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, run_play: Runner) -> Lab:
    """All components from stand-ins, set up once; the tests leave it converged."""
    made = new_lab(tmp_path_factory.mktemp("components"), run_play)
    first = made.setup(mitogen=False)
    assert first.exit_code == 0, first.output
    return made


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name in ALL if before.get(name) != after.get(name)]


def test_all_components_are_built_from_their_pins(lab: Lab) -> None:
    records = lab.components()
    assert sorted(records) == ALL
    sources = {name: records[name]["source"] for name in ("llvm", "rust", "bpftime", "deepflow")}
    assert sources == {
        "llvm": "distro",
        "rust": "upstream",
        "bpftime": "build",
        "deepflow": "build",
    }
    pins = lab.upstream.pins
    assert sorted(records["bpftime"]["artifacts"]) == BPFTIME
    assert records["bpftime"]["inputs"]["sources"][0]["commit"] == pins["bpftime"]["commit"]
    assert sorted(records["deepflow"]["artifacts"]) == ["bin/rust_sample"]
    assert UPSTREAM not in json.dumps(records)
    for name, output in (("bpftime/bpftime", "part"), ("deepflow/bin/rust_sample", "7")):
        program = lab.root / "current" / name
        said = subprocess.run([str(program)], capture_output=True, text=True, check=True)
        assert said.stdout == f"stand-in {output}\n"


def test_the_pinned_llvm_compiles(lab: Lab) -> None:
    log = (lab.root / "log" / "bpftime.log").read_text()
    assert f"clang is {lab.root}/current/llvm/bin/clang" in log
    assert "cargo stand-in" in (lab.root / "log" / "deepflow.log").read_text()


@pytest.mark.parametrize("mitogen", [False, True], ids=["stock", "mitogen"])
@pytest.mark.parametrize("words", [[], ["--check", "--diff"]], ids=["run", "check"])
def test_a_second_run_changes_nothing(lab: Lab, words: list[str], mitogen: bool) -> None:
    done = lab.setup(*words, mitogen=mitogen)
    assert done.exit_code == 0, done.output
    assert done.recap()["changed"] == 0, done.output


def test_check_mode_on_a_fresh_host_writes_nothing(tmp_path: Path, run_play: Runner) -> None:
    fresh = new_lab(tmp_path, run_play)
    done = fresh.setup("--check", "--diff", mitogen=False)
    assert done.exit_code == 0, done.output
    # Directories, three records, Rust, all other builds, the certificate, the manifest.
    assert done.recap()["changed"] == 8, done.output
    assert not fresh.root.exists()


def test_a_changed_pin_rebuilds_that_component_alone(lab: Lab) -> None:
    before = lab.components()
    repository = lab.upstream.repositories / "bpftime"
    link = git("rev-parse", "HEAD:third_party/part", chdir=repository)
    (repository / "third_party" / "part").mkdir(parents=True, exist_ok=True)
    newer = commit(
        repository,
        {"NEWS": "newer\n"},
        {"third_party/part": (f"{UPSTREAM}part", link)},
    )
    done = lab.setup(uplab_pins=lab.pins("bpftime", commit=newer))
    # The build, and the manifest.
    assert done.recap()["changed"] == 2, done.output
    assert changed(before, lab.components()) == ["bpftime"]
    assert ccache_hits(lab) > 0
    back = lab.setup()
    assert back.recap()["changed"] == 2, back.output
    assert lab.components() == before


def ccache_hits(lab: Lab) -> int:
    argv = ["ccache", "--dir", str(lab.root / "cache" / "ccache"), "--print-stats"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    counters = dict(line.split("\t") for line in said.splitlines())
    return int(counters["direct_cache_hit"]) + int(counters["preprocessed_cache_hit"])


def test_another_mirror_rebuilds_nothing(lab: Lab) -> None:
    nowhere = {"git": {UPSTREAM: "file:///nonexistent/"}, "archives": "file:///nonexistent"}
    assert lab.setup(uplab_mirrors=nowhere).recap()["changed"] == 0


def test_building_again_needs_no_network(lab: Lab) -> None:
    before = lab.components()
    for component in ("bpftime", "deepflow", "rust"):
        (lab.root / "store" / f"{component}-{before[component]['hash']}.json").unlink()
    nowhere = {"git": {UPSTREAM: "file:///nonexistent/"}, "archives": "file:///nonexistent"}
    done = lab.setup(uplab_mirrors=nowhere)
    assert done.exit_code == 0, done.output
    after = lab.components()
    for component in ("bpftime", "deepflow", "rust"):
        assert after[component]["artifacts"] == before[component]["artifacts"]


def test_switched_off_and_on_again(lab: Lab) -> None:
    before = lab.components()
    off = lab.setup(uplab_components=DEFAULT)
    assert off.exit_code == 0, off.output
    assert off.recap()["changed"] == 1
    assert sorted(lab.components()) == sorted(DEFAULT)
    assert sorted(path.name for path in (lab.root / "current").iterdir()) == sorted(DEFAULT)
    assert lab.entries("bpftime")
    assert lab.setup(uplab_components=DEFAULT).recap()["changed"] == 0
    on = lab.setup()
    # Four links, two of them by one task, and the manifest: nothing is built again.
    assert on.recap()["changed"] == 4, on.output
    assert lab.components() == before


def test_a_component_that_nobody_knows_is_refused(lab: Lab) -> None:
    done = lab.setup(uplab_components=["golang", "bpftrace"])
    assert done.exit_code == 2
    assert "base_components" in done.text
    assert "bpftrace" in done.text


def test_a_mirror_of_something_unknown_is_refused(lab: Lab) -> None:
    done = lab.setup(uplab_mirrors={"gti": {}})
    assert done.exit_code == 2
    assert "gti" in done.text


def test_a_tag_alone_does_not_bring_a_component(lab: Lab) -> None:
    done = lab.setup("--tags", "bpftime", uplab_components=DEFAULT)
    assert done.exit_code == 2
    assert "local does not want bpftime. Add the name to uplab_components" in done.text
    assert lab.setup("--tags", "bpftime").recap()["changed"] == 0


FAULTS: list[tuple[str, str, dict[str, Any], str]] = [
    (
        "missing-commit",
        "bpftime",
        {"commit": "0123456789" * 4},
        f"bpftime: {UPSTREAM}bpftime has no commit {'0123456789' * 4}. Correct the pin",
    ),
    ("loose-commit", "bpftime", {"commit": "v0.9.0"}, "'v0.9.0' is not a full commit"),
    (
        "unreachable",
        "bpftime",
        {"url": "file:///nonexistent/bpftime", "commit": "3" * 40},
        "bpftime: cannot fetch file:///nonexistent/bpftime: fatal:",
    ),
    (
        "wrong-sha256",
        "bpftime",
        {"archives": [{"url": f"{UPSTREAM}devkit.tar.xz", "sha256": "0" * 64}]},
        f"the pin says {'0' * 64}; nothing of it was kept",
    ),
    (
        "missing-archive",
        "deepflow",
        {"libdwarf": {"url": f"{UPSTREAM}no-such.tar.xz", "sha256": "1" * 64}},
        "name a mirror in uplab_mirrors.archives",
    ),
]


@pytest.mark.parametrize(
    ("component", "changes", "message"),
    [fault[1:] for fault in FAULTS],
    ids=[fault[0] for fault in FAULTS],
)
def test_a_fault_says_what_and_leaves_the_last_good_build(
    lab: Lab, component: str, changes: dict[str, Any], message: str
) -> None:
    link = (lab.root / "current" / component).readlink()
    entries = lab.entries(component)
    done = lab.setup("--tags", component, uplab_pins=lab.pins(component, **changes))
    assert done.exit_code == 2, done.output
    assert message in done.text
    assert (lab.root / "current" / component).readlink() == link
    assert lab.entries(component) == entries
    assert not list((lab.root / "cache" / "archives").glob(".*"))


def test_a_compiler_error_ends_with_the_log(lab: Lab) -> None:
    repository = lab.upstream.repositories / "libbpf-broken"
    broken = commit(repository, {"Makefile": "install:\n\t$(CC) nonsense.c\n"}, {})
    bddisasm = {"url": f"{UPSTREAM}libbpf-broken", "commit": broken}
    entries = lab.entries("deepflow")
    done = lab.setup("--tags", "deepflow", uplab_pins=lab.pins("deepflow", bddisasm=bddisasm))
    assert done.exit_code == 2
    log = lab.root / "log" / "deepflow.log"
    assert "deepflow: the build failed: make" in done.text
    assert f"lines of {log} on the host" in done.text
    assert lab.entries("deepflow") == entries


def test_a_submodule_that_is_gone_is_named(lab: Lab) -> None:
    files = {"CMakeLists.txt": "\n"}
    modules = {"gone": (f"{UPSTREAM}gone.git", "2" * 40)}
    orphan = commit(lab.upstream.repositories / "orphan", files, modules)
    pins = lab.pins("bpftime", url=f"{UPSTREAM}orphan", commit=orphan)
    done = lab.setup("--tags", "bpftime", uplab_pins=pins)
    assert done.exit_code == 2
    assert f"bpftime: cannot fetch {UPSTREAM}gone.git from its mirror" in done.text


def test_an_installation_of_ones_own_is_fingerprinted(lab: Lab, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(lab.root / "current" / "bpftime", own)
    tracer = tmp_path / "rust_sample"
    shutil.copy(lab.root / "current" / "deepflow" / "bin" / "rust_sample", tracer)
    paths: dict[str, Any] = {"bpftime_prefix": str(own), "deepflow_tracer_path": str(tracer)}
    built = lab.components()
    done = lab.setup(**paths)
    assert done.exit_code == 0, done.output
    # Both, and the manifest; what would build them is not wanted any more.
    assert done.recap()["changed"] == 3, done.output
    records = lab.components()
    assert sorted(records) == sorted(HEAVY)
    assert records["bpftime"]["source"] == records["deepflow"]["source"] == "path"
    assert records["bpftime"]["artifacts"] == built["bpftime"]["artifacts"]
    assert (lab.root / "current" / "bpftime" / "bpftime").resolve() == own / "bpftime"
    assert lab.setup(**paths).recap()["changed"] == 0
    assert lab.setup("--check", **paths).recap()["changed"] == 0

    tracer.write_bytes(tracer.read_bytes() + b"x")
    assert lab.setup(**paths).recap()["changed"] == 2
    other = lab.components()["deepflow"]
    assert other["hash"] != records["deepflow"]["hash"]

    (own / "bpftime_daemon").unlink()
    missing = lab.setup("--tags", "bpftime", **paths)
    assert missing.exit_code == 2
    assert f"bpftime: {own}/bpftime_daemon: not on this host. Point bpftime_prefix" in missing.text

    assert lab.setup().exit_code == 0
    assert lab.components() == built


def test_the_published_go_takes_the_place_of_the_distributions(lab: Lab) -> None:
    before = lab.components()
    upstream = lab.setup(golang_policy="upstream")
    assert upstream.exit_code == 0, upstream.output
    after = lab.components()
    assert changed(before, after) == ["golang"]
    assert after["golang"]["source"] == "upstream"
    assert sorted(after["golang"]["artifacts"]) == ["bin/go", "bin/gofmt"]
    assert lab.setup(golang_policy="upstream").recap()["changed"] == 0
    assert lab.setup().exit_code == 0
    assert lab.components() == before
