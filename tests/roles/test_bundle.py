"""A bundle's way to a host: what is missing there, what the bundle lacks, builds from it alone."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests import debs
from tests.debs import Deb
from tests.roles.conftest import load
from tests.roles.plays import PLAYBOOKS, REPOSITORY, Play, Runner, write_stand_ins
from tests.roles.standins import RUST_SAMPLE, UPSTREAM, Upstream, commit, git
from uplab.box.steps import Steps
from uplab.bundle import make, use
from uplab.errors import UsageError

pytestmark = pytest.mark.timeout(300)

HEAVY = ["golang", "wrk", "servers", "gotrace", "bpftime", "deepflow"]
COMMIT = "c" * 40
RELEASE = platform.freedesktop_os_release()["VERSION_CODENAME"]


# --- the module on the host -----------------------------------------------------------------------


@pytest.fixture(scope="session")
def uplab_bundle() -> ModuleType:
    return load(PLAYBOOKS / "library" / "uplab_bundle.py")


@pytest.fixture(scope="session")
def seeds(uplab_bundle: ModuleType) -> ModuleType:
    return importlib.import_module(uplab_bundle.place.__module__)


def file(path: str, to: str, data: bytes) -> dict[str, Any]:
    return {
        "path": path,
        "to": to,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
    }


def tar(*content: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in content:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


ARCHIVE = {
    "kind": "archive",
    "for": ["x"],
    "sha256": hashlib.sha256(b"archive").hexdigest(),
    "files": [file("archives/a", "cache/archives/a", b"archive")],
}
CRATES_TAR = tar(("tiny-1/src/lib.rs", b"code"), ("tiny-1/.cargo-checksum.json", b"{}"))
CRATES = {
    "kind": "crates",
    "for": ["x"],
    "commit": COMMIT,
    "files": [file("crates/x.tar", "cache/bundle/crates/x.tar", CRATES_TAR)],
}
NEED = {"component": "x", "kind": "archive", "url": f"{UPSTREAM}a", "sha256": ARCHIVE["sha256"]}


def deb(name: str, version: str, release: str = "bookworm") -> dict[str, Any]:
    path = f"debs/{release}/{name}.deb"
    found = {"kind": "deb", "for": ["host"], "release": release, "files": [file(path, path, b"d")]}
    return found | ({"package": name, "version": version} if name != "Packages" else {})


def bring(
    module: ModuleType, root: Path, items: list[dict[str, Any]], content: dict[str, bytes]
) -> bool:
    """What the action plugin does, without Ansible; out: whether finishing changed something."""
    files = [entry for item in items for entry in item["files"] if entry["path"] in content]
    piece = root.parent / "piece.tar"
    piece.write_bytes(tar(*content.items()))
    module.place(root, piece, files)
    return bool(module.finish(root, items))


def compared(module: ModuleType, root: Path, **parameters: Any) -> dict[str, Any]:
    nothing: dict[str, Any] = {"items": [], "needed": [], "packages": [], "packages_by_release": {}}
    answer: dict[str, Any] = module.compare(root, {**nothing, **parameters})
    return answer


def test_a_source_that_the_bundle_has_comes_once(uplab_bundle: ModuleType, root: Path) -> None:
    first = compared(uplab_bundle, root, items=[CRATES, ARCHIVE], needed=[NEED])
    assert (first["lacks"], first["wanted"], first["bytes"]) == ([], [1], 7)
    bring(uplab_bundle, root, [ARCHIVE], {"archives/a": b"archive"})
    assert (root / "cache" / "archives" / "a").read_bytes() == b"archive"
    again = compared(uplab_bundle, root, items=[CRATES, ARCHIVE], needed=[NEED])
    assert (again["files"], again["changed"]) == ([], False)


def test_a_file_that_was_damaged_on_the_host_comes_again(
    uplab_bundle: ModuleType, root: Path
) -> None:
    bring(uplab_bundle, root, [ARCHIVE], {"archives/a": b"archive"})
    (root / "cache" / "archives" / "a").write_bytes(b"Archive")
    again = compared(uplab_bundle, root, items=[ARCHIVE], needed=[NEED])
    assert [entry["path"] for entry in again["files"]] == ["archives/a"]


@pytest.mark.parametrize(
    ("need", "words"),
    [
        ({**NEED, "sha256": "0" * 64}, f"x: {UPSTREAM}a"),
        ({**NEED, "component": "y"}, f"y: {UPSTREAM}a"),
        ({**NEED, "kind": "git", "commit": COMMIT}, f"x: {UPSTREAM}a at {COMMIT}"),
        (
            {**NEED, "kind": "crates", "commit": "d" * 40},
            f"x: the crates of {UPSTREAM}a at {'d' * 40}",
        ),
    ],
)
def test_what_the_bundle_lacks_is_named_by_component_and_part(
    uplab_bundle: ModuleType, root: Path, need: dict[str, str], words: str
) -> None:
    found = compared(uplab_bundle, root, items=[ARCHIVE, CRATES], needed=[need])
    assert found["lacks"] == [words]
    assert found["files"] == []


def test_packages_come_only_if_one_is_missing_and_only_those_that_differ(
    seeds: ModuleType,
) -> None:
    items = [deb("Packages", ""), deb("a", "1"), deb("b", "2"), deb("c", "3", "trixie")]
    installed = {"b": "2"}
    wanted, lacking = seeds.packages_of(items, "bookworm", ["a", "b", "z"], installed)
    assert [item.get("package") for item in wanted] == [None, "a"]
    assert lacking == ["z"]
    assert seeds.packages_of(items, "bookworm", ["b"], installed) == ([], [])
    assert seeds.packages_of(items, "sid", ["a"], installed) == ([], ["a"])


def test_what_this_host_lacks_of_debian_is_named(uplab_bundle: ModuleType, root: Path) -> None:
    found = compared(uplab_bundle, root, packages=["no-such-package", "dpkg"])
    assert len(found["lacks"]) == 1
    assert found["lacks"][0].startswith("Debian packages for ")
    assert found["lacks"][0].endswith(": no-such-package")


def test_packages_of_an_earlier_bundle_go(uplab_bundle: ModuleType, root: Path) -> None:
    item = deb("a", "1")
    item["files"][0]["to"] = "cache/bundle/debs/bookworm/a.deb"
    old = root / "cache" / "bundle" / "debs" / "bookworm" / "old.deb"
    old.parent.mkdir(parents=True)
    old.touch()
    assert bring(uplab_bundle, root, [item], {"debs/bookworm/a.deb": b"d"})
    assert [path.name for path in old.parent.iterdir()] == ["a.deb"]


def test_crates_are_unpacked_and_replaced_as_a_whole(
    uplab_bundle: ModuleType, root: Path, seeds: ModuleType
) -> None:
    assert bring(uplab_bundle, root, [CRATES], {"crates/x.tar": CRATES_TAR})
    folder = root / "cache" / "bundle" / "crates" / "x"
    assert (folder / "tiny-1" / "src" / "lib.rs").read_bytes() == b"code"
    assert not folder.with_name("x.tar").exists()
    assert seeds.missing_files(root, CRATES) == []
    # One that was cut off has no mark, and comes again.
    folder.with_name("x.sha256").unlink()
    assert seeds.missing_files(root, CRATES) == CRATES["files"]
    other = tar(("tiny-2/src/lib.rs", b"other"))
    newer = {**CRATES, "files": [file("crates/x.tar", "cache/bundle/crates/x.tar", other)]}
    assert bring(uplab_bundle, root, [newer], {"crates/x.tar": other})
    assert [path.name for path in folder.iterdir()] == ["tiny-2"]


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("/etc/passwd", "a file outside of the cache: '/etc/passwd'"),
        ("cache/../../x", "a file outside of the cache"),
        ("store/x", "a file outside of the cache"),
    ],
)
def test_nothing_is_written_outside_of_the_cache(
    uplab_bundle: ModuleType, uplab_host: ModuleType, root: Path, to: str, words: str
) -> None:
    item = {**ARCHIVE, "files": [file("archives/a", to, b"archive")]}
    with pytest.raises(uplab_host.StoreError, match=words):
        bring(uplab_bundle, root, [item], {"archives/a": b"archive"})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"archives/a": b"Archive"}, "was damaged on its way"),
        ({"archives/a": b"archive", "archives/b": b""}, "holds 'archives/b'"),
    ],
)
def test_what_comes_otherwise_than_announced_is_refused(
    uplab_bundle: ModuleType,
    uplab_host: ModuleType,
    root: Path,
    content: dict[str, bytes],
    words: str,
) -> None:
    with pytest.raises(uplab_host.StoreError, match=words):
        bring(uplab_bundle, root, [ARCHIVE], content)
    assert not (root / "cache" / "archives" / "b").exists()


def test_what_does_not_come_is_missed(
    uplab_bundle: ModuleType, uplab_host: ModuleType, root: Path
) -> None:
    (root.parent / "piece.tar").write_bytes(tar())
    with pytest.raises(uplab_host.StoreError, match="lacks archives/a"):
        uplab_bundle.place(root, root.parent / "piece.tar", ARCHIVE["files"])


# --- apt and the packages of a bundle -------------------------------------------------------------


@dataclass(frozen=True)
class Packages:
    """A bundle's repository for this machine's release, another one, and an apt for them."""

    module: ModuleType
    top: Path

    def add(self, name: str, *found: Deb) -> None:
        """Put packages into a repository."""
        folder = self.top / name
        folder.mkdir(exist_ok=True)
        debs.flat(folder, list(found))
        # As a bundle has it: without a Release.
        (folder / "Release").unlink()

    def apt(self, *names: str, others: str = "") -> Any:
        """The apt that is used for these packages beside other sources; None where none is."""
        source = self.module.SourceFile(Path("/etc/apt/sources.list"), others)
        cache = self.top / "cache" / "apt"
        return self.module.apt_of_bundle(str(self.top), cache, [source], list(names), 10)


@pytest.fixture
def packages(uplab_packages: ModuleType) -> Iterator[Packages]:
    name = uplab_packages.apt_of_bundle.__module__
    # apt reads it as a user of its own, who may not look into pytest's directories.
    with tempfile.TemporaryDirectory(prefix="uplab-test-") as folder:
        Path(folder).chmod(0o755)
        yield Packages(importlib.import_module(name), Path(folder))


def test_a_bundle_alone_is_used_where_it_is_enough(packages: Packages) -> None:
    packages.add(RELEASE, Deb("uplab-one", fields={"Depends": "uplab-two"}), Deb("uplab-two"))
    apt = packages.apt("uplab-one", others="deb http://127.0.0.1:9/debian nowhere main\n")
    plan, problem = apt.simulate(["uplab-one"])
    assert (sorted(step.name for step in plan.added), problem) == (["uplab-one", "uplab-two"], "")
    # The sources that nobody answers at are not asked.
    assert "127.0.0.1:9" not in apt.update()
    assert apt.lists == packages.top / "cache" / "apt-bundle" / "lists"


def test_what_a_bundle_lacks_comes_from_the_host_s_sources_beside_it(packages: Packages) -> None:
    packages.add(RELEASE, Deb("uplab-one", fields={"Depends": "uplab-two"}))
    packages.add("site", Deb("uplab-two"))
    others = f"deb [trusted=yes] file:{packages.top / 'site'} ./\n"
    plan, problem = packages.apt("uplab-one", others=others).simulate(["uplab-one"])
    assert (sorted(step.name for step in plan.added), problem) == (["uplab-one", "uplab-two"], "")


def test_a_bundle_without_packages_of_this_release_changes_nothing(packages: Packages) -> None:
    packages.add("potato", Deb("uplab-one"))
    assert packages.apt("uplab-one") is None
    assert packages.module.apt_of_bundle(None, packages.top, [], ["uplab-one"], 10) is None


# --- a whole lab from a bundle --------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """A checkout whose pins are those of stand-ins, a bundle of it, and a store to be set up."""

    checkout: Path
    bundle: Path
    upstream: Upstream
    root: Path
    run_play: Runner
    sources: dict[str, str]

    def variables(self, **more: Any) -> dict[str, Any]:
        """Nothing here leads to the stand-ins: whatever is not in the bundle cannot be had."""
        return {
            "uplab_root": str(self.root),
            "uplab_components": HEAVY,
            "uplab_pins": self.upstream.pins,
            "rust_policy": "upstream",
            **self.sources,
            **more,
        }

    def carry(self, *words: str, **more: Any) -> Play:
        """Bring the bundle's parts to the host."""
        with use.opened(self.checkout, self.bundle, Steps()) as found:
            folder = {"uplab_bundle_folder": str(found.folder)}
            variables = self.variables(**folder, **more)
            return self.run_play(PLAYBOOKS / "bundle.yml", *words, variables=variables)

    def setup(self) -> Play:
        """Set up from what was brought."""
        told = {
            "uplab_bundle": str(self.root / "cache" / "bundle"),
            "uplab_bundle_crates": {"deepflow": self.upstream.pins["deepflow"]["commit"]},
        }
        variables = self.variables(**told)
        return self.run_play(PLAYBOOKS / "setup.yml", variables=variables, mitogen=True)


