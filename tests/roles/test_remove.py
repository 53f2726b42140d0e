"""The module uplab_remove: what it takes away, what it refuses, and that it can be cut off."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.roles.conftest import load
from tests.roles.plays import PLAYBOOKS, REPOSITORY

NEW, OLD = "1" * 12, "2" * 12
#: In a mount namespace of its own: mount a file system, then let the module work.
MOUNTED = """
import json, subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.roles.conftest import load
from tests.roles.plays import PLAYBOOKS
place, parameters, blind = json.loads(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
Path(place, "theirs").write_text("theirs")
module = load(PLAYBOOKS / "library" / "uplab_remove.py")
import ansible.module_utils.uplab_host as host
import ansible.module_utils.uplab_tree as tree
if blind:
    tree.mount_points = lambda: []
try:
    print(module.act(parameters, False)["removed"])
except host.StoreError as error:
    print(error)
print(Path(place, "theirs").exists())
"""


@dataclass
class Lab:
    """A host's files in a directory of the test, as setting up leaves them."""

    top: Path
    module: ModuleType

    @property
    def root(self) -> Path:
        return self.top / "uplab"

    @property
    def store(self) -> Path:
        return self.root / "store"

    def make(self) -> Lab:
        for name in ("store", "current", "cache/git", "log", "tls"):
            (self.root / name).mkdir(parents=True)
        self.entry("greet", NEW, current=True)
        self.entry("greet", OLD)
        (self.root / "log" / "greet.log").write_text("built\n")
        (self.root / "tls" / "key.pem").write_text("key\n")
        (self.store / ".lock-greet").touch()
        self.write_manifest()
        (self.root / "packages.json").write_text(json.dumps({"added": [], "announced": []}))
        for name in ("sources", "keyrings", "run", "lib/runs"):
            (self.top / name).mkdir(parents=True)
        (self.top / "run" / "lock").touch()
        return self

    def write_manifest(self) -> None:
        manifest = {"schema": 1, "digest": "d", "components": {"greet": {"hash": NEW}}}
        (self.root / "manifest.json").write_text(json.dumps(manifest))

    def entry(self, component: str, digest: str, *, current: bool = False) -> Path:
        """A finished build: its prefix with one file, and its record."""
        prefix = self.store / f"{component}-{digest}"
        (prefix / "bin").mkdir(parents=True)
        (prefix / "bin" / component).write_text("x" * 5000)
        record = {"component": component, "hash": digest, "prefix": str(prefix)}
        (self.store / f"{prefix.name}.json").write_text(json.dumps(record))
        if current:
            (self.root / "current" / component).symlink_to(prefix)
        return prefix

    def parameters(self, state: str, **changes: Any) -> dict[str, Any]:
        return {
            "root": str(self.root),
            "state": state,
            "host": "lab1",
            "packages": False,
            "runs": False,
            "keep_days": 0,
            "cache": False,
            "run_state": str(self.top / "run"),
            "spool": str(self.top / "lib" / "runs"),
            "lock_timeout_s": 1,
            **changes,
        }

    def act(self, state: str, *, check: bool = False, **changes: Any) -> dict[str, Any]:
        result = self.module.act(self.parameters(state, **changes), check)
        assert isinstance(result, dict)
        return result

    def refusal(self, state: str, **changes: Any) -> str:
        """Why it refuses; nothing may have changed."""
        before = self.files()
        host = importlib.import_module("ansible.module_utils.uplab_host")
        with pytest.raises(host.StoreError) as caught:
            self.act(state, **changes)
        assert self.files() == before
        return str(caught.value)

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.top)) for path in self.top.rglob("*"))


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return load(PLAYBOOKS / "library" / "uplab_remove.py")


