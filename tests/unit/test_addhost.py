"""uplab/addhost.py: what is typed, whose key is confirmed, what is stored."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests import sshd
from uplab import addhost, inventory
from uplab.addhost import NewHost, confirmed, parse, refuse_taken, store
from uplab.errors import GateError, HostError, UsageError
from uplab.sshconfig import HostKey, endpoint

KEYS = [HostKey("ssh-ed25519", "AAAA"), HostKey("ssh-rsa", "BBBB")]
NEW = NewHost("r730", "root", "192.0.2.7", 22)


# --- what is typed --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "user", "address", "port", "key_name"),
    [
        ("root@192.0.2.7", "root", "192.0.2.7", 22, "192.0.2.7"),
        ("lab@r730.example.org:2222", "lab", "r730.example.org", 2222, "[r730.example.org]:2222"),
        ("root@[2001:db8::1]", "root", "2001:db8::1", 22, "2001:db8::1"),
        ("root@[2001:db8::1]:24", "root", "2001:db8::1", 24, "[2001:db8::1]:24"),
    ],
)
def test_places_that_can_be_read(
    place: str, user: str, address: str, port: int, key_name: str
) -> None:
    new = parse("r730", place)
    assert (new.user, new.address, new.port, new.key_name) == (user, address, port, key_name)


@pytest.mark.parametrize(
    "name",
    ["", "-x", "x-", "R720", "a b", "a/b", "../x", "a\nb", "$(x)", "é", "all", "uplab", "a:b", "*"],
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a host"):
        parse(name, "root@192.0.2.7")


@pytest.mark.parametrize(
    "place",
    [
        "192.0.2.7",
        "@192.0.2.7",
        "root@",
        "root@-oProxyCommand=x",
        "root@a b",
        "root@$(x)",
        "root@a:0",
        "root@a:65536",
        "root@a:x",
        "root@2001:db8::1",
        "root@[192.0.2.7]",
        "ro ot@a",
        "-l@a",
        "root@a\n",
    ],
)
def test_places_that_are_refused(place: str) -> None:
    with pytest.raises(UsageError):
        parse("r730", place)


def test_a_key_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no key file"):
        parse("r730", "root@192.0.2.7", tmp_path / "none")


def test_a_name_is_taken_unless_it_is_an_example() -> None:
    known = {
        "local": {"ansible_connection": "local"},
        "lab1": {"ansible_host": "192.0.2.1"},
        "r720": {"ansible_host": "r720.example.invalid"},
    }
    refuse_taken(known, "r720")
    refuse_taken(known, "r730")
    with pytest.raises(UsageError, match=r"has a host lab1 already \(192\.0\.2\.1\)\. Run: invoke"):
        refuse_taken(known, "lab1")
    with pytest.raises(UsageError, match=r"has a host local already \(this machine\)"):
        refuse_taken(known, "local")


# --- whose key ------------------------------------------------------------------------------------


def test_a_fingerprint_confirms_its_own_key_alone() -> None:
    assert confirmed(NEW, KEYS, KEYS[1].fingerprint, None) == [KEYS[1]]
    with pytest.raises(HostError, match=r"has no key SHA256:x; it shows SHA256:.*, SHA256:"):
        confirmed(NEW, KEYS, "SHA256:x", lambda _: "yes")


def test_a_person_confirms_all_or_one() -> None:
    assert confirmed(NEW, KEYS, None, lambda _: " yes ") == KEYS
    assert confirmed(NEW, KEYS, None, lambda _: KEYS[0].fingerprint) == [KEYS[0]]


@pytest.mark.parametrize("answer", ["", "y", "no", "SHA256:other"])
def test_anything_but_yes_is_no(answer: str) -> None:
    with pytest.raises(GateError, match="was not added: its key was not confirmed"):
        confirmed(NEW, KEYS, None, lambda _: answer)


def test_where_nobody_can_be_asked_the_flag_is_named() -> None:
    with pytest.raises(UsageError, match=r"invoke lab\.add r730 root@192\.0\.2\.7:22 --finger"):
        confirmed(NEW, KEYS, None, None)


# --- what is stored -------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout whose path has a space in it."""
    project = tmp_path / "the checkout"
    (project / "inventory" / "host_vars").mkdir(parents=True)
    (project / "playbooks" / "group_vars" / "all").mkdir(parents=True)
    (project / "inventory" / "hosts.yml").write_text("uplab:\n  hosts:\n    local:\n    r720:\n")
    variables = project / "inventory" / "host_vars"
    (variables / "local.yml").write_text("ansible_connection: local\n")
    (variables / "r720.yml").write_text(
        "ansible_host: r720.example.invalid\nansible_user: pve\nuplab_described_host: {a: 1}\n"
    )
    (project / "ansible.cfg").write_text("[defaults]\ninventory = inventory/hosts.yml\n")
    return project


def test_ansible_finds_what_was_stored(project: Path) -> None:
    store(project, NEW, KEYS[:1])
    found = inventory.hosts(project)
    assert sorted(found) == ["local", "r720", "r730"]
    assert found["r730"]["ansible_host"] == "192.0.2.7"
    assert found["r730"]["ansible_user"] == "root"


