"""uplab/provision.py: which host it is, and what is refused before Ansible runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from uplab import adapters, inventory, playbook, provision
from uplab.errors import HostError
from uplab.remote import LocalHost
from uplab.ssh import SshHost

ROOT = Path(__file__).parents[2]
REMOTE = {"ansible_host": "192.0.2.7", "ansible_user": "root", "ansible_ssh_args": "-F none"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose inventory is what a test says."""
    hosts: dict[str, dict[str, Any]] = {
        "local": {"ansible_connection": "local", "uplab_root": "/srv/uplab"},
        "lab1": REMOTE,
        "auto": {**REMOTE, "ansible_python_interpreter": "auto_silent"},
        "gone": {**REMOTE, "ansible_host": "127.0.0.1", "ansible_port": 1},
    }
    monkeypatch.setattr(inventory, "hosts", lambda *_: hosts)
    (tmp_path / "roles" / "base").mkdir(parents=True)
    return tmp_path


def host_for(project: Path, name: str) -> Any:
    return provision.host_for(project, name, adapters.load([project]))


def test_this_machine_and_a_host_behind_ssh(project: Path) -> None:
    local, remote = host_for(project, "local"), host_for(project, "lab1")
    assert isinstance(local, LocalHost)
    assert local.options == ("--root", "/srv/uplab")
    assert isinstance(remote, SshHost)
    assert remote.endpoint.place == "root@192.0.2.7:22"
    assert remote.python == "/usr/bin/python3"
    assert remote.zipapp == local.zipapp


def test_ansible_s_own_search_for_a_python_is_debian_s(project: Path) -> None:
    assert host_for(project, "auto").python == "/usr/bin/python3"


def test_a_host_that_is_gone_is_told_before_ansible_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[object] = []
    monkeypatch.setattr(playbook, "run", lambda *arguments, **_: ran.append(arguments))
    with pytest.raises(HostError, match=r"host gone: nothing listens on 127\.0\.0\.1:1"):
        provision.converge(project, ["gone"])
    assert ran == []


def test_a_host_without_python_is_told_before_ansible_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory.hosts(project)["local"]["ansible_python_interpreter"] = "/no/python"
    monkeypatch.setattr(playbook, "run", lambda *_: pytest.fail("Ansible ran"))
    with pytest.raises(HostError, match="host local: no Python at /no/python"):
        provision.converge(project, ["local"])


def test_passwords_do_not_change_the_digest() -> None:
    assert provision.digest(ROOT, {"a": 1, "ansible_become_password": "x"}) == provision.digest(
        ROOT, {"a": 1, "ansible_become_password": "y"}
    )
    assert provision.digest(ROOT, {"a": 1}) != provision.digest(ROOT, {"a": 2})


def test_ansible_gets_the_inventory_that_was_chosen(project: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.yml"
    theirs.write_text("")
    argv = playbook.build_argv(project, "lab1", chosen=theirs)
    assert argv[argv.index("-i") + 1] == str(theirs)
    assert "-i" not in playbook.build_argv(project, "lab1")


def test_several_hosts_are_one_play_each_with_its_own_digest(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(playbook, "run", lambda _, argv, **__: ran.append(argv))
    monkeypatch.setattr(provision, "require_ready", lambda *_: None)
    provision.converge(project, ["lab1", "local"], extra={"uplab_allow_upgrade": True})
    (argv,) = ran
    assert argv[argv.index("--limit") + 1] == "lab1,local"
    extra = json.loads(argv[argv.index("--extra-vars") + 1])
    assert extra["uplab_allow_upgrade"] is True
    digests = extra["uplab_digests"]
    assert sorted(digests) == ["lab1", "local"]
    assert digests["lab1"] != digests["local"]


def test_only_hosts_that_are_behind_are_left(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(provision, "is_current", lambda _, name, __: name == "local")
    assert provision.outdated(project, ["lab1", "local"]) == ["lab1"]
    assert capsys.readouterr().out.startswith("host local is up to date")