CARGO = """\
#!/bin/sh
for last in "$@"; do :; done
test -f Cargo.lock && mkdir -p "$last/tiny-1.0.0" && cp Cargo.lock "$last/tiny-1.0.0/"
"""


def with_crates(upstream: Upstream) -> None:
    """A commit of DeepFlow's stand-in with a lock file, whose build shows its source of crates."""
    repository, ebpf = upstream.repositories / "deepflow", "agent/src/ebpf"
    link = git("rev-parse", f"HEAD:{ebpf}/libbpf", chdir=repository)
    (repository / ebpf / "libbpf").mkdir(parents=True, exist_ok=True)
    shown = "\tcat ../../../../.cargo/config.toml\n"
    shown += "\tls $$(sed -n 's/directory = //p' ../../../../.cargo/config.toml | tr -d '\"')\n"
    files = {
        f"{ebpf}/Makefile": RUST_SAMPLE + shown,
        f"{ebpf}/samples/rust/Cargo.lock": "version = 3\n",
    }
    modules = {f"{ebpf}/libbpf": (f"{UPSTREAM}libbpf.git", link)}
    upstream.pins["deepflow"]["commit"] = commit(repository, files, modules)


def new_checkout(top: Path, pins: dict[str, Any]) -> Path:
    """What a bundle is made from, with these pins."""
    for name in ("playbooks", "requirements"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, top / name, ignore=ignore)
    text = json.dumps({"uplab_pins": pins})
    (top / "playbooks" / "group_vars" / "all" / "pins.yml").write_text(text)
    return top


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, run_play: Runner, debian_packages: Play) -> Site:
    assert debian_packages.exit_code == 0
    top = tmp_path_factory.mktemp("bundle")
    upstream = Upstream(top / "upstream")
    upstream.make()
    with_crates(upstream)
    checkout = new_checkout(top / "checkout", upstream.pins)
    programs = top / "programs"
    programs.mkdir()
    (programs / "cargo").write_text(CARGO)
    (programs / "cargo").chmod(0o755)
    site = Site(checkout, top / "lab", upstream, top / "root", run_play, write_stand_ins(top))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(programs), prepend=":")
        bundled(site, site.bundle)
    # What was fetched to make it is gone, and so is what it was fetched from.
    shutil.rmtree(checkout / ".uplab")
    upstream.top.rename(top / "gone")
    return site


