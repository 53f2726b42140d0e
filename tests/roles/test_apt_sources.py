"""Proxmox VE without a subscription: its sources change, and change back; nobody else's do."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LIST = "# mine\ndeb https://enterprise.proxmox.com/debian/pve bookworm pve-enterprise\n"
CEPH = (
    "Types: deb\nURIs: https://enterprise.proxmox.com/debian/ceph-squid\nSuites: trixie\n"
    "Components: enterprise\nSigned-By: /usr/share/keyrings/proxmox-archive-keyring.gpg\n"
)
DEBIAN = "deb http://deb.example/debian bookworm main\n"
INSTALLED = ("pve-manager",)


class Pve:
    """A host's files below a directory of the test, and what is to change in them."""

    def __init__(self, shared: str, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        names = ("uplab_apt_sources", "uplab_apt", "uplab_apt_files", "uplab_apt_journal")
        loaded = [importlib.import_module(f"{shared}.{name}") for name in names]
        self.sources, self.apt, self.files, self.journal = loaded
        self.parts, self.kept = top / "sources.list.d", top / "root" / "apt-sources"
        self.kept.parent.mkdir()
        self.parts.mkdir()
        self.key = top / "proxmox-archive-keyring.gpg"
        self.key.touch()
        self.subscription = top / "subscription"
        release = top / "os-release"
        release.write_text('VERSION_ID="12"\nVERSION_CODENAME=bookworm\n')
        for module, name, value in (
            (self.files, "MAIN", top / "sources.list"),
            (self.files, "PARTS", self.parts),
            (self.apt, "SOURCES", self.parts),
            (self.apt, "KEYRINGS", top / "keyrings"),
            (self.apt, "OS_RELEASE", release),
            (self.sources, "KEYRINGS", (str(self.key), str(top / "pve-{codename}.gpg"))),
            (self.sources, "SUBSCRIPTION", self.subscription),
        ):
            monkeypatch.setattr(module, name, value)
        files = {"pve-enterprise.list": LIST, "ceph.sources": CEPH, "debian.list": DEBIAN}
        for name, text in files.items():
            (self.parts / name).write_text(text)

    def plan(
        self,
        wanted: bool = True,
        installed: tuple[str, ...] = INSTALLED,
        mirrors: dict[str, str] | None = None,
    ) -> Any:
        parameters = {"pve_no_subscription": wanted, "mirrors": mirrors}
        return self.sources.plan(parameters, installed, self.kept)

    def texts(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.parts.iterdir()}


@pytest.fixture
def pve(uplab_packages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pve:
    return Pve(uplab_packages.StoreError.__module__.rpartition(".")[0], tmp_path, monkeypatch)


def test_enterprise_repositories_are_switched_off_and_the_free_one_is_added(pve: Pve) -> None:
    before = pve.texts()
    changes = pve.plan()
    assert pve.texts() == before
    tried = {file.path.name: file.text for file in changes.tried(pve.kept)}
    changes.apply(pve.kept)
    assert pve.texts() == tried
    assert tried["debian.list"] == DEBIAN
    assert tried["pve-enterprise.list"] == LIST.replace(
        "deb https", "# Switched off by uplab: deb https"
    )
    assert tried["ceph.sources"] == CEPH.replace("URIs", "Enabled: no\nURIs")
    lines = tried["uplab-pve-no-subscription.sources"].splitlines()
    assert lines[1:] == [
        "Types: deb",
        "URIs: http://download.proxmox.com/debian/pve",
        "Suites: bookworm",
        "Components: pve-no-subscription",
        f"Signed-By: {pve.key}",
    ]
    assert not pve.plan()


def test_they_come_back_when_it_is_not_wanted_any_more(pve: Pve) -> None:
    before = pve.texts()
    (pve.parts / "ceph.sources").chmod(0o640)
    pve.plan().apply(pve.kept)
    assert (pve.parts / "ceph.sources").stat().st_mode & 0o777 == 0o640
    changes = pve.plan(wanted=False)
    tried = {file.path.name: file.text for file in changes.tried(pve.kept)}
    changes.apply(pve.kept)
    assert pve.texts() == tried == before
    assert (pve.parts / "ceph.sources").stat().st_mode & 0o777 == 0o640
    assert not pve.kept.exists()
    assert not pve.plan(wanted=False)


@pytest.mark.parametrize(
    "why", ["not wanted", "another system", "subscription"], ids=lambda why: str(why)
)
def test_other_hosts_are_left_alone(pve: Pve, why: str) -> None:
    if why == "subscription":
        pve.subscription.touch()
    installed = () if why == "another system" else INSTALLED
    assert not pve.plan(wanted=why != "not wanted", installed=installed)


def test_a_free_repository_of_their_own_is_enough(pve: Pve) -> None:
    free = "deb http://download.proxmox.com/debian/pve bookworm pve-no-subscription\n"
    (pve.parts / "free.list").write_text(f"# {free}")
    assert pve.plan().as_result()["added"] == [str(pve.parts / "uplab-pve-no-subscription.sources")]
    (pve.parts / "free.list").write_text(free)
    assert pve.plan().as_result()["added"] == []


def test_the_site_s_mirror_holds_for_it_too(pve: Pve) -> None:
    mirrors = {"http://download.proxmox.com/": "http://pve.example/"}
    pve.plan(mirrors=mirrors).apply(pve.kept)
    assert (
        "URIs: http://pve.example/debian/pve\n" in pve.texts()["uplab-pve-no-subscription.sources"]
    )


def test_without_a_key_of_theirs_nothing_is_added(pve: Pve) -> None:
    pve.key.unlink()
    with pytest.raises(pve.sources.StoreError, match="no key of Proxmox VE's on this host"):
        pve.plan()
    older = pve.key.with_name("pve-bookworm.gpg")
    older.touch()
    assert f"Signed-By: {older}\n" in pve.plan().added[0].text


# --- the originals --------------------------------------------------------------------------------


def test_the_journal_says_what_was_done(pve: Pve) -> None:
    pve.plan().apply(pve.kept)
    journal = json.loads((pve.kept / "journal.json").read_text())
    assert journal["schema"] == 1
    entry = journal["files"][str(pve.parts / "pve-enterprise.list")]
    assert (pve.kept / entry["original"]).read_text() == LIST
    assert entry["original_sha256"] != entry["written_sha256"]


def test_restoring_puts_back_and_says_what_it_could_not(pve: Pve) -> None:
    before = pve.texts()
    (pve.parts / "third.list").write_text(LIST)
    (pve.parts / "fourth.list").write_text(LIST)
    pve.plan().apply(pve.kept)
    (pve.parts / "ceph.sources").write_text(mine := "# mine now\n")
    (pve.parts / "third.list").unlink()
    (pve.parts / "fourth.list").write_text(LIST)
    done = {Path(one.path).name: one for one in pve.journal.restore(pve.kept)}
    states = {name: one.state for name, one in done.items()}
    assert states == {
        "ceph.sources": "altered",
        "fourth.list": "unchanged",
        "pve-enterprise.list": "restored",
        "third.list": "gone",
    }
    assert Path(done["ceph.sources"].original).read_text() == CEPH
    assert pve.texts()["pve-enterprise.list"] == before["pve-enterprise.list"]
    assert pve.texts()["ceph.sources"] == mine
    assert "third.list" not in pve.texts()
    assert {Path(one.path).name for one in pve.journal.restore(pve.kept)} == {
        "ceph.sources",
        "third.list",
    }


def test_nothing_was_changed_nothing_is_restored(pve: Pve) -> None:
    assert pve.journal.restore(pve.kept) == []
    assert pve.journal.restorable(pve.kept) == []


def test_bytes_that_are_no_text_survive(pve: Pve) -> None:
    path = pve.parts / "pve-enterprise.list"
    data = b"# caf\xe9\r\n" + LIST.encode()
    path.write_bytes(data)
    pve.plan().apply(pve.kept)
    assert path.read_bytes().startswith(b"# caf\xe9\r\n# mine\n# Switched off")
    pve.journal.restore(pve.kept)
    assert path.read_bytes() == data


def test_a_file_that_the_package_brought_again_is_switched_off_again(pve: Pve) -> None:
    pve.plan().apply(pve.kept)
    (pve.parts / "pve-enterprise.list").write_text(newer := f"# newer\n{LIST}")
    changes = pve.plan()
    assert [file.path.name for file in changes.switched_off] == ["pve-enterprise.list"]
    changes.apply(pve.kept)
    pve.journal.restore(pve.kept)
    assert pve.texts()["pve-enterprise.list"] == newer
