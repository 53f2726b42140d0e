"""What the playbooks that remove things did on each host, for a person and for programs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from uplab import outcome, playbook, provision
from uplab.checkup import clean
from uplab.errors import GateError
from uplab.status import size_text

_ACTION = "uplab_remove"
_WIDTH = 100


@dataclass(frozen=True)
class Kept:
    """Something that stays on a host, and why."""

    path: str
    why: str


@dataclass(frozen=True)
class Removed:
    """What was removed from a host, or with check mode would be.

    Args:
        host: its name in the inventory.
        set_up: whether uplab had set it up.
        changed: whether anything was removed or put back.
        removed: paths.
        freed_bytes: the room that they took.
        kept: what stays.
        restored: the files of apt's that are as they were before uplab.
        packages: the Debian packages that setup added and that stay.
        packages_removed: those that went.
        runs: those that nobody has collected, and that stay.
    """

    host: str
    set_up: bool
    changed: bool
    removed: tuple[str, ...]
    freed_bytes: int
    kept: tuple[Kept, ...]
    restored: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    packages_removed: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What a playbook removed on its hosts; ``problems`` has a line for each that failed."""

    check: bool
    hosts: tuple[Removed, ...]
    problems: tuple[str, ...]

    def require_success(self) -> None:
        """Raise GateError with all problems, if there are any."""
        if self.problems:
            raise GateError("; ".join(self.problems))


def play(
    project: Path,
    names: Sequence[str],
    book: str,
    variables: Mapping[str, Any],
    *,
    check: bool,
    chosen: Path | None,
) -> Report:
    """Run a playbook that removes things.

    Args:
        project: the checkout.
        names: of the hosts in the inventory.
        book: the name of the playbook.
        variables: that it gets.
        check: change nothing, say what would go.
        chosen: an inventory of somebody's own instead of uplab's.

    Raises:
        UsageError: not in the inventory.
        HostError: one cannot be reached, or lacks what Ansible stands on.
    """
    for name in names:
        provision.require_ready(project, name, chosen)
    argv = playbook.build_argv(
        project, ",".join(names), book=book, check=check, extra=variables, chosen=chosen
    )
    done = playbook.collect(project, argv, stock=False)
    hosts = tuple(_removed(result.host, result.result) for result in done.of(_ACTION))
    return Report(check, hosts, tuple(map(_line, outcome.problems(done))))


def _line(text: str) -> str:
    """A problem in one line; what a host says cannot move the cursor."""
    return clean(" ".join(text.split()))


def _removed(host: str, result: Mapping[str, Any]) -> Removed:
    def words(key: str) -> tuple[str, ...]:
        return tuple(clean(str(word)) for word in result.get(key, []))

    return Removed(
        host=host,
        set_up=bool(result["set_up"]),
        changed=bool(result["changed"]),
        removed=words("removed"),
        freed_bytes=int(result["freed_bytes"]),
        kept=tuple(Kept(clean(entry["path"]), clean(entry["why"])) for entry in result["kept"]),
        restored=words("restored"),
        packages=words("packages"),
        packages_removed=words("packages_removed"),
        runs=words("runs"),
    )


def as_json(report: Report) -> str:
    """The report for programs."""
    return json.dumps(asdict(report), indent=1, ensure_ascii=False)


def lines(removed: Removed, *, check: bool) -> Iterator[str]:
    """What went from a host, and what stays, for a person; the first line names the host."""
    if not removed.changed:
        yield f"{removed.host}: nothing to remove"
    else:
        did, size = "would remove" if check else "removed", size_text(removed.freed_bytes)
        yield f"{removed.host}: {did} {size}, paths: {len(removed.removed)}"
    for path in removed.removed:
        yield f"  {path}"
    for path in removed.restored:
        yield f"  {path}: {'would be put' if check else 'put'} back as it was before uplab"
    if removed.packages_removed:
        yield f"  Debian packages that setup had added: {len(removed.packages_removed)}"
        yield from listed(removed.packages_removed)
    yield from stays(removed)


def stays(removed: Removed) -> Iterator[str]:
    """What stays on a host, and why."""
    for entry in removed.kept:
        yield f"  kept {entry.path}: {entry.why}"


def listed(packages: Iterable[str]) -> list[str]:
    """All names, in as many lines as it takes."""
    return textwrap.wrap(
        " ".join(packages),
        width=_WIDTH,
        initial_indent="    ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
