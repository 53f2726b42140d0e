"""uplab/box/access.py: keys, and the ways in that are written down."""

import os
import shlex
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.unit.box import handmade
from uplab.box import access, record
from uplab.box.record import Box
from uplab.box.steps import Steps
from uplab.errors import HostError


@pytest.fixture(params=["plain", "with blank"])
def box(tmp_path: Path, request: pytest.FixtureRequest) -> Box:
    """A box in a checkout of such a name."""
    return box_in(tmp_path / request.param)


def box_in(project: Path) -> Box:
    made = handmade.box(record.boxes_folder(project), "box254", port=7722)
    made.folder.mkdir(parents=True)
    return made


def settings_of(*words: str) -> dict[str, str]:
    """What ssh would do, asked of ssh itself."""
    argv = ["ssh", "-G", *words]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return dict(line.split(" ", 1) for line in text.splitlines() if " " in line)


def assert_leads_to(box: Box, settings: dict[str, str]) -> None:
    assert settings["hostname"] == "127.77.0.254"
    assert settings["port"] == "7722"
    assert settings["user"] == "root"
    assert settings["stricthostkeychecking"] == "true"
    assert settings["identitiesonly"] == "yes"
    assert settings["globalknownhostsfile"] == "/dev/null"
    assert settings["identityfile"].replace("%%", "%") == str(box.key_file)
    assert settings["userknownhostsfile"].replace("%%", "%") == str(box.known_hosts)


def test_all_ways_in_lead_to_the_box_and_trust_its_key_alone(box: Box) -> None:
    access.publish(box.folder.parent, [box])
    command = access.ssh_argv(box, "true")
    assert_leads_to(box, settings_of(*command[1 : command.index("--")]))
    assert_leads_to(box, settings_of("-F", str(box.folder.parent / "ssh_config"), box.name))


def test_a_percent_sign_is_none_of_ssh_s_tokens(tmp_path: Path) -> None:
    box = box_in(tmp_path / "100%n")
    command = access.ssh_argv(box, "true")
    assert_leads_to(box, settings_of(*command[1 : command.index("--")]))


def test_ansible_goes_the_same_way(box: Box) -> None:
    access.publish(box.folder.parent, [box])
    host = yaml.safe_load(box.inventory_file.read_text())["uplab"]["hosts"]["box254"]
    # As Ansible's connection plugin puts them together.
    words = shlex.split(host["ansible_ssh_common_args"])
    words += ["-p", str(host["ansible_port"]), "-l", host["ansible_user"]]
    words += ["-o", f'IdentityFile="{host["ansible_ssh_private_key_file"]}"', host["ansible_host"]]
    assert_leads_to(box, settings_of("-F", "/dev/null", *words))


def test_the_host_s_key_is_known_under_its_place(box: Box) -> None:
    access.make_keys(box)
    public = (box.folder / "host_ed25519.pub").read_text().split()
    assert box.known_hosts.read_text().split() == ["[127.77.0.254]:7722", *public[:2]]
    usual = replace(box, port=22, folder=box.folder / "usual")
    usual.folder.mkdir()
    access.make_keys(usual)
    assert usual.known_hosts.read_text().startswith("127.77.0.254 ssh-ed25519 ")
    assert usual.key_file.read_bytes() != box.key_file.read_bytes()
    assert box.key_file.stat().st_mode & 0o777 == 0o600


def test_nothing_is_published_of_no_box(box: Box) -> None:
    access.publish(box.folder.parent, [box])
    access.publish(box.folder.parent, [])
    assert [path.name for path in box.folder.parent.iterdir()] == ["box254"]


def test_a_port_that_is_taken_is_left_alone() -> None:
    """As by a machine's sshd that listens on every address."""
    with socket.create_server(("127.77.0.254", access._PORTS[0])):
        assert access.free_port("box254") == access._PORTS[1]
        with (
            socket.create_server(("127.77.0.254", access._PORTS[1])),
            pytest.raises(HostError, match=r"127\.77\.0\.254 has no free port .* ss -ltnp src"),
        ):
            access.free_port("box254")
    assert access.free_port("box254") == access._PORTS[0]


def test_waiting_ends_with_the_container(box: Box) -> None:
    with pytest.raises(HostError, match="box254 ended while it started"):
        access.wait(box, Steps())


def test_waiting_ends_after_its_limit(box: Box) -> None:
    living = replace(box, leader=record.Process.of(os.getpid()))
    with pytest.raises(HostError, match="let nobody in within 0 s: sshd does not listen"):
        access.wait(living, Steps(), limit_s=0.2)


def test_under_sudo_the_key_is_the_caller_s(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Path, int, int]] = []
    monkeypatch.setattr(os, "chown", lambda *call: given.append(call))
    for name in ("SUDO_UID", "SUDO_GID"):
        monkeypatch.delenv(name, raising=False)
    access.give_to_caller(box)
    assert given == []
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "4321")
    access.give_to_caller(box)
    assert given == [(box.key_file, 1234, 4321)]
