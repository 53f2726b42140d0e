"""What each kind of part is made of, and what is refused when it is used."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.debs import Deb, flat
from tests.roles.standins import UPSTREAM, commit, git, pack
from tests.unit.bundle import bundles
from uplab.box.steps import Steps
from uplab.bundle import crates, debs, gitparts, make, meter, sources, use, wheels
from uplab.bundle import index as indexes
from uplab.bundle.index import Part, Refused
from uplab.bundle.sources import Repository
from uplab.errors import HostError, UsageError

ROOT = Path(__file__).parents[3]


class Said(Steps):
    """Remembers what was shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def now(self, text: str) -> None:
        self.lines.append(text)


# --- git ------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A bare clone of a small repository with a history, wanted at a commit that has a parent."""
    tree = tmp_path / "tree"
    commit(tree, {"old.txt": "old\n", "kept.txt": "kept\n" * 100}, {})
    wanted = commit(tree, {"new.txt": "new\n", "bin/tool": "#!/bin/sh\n"}, {})
    commit(tree, {"newer.txt": "newer\n"}, {})
    clone = tmp_path / "tiny-0123456789ab.git"
    git("clone", "--quiet", "--bare", str(tree), str(clone), chdir=tmp_path)
    return Repository(f"{UPSTREAM}tiny", wanted, clone, "x")


def packed(repository: Repository, target: Path) -> Part:
    gitparts.pack(repository, target)
    made = bundles.part(gitparts.path_of(repository), target.read_bytes())
    return replace(made, facts={"url": repository.url, "commit": repository.commit})


def test_a_pack_holds_a_commit_without_its_history_and_proves_it(
    repository: Repository, tmp_path: Path
) -> None:
    part = packed(repository, tmp_path / "one.pack")
    assert part.path == f"git/tiny-0123456789ab.git/{repository.commit}.pack"
    gitparts.restore(part, tmp_path / "one.pack", tmp_path / "restored")
    bare = tmp_path / "restored" / "tiny-0123456789ab.git"
    assert git("rev-list", "--count", repository.commit, chdir=bare) == "1"
    assert git("fsck", "--full", chdir=bare) == ""
    # As a build does it.
    copy = tmp_path / "copy"
    git("clone", "--quiet", "--shared", "--no-checkout", str(bare), str(copy), chdir=tmp_path)
    git("checkout", "--quiet", "--detach", repository.commit, chdir=copy)
    assert (copy / "new.txt").read_text() == "new\n"
    assert os.access(copy / "bin" / "tool", os.X_OK)
    assert not (copy / "newer.txt").exists()


def test_the_same_commit_gives_the_same_pack_from_any_clone(
    repository: Repository, tmp_path: Path
) -> None:
    gitparts.pack(repository, tmp_path / "one.pack")
    other = tmp_path / "other.git"
    tree = str(tmp_path / "tree")
    git("clone", "--quiet", "--bare", "--no-local", tree, str(other), chdir=tmp_path)
    git("repack", "-a", "-d", "-f", "--window=1", "--quiet", chdir=other)
    gitparts.pack(replace(repository, clone=other), tmp_path / "two.pack")
    assert (tmp_path / "one.pack").read_bytes() == (tmp_path / "two.pack").read_bytes()


def test_two_commits_of_a_repository_lie_beside_each_other(
    repository: Repository, tmp_path: Path
) -> None:
    older = replace(repository, commit=git("rev-parse", "HEAD~2", chdir=repository.clone))
    for number, wanted in enumerate((repository, older)):
        part = packed(wanted, tmp_path / f"{number}.pack")
        gitparts.restore(part, tmp_path / f"{number}.pack", tmp_path / "restored")
    bare = tmp_path / "restored" / repository.clone.name
    assert sorted((bare / "shallow").read_text().split()) == sorted(
        [older.commit, repository.commit]
    )
    for wanted in (repository, older):
        git("rev-list", "--objects", wanted.commit, chdir=bare)


