"""What ``lab.setup --bundle`` does first: checks the bundle, carries it to the hosts."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uplab import outcome, playbook
from uplab.box.steps import Printed, Steps
from uplab.bundle import crates, gitparts, reading
from uplab.bundle import index as indexes
from uplab.bundle.index import Index, Part, Refused
from uplab.bundle.make import FOLDER
from uplab.bundle.meter import Meter, left
from uplab.errors import HostError, UsageError

BOOK = "bundle"
ITEMS = "items.json"
#: Where an unpacked bundle lies on a host; a template, because hosts may differ in their root.
ON_HOST = "{{ uplab_root }}/cache/bundle"


@dataclass(frozen=True)
class Opened:
    """A bundle that was checked and lies unpacked for as long as it is used.

    Args:
        folder: where it lies.
        index: what is in it.
    """

    folder: Path
    index: Index

    @property
    def variables(self) -> dict[str, Any]:
        """What the roles are told of it: where it lies on the host, and which crates it brought."""
        crates_of = {
            name: part.facts["commit"]
            for part in self.index.of("crates")
            for name in part.components
        }
        return {"uplab_bundle": ON_HOST, "uplab_bundle_crates": crates_of}


@contextmanager
def opened(project: Path, bundle: Path, steps: Steps) -> Iterator[Opened]:
    """A bundle, checked as a whole before anything is done with it.

    Args:
        project: the checkout, whose pins it must have been made from.
        bundle: the file.
        steps: told how far it is.

    Raises:
        UsageError: it cannot be read, or must not be used; nothing was changed.
        HostError: there is no room for it here.
    """
    if not bundle.is_file():
        raise UsageError(f"no bundle {bundle}. Run: ./invoke lab.bundle --out {bundle}")
    folder = (project / FOLDER / f"open-{os.getpid()}-{uuid.uuid4().hex[:8]}").absolute()
    _remove_leftovers(folder.parent)
    try:
        try:
            index = reading.unpack(
                bundle,
                folder,
                accept=lambda index: indexes.require_same(index, project, [indexes.PINS]),
                progress=Meter(steps, f"checking {bundle.name}").progress,
            )
            with reading.explained(bundle):
                lay_out(folder, index, steps)
        except OSError as error:
            raise HostError(f"{error.filename or bundle}: {error.strerror}") from error
        yield Opened(folder, index)
    finally:
        # What stays is removed by the next one, which looks for what nobody uses any more.
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed had unpacked; a bundle may be a gigabyte."""
    for path in (*folder.glob("open-*-*"), *folder.glob(".open-*-*")):
        if not Path("/proc", path.name.split("-")[1]).exists():
            # Only room is at stake, and another process may remove it at the same time.
            shutil.rmtree(path, ignore_errors=True)


def lay_out(folder: Path, index: Index, steps: Steps) -> None:
    """Check what only its kind can tell of a part, and say what goes where on a host.

    Raises:
        Refused: a part is not what its kind says.
    """
    parts, items = index.of("archive", "crates", "git", "deb"), []
    began_s = time.monotonic()
    for number, part in enumerate(parts):
        rest = left(began_s, number, len(parts))
        steps.now(f"checking part {number + 1} of {len(parts)}{rest}: {part.path}")
        items.append(_item(folder, part))
    (folder / ITEMS).write_text(json.dumps(items))


def _item(folder: Path, part: Part) -> dict[str, Any]:
    """A part as the hosts see it."""
    item = {"kind": part.kind, "for": list(part.components), **part.facts}
    name = Path(part.path).name
    if part.kind == "git":
        return item | _repository(folder, part)
    if part.kind == "archive":
        if not name.startswith(f"{part.sha256}-"):
            raise Refused(f"{part.path} in it has the sha256 {part.sha256}")
        return item | {"sha256": part.sha256, "files": [_file(part, f"cache/archives/{name}")]}
    if part.kind == "crates":
        crates.require_plain(folder / part.path, part.path)
    return item | {"files": [_file(part, f"cache/bundle/{part.path}")]}


def _file(part: Part, to: str) -> dict[str, Any]:
    return {"path": part.path, "to": to, "sha256": part.sha256, "bytes": part.bytes}


def _repository(folder: Path, part: Part) -> dict[str, Any]:
    """The pack with the index that git has just made of it, which proves it."""
    name = Path(part.path).parent.name
    gitparts.restore(part, folder / part.path, folder / "repositories")
    files = []
    for path in sorted((folder / "repositories" / name / "objects" / "pack").glob("pack-*")):
        if path.stem == f"pack-{part.facts['commit']}":
            files.append(
                {
                    "path": path.relative_to(folder).as_posix(),
                    "to": f"cache/git/{name}/objects/pack/{path.name}",
                    "sha256": gitparts.sha256(path),
                    "bytes": path.stat().st_size,
                }
            )
    return {"repository": name, "files": files}


def bring(
    project: Path,
    names: Sequence[str],
    bundle: Path,
    *,
    check: bool = False,
    stock: bool = False,
    chosen: Path | None = None,
) -> dict[str, Any]:
    """Check a bundle, copy to hosts what they need of it, say what it lacks for them.

    Args:
        project: the checkout.
        names: of the hosts.
        bundle: the file.
        check: copy nothing.
        stock: with Ansible's own strategy instead of mitogen's.
        chosen: an inventory of somebody's own instead of uplab's.

    Returns:
        the variables that the playbook which sets up must have.

    Raises:
        UsageError, HostError: as :func:`opened`.
        GateError: ansible-playbook failed.
    """
    with _shown(project, bundle) as found:
        argv = _argv(project, names, found, check=check, chosen=chosen)
        playbook.run(project, argv, stock=stock)
        return found.variables


def lacking(
    project: Path, names: Sequence[str], bundle: Path, chosen: Path | None = None
) -> list[str]:
    """What hosts need that neither they nor the bundle have; changes nothing.

    Raises:
        UsageError, HostError: as :func:`opened`.
        GateError: ansible-playbook failed.
    """
    with _shown(project, bundle) as found:
        argv = _argv(project, names, found, check=True, chosen=chosen)
        done = playbook.collect(project, argv, stock=False)
    outcome.require_success(done, f"comparing hosts with {bundle}")
    lines = []
    for result in done.of("uplab_bundle"):
        copied_mib = result.result["bytes"] / (1 << 20)
        lines.append(f"{result.host}: {copied_mib:.0f} MiB would be copied from {bundle.name}")
        lines += [f"{result.host}: network needed for {text}" for text in result.result["lacks"]]
    return lines


@contextmanager
def _shown(project: Path, bundle: Path) -> Iterator[Opened]:
    """A bundle, with what is going on until it is open."""
    with ExitStack() as stack:
        with Printed() as steps:
            found = stack.enter_context(opened(project, bundle, steps))
        yield found


def _argv(
    project: Path, names: Sequence[str], bundle: Opened, *, check: bool, chosen: Path | None
) -> list[str]:
    return playbook.build_argv(
        project,
        ",".join(names),
        book=BOOK,
        check=check,
        extra={"uplab_bundle_folder": str(bundle.folder)},
        chosen=chosen,
    )
