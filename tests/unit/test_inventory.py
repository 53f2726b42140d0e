"""uplab/inventory.py: hosts, asked of Ansible itself."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from uplab import inventory
from uplab.errors import EXIT_HOST, EXIT_USAGE, HostError, UsageError

ROOT = Path(__file__).parents[2]
HOSTS = """\
uplab:
  hosts:
    local:
    lab1: {uplab_root: /srv/uplab}
other:
  hosts:
    unrelated:
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with an inventory that was asked for once."""
    project = tmp_path_factory.mktemp("project")
    (project / "inventory" / "host_vars").mkdir(parents=True)
    (project / "playbooks" / "group_vars" / "all").mkdir(parents=True)
    (project / "inventory" / "hosts.yml").write_text(HOSTS)
    (project / "inventory" / "host_vars" / "local.yml").write_text("ansible_connection: local\n")
    (project / "playbooks" / "group_vars" / "all" / "main.yml").write_text("uplab_root: /opt/x\n")
    (project / "ansible.cfg").write_text("[defaults]\ninventory = inventory\n")
    inventory.hosts(project)
    return project


@pytest.fixture
def project(asked: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(asked, tmp_path / "project"))


def no_ansible(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, asking Ansible fails."""
    monkeypatch.setattr(inventory, "program", lambda _: "/bin/false")


def test_the_hosts_of_the_group_with_all_their_variables(project: Path) -> None:
    hosts = inventory.hosts(project)
    assert sorted(hosts) == ["lab1", "local"]
    assert hosts["local"]["ansible_connection"] == "local"
    assert hosts["local"]["uplab_root"] == "/opt/x"
    assert hosts["lab1"]["uplab_root"] == "/srv/uplab"


