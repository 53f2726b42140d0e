"""Arguments of the module uplab_build, and runs of it in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.roles.plays import PLAYBOOKS

#: Runs the module's own function; what it returns goes to stdout.
PROGRAM = (
    "import json, sys, ansible.module_utils as utils\n"
    f"utils.__path__.append({str(PLAYBOOKS / 'module_utils')!r})\n"
    f"sys.path.insert(0, {str(PLAYBOOKS / 'library')!r})\n"
    "import uplab_build\n"
    "print(json.dumps(uplab_build.act(json.loads(sys.argv[1]), False)))\n"
)


def shell(script: str) -> dict[str, Any]:
    """A command of a recipe that runs a script where the sources are."""
    return {"argv": ["sh", "-ec", script], "chdir": "{source}"}


def recipe(*scripts: str, artifacts: tuple[str, ...] = ("out",), **more: Any) -> dict[str, Any]:
    """A recipe of scripts that needs nothing but a shell."""
    return {
        "version": "1",
        "commands": [shell(script) for script in scripts],
        "environment": {},
        "artifacts": list(artifacts),
        "tools": {},
        "packages": [],
        "kernel_btf": False,
        **more,
    }


def arguments(root: Path, recipes: dict[str, dict[str, Any]], **more: Any) -> dict[str, Any]:
    """The module's arguments for components and their recipes."""
    builds = [{"component": name, "recipe": recipe} for name, recipe in recipes.items()]
    return {"root": str(root), "builds": builds, **more}


def start(given: dict[str, Any]) -> subprocess.Popen[str]:
    """The module in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(given)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def entries(root: Path) -> list[str]:
    """What the store holds, locks aside."""
    names = [path.name for path in (root / "store").iterdir()]
    return sorted(name for name in names if not name.startswith(".lock-"))