def test_a_restored_repository_can_be_fetched_into_later(
    repository: Repository, tmp_path: Path
) -> None:
    part = packed(repository, tmp_path / "one.pack")
    gitparts.restore(part, tmp_path / "one.pack", tmp_path / "restored")
    bare = tmp_path / "restored" / repository.clone.name
    heads = "+refs/heads/*:refs/heads/*"
    git("fetch", "--quiet", "--force", f"file://{tmp_path / 'tree'}", heads, chdir=bare)
    assert git("show", "master:newer.txt", chdir=bare) == "newer"


def test_a_pack_without_the_pinned_commit_is_refused(
    repository: Repository, tmp_path: Path
) -> None:
    part = packed(repository, tmp_path / "one.pack")
    other = replace(part, facts={**part.facts, "commit": "a" * 40})
    with pytest.raises(Refused, match=f"does not hold the commit {'a' * 40} whole"):
        gitparts.restore(other, tmp_path / "one.pack", tmp_path / "restored")


def test_a_pack_that_lacks_a_file_of_the_commit_is_refused(
    repository: Repository, tmp_path: Path
) -> None:
    part = packed(repository, tmp_path / "one.pack")
    alone = f"{repository.commit}\n".encode()
    thin = subprocess.run(
        ["git", "pack-objects", "--quiet", "--stdout"],
        input=alone,
        cwd=repository.clone,
        capture_output=True,
        check=True,
    ).stdout
    (tmp_path / "thin.pack").write_bytes(thin)
    with pytest.raises(Refused, match="does not hold the commit"):
        gitparts.restore(part, tmp_path / "thin.pack", tmp_path / "restored")


def test_what_is_no_pack_is_refused(repository: Repository, tmp_path: Path) -> None:
    part = packed(repository, tmp_path / "one.pack")
    (tmp_path / "bad.pack").write_bytes(b"PACK and then nothing")
    with pytest.raises(Refused, match="git index-pack"):
        gitparts.restore(part, tmp_path / "bad.pack", tmp_path / "restored")


def test_a_commit_that_is_not_there_cannot_be_packed(
    repository: Repository, tmp_path: Path
) -> None:
    with pytest.raises(HostError, match="git rev-list"):
        gitparts.pack(replace(repository, commit="b" * 40), tmp_path / "one.pack")
    assert not (tmp_path / "one.pack").exists()


# --- archives, crates: what the controller sees before a host does --------------------------------


def laid_out(tmp_path: Path, content: dict[str, bytes], **facts: str) -> list[dict[str, Any]]:
    """The items of parts that lie unpacked."""
    parts = []
    for path, data in content.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
        parts.append(bundles.part(path, data, **facts))
    use.lay_out(tmp_path, bundles.index_of({}, parts=tuple(parts)), Steps())
    items: list[dict[str, Any]] = json.loads((tmp_path / use.ITEMS).read_text())
    return items


def test_what_a_killed_process_had_unpacked_is_removed_by_the_next(tmp_path: Path) -> None:
    pins = tmp_path / indexes.PINS
    pins.parent.mkdir(parents=True)
    pins.write_text("uplab_pins: {}\n")
    ended = subprocess.Popen(["true"])
    ended.wait()
    folder = tmp_path / make.FOLDER
    for name in (f"open-{ended.pid}-x", f".open-{ended.pid}-y.z.part", f"open-{os.getpid()}-x"):
        (folder / name).mkdir(parents=True)
    data = b"an archive"
    name = f"archives/{bundles.part('archives/x', data).sha256}-x"
    here = bundles.index_of({name: data}, made_from=indexes.made_from(tmp_path, [indexes.PINS]))
    bundle = bundles.write(tmp_path / "lab.tar.zst", {name: data}, here)
    with use.opened(tmp_path, bundle, Steps()) as found:
        assert len(list(folder.iterdir())) == 2
        assert (found.folder / use.ITEMS).is_file()
        assert found.variables["uplab_bundle_crates"] == {}
    assert [path.name for path in folder.iterdir()] == [f"open-{os.getpid()}-x"]


def test_an_archive_goes_where_a_build_looks_for_it(tmp_path: Path) -> None:
    data = b"an archive"
    digest = bundles.part("archives/x", data).sha256
    (item,) = laid_out(tmp_path, {f"archives/{digest}-x.tar": data})
    assert item["files"][0]["to"] == f"cache/archives/{digest}-x.tar"
    assert (item["sha256"], item["for"]) == (digest, ["x"])