def test_the_answer_is_kept_until_a_file_changes(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = inventory.hosts(project)
    no_ansible(monkeypatch)
    assert inventory.hosts(project) == first
    with (project / "playbooks" / "group_vars" / "all" / "main.yml").open("a") as file:
        file.write("more: 1\n")
    with pytest.raises(HostError):
        inventory.hosts(project)


def test_a_cache_that_is_damaged_is_asked_for_again(project: Path) -> None:
    (cache,) = (project / ".uplab" / "inventory").glob("*.json")
    cache.write_text("{")
    assert sorted(inventory.hosts(project)) == ["lab1", "local"]


def test_an_inventory_that_is_no_yaml_is_told_with_its_file(project: Path) -> None:
    """Ansible itself only warns and goes on with no hosts at all."""
    (project / "inventory" / "hosts.yml").write_text("uplab: [\n")
    with pytest.raises(HostError) as caught:
        inventory.hosts(project)
    assert caught.value.exit_code == EXIT_HOST
    assert "hosts.yml" in caught.value.message
    assert len(list((project / ".uplab" / "inventory").iterdir())) == 1, "kept as if it were good"


def test_ansible_that_fails_is_told_by_its_last_line(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = project / "ansible"
    failing.write_text("#!/bin/sh\necho first >&2\necho 'ERROR! the reason' >&2\nexit 4\n")
    failing.chmod(0o755)
    monkeypatch.setattr(inventory, "program", lambda _: str(failing))
    with (project / "inventory" / "hosts.yml").open("a") as file:
        file.write("# changed\n")
    with pytest.raises(HostError) as caught:
        inventory.hosts(project)
    assert caught.value.message == "ansible-inventory failed: ERROR! the reason"


def test_an_unknown_host_is_told_with_the_nearest_and_all(project: Path) -> None:
    assert inventory.host(project, "lab1")["uplab_root"] == "/srv/uplab"
    with pytest.raises(UsageError) as caught:
        inventory.host(project, "lab2")
    assert caught.value.exit_code == EXIT_USAGE
    assert caught.value.message == (
        "no host 'lab2' in group uplab of the inventory; did you mean lab1? There are lab1, local"
    )
    with pytest.raises(UsageError, match=r"no host 'unrelated' in group uplab of the inventory\. "):
        inventory.host(project, "unrelated")


def test_the_shipped_inventory_knows_this_machine() -> None:
    assert inventory.is_local(inventory.host(ROOT, "local"))
    assert not inventory.is_local(inventory.host(ROOT, "r720"))
    assert not inventory.is_local({})


def test_ansible_is_the_one_of_this_environment() -> None:
    path = inventory.program("ansible-inventory")
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ansible-inventory [core 2.")


# --- the digest of folders ------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "roles" / "a" / "tasks").mkdir(parents=True)
    (tmp_path / "roles" / "a" / "tasks" / "main.yml").write_text("- x\n")
    (tmp_path / "servers").mkdir()
    (tmp_path / "servers" / "main.go").write_text("package main\n")
    return tmp_path


def digest(tree: Path) -> str:
    return inventory.tree_sha256(tree, ["roles", "servers"])


def test_what_python_and_editors_leave_does_not_change_it(tree: Path) -> None:
    before = digest(tree)
    cache = tree / "roles" / "__pycache__"
    cache.mkdir()
    (cache / "x.pyc").write_text("x")
    (tree / "roles" / ".main.yml.swp").write_text("x")
    (tree / "roles" / ".hidden").mkdir()
    (tree / "roles" / ".hidden" / "x").write_text("x")
    (tree / "elsewhere").write_text("x")
    (tree / "roles" / "empty").mkdir()
    os.utime(tree / "servers" / "main.go", (1, 1))
    assert digest(tree) == before


def test_every_change_changes_it(tree: Path) -> None:
    seen = {digest(tree)}
    file = tree / "servers" / "main.go"
    file.write_text("package other\n")
    seen.add(digest(tree))
    file.rename(tree / "servers" / "other.go")
    seen.add(digest(tree))
    (tree / "servers" / "empty").write_text("")
    seen.add(digest(tree))
    (tree / "roles" / "a").rename(tree / "roles" / "b")
    seen.add(digest(tree))
    assert len(seen) == 5


def test_bytes_cannot_move_from_one_file_to_the_next(tmp_path: Path) -> None:
    digests = set()
    for number, (one, two) in enumerate([("ab", "c"), ("a", "bc"), ("abc", "")]):
        folder = tmp_path / str(number)
        (folder / "f").mkdir(parents=True)
        (folder / "f" / "1").write_text(one)
        (folder / "f" / "2").write_text(two)
        digests.add(inventory.tree_sha256(folder, ["f"]))
    assert len(digests) == 3


def test_where_the_checkout_lies_does_not_matter(tree: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tree, tmp_path / "copy"))
    assert digest(copy) == digest(tree)


# --- more inventories -----------------------------------------------------------------------------


def write_private(project: Path) -> None:
    private = project / "inventory" / "private"
    (private / "host_vars").mkdir(parents=True)
    (private / "hosts.yml").write_text("uplab:\n  hosts:\n    lab1:\n    lab9:\n")
    (private / "host_vars" / "lab1.yml").write_text("ansible_host: 192.0.2.1\n")
    # No inventory: it lies beside one.
    (private / "known_hosts").write_text("192.0.2.1 ssh-ed25519 AAAA\n")


def test_the_private_part_is_read_too_and_wins(project: Path) -> None:
    (project / "inventory" / "host_vars" / "lab1.yml").write_text("ansible_host: x.invalid\na: 1\n")
    write_private(project)
    found = inventory.hosts(project)
    assert sorted(found) == ["lab1", "lab9", "local"]
    assert (found["lab1"]["ansible_host"], found["lab1"]["a"]) == ("192.0.2.1", 1)


def test_boxes_are_hosts_too(project: Path) -> None:
    boxes = project / ".uplab" / "boxes"
    boxes.mkdir(parents=True)
    (boxes / "inventory.yml").write_text("uplab:\n  hosts:\n    box1: {ansible_host: 127.77.0.1}\n")
    assert sorted(inventory.hosts(project)) == ["box1", "lab1", "local"]
    (boxes / "inventory.yml").write_text("uplab:\n  hosts:\n    box2: {ansible_host: 127.77.0.2}\n")
    assert sorted(inventory.hosts(project)) == ["box2", "lab1", "local"]


def test_somebody_s_own_inventory_takes_the_place_of_all(project: Path, tmp_path: Path) -> None:
    write_private(project)
    theirs = tmp_path / "their hosts.yml"
    theirs.write_text(
        "rack:\n  hosts:\n    r1:\n"
        "uplab:\n  children:\n    fast:\n      hosts:\n        r2: {b: 2}\n"
    )
    found = inventory.hosts(project, theirs)
    assert sorted(found) == ["r2"]
    # The pins lie beside the playbooks, so they are seen from there too.
    assert (found["r2"]["b"], found["r2"]["uplab_root"]) == (2, "/opt/x")
    assert inventory.options(project, theirs) == ["-i", str(theirs)]
    with pytest.raises(UsageError, match=r"no host 'r1' in group uplab"):
        inventory.host(project, "r1", theirs)
    with pytest.raises(UsageError, match=r"no inventory .*/nothing"):
        inventory.hosts(project, tmp_path / "nothing")


def test_passwords_are_never_written_down(project: Path) -> None:
    for path in (project / ".uplab" / "inventory").iterdir():
        path.unlink()
    hosts = project / "inventory" / "hosts.yml"
    hosts.write_text(
        "uplab:\n  hosts:\n    local: {ansible_password: canary, ansible_user: root}\n"
    )
    found = inventory.hosts(project)
    assert found["local"]["ansible_password"] == "canary"
    assert list((project / ".uplab" / "inventory").iterdir()) == []
    assert "canary" not in str(inventory.public(found["local"]))
    assert inventory.public(found["local"])["ansible_user"] == "root"


def test_the_kept_answer_is_its_owner_s_alone(asked: Path) -> None:
    (cache,) = (asked / ".uplab" / "inventory").glob("*.json")
    assert cache.stat().st_mode & 0o077 == 0


# --- several at once ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def racks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inventory with groups in uplab's group, and one that is only partly uplab's."""
    path = tmp_path_factory.mktemp("racks") / "racks.yml"
    path.write_text(
        "uplab:\n"
        "  hosts: {a: {}, b: {}}\n"
        "  children: {rack1: {hosts: {c: {}, d: {}}}}\n"
        "mixed: {hosts: {d: {}, a: {}, unrelated: {}}}\n"
        "others: {hosts: {unrelated: {}}}\n"
    )
    return path


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("b", ["b"]),
        (" b , a,b", ["b", "a"]),
        ("rack1", ["c", "d"]),
        ("d,rack1", ["d", "c"]),
        ("mixed", ["d", "a"]),
        ("uplab", ["a", "b", "c", "d"]),
    ],
)
def test_hosts_lists_and_groups_are_resolved(racks: Path, text: str, names: list[str]) -> None:
    found = inventory.select(ROOT, text, racks)
    if text in ("uplab", "mixed"):
        assert sorted(found) == sorted(names)
    else:
        assert found == names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("others", "no host 'others' in group uplab"),
        ("a,unrelated", "no host 'unrelated' in group uplab"),
        ("rack", "did you mean 'rack1'|There are a, b, c, d"),
        (" , ", "no host was named"),
    ],
)
def test_what_is_no_host_of_uplab_s_is_refused(racks: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        inventory.select(ROOT, text, racks)
