"""The module uplab_packages: one transaction, and a memory of what it added."""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests import debs
from tests.debs import Deb


class Dpkg:
    """What dpkg knows, and an apt that changes it; both as the module sees them."""

    def __init__(self) -> None:
        self.status = {"base-files": "ii "}
        self.brings = {"wrk": ["libzycore1", "wrk"]}
        self.removes: list[str] = []
        self.upgrades: list[str] = []
        self.held: list[str] = []
        self.calls: list[str] = []
        self.known_after_update = False
        self.trouble = ""
        self.dies = False
        self.age_s: float | None = None

    def dpkg_status(self) -> list[tuple[str, str, str]]:
        return [(name, "1", status) for name, status in self.status.items()]

    def dpkg_versions(self) -> dict[str, str]:
        return {name: "1" for name, status in self.status.items() if status.startswith("ii")}

    def update(self) -> str:
        self.calls.append("update")
        self.known_after_update = True
        return self.trouble

    def lists_age_s(self) -> float | None:
        return self.age_s

    def simulate(self, names: list[str]) -> Any:
        self.calls.append("simulate")
        if not self.known_after_update:
            return self.plan([]), "E: Unable to locate package"
        return self.plan([new for name in names for new in self.brings[name]]), ""

    def install(self, names: list[str]) -> None:
        self.calls.append("install")
        for name in names:
            for new in self.brings[name]:
                self.status[new] = "ii "
                if self.dies:
                    raise KeyboardInterrupt

    def configure(self) -> None:
        self.calls.append("configure")
        self.status = dict.fromkeys(self.status, "ii ")

    def plan(self, added: list[str]) -> Any:
        return self.module.Plan(
            added=[self.step(name, "1") for name in added],
            upgraded=[self.step(name, "2", "1") for name in self.upgrades],
            removed=[self.step(name, before="1") for name in self.removes],
            held=self.held,
        )

    def step(self, *words: str, **named: str) -> Any:
        return importlib.import_module(self.module.Plan.__module__).Step(*words, **named)

    def download_bytes(self, names: list[str]) -> dict[str, int]:
        self.calls.append("print-uris")
        return {new: 1000 for name in names for new in self.brings[name]}

    def show(self, packages: Iterable[str]) -> str:
        self.calls.append(f"show {' '.join(packages)}")
        return "Package: wrk\nTag: interface::daemon\n"

    module: ModuleType


