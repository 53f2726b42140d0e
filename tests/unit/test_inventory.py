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
