"""The module uplab_packages: one transaction, and a memory of what it added."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SIMULATED = """\
NOTE: This is only a simulation!
Inst libzycore1 (1.4.1-1 Debian:12.11/oldstable [amd64])
Inst libc6 [2.36-9+deb12u9] (2.36-9+deb12u10 Debian:12.11/oldstable [amd64]) []
Remv exim4 [4.96-15]
Inst wrk (4.1.0-3+b2 Debian:12.11/oldstable [amd64])
Conf wrk (4.1.0-3+b2 Debian:12.11/oldstable [amd64])
"""


def test_a_simulation_is_read(uplab_packages: ModuleType) -> None:
    plan = uplab_packages.parse_plan(SIMULATED)
    assert plan.added == ["libzycore1", "wrk"]
    assert plan.upgraded == ["libc6"]
    assert plan.removed == ["exim4"]


def test_complaints_are_apt_s_errors(uplab_packages: ModuleType) -> None:
    text = "Reading lists\nErr:5 https://a.example x\nE: 401 Unauthorized\nW: whatever\n"
    assert uplab_packages.complaint(text) == "Err:5 https://a.example x\nE: 401 Unauthorized"
    assert uplab_packages.complaint("only\nwords\n") == "only\nwords"


def test_the_age_of_the_lists(uplab_packages: ModuleType, tmp_path: Path) -> None:
    os.utime(tmp_path, (1000, 1000))
    assert uplab_packages.lists_age_s(tmp_path, 1500.0) is None
    (tmp_path / "deb_main_binary-amd64_Packages.lz4").write_text("")
    os.utime(tmp_path / "deb_main_binary-amd64_Packages.lz4", (500, 500))
    os.utime(tmp_path, (1000, 1000))
    assert uplab_packages.lists_age_s(tmp_path, 1500.0) == 500.0


class Dpkg:
    """What dpkg knows, and an apt that changes it; both as the module sees them."""

    def __init__(self) -> None:
        self.status = {"base-files": "ii "}
        self.brings = {"wrk": ["libzycore1", "wrk"]}
        self.removes: list[str] = []
        self.calls: list[str] = []
        self.known_after_update = False
        self.trouble = ""
        self.dies = False

    def dpkg_status(self) -> list[tuple[str, str, str]]:
        return [(name, "1", status) for name, status in self.status.items()]

    def dpkg_versions(self) -> dict[str, str]:
        return {name: "1" for name, status in self.status.items() if status.startswith("ii")}

    def update(self) -> str:
        self.calls.append("update")
        self.known_after_update = True
        return self.trouble

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
        return self.module.Plan(added=added, removed=self.removes)

    module: ModuleType


@pytest.fixture
def dpkg(uplab_packages: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Dpkg:
    fake = Dpkg()
    fake.module = uplab_packages
    monkeypatch.setattr(uplab_packages, "dpkg_status", fake.dpkg_status)
    monkeypatch.setattr(uplab_packages, "dpkg_versions", fake.dpkg_versions)
    monkeypatch.setattr(uplab_packages, "Apt", lambda _timeout_s: fake)
    monkeypatch.setattr(uplab_packages, "lists_age_s", lambda _lists, _now_s: None)
    monkeypatch.setattr(uplab_packages.os, "geteuid", lambda: 0)
    return fake


class Host:
    """The module's arguments, its warnings and its memory."""

    def __init__(self, module: ModuleType, root: Path) -> None:
        self.module, self.record = module, root / "packages.json"
        self.warnings: list[str] = []

    def act(self, check: bool = False) -> dict[str, Any]:
        parameters = {
            "names": ["wrk"],
            "record": str(self.record),
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


def test_check_mode_starts_no_apt(host: Host, dpkg: Dpkg) -> None:
    result = host.act(check=True)
    assert result["changed"]
    assert result["diff"]["after"] == "wrk\n"
    assert dpkg.calls == []


def test_fresh_lists_are_not_fetched_again(
    host: Host, dpkg: Dpkg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host.module, "lists_age_s", lambda _lists, _now_s: 5.0)
    dpkg.known_after_update = True
    host.act()
    assert dpkg.calls == ["simulate", "install"]


def test_lists_that_lack_a_package_are_fetched_again(
    host: Host, dpkg: Dpkg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host.module, "lists_age_s", lambda _lists, _now_s: 5.0)
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


def test_a_removal_is_refused(host: Host, dpkg: Dpkg) -> None:
    dpkg.removes = ["proxmox-ve"]
    with pytest.raises(host.module.StoreError, match="apt would remove proxmox-ve"):
        host.act()
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
