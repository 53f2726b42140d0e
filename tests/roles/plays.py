"""Runs of ansible-playbook on ``local``, and small sources for it to build."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PLAYBOOKS = REPOSITORY / "playbooks"
ANSIBLE_PLAYBOOK = Path(sys.executable).parent / "ansible-playbook"


@dataclass(frozen=True)
class Play:
    """What one run of ansible-playbook gave."""

    exit_code: int
    output: str

    def recap(self, host: str = "local") -> dict[str, int]:
        """The counters of a host in the closing recap."""
        found = re.search(rf"^{host}\s*:(.*)$", self.output, re.MULTILINE)
        assert found, self.output
        return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", found.group(1))}

    @property
    def text(self) -> str:
        """The output with every run of blanks as one: YAML folds long messages."""
        return re.sub(r"\s+", " ", self.output)


def play_environment(mitogen: bool = False) -> dict[str, str]:
    """The environment of a run of ansible-playbook; settings of the caller do not leak in."""
    environment = {key: value for key, value in os.environ.items() if "ANSIBLE" not in key}
    environment |= {"ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    if mitogen:
        found = importlib.util.find_spec("ansible_mitogen")
        assert found is not None
        assert found.origin is not None
        plugins = Path(found.origin).parent / "plugins" / "strategy"
        environment["ANSIBLE_STRATEGY"] = "mitogen_linear"
        environment["ANSIBLE_STRATEGY_PLUGINS"] = str(plugins)
    return environment


def play_argv(playbook: Path, *words: str, variables: Mapping[str, Any]) -> list[str]:
    """The argv of a run on ``local``; variables are passed as JSON, so that types survive."""
    argv = [str(ANSIBLE_PLAYBOOK), str(playbook), "--limit", "local"]
    # Compilers need the newest C library, which this machine may not have yet.
    given = {"uplab_allow_upgrade": True, **variables}
    return [*argv, *words, "--extra-vars", json.dumps(given)]


Runner = Callable[..., Play]


def write_stand_ins(top: Path) -> dict[str, str]:
    """Small sources with the interface of ours, quick to build; returns the variables for it.

    The tests that break, tamper with and interrupt builds need a build, not our programs.
    """
    for name in ("https", "http"):
        folder = top / "servers" / name
        folder.mkdir(parents=True)
        (folder / "main.go").write_text(f'package main\n\nfunc main() {{ println("{name}") }}\n')
    (top / "servers" / "go.mod").write_text("module uplab.example/stand-in\n\ngo 1.19\n")
    gotrace = top / "gotrace"
    gotrace.mkdir()
    (gotrace / "Makefile").write_text(
        "all:\n"
        "\tprintf 'int main(void) { return 0; }' > $(BUILD)/stand-in.c\n"
        "\tgcc -o $(BUILD)/stand-in $(BUILD)/stand-in.c\n"
        "install:\n"
        "\tinstall -D $(BUILD)/stand-in $(PREFIX)/bin/gotrace\n"
        "\tinstall -D $(BUILD)/stand-in $(PREFIX)/bin/probe-cost\n"
    )
    return {"servers_source": str(top / "servers"), "gotrace_source": str(gotrace)}


def poll(condition: Callable[[], bool], deadline_s: float = 60.0) -> None:
    """Wait until a condition holds; fails after the deadline."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
