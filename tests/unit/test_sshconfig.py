"""uplab/sshconfig.py: how a host is reached, by the inventory's variables and OpenSSH itself."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import sshd
from uplab import sshconfig
from uplab.errors import HostError, UsageError
from uplab.sshconfig import endpoint, known_keys, parse_keys

NO_CONFIG = {"ansible_ssh_args": "-F none"}


def test_the_name_is_the_address_where_nothing_else_is_said() -> None:
    found = endpoint("h1.example.invalid", {**NO_CONFIG, "ansible_user": "root"})
    assert (found.address, found.port, found.user) == ("h1.example.invalid", 22, "root")
    assert found.key_name == "h1.example.invalid"
    assert (found.jump, found.proxy_command, found.password) == (None, None, None)
    assert found.timeout_s == 10


def test_the_variables_of_the_inventory_hold(tmp_path: Path) -> None:
    key = sshd.make_key(tmp_path / "key")
    found = endpoint(
        "h1",
        {
            **NO_CONFIG,
            "ansible_host": "192.0.2.7",
            "ansible_port": 2222,
            "ansible_user": "lab",
            "ansible_ssh_private_key_file": str(key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={tmp_path}/known "
            "-o ConnectTimeout=3",
            "ansible_ssh_extra_args": "-o GlobalKnownHostsFile=none",
            "ansible_password": "canary",
        },
    )
    assert found.place == "lab@192.0.2.7:2222"
    assert found.key_name == "[192.0.2.7]:2222"
    assert found.key_files == (str(key),)
    assert found.known_hosts == (tmp_path / "known",)
    assert found.timeout_s == 3
    assert found.password == "canary"
    assert "canary" not in repr(found)
    assert "canary" not in found.command()


def test_the_user_s_own_configuration_holds_too(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        "Host r720\n HostName 192.0.2.9\n Port 2022\n User pve\n HostKeyAlias rack\n"
        " ProxyJump me@gate:24,inner\n"
        "Host gate\n HostName 192.0.2.1\n"
        "Host inner\n User deep\n"
    )
    found = endpoint("r720", {"ansible_ssh_common_args": f"-F {config}"})
    assert (found.place, found.key_name) == ("pve@192.0.2.9:2022", "rack")
    inner = found.jump
    assert inner is not None
    assert inner.place == "deep@inner:22"
    gate = inner.jump
    assert gate is not None
    assert gate.place == "me@192.0.2.1:24"
    assert gate.jump is None


def test_a_proxy_command_is_kept() -> None:
    arguments = "-p 2222 -l lab -o HostName=192.0.2.7 -o 'ProxyCommand=nc -x %%a %r %n %h %p'"
    found = endpoint("h1", {**NO_CONFIG, "ansible_ssh_common_args": arguments})
    assert found.proxy_command == "nc -x %a lab h1 192.0.2.7 2222"


def test_files_may_have_spaces(tmp_path: Path) -> None:
    one, two = tmp_path / "a b", tmp_path / "c"
    arguments = f'-o \'UserKnownHostsFile="{one}" "{two}"\' -o GlobalKnownHostsFile=none'
    assert endpoint("h1", {**NO_CONFIG, "ansible_ssh_common_args": arguments}).known_hosts == (
        one,
        two,
    )


def test_a_jump_that_leads_back_is_told(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host a\n ProxyJump b\nHost b\n ProxyJump a\n")
    with pytest.raises(HostError, match="ProxyJump leads back to a"):
        endpoint("h1", {"ansible_host": "a", "ansible_ssh_common_args": f"-F {config}"})


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"ansible_host": "{{ address }}"}, "ansible_host is a template"),
        ({"ansible_host": "-oProxyCommand=touch x"}, "ansible_host cannot be '-oProxyCommand"),
        ({"ansible_host": "a\nb"}, "ansible_host cannot be 'a\\nb'"),
        ({"ansible_user": "-x"}, "ansible_user cannot be '-x'"),
        ({"ansible_port": True}, "ansible_port must be a plain value"),
        ({"ansible_host": ["a"]}, "ansible_host must be a plain value"),
        ({"ansible_ssh_common_args": "-o 'x"}, "ansible_ssh_common_args cannot be read"),
        ({"ansible_password": {"__ansible_vault": "..."}}, "is locked in ansible-vault"),
    ],
)
def test_a_variable_that_cannot_be_used_is_told(variables: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        endpoint("h1", {**NO_CONFIG, **variables})
    assert caught.value.message.startswith("host h1: ")
    assert words in caught.value.message


def test_options_that_ssh_refuses_are_told_in_its_words() -> None:
    with pytest.raises(HostError, match=r"host h1: ssh refuses its options: .*nonsense"):
        endpoint("h1", {**NO_CONFIG, "ansible_ssh_common_args": "-o nonsense=1"})


def test_a_machine_without_ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="this machine has no ssh"):
        endpoint("h1", NO_CONFIG)


# --- keys -----------------------------------------------------------------------------------------


def test_keys_are_read_as_ssh_keygen_prints_them(tmp_path: Path) -> None:
    public = sshd.make_key(tmp_path / "key").with_suffix(".pub")
    kind, blob = public.read_text().split()[:2]
    text = f"# Host h found: line 1\nh {kind} {blob} comment\n@revoked h {kind} {blob}\n"
    text += f"@cert-authority h {kind} {blob}\nh {kind} n$t-base64\nh {kind}\n\n"
    plain, revoked = parse_keys(text, "file")
    assert (plain.revoked, revoked.revoked) == (False, True)
    argv = ["ssh-keygen", "-lf", str(public)]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert plain.fingerprint == said[1]
    assert plain.short == f"ED25519 {said[1]}"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("ssh-ed25519", "ED25519"),
        ("ssh-rsa", "RSA"),
        ("ecdsa-sha2-nistp384", "ECDSA"),
        ("sk-ssh-ed25519@openssh.com", "ED25519"),
        ("new-kind", "new-kind"),
    ],
)
def test_kinds_have_short_names(kind: str, name: str) -> None:
    assert sshconfig.kind_name(kind) == name


def test_files_that_are_not_there_know_nobody(tmp_path: Path) -> None:
    assert known_keys([tmp_path / "none"], "h") == []
