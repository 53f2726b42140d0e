"""Take uplab off a host again: what setup put there, and nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from uplab import removal
from uplab.errors import GateError, UsageError
from uplab.removal import Removed, Report

Ask = Callable[[str], str]


@dataclass(frozen=True)
class Wish:
    """What is to go beside what setup built and wrote.

    Args:
        names: of the hosts in the inventory.
        packages: also the Debian packages that setup added.
        runs: also runs that nobody has collected.
    """

    names: Sequence[str]
    packages: bool = False
    runs: bool = False

    @property
    def variables(self) -> dict[str, bool]:
        """What the playbook gets."""
        return {"uplab_remove_packages": self.packages, "uplab_remove_runs": self.runs}

    @property
    def command(self) -> str:
        """The command that says it again."""
        more = [f"--{name}" for name in ("packages", "runs") if getattr(self, name)]
        return shlex.join(["invoke", "lab.teardown", "--host", ",".join(self.names), *more])


def run(project: Path, wish: Wish, *, check: bool = False, chosen: Path | None = None) -> Report:
    """Remove it, or with ``check`` say what would go.

    Args:
        project: the checkout.
        wish: what is to go.
        check: change nothing.
        chosen: an inventory of somebody's own instead of uplab's.

    Raises:
        UsageError: not in the inventory.
        HostError: a host cannot be reached, or lacks what Ansible stands on.
    """
    return removal.play(project, wish.names, "teardown", wish.variables, check=check, chosen=chosen)


def confirm(project: Path, wish: Wish, ask: Ask | None, *, chosen: Path | None = None) -> None:
    """Show what would go and have a person say yes, unless nothing would.

    Args:
        project: the checkout.
        wish: what is to go.
        ask: a way to ask; None without a terminal.
        chosen: an inventory of somebody's own instead of uplab's.

    Raises:
        UsageError: nobody can be asked.
        GateError: the answer was another one, or a host refuses.
    """
    if ask is None:
        raise UsageError(
            f"nobody can be asked whether to remove the lab from {', '.join(wish.names)} "
            f"(no terminal). Run: {wish.command} --yes   (or --check, to see what would go)"
        )
    expected = run(project, wish, check=True, chosen=chosen)
    expected.require_success()
    if not any(host.changed for host in expected.hosts):
        return
    print(as_text(expected))
    if ask("Remove this? Type yes: ").strip() != "yes":
        raise GateError("nothing was removed: it was not confirmed")


def as_text(report: Report) -> str:
    """What went from each host, and what stays."""
    return "\n".join(line for host in report.hosts for line in _lines(host, report.check))


def _lines(host: Removed, check: bool) -> Iterator[str]:
    if not host.set_up and not host.changed:
        yield f"{host.host}: uplab is not set up there; nothing was changed"
        yield from removal.stays(host)
    else:
        yield from removal.lines(host, check=check)
    command = f"Run: invoke lab.teardown --host {shlex.quote(host.host)}"
    if host.packages:
        number = len(host.packages)
        yield f"  Debian packages that setup added and that stay: {number}. {command} --packages"
        yield from removal.listed(host.packages)
    if host.runs:
        yield f"  runs that nobody has collected stay: {', '.join(host.runs)}. {command} --runs"