@pytest.fixture
def lab(module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    apt = importlib.import_module("ansible.module_utils.uplab_apt")
    monkeypatch.setattr(apt, "SOURCES", tmp_path / "host" / "sources")
    monkeypatch.setattr(apt, "KEYRINGS", tmp_path / "host" / "keyrings")
    return Lab(tmp_path / "host", module).make()


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock as a build or a run does."""
    with path.open("r+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def running(program: Path) -> Iterator[int]:
    """A program of a store that runs; it has begun before its PID is given."""
    shutil.copy("/bin/cat", program)
    process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"ready\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
    finally:
        process.communicate()


# ---- all of it -----------------------------------------------------------------------------------


def test_everything_goes_and_nothing_behind_a_link(lab: Lab) -> None:
    outside = lab.top / "outside"
    outside.mkdir()
    (outside / "theirs").write_text("theirs")
    (lab.root / "current" / "adopted").symlink_to(outside)
    (lab.store / f"adopted-{NEW}").symlink_to(outside)
    result = lab.act("absent")
    assert result["changed"]
    assert result["set_up"]
    assert result["freed_bytes"] > 10000
    assert result["kept"] == []
    assert lab.files() == ["keyrings", "outside", "outside/theirs", "sources"]
    again = lab.act("absent")
    assert (again["changed"], again["set_up"], again["removed"]) == (False, False, [])


def test_check_mode_says_what_would_go(lab: Lab) -> None:
    (lab.top / "lib" / "runs" / "one").mkdir()
    before = lab.files()
    expected = lab.act("absent", check=True, runs=True)
    assert lab.files() == before
    assert expected["changed"]
    assert expected["diff"]["before"].splitlines() == expected["removed"]
    assert lab.act("absent", runs=True)["removed"] == expected["removed"]
    assert not lab.act("absent", check=True, runs=True)["changed"]


def test_the_marks_go_last(lab: Lab) -> None:
    removed = lab.act("absent")["removed"]
    assert removed[0] == str(lab.root / "current")
    assert removed[-2:] == [str(lab.root / "manifest.json"), str(lab.root)]


@pytest.mark.parametrize("step", range(9))
def test_what_was_cut_off_is_ended_by_the_next_run(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    (lab.top / "lib" / "runs" / "one").mkdir()
    tree = importlib.import_module("ansible.module_utils.uplab_tree")
    remove, calls = tree.Sweep.remove, iter(range(100))

    def cut_off(sweep: Any, path: Path) -> None:
        if next(calls) == step:
            raise KeyboardInterrupt
        remove(sweep, path)

    monkeypatch.setattr(tree.Sweep, "remove", cut_off)
    with pytest.raises(KeyboardInterrupt):
        lab.act("absent", runs=True)
    monkeypatch.setattr(tree.Sweep, "remove", remove)
    # Whatever is missing, the manifest does not say that it is there.
    manifest = json.loads((lab.root / "manifest.json").read_text())
    assert (manifest["components"], manifest["digest"]) == ({}, None)
    assert lab.act("absent", runs=True)["changed"]
    assert lab.files() == ["keyrings", "sources"]


def test_a_setup_that_never_ended_is_removed_too(lab: Lab) -> None:
    (lab.root / "manifest.json").unlink()
    (lab.root / "packages.json").unlink()
    (lab.root / ".manifest.json.1.part").write_text("{")
    assert lab.act("absent")["set_up"]
    assert not lab.root.exists()


def test_an_absent_or_empty_root_is_nobodys(lab: Lab) -> None:
    shutil.rmtree(lab.root)
    shutil.rmtree(lab.top / "lib")
    for _ in range(2):
        before = lab.files()
        assert lab.act("absent")["changed"] is False
        assert lab.act("pruned")["changed"] is False
        assert lab.files() == before
        lab.root.mkdir(exist_ok=True)


def json_of(lab: Lab, name: str, value: object) -> None:
    (lab.root / f"{name}.json").write_text(json.dumps(value))


def other_files(lab: Lab) -> None:
    (lab.root / "notes").touch()


def no_marks(lab: Lab) -> None:
    (lab.root / "tls" / "key.pem").unlink()
    (lab.root / "tls").rmdir()
    (lab.root / "manifest.json").unlink()


def another_manifest(lab: Lab) -> None:
    no_marks(lab)
    json_of(lab, "manifest", {"name": "app"})


def a_link_inside(lab: Lab) -> None:
    lab.store.rename(lab.top / "elsewhere")
    lab.store.symlink_to(lab.top / "elsewhere")


def a_link(lab: Lab) -> None:
    lab.root.rename(lab.top / "elsewhere")
    lab.root.symlink_to(lab.top / "elsewhere")


def a_file(lab: Lab) -> None:
    shutil.rmtree(lab.root)
    lab.root.touch()


FOREIGN: list[tuple[Callable[[Lab], None], str]] = [
    (other_files, "uplab did not put there: notes"),
    (no_marks, "is not uplab's: it has neither its manifest nor its directories"),
    (another_manifest, "is not uplab's"),
    (a_link_inside, "uplab did not put there: store"),
    (a_link, "is not a directory"),
    (a_file, "is not a directory"),
]


@pytest.mark.parametrize("state", ["absent", "pruned"])
@pytest.mark.parametrize(("change", "message"), FOREIGN)
def test_what_is_not_uplabs_is_refused_whole(
    lab: Lab, state: str, change: Callable[[Lab], None], message: str
) -> None:
    (lab.root / "packages.json").unlink()
    change(lab)
    assert message in lab.refusal(state)


@pytest.mark.parametrize("text", ["relative", "/"])
def test_a_root_that_is_none_is_refused(lab: Lab, text: str) -> None:
    assert "wanted: an absolute path below /" in lab.refusal("absent", root=text)


@pytest.mark.parametrize("state", ["absent", "pruned"])
def test_a_build_under_way_is_waited_for(lab: Lab, state: str) -> None:
    with held(lab.store / ".lock-greet"):
        message = lab.refusal(state)
    assert f"a build of greet is under way ({lab.root}/log/greet.log)" in message
    assert lab.act(state)["changed"]


@pytest.mark.parametrize("state", ["absent", "pruned"])
def test_a_run_under_way_is_named(lab: Lab, state: str) -> None:
    lock = lab.top / "run" / "lock"
    with held(lock):
        assert "a run is under way" in lab.refusal(state)
        lock.write_text(json.dumps({"run_id": "r1", "pid": 7, "since_utc": "now"}))
        assert "run r1 (pid 7) is under way" in lab.refusal(state)


def test_a_process_of_a_run_that_crashed_is_named(lab: Lab) -> None:
    ledger = lab.top / "run" / "children.json"
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    entry = {"pid": os.getpid(), "start_ticks": ticks, "name": "server"}
    ledger.write_text(json.dumps([entry]))
    assert f"left server (pid {os.getpid()})" in lab.refusal("absent")
    ledger.write_text(json.dumps([{**entry, "start_ticks": ticks + 1}, {"pid": None}, 1]))
    assert lab.act("absent")["changed"]


def test_what_a_process_uses_is_not_removed(lab: Lab) -> None:
    program = lab.store / f"greet-{OLD}" / "bin" / "greet"
    with running(program) as pid:
        assert f"in use by greet (pid {pid}): {program}" in lab.refusal("absent")
        result = lab.act("pruned")
        why = f"in use by greet (pid {pid})"
        assert result["kept"] == [{"path": str(lab.store / f"greet-{OLD}"), "why": why}]
        assert program.exists()
    assert lab.act("pruned")["changed"]
    assert not program.exists()


def in_its_own_mounts(lab: Lab, place: Path, blind: bool) -> str:
    """What the module says and whether the file there is left, with a tmpfs mounted at a place."""
    words = json.dumps([str(place), lab.parameters("absent"), blind])
    argv = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", MOUNTED]
    done = subprocess.run(
        [*argv, str(REPOSITORY), words], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_what_is_mounted_below_is_not_entered(lab: Lab) -> None:
    place = lab.root / "cache" / "git"
    said = in_its_own_mounts(lab, place, blind=False)
    assert f"{place}: mounted below {lab.root}; nothing was removed. Run: umount {place}" in said
    assert said.endswith("True\n")
    assert (lab.root / "current" / "greet").is_symlink()
    # Also where the table of mounts was read too early.
    said = in_its_own_mounts(lab, place, blind=True)
    assert f"{place} is another file system. Run: umount {place}" in said
    assert said.endswith("True\n")


def test_a_root_that_is_a_file_system_of_its_own_is_emptied(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lab.root / "lost+found").mkdir()
    assert "lost+found" in lab.refusal("absent")
    for name in ("uplab_teardown", "uplab_tree"):
        module = importlib.import_module(f"ansible.module_utils.{name}")
        monkeypatch.setattr(module, "mount_points", lambda: [lab.root])
    assert lab.act("absent")["changed"]
    assert os.listdir(lab.root) == ["lost+found"]
    assert not lab.act("absent")["changed"]


# ---- apt -----------------------------------------------------------------------------------------


def test_sources_and_keys_of_uplabs_go_and_no_others(lab: Lab) -> None:
    for name in ("sources/uplab-llvm.sources", "keyrings/uplab-llvm.asc"):
        (lab.top / name).write_text("ours")
        (lab.top / name.replace("uplab-", "their-")).write_text("theirs")
    assert lab.act("absent")["changed"]
    left = ["keyrings/their-llvm.asc", "sources/their-llvm.sources"]
    assert [name for name in lab.files() if "llvm" in name] == left


@pytest.fixture
def enterprise(lab: Lab) -> Path:
    """A file of apt's that uplab changed, and whose original it keeps."""
    journal = importlib.import_module("ansible.module_utils.uplab_apt_journal")
    files = importlib.import_module("ansible.module_utils.uplab_apt_files")
    path = lab.top / "sources" / "pve.list"
    path.write_text("deb https://enterprise.example.invalid x y\n")
    changed = files.SourceFile(path, "# deb https://enterprise.example.invalid x y\n")
    journal.switch_off(lab.root / "apt-sources", [changed])
    return path


def test_a_file_of_apts_is_as_before(lab: Lab, enterprise: Path) -> None:
    assert lab.act("absent", check=True)["restored"] == [str(enterprise)]
    assert enterprise.read_text().startswith("# deb")
    assert lab.act("absent")["restored"] == [str(enterprise)]
    assert enterprise.read_text().startswith("deb")
    assert not lab.root.exists()


def test_a_file_of_apts_that_somebody_changed_since_is_theirs(lab: Lab, enterprise: Path) -> None:
    enterprise.write_text("deb https://site.example.invalid x y\n")
    (entry,) = lab.act("absent")["kept"]
    assert entry["path"] == str(enterprise)
    original = entry["why"].rpartition(": ")[2]
    assert Path(original).read_text().startswith("deb https://enterprise")
    assert os.listdir(lab.root) == ["apt-sources"]
    again = lab.act("absent")
    assert (again["changed"], again["set_up"], again["kept"]) == (False, False, [entry])
    enterprise.unlink()
    assert lab.act("absent")["changed"]
    assert not lab.root.exists()


class Dpkg:
    """What dpkg knows, and an apt that purges; simulations print what the test says."""

    def __init__(self, **status: str) -> None:
        self.status = status
        self.simulated = ""
        self.calls: list[str] = []
        self.options: list[str] = []
        self.dies_after = 99
        self.half_removed = self.keeps = ""

    def dpkg_status(self) -> list[tuple[str, str, str]]:
        return [(name, "1", status) for name, status in self.status.items()]

    def configure(self) -> None:
        self.calls.append("configure")
        self.status |= {name: "ii " for name, state in self.status.items() if state == "iU "}

    def run(self, argv: list[str]) -> tuple[int, str]:
        names = [word for word in argv[argv.index("purge") + 1 :] if not word.startswith("-")]
        if "--simulate" in argv:
            return 0, self.simulated or "".join(f"Purg {name} [1]\n" for name in names)
        self.calls.append(" ".join(["purge", *names]))
        for number, name in enumerate(names):
            if number == self.dies_after:
                raise KeyboardInterrupt
            if name == self.half_removed:
                self.half_removed, self.status[name] = self.keeps, "rc "
            else:
                del self.status[name]
        return 0, ""


@pytest.fixture
def dpkg(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Dpkg:
    fake = Dpkg(wrk="ii ", libzycore="ii ", gone="rc ", there="ii ", half="iU ", was_there="rc ")
    memory = {"added": ["wrk", "libzycore", "gone", "no"], "announced": ["half", "was_there", "x"]}
    json_of(lab, "packages", memory)
    added = importlib.import_module("ansible.module_utils.uplab_added")
    monkeypatch.setattr(added, "dpkg_status", fake.dpkg_status)
    teardown = importlib.import_module("ansible.module_utils.uplab_teardown")
    monkeypatch.setattr(teardown, "Apt", lambda _timeout_s: fake)
    return fake


OURS = ["gone", "half", "libzycore", "wrk"]


def test_packages_stay_with_the_list_of_them_until_they_are_to_go(lab: Lab, dpkg: Dpkg) -> None:
    result = lab.act("absent")
    assert (result["packages"], result["packages_removed"]) == (OURS, [])
    assert os.listdir(lab.root) == ["packages.json"]
    assert dpkg.calls == []
    again = lab.act("absent")
    assert (again["changed"], again["set_up"], again["packages"]) == (False, False, OURS)
    assert lab.act("absent", packages=True, check=True)["packages_removed"] == OURS
    last = lab.act("absent", packages=True)
    assert last["packages_removed"] == OURS
    assert dpkg.calls == ["configure", "purge gone half libzycore wrk"]
    assert sorted(dpkg.status) == ["there", "was_there"]
    assert not lab.root.exists()
    assert not lab.act("absent", packages=True)["changed"]


@pytest.mark.parametrize("more", ["Remv vim [9]\n", "Inst mawk (1 Debian [amd64])\n"])
def test_what_apt_would_change_besides_is_refused(lab: Lab, dpkg: Dpkg, more: str) -> None:
    dpkg.status["half"] = "ii "
    dpkg.simulated = "".join(f"Purg {name} [1]\n" for name in OURS) + more
    message = lab.refusal("absent", packages=True)
    assert f"apt would also {'remove vim' if 'vim' in more else 'install mawk'}" in message
    assert dpkg.calls == []


def test_a_purge_that_was_cut_off_is_ended_by_the_next_run(lab: Lab, dpkg: Dpkg) -> None:
    dpkg.dies_after = 2
    with pytest.raises(KeyboardInterrupt):
        lab.act("absent", packages=True)
    assert (lab.root / "manifest.json").exists()
    dpkg.dies_after = 99
    assert lab.act("absent", packages=True)["packages_removed"] == ["libzycore", "wrk"]
    assert not lab.root.exists()


def test_settings_that_apt_leaves_at_first_go_too(lab: Lab, dpkg: Dpkg) -> None:
    dpkg.half_removed = "wrk"
    assert lab.act("absent", packages=True)["packages_removed"] == OURS
    assert dpkg.calls[1:] == ["purge gone half libzycore wrk", "purge wrk"]
    assert "wrk" not in dpkg.status


def test_a_package_that_stays_is_an_error_and_not_forgotten(lab: Lab, dpkg: Dpkg) -> None:
    dpkg.half_removed = dpkg.keeps = "wrk"
    host = importlib.import_module("ansible.module_utils.uplab_host")
    with pytest.raises(host.StoreError, match="apt-get purge left wrk"):
        lab.act("absent", packages=True)
    assert (lab.root / "packages.json").exists()


@pytest.mark.usefixtures("module")
def test_the_real_apt_says_what_else_it_would_remove() -> None:
    """A simulation: the server, which this machine has for the tests, needs the client."""
    added = importlib.import_module("ansible.module_utils.uplab_added")
    teardown = importlib.import_module("ansible.module_utils.uplab_teardown")
    host = importlib.import_module("ansible.module_utils.uplab_host")
    with pytest.raises(host.StoreError, match=r"apt would also remove .*openssh-server"):
        added.refuse_more(teardown.Apt(60), ["openssh-client"])


# ---- settings that a run changed -----------------------------------------------------------------


def tuned(lab: Lab, **changes: Any) -> Path:
    """The journal of a run that changed a setting."""
    entry = {"knob": "thp", "path": "/sys/kernel/mm/x", "old": "a", "new": "b", "utc": "now"}
    noted = {"schema": 1, "run_id": "mine", "entries": [entry], "left": [], **changes}
    journal = lab.top / "lib" / "tuning.json"
    journal.write_text(json.dumps(noted))
    return journal


@pytest.mark.parametrize("state", ["absent", "pruned"])
def test_a_host_that_was_left_tuned_is_refused(lab: Lab, state: str) -> None:
    journal = tuned(lab)
    assert lab.refusal(state, runs=True) == (
        "run mine left this host tuned (settings to put back: 1); nothing was removed. "
        "Run: invoke lab.restore --host lab1"
    )
    assert lab.refusal(state, check=True) == lab.refusal(state)
    for text in ("{", "[]", '{"entries": 3, "run_id": "mine"}'):
        journal.write_text(text)
        assert lab.refusal(state) == (
            f"{journal} is damaged; nothing was removed. Run: invoke lab.restore --host lab1"
        )
    journal.unlink()
    journal.symlink_to("/nowhere")
    assert "is damaged; nothing was removed" in lab.refusal(state)
    journal.unlink()
    assert lab.act(state)["changed"]


def test_a_host_that_was_left_tuned_is_refused_without_a_lab_too(lab: Lab) -> None:
    shutil.rmtree(lab.root)
    tuned(lab)
    assert "run mine left this host tuned" in lab.refusal("absent", runs=True)


def test_what_somebody_else_changed_is_noted_until_runs_go(lab: Lab) -> None:
    """Nothing is left to be put back: the note is for people."""
    journal = tuned(lab, entries=[], left=[{}])
    assert lab.act("pruned")["changed"]
    assert str(journal) not in lab.act("absent")["removed"]
    assert journal.exists()
    expected = lab.act("absent", check=True, runs=True)["removed"]
    assert expected == [str(journal), str(journal.parent)]
    assert lab.act("absent", runs=True)["removed"] == expected
    assert not journal.parent.exists()


# ---- runs ----------------------------------------------------------------------------------------


def test_runs_that_nobody_collected_stay_unless_they_are_to_go(lab: Lab) -> None:
    run = lab.top / "lib" / "runs" / "20260101T000000Z-local-seed"
    (run / "trials").mkdir(parents=True)
    assert lab.act("absent")["runs"] == [str(run)]
    # Also once all else has gone.
    assert lab.act("absent")["runs"] == [str(run)]
    assert lab.act("absent", runs=True)["removed"] == [
        str(run),
        str(run.parent),
        str(run.parent.parent),
    ]
    assert not lab.act("absent", runs=True)["changed"]


# ---- what nothing needs any more -----------------------------------------------------------------


def test_old_entries_go_and_the_current_ones_stay(lab: Lab) -> None:
    expected = lab.act("pruned", check=True)
    assert (lab.store / f"greet-{OLD}").exists()
    result = lab.act("pruned")
    assert result["removed"] == expected["removed"]
    assert result["removed"] == [
        str(lab.store / f"greet-{OLD}.json"),
        str(lab.store / f"greet-{OLD}"),
    ]
    assert result["freed_bytes"] == expected["freed_bytes"] >= 5000
    names = [".lock-greet", f"greet-{NEW}", f"greet-{NEW}.json"]
    assert sorted(os.listdir(lab.store)) == names
    assert (lab.root / "cache" / "git").exists()
    assert lab.act("pruned")["changed"] is False


def test_what_the_manifest_names_stays_without_its_link(lab: Lab) -> None:
    (lab.root / "current" / "greet").unlink()
    assert len(lab.act("pruned")["removed"]) == 2
    assert (lab.store / f"greet-{NEW}").exists()


def test_records_of_debians_files_stay_as_long_as_they_are_linked(lab: Lab) -> None:
    for digest, prefix in ((NEW, "/usr/lib/go-1.19"), (OLD, "/usr/lib/go-1.15")):
        json_of(lab, f"store/golang-{digest}", {"prefix": prefix})
    (lab.root / "current" / "golang").symlink_to("/usr/lib/go-1.19")
    lab.act("pruned")
    names = sorted(name for name in os.listdir(lab.store) if name.startswith("golang"))
    assert names == [f"golang-{NEW}.json"]


def test_what_killed_builds_left_goes(lab: Lab) -> None:
    for name in (f".part-greet-{OLD}", f".old-greet-{NEW}-77", f"greet-{'3' * 12}"):
        (lab.store / name / "bin").mkdir(parents=True)
    dead = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True)
    (lab.store / f".greet-{NEW}.json.{dead.stdout.strip()}.part").touch()
    (lab.root / "current" / f".greet.{os.getpid()}.part").touch()
    (lab.store / "their-notes").touch()
    lab.act("pruned")
    assert sorted(os.listdir(lab.store)) == [
        ".lock-greet",
        f"greet-{NEW}",
        f"greet-{NEW}.json",
        "their-notes",
    ]
    # That one is being written.
    assert len(os.listdir(lab.root / "current")) == 2


def test_young_entries_are_kept(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    result = lab.act("pruned", keep_days=2)
    why = "came here less than 2 days ago"
    assert result["kept"] == [{"path": str(lab.store / f"greet-{OLD}"), "why": why}]
    assert not result["changed"]
    later_s = lab.module.time.time() + 3 * 86400
    monkeypatch.setattr(lab.module.time, "time", lambda: later_s)
    assert lab.act("pruned", keep_days=2)["changed"]


def test_the_cache_goes_when_it_is_asked_for(lab: Lab) -> None:
    (lab.root / "cache" / "git" / "pack").write_text("x" * 9000)
    assert str(lab.root / "cache" / "git") in lab.act("pruned", cache=True)["removed"]
    assert os.listdir(lab.root / "cache") == []


def test_what_is_left_on_purpose_is_no_lab_to_collect_in(lab: Lab) -> None:
    for name in ("store", "current", "cache", "log", "tls"):
        shutil.rmtree(lab.root / name)
    (lab.root / "manifest.json").unlink()
    result = lab.act("pruned", cache=True)
    assert (result["changed"], result["set_up"]) == (False, False)


@pytest.mark.parametrize(("names", "killed"), [(["0004", "tmp.i"], True), (["tmp.i"], False)])
def test_a_journal_that_a_killed_dpkg_left_is_merged_first(
    lab: Lab,
    dpkg: Dpkg,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: list[str],
    killed: bool,
) -> None:
    host = importlib.import_module("ansible.module_utils.uplab_host")
    journal = tmp_path / "updates"
    journal.mkdir()
    for name in names:
        (journal / name).touch()
    monkeypatch.setattr(host, "DPKG_JOURNAL", journal)
    dpkg.status["half"] = "ii "
    lab.act("absent", packages=True)
    assert ("configure" in dpkg.calls) is killed
