"""What the playbooks already know how to do, for the controller: the same code, not a copy.

The filters and what the modules share lie with the playbooks, because a foreign inventory finds
them there; Ansible's own package is not imported for them.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def module_utils(project: Path, name: str) -> ModuleType:
    """A module of ``playbooks/module_utils``, with those of its neighbours that it imports."""
    known = f"ansible.module_utils.{name}"
    if known not in sys.modules:
        for other in _imports(project, name):
            module_utils(project, other)
        _load(known, project / "playbooks" / "module_utils" / f"{name}.py")
    return sys.modules[known]


def filters(project: Path, name: str) -> ModuleType:
    """A module of ``playbooks/filter_plugins``."""
    known = f"uplab_playbooks_filters.{name}"
    if known not in sys.modules:
        _load(known, project / "playbooks" / "filter_plugins" / f"{name}.py")
    return sys.modules[known]


def _imports(project: Path, name: str) -> list[str]:
    """The neighbours that a module imports."""
    lines = (project / "playbooks" / "module_utils" / f"{name}.py").read_text().splitlines()
    start = "from ansible.module_utils.uplab_"
    return [line.split()[1].rpartition(".")[2] for line in lines if line.startswith(start)]


def _load(known: str, path: Path) -> None:
    spec = importlib.util.spec_from_file_location(known, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[known]
        raise
