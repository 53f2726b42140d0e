"""The argv and environment of ``ansible-playbook``; Ansible's internals are never imported."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from uplab import inventory
from uplab.errors import GateError

#: What decides whether a host is up to date: what the roles do, and what they build from.
_INPUTS = ("roles", "playbooks", "servers", "tracers")
#: What lies beside the sources and builds nothing.
_NO_INPUTS = (".md", "adapter.yml")


def digest(project: Path, variables: Mapping[str, Any]) -> str:
    """The digest of roles, pins, sources and a host's variables that its manifest must name."""
    tree = inventory.tree_sha256(project, _INPUTS, skip=_NO_INPUTS)
    canonical = json.dumps(variables, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{tree}\n{canonical}".encode()).hexdigest()


def build_argv(
    project: Path,
    host: str,
    uplab_digest: str,
    *,
    only: Iterable[str] = (),
    check: bool = False,
    diff: bool = False,
    extra: Mapping[str, Any] | None = None,
    chosen: Path | None = None,
) -> list[str]:
    """The command that converges a host.

    Args:
        project: the checkout.
        host: a name of the inventory.
        uplab_digest: written into the host's manifest; left out when only parts are converged,
            because then the host as a whole was not checked.
        only: roles, by their tags; empty means all.
        check: change nothing (Ansible's check mode).
        diff: show what changes in files.
        extra: further variables.
        chosen: an inventory of somebody's own instead of uplab's.
    """
    tags = list(only)
    variables = dict(extra or {})
    if not tags:
        variables["uplab_digest"] = uplab_digest
    argv = [
        inventory.program("ansible-playbook"),
        str(project / "playbooks" / "setup.yml"),
        *inventory.options(project, chosen),
        "--limit",
        host,
        "--extra-vars",
        json.dumps(variables),
    ]
    if tags:
        argv += ["--tags", ",".join(tags)]
    if check:
        argv.append("--check")
    if diff:
        argv.append("--diff")
    return argv


def environment(project: Path, *, stock: bool) -> dict[str, str]:
    """Our ansible.cfg, and mitogen's strategy unless ``stock``.

    ansible-core warns that it will drop third-party strategies one day, so mitogen is switched on
    here, where it can be switched off, and never in ansible.cfg.
    """
    env = {**os.environ, "ANSIBLE_CONFIG": str(project / "ansible.cfg")}
    spec = None if stock else importlib.util.find_spec("ansible_mitogen")
    if spec is not None and spec.submodule_search_locations:
        package = Path(next(iter(spec.submodule_search_locations)))
        env["ANSIBLE_STRATEGY"] = "mitogen_linear"
        env["ANSIBLE_STRATEGY_PLUGINS"] = str(package / "plugins" / "strategy")
        env["ANSIBLE_DEPRECATION_WARNINGS"] = "False"
    return env


def run(project: Path, argv: list[str], *, stock: bool) -> None:
    """Run ansible-playbook with its output on the terminal.

    Raises:
        GateError: it failed; its own last lines say what and where.
    """
    sys.stdout.flush()
    done = subprocess.run(argv, cwd=project, env=environment(project, stock=stock), check=False)
    if done.returncode != 0:
        raise GateError(
            f"setting up failed (ansible-playbook ended with {done.returncode}); "
            "the failed task and its reason are above"
        )