def bundled(site: Site, out: Path, *components: str) -> list[str]:
    mirrors = site.upstream.variables()["uplab_mirrors"]
    wishes = make.Wishes(components, levels=())
    return make.make(site.checkout, out, wishes, mirrors, Steps())


def test_all_components_are_built_from_a_bundle_alone(site: Site) -> None:
    carried = site.carry()
    assert carried.exit_code == 0, carried.output
    assert carried.recap()["changed"] == 1
    assert "it lacks" not in carried.text
    done = site.setup()
    assert done.exit_code == 0, done.output
    manifest = json.loads((site.root / "manifest.json").read_text())
    assert sorted(manifest["components"]) == sorted([*HEAVY, "llvm", "rust"])
    log = (site.root / "log" / "deepflow.log").read_text()
    assert f'directory = "{site.root}/cache/bundle/crates/deepflow"' in log
    assert "tiny-1.0.0" in log
    program = site.root / "current" / "deepflow" / "bin" / "rust_sample"
    said = subprocess.run([str(program)], capture_output=True, text=True, check=True)
    assert said.stdout == "stand-in 7\n"
    # Again: nothing comes, nothing changes.
    again = site.carry()
    assert again.recap()["changed"] == 0, again.output
    assert "bundle for local: 0 files are missing there" in again.text
    assert site.setup().recap()["changed"] == 0


