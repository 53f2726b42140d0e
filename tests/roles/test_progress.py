"""The callback plugin uplab_progress: who waits sees what is built, and for how long."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.roles.building import recipe
from tests.roles.conftest import load
from tests.roles.plays import ANSIBLE_PLAYBOOK, PLAYBOOKS, REPOSITORY

DEADLINE_S = 60.0
BOOK = """\
- hosts: all
  gather_facts: false
  tasks:
    - name: Probe
      uplab_store: {{root: "{root}", state: probed, component: slow, recipe: "{{{{ wanted }}}}"}}
    - name: Ask
      ansible.builtin.set_fact: {{slow_build: {{component: slow, recipe: "{{{{ wanted }}}}"}}}}
    - name: Build
      uplab_build: {{root: "{root}", builds: "{{{{ [slow_build] }}}}", rebuild: replace}}
    - name: Go on
      ansible.builtin.debug: {{msg: went on}}
"""


@pytest.fixture(scope="session")
def plugin() -> ModuleType:
    return load(PLAYBOOKS / "callback_plugins" / "uplab_progress.py")


def test_durations_are_short(plugin: ModuleType) -> None:
    texts = [plugin.duration(seconds) for seconds in (0.4, 59.6, 200, 3723)]
    assert texts == ["0:00", "1:00", "3:20", "1:02:03"]


def test_a_line_names_components_times_and_what_is_known(plugin: ModuleType) -> None:
    work = plugin.Work(("bpftime", "deepflow"), 100.0, {"bpftime": 490.0})
    assert work.text(300.0) == "bpftime 3:20 of about 8:10, deepflow 3:20"


@dataclass
class Lines:
    """A plugin that writes into a pipe, and the tasks that it is told of."""

    plugin: ModuleType
    reading: int
    writing: int
    callback: Any = field(init=False)

    def __post_init__(self) -> None:
        self.callback = self.plugin.CallbackModule()

    def task(self, action: str, **arguments: Any) -> SimpleNamespace:
        return SimpleNamespace(action=action, args=arguments)

    def start(self, task: SimpleNamespace, host: str = "h1") -> None:
        self.callback.v2_runner_on_start(SimpleNamespace(get_name=lambda: host), task)

    def ok(self, task: SimpleNamespace, host: str = "h1", **result: Any) -> None:
        self.callback.v2_runner_on_ok(self.done(task, host, result))

    def failed(self, task: SimpleNamespace, host: str = "h1", **result: Any) -> None:
        self.callback.v2_runner_on_failed(self.done(task, host, result), ignore_errors=False)

    def done(self, task: SimpleNamespace, host: str, result: dict[str, Any]) -> SimpleNamespace:
        name = SimpleNamespace(get_name=lambda: host)
        return SimpleNamespace(host=name, task=task, result=result)

    def begin_play(self) -> None:
        def variables(play: Any, host: Any) -> dict[str, Any]:
            assert play is self.callback.play
            return {"ansible_connection": "local" if host.get_name() == "local" else "ssh"}

        manager = SimpleNamespace(get_vars=variables)
        play = SimpleNamespace(get_variable_manager=lambda: manager)
        self.callback.v2_playbook_on_play_start(play)

    def read(self) -> str:
        text = os.read(self.reading, 1 << 16).decode()
        # However late a loaded machine is.
        return re.sub(r"\b0:0\d", "0:00", text)


@pytest.fixture
def lines(plugin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    reading, writing = os.pipe()
    monkeypatch.setenv("UPLAB_PROGRESS_FD", str(writing))
    monkeypatch.setenv("UPLAB_PROGRESS_EVERY_S", "0.05")
    made = Lines(plugin, reading, writing)
    yield made
    made.callback.ticker.end("h1")
    made.callback.ticker.end("h2")
    made.callback.ticker.end("local")
    os.close(reading)
    os.close(writing)


def test_without_a_descriptor_it_does_nothing(
    plugin: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UPLAB_PROGRESS_FD", raising=False)
    assert plugin.CallbackModule().disabled


def test_what_roles_asked_for_is_shown_with_the_last_times(lines: Lines) -> None:
    probe, ask = lines.task("uplab_store"), lines.task("ansible.builtin.set_fact")
    lines.ok(probe, component="bpftime", last_build_s=490.0)
    lines.ok(probe, component="wrk", last_build_s=None)
    for name in ("bpftime", "gotrace"):
        lines.ok(ask, ansible_facts={f"{name}_build": {"component": name, "recipe": {}}})
    lines.ok(ask, ansible_facts={"other": {"component": "x"}, "text": "y"})
    build = lines.task("uplab_build", builds="{{ uplab_builds }}")
    lines.start(build)
    assert lines.read().splitlines()[0] == "h1: bpftime 0:00 of about 8:10, gotrace 0:00"
    lines.ok(build, builds={"bpftime": {"build_s": 485.2}, "gotrace": {"changed": True}})
    said = lines.read().splitlines()
    assert said[-1] == "h1: bpftime in 8:05"


def test_what_is_done_on_this_machine_is_left_out(lines: Lines, tmp_path: Path) -> None:
    lines.begin_play()
    probe = lines.task("uplab_store")
    parts = {name: tmp_path / f".part-{name}-0" for name in ("a", "b")}
    for host in ("local", "h1"):
        lines.ok(probe, host, component="a", prefix=str(tmp_path / "a-0"))
    parts["a"].mkdir()
    build = lines.task("uplab_build", builds=[{"component": "a"}, {"component": "b"}])
    lines.start(build, "local")
    # One is being built, the other waits for a slot.
    assert lines.read().splitlines()[0] == "local: a 0:00, b 0:00"
    parts["a"].rename(parts["b"])
    while "local: b 0:00" not in lines.read().splitlines():
        pass
    parts["b"].rmdir()
    while "local: finishing 0:00" not in lines.read().splitlines():
        pass
    lines.ok(build, "local", builds={})
    parts["a"].mkdir()
    lines.start(build)
    while "h1: a 0:00, b 0:00" not in lines.read().splitlines():
        pass


def test_a_toolchain_is_named_where_its_role_writes_it_out(lines: Lines) -> None:
    build = lines.task("uplab_build", builds=[{"component": "rust", "recipe": "{{ x }}"}])
    lines.start(build)
    assert lines.read().splitlines()[0] == "h1: rust 0:00"


def test_several_hosts_share_a_line(lines: Lines) -> None:
    apt = lines.task("uplab_packages")
    lines.start(apt)
    lines.start(apt, host="h2")
    while "h1: Debian packages 0:00; h2: Debian packages 0:00\n" not in lines.read():
        pass
    lines.ok(apt, changed=True)
    lines.ok(apt, host="h2", changed=False)
    os.write(lines.writing, b"end\n")
    assert [line for line in lines.read().splitlines() if ";" not in line][-2:] == [
        "h1: Debian packages in 0:00",
        "end",
    ]


def test_a_failure_says_what_was_finished_nevertheless(lines: Lines) -> None:
    build = lines.task("uplab_build", builds=[{"component": "a"}, {"component": "b"}])
    lines.start(build)
    lines.failed(build, builds={"a": {"build_s": 60.0}, "b": {"failed": "b: no"}}, msg="b: no")
    assert lines.read().splitlines()[-1] == "h1: a in 1:00"


def test_a_reader_that_has_gone_does_not_disturb_the_play(plugin: ModuleType) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    screen = plugin.Screen(writing)
    screen.say("one")
    screen.say("two")
    os.close(writing)


@dataclass(frozen=True)
class Play:
    """A playbook that builds one component, which ends once a file is there."""

    top: Path
    go: Path

    def start(self, stdout: int, **environment: str) -> subprocess.Popen[bytes]:
        """Run it as uplab.playbook.run does, with its output somewhere."""
        wanted = recipe(f"until test -e {self.go}; do sleep 0.05; done", "echo > {prefix}/out")
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "wanted": wanted,
        }
        words = [str(self.top / "book.yml"), "-i", "h1,", "-e", json.dumps(variables)]
        program = (
            "import json, sys; from pathlib import Path; from uplab import playbook; "
            "playbook.run(Path(sys.argv[1]), json.loads(sys.argv[2]), stock=True)"
        )
        argv = json.dumps([str(ANSIBLE_PLAYBOOK), *words])
        return subprocess.Popen(
            [sys.executable, "-c", program, str(REPOSITORY), argv],
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
        )


@pytest.fixture
def play(root: Path, tmp_path: Path) -> Play:
    (tmp_path / "book.yml").write_text(BOOK.format(root=root))
    record = {"component": "slow", "build_s": 250.0, "built_utc": "2026-01-01T00:00:00Z"}
    (root / "store" / f"slow-{'0' * 12}.json").write_text(json.dumps(record))
    return Play(tmp_path, tmp_path / "go")


def read_until(descriptor: int, pattern: str) -> str:
    """All that was written until something fits."""
    seen, end_s = "", time.monotonic() + DEADLINE_S
    while not re.search(pattern, seen):
        assert time.monotonic() < end_s, seen
        seen += os.read(descriptor, 1 << 16).decode()
    return seen


def rest_of(descriptor: int) -> str:
    """What is still written until the end."""
    seen = b""
    try:
        while chunk := os.read(descriptor, 1 << 16):
            seen += chunk
    except OSError:
        # A terminal that nobody holds open any more.
        pass
    return seen.decode()


def test_a_terminal_has_one_line_that_changes(play: Play) -> None:
    ours, theirs = pty.openpty()
    process = play.start(theirs)
    os.close(theirs)
    seen = read_until(ours, r"h1: slow 0:0[1-9] of about 4:10")
    assert "\r\x1b[Kh1: slow 0:0" in seen
    play.go.touch()
    after = rest_of(ours)
    os.close(ours)
    assert process.wait(DEADLINE_S) == 0, seen + after
    # The line is gone before Ansible writes, and what stays is written below its result.
    live, _, rest = after.partition("TASK [Build]")
    assert live.endswith("\r\x1b[K\r\n")
    assert re.search(r"changed: \[h1\].*\n(.*\n)*h1: slow in 0:\d\d\r\n", rest)
    assert "went on" in rest
    assert "of about" not in rest


def test_elsewhere_there_are_plain_lines(play: Play) -> None:
    ours, theirs = os.pipe()
    process = play.start(theirs, UPLAB_PROGRESS_EVERY_S="0.2")
    os.close(theirs)
    seen = read_until(ours, r"\nh1: slow 0:0\d of about 4:10\n")
    play.go.touch()
    seen += rest_of(ours)
    os.close(ours)
    assert process.wait(DEADLINE_S) == 0, seen
    assert re.search(r"\nh1: slow in 0:\d\d\n", seen)
    assert "\x1b" not in seen