def test_an_archive_under_another_digest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="in it has the sha256"):
        laid_out(tmp_path, {f"archives/{'0' * 64}-x.tar": b"an archive"})


def tar_of(*added: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for member in added:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return stream.getvalue()


def link(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, "/etc"
    return member


@pytest.mark.parametrize(
    "member", [tarfile.TarInfo("../x"), tarfile.TarInfo("/x"), link("x")], ids=["up", "abs", "link"]
)
def test_crates_that_lead_elsewhere_are_refused(member: tarfile.TarInfo, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no plain file below it"):
        laid_out(tmp_path, {"crates/x.tar": tar_of(member)}, commit="c" * 40)


def test_crates_that_are_no_archive_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="is no tar archive"):
        laid_out(tmp_path, {"crates/x.tar": b"no tar at all, but long enough" * 40})


def cargo(folder: Path, text: str) -> None:
    """A stand-in for cargo, which a machine that runs these tests need not have."""
    (folder / "cargo").write_text(f"#!/bin/sh\nset -eu\n{text}\n")
    (folder / "cargo").chmod(0o755)


def test_crates_are_what_cargo_vendors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    cargo(
        tmp_path,
        'echo "$@" > arguments\n'
        'for last in "$@"; do :; done\n'
        'mkdir -p "$last/tiny-1.0.0/src"\n'
        'echo "{}" > "$last/tiny-1.0.0/.cargo-checksum.json"\n'
        'echo code > "$last/tiny-1.0.0/src/lib.rs"; chmod 755 "$last/tiny-1.0.0/src/lib.rs"',
    )
    manifest = tmp_path / "project"
    manifest.mkdir()
    mirrors = {"crates": "/srv/crates"}
    for name in ("one", "two"):
        out = tmp_path / f"{name}.tar"
        crates.vendor("x", manifest, mirrors, tmp_path / "work", out)
    said = (manifest / "arguments").read_text().split()
    assert said[:2] == ["vendor", "--locked"]
    assert "--respect-source-config" in said
    config = (manifest / ".cargo" / "config.toml").read_text()
    assert 'directory = "/srv/crates"' in config
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        modes = {member.name: member.mode for member in tar}
    assert modes == {"tiny-1.0.0/.cargo-checksum.json": 0o644, "tiny-1.0.0/src/lib.rs": 0o755}


def test_a_failing_cargo_and_a_missing_one_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    cargo(tmp_path, "echo 'error: the lock file needs to be updated' >&2; exit 101")
    arguments: Any = (tmp_path, {}, tmp_path / "work", tmp_path / "out.tar")
    with pytest.raises(HostError, match="x: cargo could not bring its crates: error: the lock"):
        crates.vendor("x", *arguments)
    (tmp_path / "cargo").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="no cargo here, which brings the crates of x"):
        crates.vendor("x", *arguments)


# --- sources --------------------------------------------------------------------------------------

PINS: dict[str, Any] = {
    "tool": {
        "policy": "distro",
        "packages": ["tool"],
        "upstream": {"url": f"{UPSTREAM}tool.tar.gz", "sha256": "1" * 64},
    },
    "built": {
        "policy": "build",
        "url": f"{UPSTREAM}built",
        "commit": "2" * 40,
        "crates": "rust",
        "archives": [{"url": f"{UPSTREAM}devkit.tar", "sha256": "3" * 64}],
        "part": {"version": "1", "url": f"{UPSTREAM}part", "commit": "4" * 40},
    },
}


def test_every_pinned_source_is_found_wherever_it_stands() -> None:
    found = sources.needed(ROOT, PINS, ["tool", "built"], toolchains=True)
    assert {(source["component"], source["kind"], source["url"]) for source in found} == {
        ("tool", "archive", f"{UPSTREAM}tool.tar.gz"),
        ("built", "git", f"{UPSTREAM}built"),
        ("built", "crates", f"{UPSTREAM}built"),
        ("built", "archive", f"{UPSTREAM}devkit.tar"),
        ("built", "git", f"{UPSTREAM}part"),
    }
    without = sources.needed(ROOT, PINS, ["tool", "built"], toolchains=False)
    assert [source for source in without if source["component"] == "tool"] == []


def test_sources_come_with_their_submodules_from_the_site_s_mirrors(tmp_path: Path) -> None:
    served = tmp_path / "served"
    inner = commit(served / "inner", {"inner.txt": "inner\n"}, {})
    top = commit(served / "top", {"top.txt": "top\n"}, {"inner": ("../inner", inner)})
    digest = pack(served / "tiny.tar.gz", {"tiny.txt": "tiny\n"})
    wanted = [
        {"component": "x", "kind": "git", "url": f"{UPSTREAM}top", "commit": top},
        {"component": "y", "kind": "git", "url": f"{UPSTREAM}top", "commit": top},
        {"component": "x", "kind": "archive", "url": f"{UPSTREAM}tiny.tar.gz", "sha256": digest},
        {
            "component": "x",
            "kind": "crates",
            "url": f"{UPSTREAM}top",
            "commit": top,
            "manifest": "rust",
        },
    ]
    mirrors = {"git": {UPSTREAM: f"file://{served}/"}, "archives": f"file://{served}"}
    said = Said()
    found = sources.fetch(ROOT, wanted, mirrors, tmp_path / "cache", tmp_path / "trees", said)
    names = {(one.component, one.url, one.commit) for one in found.repositories}
    assert names == {
        (who, f"{UPSTREAM}{name}", at)
        for who in "xy"
        for name, at in (("top", top), ("inner", inner))
    }
    assert [(path.name, who) for path, who in found.archives.items()] == [
        (f"{digest}-tiny.tar.gz", ("x",))
    ]
    assert found.manifests["x"].folder == tmp_path / "trees" / "x" / top / "rust"
    assert said.lines[0] == f"fetching source 1 of 4: {UPSTREAM}top"


def test_a_source_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    wanted = [{"component": "x", "kind": "git", "url": f"{UPSTREAM}gone", "commit": "5" * 40}]
    mirrors = {"git": {UPSTREAM: f"file://{tmp_path}/"}}
    with pytest.raises(HostError, match=f"x: cannot fetch {UPSTREAM}gone from its mirror"):
        sources.fetch(ROOT, wanted, mirrors, tmp_path / "cache", tmp_path / "trees", Steps())


# --- Debian packages and wheels -------------------------------------------------------------------

URIS = """\
Reading package lists...
'http://archive.invalid/pool/g/g%2b%2b_12.2.0-3_amd64.deb' g++_4%3a12.2.0-3_amd64.deb 1356 MD5Sum:0
'http://archive.invalid/pool/a/apt_2.6.1_amd64.deb' apt_2.6.1_amd64.deb 100
"""


def test_what_apt_would_fetch_is_read_with_epochs_and_quoted_names() -> None:
    found = debs.parse_uris(URIS)
    assert [(uri.name, uri.package, uri.bytes) for uri in found] == [
        ("apt_2.6.1_amd64.deb", ("apt", "2.6.1"), 100),
        ("g++_12.2.0-3_amd64.deb", ("g++", "4:12.2.0-3"), 1356),
    ]


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of two packages, one of which this machine has, in the place of Debian's."""
    made = tmp_path / "archive"
    made.mkdir()
    needs_dpkg = {"Depends": "dpkg"}
    flat(made, [Deb("uplab-one", "1:2", needs_dpkg), Deb("dpkg", "1"), Deb("uplab-other")])
    line = f"deb [trusted=yes] copy:{made} ./"
    monkeypatch.setattr("uplab.box.sources.read", lambda _release: [line])
    monkeypatch.setattr("uplab.box.sources.settings", list)
    return made


def test_packages_are_closed_over_from_an_empty_machine(archive: Path, tmp_path: Path) -> None:
    apt = debs.Apt("bookworm", tmp_path / "apt")
    found = debs.fetch(apt, ["uplab-one"], Steps())
    assert [uri.package for uri in found] == [("dpkg", "1"), ("uplab-one", "1:2")]
    assert all((apt.downloads / uri.cached).is_file() for uri in found)
    # What is in the cache already is part of it all the same.
    assert debs.fetch(apt, ["uplab-one"], Steps()) == found
    sums = {uri.name: "0" * 64 for uri in found}
    stanzas = debs.index(apt, found, sums).decode().split("\n\n")
    assert [stanza.splitlines()[0] for stanza in stanzas] == ["Package: dpkg", "Package: uplab-one"]
    assert all(f"SHA256: {'0' * 64}" in stanza for stanza in stanzas)
    assert str(archive) not in "".join(stanzas)


def test_a_package_that_no_archive_has_is_told(archive: Path, tmp_path: Path) -> None:
    assert archive.is_dir()
    with pytest.raises(HostError, match="apt-get for bookworm failed: E: Unable to locate package"):
        debs.fetch(debs.Apt("bookworm", tmp_path / "apt"), ["no-such-package"], Steps())


def test_an_archive_that_is_gone_is_told(archive: Path, tmp_path: Path) -> None:
    shutil.rmtree(archive)
    with pytest.raises(HostError, match="apt-get for bookworm failed: "):
        debs.fetch(debs.Apt("bookworm", tmp_path / "apt"), ["uplab-one"], Steps())


def test_what_hosts_and_the_controller_stand_on_comes_along() -> None:
    names = debs.names_for("bookworm", ["tool"], {"12": ["clang-15"], "13": ["clang-17"]})
    assert names == ["clang-15", "git", "openssh-client", "python3", "python3-venv", "sudo", "tool"]


def test_packages_are_those_of_every_policy_but_of_debian_s_own_archives() -> None:
    pins = {
        "compiler": {
            "policy": "distro",
            "packages": ["compiler"],
            "packages_by_release": {"12": ["compiler-15"]},
            "upstream": {"packages_by_release": {"12": ["compiler-17"]}, "apt": {"uri": "x"}},
        },
        "tool": {
            "policy": "distro",
            "packages": ["tool"],
            "upstream": {"url": "x", "sha256": "1" * 64, "packages": ["xz-utils"]},
        },
        "other": {"policy": "own", "packages": ["other"]},
    }
    names, by_release = make.packages(ROOT, pins, ["compiler", "tool"])
    assert names == {"compiler", "tool", "xz-utils"}
    assert by_release == {"12": {"compiler-15"}}


def test_a_site_s_mirrors_are_those_of_this_machine(tmp_path: Path) -> None:
    mirrors = {"archives": "https://files.example.com/"}
    for name, wanted in (("local", mirrors), ("other", {})):
        hosts = tmp_path / f"{name}.yml"
        hosts.write_text(json.dumps({"uplab": {"hosts": {name: {"uplab_mirrors": mirrors}}}}))
        assert make.mirrors(ROOT, hosts) == wanted


def test_a_release_that_no_host_may_have_is_refused() -> None:
    with pytest.raises(UsageError, match="--debs takes bookworm or trixie, not 'sid'"):
        debs.require_release("sid")


def test_wheels_come_from_the_site_s_own_index(tmp_path: Path) -> None:
    argv = wheels.command(tmp_path / "x.lock", "https://index.example.com/", tmp_path)
    assert argv[argv.index("--index-url") + 1] == "https://index.example.com/"
    assert "--require-hashes" in argv
    assert "--index-url" not in wheels.command(tmp_path / "x.lock", "", tmp_path)


def test_progress_names_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Said()
    clock = iter([0.0, 0.1, 10.0, 20.0])
    monkeypatch.setattr("uplab.bundle.meter.time.monotonic", lambda: next(clock))
    shown = meter.Meter(said, "copying", 4 << 20)
    shown.show(0)
    shown.show(1 << 20)
    shown.show(4 << 20)
    assert said.lines == [
        "copying: 0 of 4 MiB",
        "copying: 1 of 4 MiB, about 30 s left",
        "copying: 4 of 4 MiB, about 0 s left",
    ]


def test_the_index_names_no_registry_and_no_archive() -> None:
    facts = {"package": "tiny", "version": "1", "release": "bookworm"}
    part = bundles.part("debs/bookworm/tiny_1_all.deb", b"x", **facts)
    text = indexes.as_json(bundles.index_of({}, parts=(part,))).decode()
    assert "http" not in text
