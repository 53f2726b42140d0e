"""uplab/playbook.py: the argv of ansible-playbook, and when a host is up to date."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from uplab import playbook
from uplab.errors import EXIT_GATE, GateError

ROOT = Path(__file__).parents[2]
DIGESTS = {"lab1": "d" * 64}
VARIABLES: dict[str, Any] = {"uplab_root": "/opt/uplab", "ansible_connection": "local"}


def argv(**changes: Any) -> list[str]:
    return playbook.build_argv(Path("/checkout"), "lab1", DIGESTS, **changes)


def extra_vars(command: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(command[command.index("--extra-vars") + 1])
    return found


def test_the_command_converges_one_host_as_a_whole() -> None:
    assert argv() == [
        str(Path(sys.executable).parent / "ansible-playbook"),
        "/checkout/playbooks/setup.yml",
        "--limit",
        "lab1",
        "--extra-vars",
        json.dumps({"uplab_digests": DIGESTS}),
    ]


def test_parts_of_a_host_do_not_vouch_for_the_whole() -> None:
    command = argv(only=["golang", "servers"])
    assert command[-2:] == ["--tags", "golang,servers"]
    assert extra_vars(command) == {}


def test_flags_are_passed_on() -> None:
    assert argv(check=True)[-1] == "--check"
    assert argv(diff=True)[-1] == "--diff"
    assert argv(only=iter(["a"]), check=True, diff=True)[-4:] == [
        "--tags",
        "a",
        "--check",
        "--diff",
    ]
    given = {"answer": 42}
    assert extra_vars(argv(extra=given)) == {"answer": 42, "uplab_digests": DIGESTS}
    assert given == {"answer": 42}


def test_a_run_that_changes_nothing_does_not_claim_to_have() -> None:
    """In check mode nothing is built: the manifest would name a digest that is not there."""
    assert "--check" in argv(check=True)


# --- the environment ------------------------------------------------------------------------------


def test_mitogen_is_switched_on_here_and_only_here() -> None:
    env = playbook.environment(ROOT, stock=False)
    assert env["ANSIBLE_STRATEGY"] == "mitogen_linear"
    assert (Path(env["ANSIBLE_STRATEGY_PLUGINS"]) / "mitogen_linear.py").is_file()
    assert env["ANSIBLE_CONFIG"] == str(ROOT / "ansible.cfg")
    assert "mitogen" not in (ROOT / "ansible.cfg").read_text().lower()


def test_stock_is_without_mitogen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_STRATEGY", "linear")
    env = playbook.environment(ROOT, stock=True)
    assert env["ANSIBLE_STRATEGY"] == "linear"
    assert "ANSIBLE_STRATEGY_PLUGINS" not in env
    assert env["ANSIBLE_CONFIG"] == str(ROOT / "ansible.cfg")


# --- running --------------------------------------------------------------------------------------


def test_its_output_is_shown_and_its_failure_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    playbook.run(tmp_path, ["sh", "-c", "echo $ANSIBLE_CONFIG; pwd"], stock=True)
    assert capfd.readouterr().out.splitlines() == [str(tmp_path / "ansible.cfg"), str(tmp_path)]
    with pytest.raises(GateError) as caught:
        playbook.run(tmp_path, ["sh", "-c", "echo why >&2; exit 2"], stock=True)
    assert caught.value.exit_code == EXIT_GATE
    assert caught.value.message == (
        "setting up failed (ansible-playbook ended with 2); "
        "the failed task and its reason are above"
    )
    assert capfd.readouterr().err == "why\n"


# --- the digest -----------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in ("roles", "playbooks", "servers", "tracers", "loads", "uplab", "docs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_text(folder)
    return tmp_path


@pytest.mark.parametrize("folder", ["roles", "playbooks", "servers", "tracers"])
def test_what_the_host_is_built_from_changes_the_digest(project: Path, folder: str) -> None:
    before = playbook.digest(project, VARIABLES)
    (project / folder / "file").write_text("changed")
    assert playbook.digest(project, VARIABLES) != before


@pytest.mark.parametrize("folder", ["uplab", "docs", "loads"])
def test_what_it_is_not_built_from_does_not(project: Path, folder: str) -> None:
    before = playbook.digest(project, VARIABLES)
    (project / folder / "file").write_text("changed")
    assert playbook.digest(project, VARIABLES) == before


@pytest.mark.parametrize("name", ["servers/README.md", "tracers/adapter.yml"])
def test_what_lies_beside_the_sources_does_not(project: Path, name: str) -> None:
    before = playbook.digest(project, VARIABLES)
    (project / name).write_text("new")
    assert playbook.digest(project, VARIABLES) == before


def test_the_host_s_variables_change_the_digest(project: Path) -> None:
    before = playbook.digest(project, VARIABLES)
    assert playbook.digest(project, {**VARIABLES, "uplab_root": "/srv"}) != before
    assert playbook.digest(project, {**VARIABLES, "more": {"a": [1]}}) != before
    assert playbook.digest(project, dict(reversed(VARIABLES.items()))) == before


def test_where_the_checkout_lies_does_not_matter(project: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(project, tmp_path / "copy")
    assert playbook.digest(Path(copy), VARIABLES) == playbook.digest(project, VARIABLES)
