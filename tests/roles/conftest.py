"""Fixtures of the tests of the roles: our Ansible modules as Python modules, playbook runs."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import ansible.module_utils
import pytest

from tests.roles.plays import PLAYBOOKS, REPOSITORY, Play, Runner, play_argv, play_environment


def load(path: Path) -> ModuleType:
    """A Python file as a module, found the way Ansible finds it: by its path."""
    shared = str(PLAYBOOKS / "module_utils")
    if shared not in ansible.module_utils.__path__:
        ansible.module_utils.__path__.append(shared)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def uplab_store() -> ModuleType:
    return load(PLAYBOOKS / "library" / "uplab_store.py")


@pytest.fixture(scope="session")
def uplab_build() -> ModuleType:
    return load(PLAYBOOKS / "library" / "uplab_build.py")


@pytest.fixture(scope="session")
def uplab_packages() -> ModuleType:
    return load(PLAYBOOKS / "library" / "uplab_packages.py")


@pytest.fixture(scope="session")
def uplab_source() -> ModuleType:
    return load(PLAYBOOKS / "lookup_plugins" / "uplab_source.py")


@pytest.fixture(scope="session")
def uplab_host(uplab_store: ModuleType) -> ModuleType:
    return importlib.import_module(uplab_store.Place.__module__)


@pytest.fixture(scope="session")
def run_play() -> Runner:
    """Run a playbook on ``local``: ``run_play(playbook, *words, variables={}, mitogen=False)``."""

    def run(
        playbook: Path, *words: str, variables: Mapping[str, Any], mitogen: bool = False
    ) -> Play:
        done = subprocess.run(
            play_argv(playbook, *words, variables=variables),
            cwd=REPOSITORY,
            env=play_environment(mitogen),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Play(done.returncode, done.stdout)

    return run


@pytest.fixture(scope="session")
def debian_packages(tmp_path_factory: pytest.TempPathFactory, run_play: Runner) -> Play:
    """This machine has the packages of the roles; on a fresh one the role base brings them."""
    root = tmp_path_factory.mktemp("base") / "uplab"
    playbook = PLAYBOOKS / "setup.yml"
    done = run_play(playbook, "--tags", "base", variables={"uplab_root": str(root)})
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="session")
def uplab_certificate(debian_packages: Play) -> ModuleType:
    assert debian_packages.recap()["failed"] == 0
    return load(PLAYBOOKS / "library" / "uplab_certificate.py")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty store, with the directories that the role base makes."""
    top = tmp_path / "uplab"
    for name in ("store", "current", "log", "tls"):
        (top / name).mkdir(parents=True)
    return top