@pytest.fixture
def dpkg(uplab_packages: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Dpkg:
    fake = Dpkg()
    fake.module = uplab_packages
    monkeypatch.setattr(uplab_packages, "dpkg_status", fake.dpkg_status)
    monkeypatch.setattr(uplab_packages, "dpkg_versions", fake.dpkg_versions)
    monkeypatch.setattr(uplab_packages, "Apt", lambda _timeout_s: fake)
    monkeypatch.setattr(uplab_packages, "only_looking", lambda _top, _timeout_s: fake)
    monkeypatch.setattr(uplab_packages, "apart", lambda _top, _files, _timeout_s: fake)
    monkeypatch.setattr(uplab_packages.os, "geteuid", lambda: 0)
    return fake


class Host:
    """The module's arguments, its warnings and its memory."""

    def __init__(self, module: ModuleType, root: Path) -> None:
        self.module, self.record = module, root / "packages.json"
        self.allow_upgrade = False
        self.warnings: list[str] = []

    def act(self, check: bool = False) -> dict[str, Any]:
        parameters = {
            "names": ["wrk"],
            "record": str(self.record),
            "cache": str(self.record.parent / "cache" / "apt"),
            "kept": str(self.record.parent / "apt-sources"),
            "allow_upgrade": self.allow_upgrade,
            "lists_max_age_s": 10,
            "lock_timeout_s": 1,
        }
        result = self.module.act(parameters, check, self.warnings.append)
        assert isinstance(result, dict)
        return result

    @property
    def memory(self) -> dict[str, Any]:
        value = json.loads(self.record.read_text())
        assert isinstance(value, dict)
        return value


@pytest.fixture
def host(uplab_packages: ModuleType, root: Path) -> Host:
    return Host(uplab_packages, root)


def test_what_came_in_is_remembered_with_dependencies(host: Host, dpkg: Dpkg) -> None:
    result = host.act()
    assert result["changed"]
    assert result["added"] == ["libzycore1", "wrk"]
    assert host.memory == {"added": ["libzycore1", "wrk"], "announced": []}
    assert dpkg.calls == ["update", "simulate", "install"]


def test_a_converged_host_starts_no_apt(host: Host, dpkg: Dpkg) -> None:
    dpkg.status["wrk"] = "ii "
    assert not host.act()["changed"]
    assert dpkg.calls == []
    assert not host.record.exists()


def test_check_mode_says_what_would_come_and_installs_nothing(host: Host, dpkg: Dpkg) -> None:
    result = host.act(check=True)
    assert result["changed"]
    assert result["diff"]["after"] == "wrk\n"
    assert result["plan"]["added"] == [
        {"name": "libzycore1", "version": "1", "bytes": 1000},
        {"name": "wrk", "version": "1", "bytes": 1000},
    ]
    assert result["plan"]["download_bytes"] == 2000
    assert result["plan"]["services"] == ["wrk"]
    assert result["plan"]["refused"] == result["plan"]["problem"] == ""
    assert dpkg.calls == ["update", "simulate", "print-uris", "show libzycore1=1 wrk=1"]
    assert not host.record.exists()


def test_check_mode_never_fetches_the_host_s_own_lists(
    host: Host, dpkg: Dpkg, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = Dpkg()
    looking.module, looking.age_s = host.module, 5.0
    monkeypatch.setattr(host.module, "only_looking", lambda _top, _timeout_s: looking)
    assert host.act(check=True)["plan"]["download_bytes"] == 2000
    assert looking.calls == ["simulate"]
    assert "update" in dpkg.calls
    looking.known_after_update = True
    dpkg.calls.clear()
    assert host.act(check=True)["plan"]["download_bytes"] == 2000
    assert "update" not in looking.calls
    assert dpkg.calls == []


def test_check_mode_on_a_converged_host_starts_no_apt(host: Host, dpkg: Dpkg) -> None:
    dpkg.status["wrk"] = "ii "
    result = host.act(check=True)
    assert not result["changed"]
    assert result["plan"]["added"] == []
    assert dpkg.calls == []


def test_check_mode_names_what_keeps_it_from_being_done(
    host: Host, dpkg: Dpkg, monkeypatch: pytest.MonkeyPatch
) -> None:
    dpkg.removes = ["exim4"]
    assert host.act(check=True)["plan"]["refused"].startswith("apt would remove exim4 (1); ")
    assert host.warnings[0].startswith("apt would remove exim4 (1); ")
    dpkg.known_after_update = False
    dpkg.age_s = 5.0
    monkeypatch.setattr(dpkg, "update", lambda: "E: no network")
    problem = host.act(check=True)["plan"]["problem"]
    assert problem == "apt cannot install wrk: E: Unable to locate package\nE: no network"


def test_a_package_on_hold_is_there(
    uplab_host: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplab_host, "run_for_text", lambda _argv: "wrk\t1\thi \nold\t1\trc \n")
    assert uplab_host.dpkg_versions() == {"wrk": "1"}


def test_fresh_lists_are_not_fetched_again(host: Host, dpkg: Dpkg) -> None:
    dpkg.age_s = 5.0
    dpkg.known_after_update = True
    host.act()
    assert dpkg.calls == ["simulate", "install"]


def test_lists_that_lack_a_package_are_fetched_again(host: Host, dpkg: Dpkg) -> None:
    dpkg.age_s = 5.0
    host.act()
    assert dpkg.calls == ["simulate", "update", "simulate", "install"]


def test_a_foreign_repository_that_fails_is_a_warning(host: Host, dpkg: Dpkg) -> None:
    dpkg.trouble = "E: enterprise.example 401 Unauthorized"
    assert host.act()["changed"]
    assert "401 Unauthorized" in host.warnings[0]


def test_a_package_that_cannot_be_had_is_an_error(
    host: Host, dpkg: Dpkg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        dpkg, "simulate", lambda _names: (dpkg.plan([]), "E: Unable to locate package wrk")
    )
    with pytest.raises(host.module.StoreError, match="Unable to locate package wrk"):
        host.act()
    assert "install" not in dpkg.calls


def refused(host: Host) -> str:
    with pytest.raises(host.module.StoreError) as caught:
        host.act()
    assert not host.record.exists()
    return str(caught.value)


def test_a_removal_is_refused_also_where_upgrades_are_allowed(host: Host, dpkg: Dpkg) -> None:
    dpkg.removes = ["proxmox-ve"]
    host.allow_upgrade = True
    assert "apt would remove proxmox-ve (1); no package was changed" in refused(host)
    assert "install" not in dpkg.calls


def test_what_the_host_stands_on_is_upgraded_only_if_allowed(host: Host, dpkg: Dpkg) -> None:
    dpkg.upgrades = ["libc6", "libyaml-0-2"]
    message = refused(host)
    assert "apt would install or upgrade libc6 (1 -> 2), which this host boots" in message
    assert "libyaml" not in message
    assert "--allow-upgrade" in message
    assert "install" not in dpkg.calls
    host.allow_upgrade = True
    assert host.act()["added"] == ["libzycore1", "wrk"]


def test_other_upgrades_need_nobody(host: Host, dpkg: Dpkg) -> None:
    dpkg.upgrades = ["libyaml-0-2"]
    assert host.act()["added"] == ["libzycore1", "wrk"]


def test_a_change_of_what_is_on_hold_is_refused(host: Host, dpkg: Dpkg) -> None:
    dpkg.held = ["libluajit-5.1-2"]
    host.allow_upgrade = True
    assert "apt-mark unhold libluajit-5.1-2" in refused(host)
    assert "install" not in dpkg.calls


def test_what_a_killed_run_added_is_not_forgotten(host: Host, dpkg: Dpkg) -> None:
    dpkg.dies = True
    with pytest.raises(KeyboardInterrupt):
        host.act()
    assert host.memory == {"added": [], "announced": ["libzycore1", "wrk"]}
    dpkg.dies = False
    host.act()
    assert host.memory == {"added": ["libzycore1", "wrk"], "announced": []}


def test_what_a_run_killed_after_apt_added_is_not_forgotten(host: Host, dpkg: Dpkg) -> None:
    host.record.write_text(json.dumps({"added": ["a"], "announced": ["wrk", "never-came"]}))
    dpkg.status |= {"wrk": "ii ", "a": "ii "}
    assert not host.act()["changed"]
    assert host.memory == {"added": ["a", "wrk"], "announced": []}


def test_a_half_configured_package_is_finished_first(host: Host, dpkg: Dpkg) -> None:
    dpkg.status["base-files"] = "iF "
    host.act()
    assert dpkg.calls[0] == "configure"


def test_installing_needs_root(host: Host, dpkg: Dpkg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.module.os, "geteuid", lambda: 1000)
    with pytest.raises(host.module.StoreError, match="installing wrk needs root"):
        host.act()
    assert dpkg.calls == []


def test_the_real_apt_answers(uplab_packages: ModuleType) -> None:
    """A simulation with the real apt-get: what is installed needs nothing; nonsense is refused."""
    apt = uplab_packages.Apt(60)
    plan, problem = apt.simulate(["dash"])
    assert problem == ""
    assert plan.added == plan.removed == []
    _, problem = apt.simulate(["no-such-package-anywhere"])
    assert "no-such-package-anywhere" in problem


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that apt's own user may read."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_the_real_apt_plans_with_lists_apart(
    uplab_packages: ModuleType, tmp_path: Path, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sources that nobody can reach, a mirror of them on this machine, and nothing installed."""
    files = importlib.import_module(uplab_packages.Plan.__module__.replace("plan", "files"))
    repository, parts = public, tmp_path / "sources.list.d"
    parts.mkdir()
    monkeypatch.setattr(files, "MAIN", tmp_path / "sources.list")
    monkeypatch.setattr(files, "PARTS", parts)
    daemon = {"Depends": "uplab-test-part", "Tag": "interface::daemon"}
    debs.flat(repository, [Deb("uplab-test-whole", "2:1.0", daemon), Deb("uplab-test-part")])
    source = "deb [trusted=yes] http://upstream.example.invalid/debian ./\n"
    (parts / "test.list").write_text(source)
    before = sorted(Path("/var/lib/apt/lists").iterdir())
    parameters = {
        "names": ["uplab-test-whole"],
        "mirrors": {"http://upstream.example.invalid/debian": f"file://{repository}"},
        "record": str(tmp_path / "packages.json"),
        "cache": str(tmp_path / "cache"),
        "kept": str(tmp_path / "kept"),
        "lists_max_age_s": 86400,
        "lock_timeout_s": 60,
    }
    plan = uplab_packages.act(parameters, True, print)["plan"]
    assert plan["problem"] == plan["refused"] == ""
    sizes = {path.name.split("_")[0]: path.stat().st_size for path in repository.glob("*.deb")}
    assert plan["added"] == [
        {"name": "uplab-test-part", "version": "1", "bytes": sizes["uplab-test-part"]},
        {"name": "uplab-test-whole", "version": "2:1.0", "bytes": sizes["uplab-test-whole"]},
    ]
    assert plan["download_bytes"] == sum(sizes.values())
    assert plan["services"] == ["uplab-test-whole"]
    assert sorted(Path("/var/lib/apt/lists").iterdir()) == before
    assert not (tmp_path / "cache").exists()
    parameters["mirrors"] = {}
    problem = uplab_packages.act(parameters, True, print)["plan"]["problem"]
    assert "Unable to locate package uplab-test-whole" in problem
    assert "upstream.example.invalid" in problem