def test_an_example_is_filled_in(project: Path) -> None:
    store(project, NewHost("r720", "root", "192.0.2.9", 2222), KEYS)
    found = inventory.host(project, "r720")
    assert (found["ansible_host"], found["ansible_user"]) == ("192.0.2.9", "root")
    assert found["uplab_described_host"] == {"a": 1}


def test_openssh_reads_the_stored_options(project: Path) -> None:
    new = NewHost("r730", "root", "192.0.2.7", 2222)
    store(project, new, KEYS[:1])
    known_hosts = project / "inventory" / "private" / "known_hosts"
    place = endpoint("r730", inventory.host(project, "r730"))
    assert place.known_hosts[0] == known_hosts
    # ssh-keygen does not give what is no key, so the line itself is looked at.
    assert known_hosts.read_text() == "[192.0.2.7]:2222 ssh-ed25519 AAAA\n"


def test_nobody_else_can_read_what_is_stored(project: Path) -> None:
    old = os.umask(0)
    try:
        store(project, NEW, KEYS)
    finally:
        os.umask(old)
    for path in (project / "inventory" / "private").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_a_second_host_and_a_second_time_add_nothing_twice(project: Path) -> None:
    store(project, NEW, KEYS)
    private = project / "inventory" / "private"
    (private / "host_vars" / "r730.yml").write_text("ansible_host: changed\n")
    other = NewHost("r740", "root", "192.0.2.8", 22)
    store(project, other, KEYS)
    store(project, other, KEYS)
    assert len((private / "known_hosts").read_text().splitlines()) == 4
    assert yaml.safe_load((private / "hosts.yml").read_text()) == {
        "uplab": {"hosts": {"r730": None, "r740": None}}
    }
    assert "changed" in (private / "host_vars" / "r730.yml").read_text()


def test_what_else_is_in_the_private_inventory_stays(project: Path) -> None:
    hosts = project / "inventory" / "private" / "hosts.yml"
    hosts.parent.mkdir()
    hosts.write_text("uplab:\n  hosts:\n    lab9: {a: 1}\n  vars: {b: 2}\nother:\n  hosts: {x: }\n")
    store(project, NEW, KEYS)
    assert yaml.safe_load(hosts.read_text()) == {
        "uplab": {"hosts": {"lab9": {"a": 1}, "r730": None}, "vars": {"b": 2}},
        "other": {"hosts": {"x": None}},
    }


@pytest.mark.parametrize("text", ["uplab: [\n", "- a\n", "uplab: text\n"])
def test_a_private_inventory_that_is_none_is_refused(project: Path, text: str) -> None:
    hosts = project / "inventory" / "private" / "hosts.yml"
    hosts.parent.mkdir()
    hosts.write_text(text)
    with pytest.raises(UsageError, match=r"hosts\.yml is no inventory that a host can be added to"):
        store(project, NEW, KEYS)
    assert hosts.read_text() == text
    assert os.listdir(hosts.parent) == ["hosts.yml"]


def test_what_is_stored_is_no_worse_than_what_is_linted(project: Path) -> None:
    store(project, NEW, KEYS)
    root = Path(__file__).parents[2]
    argv = [str(Path(sys.executable).with_name("yamllint")), "--strict", "-c"]
    done = subprocess.run(
        [*argv, str(root / ".yamllint"), str(project / "inventory")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


# --- against a real server ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    with sshd.running(tmp_path_factory.mktemp("sshd")) as started:
        yield started


def test_a_host_is_added_with_the_key_that_it_shows(
    project: Path, server: sshd.Server, capsys: pytest.CaptureFixture[str]
) -> None:
    new = parse("lab1", f"root@127.0.0.1:{server.port}", server.client_key)
    questions: list[str] = []

    def ask(question: str) -> str:
        questions.append(capsys.readouterr().out + question)
        return "yes"

    path = addhost.add(project, new, None, ask)
    assert path == project / "inventory" / "private" / "host_vars" / "lab1.yml"
    # It was shown before anything was asked.
    assert f"shows ED25519 {server.fingerprint()}" in questions[0]
    assert f"shows RSA {server.fingerprint('rsa')}" in questions[0]
    known = (project / "inventory" / "private" / "known_hosts").read_text()
    assert f"{server.key_name} {server.public_key()}\n" in known


def test_a_wrong_fingerprint_stores_nothing(project: Path, server: sshd.Server) -> None:
    new = parse("lab1", f"root@127.0.0.1:{server.port}", server.client_key)
    with pytest.raises(HostError, match="has no key SHA256:x"):
        addhost.add(project, new, "SHA256:x", None)
    assert not (project / "inventory" / "private").exists()


def test_an_address_that_was_known_by_another_key_is_refused(
    project: Path, server: sshd.Server, tmp_path: Path
) -> None:
    other = sshd.make_key(tmp_path / "other").with_suffix(".pub").read_text().split()
    new = parse("lab1", f"root@127.0.0.1:{server.port}", server.client_key)
    private = project / "inventory" / "private"
    private.mkdir()
    (private / "known_hosts").write_text(f"{server.key_name} {other[0]} {other[1]}\n")
    with pytest.raises(HostError, match="Somebody may be in between"):
        addhost.add(project, new, None, lambda _: "yes")
    assert not (private / "hosts.yml").exists()
