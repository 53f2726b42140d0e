"""uplab/outcome.py, uplab.playbook.collect and the callback plugin: what tasks returned."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from uplab import outcome, playbook
from uplab.errors import GateError
from uplab.outcome import Outcome, Result

ROOT = Path(__file__).parents[2]
BOOK = """\
- hosts: all
  gather_facts: false
  strategy: linear
  tasks:
    - name: Say
      ansible.builtin.command: {argv: [echo, "one\\ntwo"]}
    - name: Pass over
      ansible.builtin.command: "true"
      when: false
    - name: Fail and go on
      ansible.builtin.fail: {msg: never mind}
      ignore_errors: true
    - name: Hide
      ansible.builtin.command: {argv: [echo, canary-3f1]}
      no_log: true
    - name: Fail
      ansible.builtin.fail: {msg: "the reason"}
      when: fails | default(false) | bool
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout with ansible.cfg's plugins and nothing else."""
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks" / "callback_plugins").symlink_to(ROOT / "playbooks/callback_plugins")
    (tmp_path / "playbooks" / "say.yml").write_text(BOOK)
    (tmp_path / "ansible.cfg").write_text("[defaults]\nlocalhost_warning = false\n")
    return tmp_path


def argv_of(project: Path, *words: str) -> list[str]:
    book = str(project / "playbooks" / "say.yml")
    python = "ansible_python_interpreter=/usr/bin/python3"
    words = ("-i", "h1,", "-e", f"ansible_connection=local {python}", *words)
    return [str(Path(sys.executable).with_name("ansible-playbook")), book, *words]


def test_every_task_is_reported_as_it_ends(project: Path) -> None:
    heard: list[Result] = []
    done = playbook.collect(project, argv_of(project), stock=True, heard=heard.append)
    assert done.code == 0, done.log.read_text()
    assert [(result.task, result.state) for result in done.results] == [
        ("Say", "changed"),
        ("Pass over", "skipped"),
        ("Fail and go on", "ignored"),
        ("Hide", "changed"),
        ("Fail", "skipped"),
    ]
    assert heard == done.results
    said = done.results[0]
    assert said.host == "h1"
    assert said.action == "ansible.builtin.command"
    assert said.result["stdout_lines"] == ["one", "two"]
    assert said.duration_s > 0
    assert "invocation" not in said.result
    assert [result.task for result in done.of("ansible.builtin.command")] == ["Say", "Hide"]
    assert outcome.problems(done) == []
    outcome.require_success(done, "saying")


def test_what_is_hidden_stays_hidden(project: Path) -> None:
    done = playbook.collect(project, argv_of(project), stock=True)
    assert done.code == 0
    assert "canary-3f1" not in str(done.results)


def test_a_failed_task_is_told_with_its_host(project: Path) -> None:
    done = playbook.collect(project, argv_of(project, "-e", "fails=true"), stock=True)
    assert done.code != 0
    assert outcome.problems(done) == ["h1: Fail: the reason"]
    with pytest.raises(GateError) as caught:
        outcome.require_success(done, "saying")
    assert caught.value.message == (
        f"saying failed: h1: Fail: the reason. Ansible's own output: {done.log}"
    )


def test_a_host_that_cannot_be_reached_is_told(project: Path) -> None:
    argv = argv_of(project, "-e", "ansible_connection=ssh", "-e", "ansible_host=127.0.0.1")
    argv += ["-e", "ansible_port=1", "-e", "ansible_ssh_args=-oControlMaster=no"]
    done = playbook.collect(project, argv, stock=True)
    (problem,) = outcome.problems(done)
    assert problem.startswith("h1: Say: ")
    assert "127.0.0.1 port 1" in problem


def test_ansible_s_own_words_are_told_where_no_task_failed(project: Path) -> None:
    (project / "playbooks" / "say.yml").write_text("- hosts: [")
    done = playbook.collect(project, argv_of(project), stock=True)
    (problem,) = outcome.problems(done)
    assert problem.startswith(f"ansible-playbook ended with {done.code}\n")
    assert "ERROR" in problem


def test_an_interruption_ends_the_program(project: Path) -> None:
    class Enough(Exception):
        """What a caller raises in the middle."""

    def stop(_: Result) -> None:
        raise Enough

    with pytest.raises(Enough):
        playbook.collect(project, argv_of(project), stock=True, heard=stop)


def test_a_pipe_that_somebody_else_holds_open_is_no_reason_to_wait(tmp_path: Path) -> None:
    """A connection kept for the next play inherits it; it ends only when that connection does."""
    (tmp_path / "ansible.cfg").write_text("")
    script = "sleep 600 & echo $! > pid"
    try:
        done = playbook.collect(tmp_path, ["sh", "-c", script], stock=True)
    finally:
        pid = int((tmp_path / "pid").read_text())
        os.kill(pid, signal.SIGKILL)
    assert (done.code, done.results) == (0, [])


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"msg": " why \n"}, "why"),
        ({"stderr": "said"}, "said"),
        ({"rc": 1}, "it gave no reason"),
    ],
)
def test_the_message_of_a_task(result: dict[str, Any], text: str) -> None:
    assert outcome.message(result) == text


def test_nothing_failed(tmp_path: Path) -> None:
    assert outcome.problems(Outcome(0, [], tmp_path)) == []