def test_check_mode_says_what_would_come_and_copies_nothing(site: Site, tmp_path: Path) -> None:
    seen = site.carry("--check", uplab_root=str(tmp_path / "fresh"))
    assert seen.exit_code == 0, seen.output
    assert seen.recap()["changed"] == 1
    assert not (tmp_path / "fresh").exists()


def test_what_the_bundle_lacks_is_said_before_anything_is_copied(
    site: Site, tmp_path: Path
) -> None:
    other = "e" * 40
    fresh = str(tmp_path / "fresh")
    seen = site.carry("--check", uplab_root=fresh, deepflow_commit=other, golang_policy="upstream")
    url = site.upstream.pins["deepflow"]["url"]
    missing = "bundle for local: it lacks what the network is needed for: deepflow: "
    assert f"{missing}{url} at {other}" in seen.text
    assert f"{missing}the crates of {url} at {other}" in seen.text
    assert "needed for: golang" not in seen.text


def test_the_same_checkout_gives_the_same_bundle(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = Upstream(tmp_path / "upstream")
    upstream.make()
    checkout = new_checkout(tmp_path / "checkout", upstream.pins)
    other = Site(checkout, tmp_path / "b", upstream, tmp_path, site.run_play, {})
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        bundled(other, Path(name), "bpftime", "golang")
        shutil.rmtree(checkout / ".uplab")
    assert Path("one").read_bytes() == Path("two").read_bytes()
    with use.opened(checkout, tmp_path / "one", Steps()) as found:
        # What builds it comes along; Go's archive as well, for who wants that one.
        assert found.index.components == ("bpftime", "golang", "llvm")
        kinds = [(part.kind, part.components) for part in found.index.parts]
    assert sorted(kinds) == [
        ("archive", ("bpftime",)),
        ("archive", ("golang",)),
        *[("git", ("bpftime",))] * 3,
    ]


def test_a_bundle_of_other_pins_is_refused(site: Site, tmp_path: Path) -> None:
    checkout = new_checkout(tmp_path / "checkout", {"golang": {"policy": "distro"}})
    with (
        pytest.raises(UsageError, match=r"made from another playbooks/group_vars/all/pins\.yml"),
        use.opened(checkout, site.bundle, Steps()),
    ):
        pass
    assert list((checkout / ".uplab" / "bundle").glob("*")) == []


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        (make.Wishes(("golnag",)), "no component 'golnag'; did you mean golang?"),
        (make.Wishes(releases=("sid",)), "--debs takes bookworm or trixie, not 'sid'"),
    ],
)
def test_a_wish_that_nobody_can_fulfil_is_refused(
    wishes: make.Wishes, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        make.make(REPOSITORY, tmp_path / "b", wishes, {}, Steps())
    assert words in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_not_there_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no directory"):
        make.make(REPOSITORY, tmp_path / "no" / "b", make.Wishes(), {}, Steps())
