"""Runs ``ansible-playbook``: its argv, its environment, what its tasks returned.

Ansible's internals are never imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from uplab import inventory
from uplab.errors import GateError
from uplab.outcome import Outcome, Result, read

#: What decides whether a host is up to date: what the roles do, and what they build from.
_INPUTS = ("roles", "playbooks", "servers", "tracers")
#: What lies beside the sources and builds nothing.
_NO_INPUTS = (".md", "adapter.yml")
#: Of playbooks/callback_plugins.
_CALLBACKS = ("uplab_results", "uplab_progress")


def digest(project: Path, variables: Mapping[str, Any]) -> str:
    """The digest of roles, pins, sources and a host's variables that its manifest must name."""
    tree = inventory.tree_sha256(project, _INPUTS, skip=_NO_INPUTS)
    canonical = json.dumps(variables, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{tree}\n{canonical}".encode()).hexdigest()


def build_argv(
    project: Path,
    host: str,
    digests: Mapping[str, str] | None = None,
    *,
    book: str = "setup",
    only: Iterable[str] = (),
    check: bool = False,
    diff: bool = False,
    extra: Mapping[str, Any] | None = None,
    chosen: Path | None = None,
) -> list[str]:
    """The command that runs a playbook on hosts.

    Args:
        project: the checkout.
        host: a name of the inventory, or several with commas between them.
        digests: by host, written into its manifest; left out when only parts are converged,
            because then the host as a whole was not checked, and where a playbook writes none.
        book: the name of the playbook.
        only: roles, by their tags; empty means all.
        check: change nothing (Ansible's check mode).
        diff: show what changes in files.
        extra: further variables.
        chosen: an inventory of somebody's own instead of uplab's.
    """
    tags = list(only)
    variables = dict(extra or {})
    if digests is not None and not tags:
        variables["uplab_digests"] = dict(digests)
    argv = [
        inventory.program("ansible-playbook"),
        str(project / "playbooks" / f"{book}.yml"),
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
    """Our ansible.cfg and callback plugins, and mitogen's strategy unless ``stock``.

    ansible-core warns that it will drop third-party strategies one day, so mitogen is switched on
    here, where it can be switched off, and never in ansible.cfg.
    """
    env = {
        **os.environ,
        "ANSIBLE_CONFIG": str(project / "ansible.cfg"),
        "ANSIBLE_CALLBACKS_ENABLED": ",".join(_CALLBACKS),
    }
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
    environ = {**environment(project, stock=stock), "UPLAB_PROGRESS_FD": "1"}
    done = subprocess.run(argv, cwd=project, env=environ, check=False)
    if done.returncode != 0:
        raise GateError(
            f"setting up failed (ansible-playbook ended with {done.returncode}); "
            "the failed task and its reason are above"
        )


def collect(
    project: Path,
    argv: list[str],
    *,
    stock: bool,
    heard: Callable[[Result], None] | None = None,
    progress: int | None = None,
) -> Outcome:
    """Run ansible-playbook quietly and gather what its tasks returned.

    Args:
        project: the checkout.
        argv: from :func:`build_argv`.
        stock: with Ansible's own strategy instead of mitogen's.
        heard: is called with each result as it comes.
        progress: the descriptor that shows what is being built; above 2.
    """
    log = project / ".uplab" / "log" / f"{Path(argv[1]).stem}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as pipe, log.open("wb") as output:
        environ = {**environment(project, stock=stock), "UPLAB_RESULTS_FD": str(writing)}
        if progress is not None:
            environ["UPLAB_PROGRESS_FD"] = str(progress)
        try:
            process = subprocess.Popen(
                argv,
                cwd=project,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(writing,) if progress is None else (writing, progress),
            )
        finally:
            os.close(writing)
        with _ended(process):
            for result in read(process, pipe):
                results.append(result)
                if heard is not None:
                    heard(result)
    return Outcome(process.returncode, results, log)


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever happens, ansible-playbook has ended afterwards; Ctrl-C reaches it by itself."""
    try:
        yield
    except BaseException:
        process.terminate()
        raise
    finally:
        process.wait()
