"""``box``: a disposable host with its own systemd and SSH, made in seconds, gone without a trace.

A box is for the tests and for trying uplab without touching one's machine. It is systemd-nspawn
over an overlay of a base that mmdebstrap made once, it shares the machine's kernel and network, and
sshd listens on a loopback address of its own: box1 on 127.77.0.1, box2 on 127.77.0.2. Everything
about boxes lies in ``.uplab/boxes``.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from uplab.box import access, base, cgroups, container, lock, needs, record
from uplab.box.access import ssh_argv
from uplab.box.record import Box, Process
from uplab.box.steps import Steps
from uplab.errors import HostError, UsageError

__all__ = ["Box", "down", "list_boxes", "reset", "running", "ssh_argv", "up"]

DEFAULT_SUITE = "bookworm"
_QUIET = Steps()
#: Boxes that tests make without a name: out of the way of those that people make.
_FOR_TESTS = range(200, 255)


def up(project: Path, name: str, *, suite: str | None = None, steps: Steps = _QUIET) -> Box:
    """A box that can be logged in to; one that is up already stays as it is.

    Args:
        project: the checkout.
        name: ``box1`` to ``box254``.
        suite: the Debian release of a new box; None for the default.
        steps: told what is going on.

    Raises:
        UsageError: no such name or suite; or the box is up with another suite.
        HostError: no root; or it does not start.
        GateError: the base cannot be built, or packages that it needs cannot be installed.
    """
    return _up(project, name, suite, steps, owner=None)


def _up(project: Path, name: str, suite: str | None, steps: Steps, owner: Process | None) -> Box:
    record.number(name)
    needs.require_root()
    needs.require_programs(steps)
    boxes = record.boxes_folder(project)
    with lock.hold(boxes, name, steps):
        known = record.read(project, name)
        if known is not None and known.is_up():
            if suite not in (None, known.suite):
                raise UsageError(
                    f"{name} is up with {known.suite}. Run: ./invoke lab.box down --name {name}"
                )
            return known
        if known is not None:
            steps.say(f"removing what is left of an earlier {name}")
        _remove(project, name)
        return _create(project, name, suite or DEFAULT_SUITE, steps, owner)


def _create(project: Path, name: str, suite: str, steps: Steps, owner: Process | None) -> Box:
    """Make a box where there is none."""
    boxes = record.boxes_folder(project)
    in_use = frozenset(box.base for box in record.read_all(project))
    below = base.ensure(boxes, base.recipe(suite), steps, in_use)
    (boxes / name).mkdir(mode=0o755)
    box = _named_anew(
        Box(
            name=name,
            folder=boxes / name,
            port=access.free_port(name),
            suite=suite,
            base=below.name,
            machine="",
            cgroups=(),
            state=record.STARTING,
            boot_id=record.boot_id(),
            started_utc="",
            owner=owner,
        )
    )
    try:
        access.make_keys(box)
        access.give_to_caller(box)
        return _boot(project, box, steps)
    except BaseException as error:
        _remove_failed(project, box, error)
        raise


def _named_anew(box: Box) -> Box:
    """The box with a machine name and control groups that no box had before."""
    machine = f"uplab-{box.name}-{uuid.uuid4().hex[:12]}"
    groups = tuple(str(folder / machine) for folder in cgroups.hierarchies())
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return replace(
        box,
        machine=machine,
        cgroups=groups,
        state=record.STARTING,
        leader=None,
        boot_id=record.boot_id(),
        started_utc=now,
    )


def _boot(project: Path, box: Box, steps: Steps) -> Box:
    """Give a box that has keys fresh layers, start it, wait until it lets root in."""
    record.write(box)
    steps.now(f"{box.name}: starting")
    container.make_layers(box, box.folder.parent / box.base / "root")
    started = container.start(box)
    access.wait(started, steps)
    ready = replace(started, state=record.UP)
    record.write(ready)
    _publish(project, steps)
    return ready


def _put_aside(box: Box) -> None:
    """Make room for fresh layers; the box's new leader deletes the old ones."""
    box.console.unlink(missing_ok=True)
    if box.layers.exists():
        box.layers.rename(box.folder / f"old-{uuid.uuid4().hex[:12]}")


def _remove_failed(project: Path, box: Box, error: BaseException) -> None:
    """Remove a box that did not come up; keep its console and say where."""
    words = container.last_words(box)
    log = box.folder.parent / f"{box.name}-console.log"
    if words:
        shutil.copyfile(box.console, log)
    _remove(project, box.name)
    if isinstance(error, HostError) and words:
        raise HostError(f"{error.message}. Its last words: {words}. Run: less {log}") from error


def _remove(project: Path, name: str) -> None:
    """End a box and remove all that is its; nothing happens where there is nothing."""
    boxes = record.boxes_folder(project)
    box = record.read(project, name)
    if box is not None:
        record.write(replace(box, state=record.STARTING))
        container.stop(box)
        _publish(project, _QUIET)
    container.remove_files(boxes / name)


def _publish(project: Path, steps: Steps) -> None:
    boxes = record.boxes_folder(project)
    with lock.hold(boxes, "inventory", steps):
        access.publish(boxes, [box for box in record.read_all(project) if box.state == record.UP])


def down(project: Path, name: str, *, steps: Steps = _QUIET) -> bool:
    """End a box and remove all that was made for it; out: whether there was one.

    Raises:
        UsageError: no such name.
        HostError: no root; or something of it does not end.
    """
    record.number(name)
    needs.require_root()
    boxes = record.boxes_folder(project)
    if not (boxes / name).exists():
        return False
    with lock.hold(boxes, name, steps):
        steps.now(f"{name}: ending")
        found = (boxes / name).exists()
        _remove(project, name)
    return found


def reset(project: Path, name: str, *, steps: Steps = _QUIET) -> Box:
    """The same box with nothing changed in it since it was made: same suite, address and keys.

    Raises:
        UsageError: there is no such box.
        HostError: no root; or it does not start again.
        GateError: its base was damaged and cannot be built again.
    """
    record.number(name)
    needs.require_root()
    needs.require_programs(steps)
    boxes = record.boxes_folder(project)
    with lock.hold(boxes, name, steps):
        box = record.read(project, name)
        if box is None:
            raise UsageError(f"there is no {name}. Run: ./invoke lab.box up --name {name}")
        steps.now(f"{name}: ending")
        record.write(replace(box, state=record.STARTING))
        container.stop(box)
        fresh = _named_anew(box)
        try:
            if base.damage(boxes / box.base) is not None:
                below = base.ensure(boxes, base.recipe(box.suite), steps, frozenset({box.base}))
                fresh = replace(fresh, base=below.name)
            _put_aside(box)
            return _boot(project, fresh, steps)
        except BaseException as error:
            _remove_failed(project, fresh, error)
            raise


def list_boxes(project: Path) -> list[Box]:
    """All boxes by number, also those that ended by themselves or were never ready."""
    return record.read_all(project)


@contextmanager
def running(
    project: Path, name: str | None = None, *, suite: str | None = None, steps: Steps = _QUIET
) -> Iterator[Box]:
    """A fresh box for as long as a block runs, and gone after it: for tests.

    Args:
        project: the checkout.
        name: of the box; one of that name is ended first. None for a free one from box200 on.
        suite: the Debian release.
        steps: told what is going on.

    What an earlier process left here because it was killed is ended first.

    Raises:
        as ``up`` and ``down``.
    """
    for box in record.read_all(project):
        if box.owner is not None and not box.owner.lives():
            down(project, box.name)
    owner = Process.of(os.getpid())
    if name is not None:
        down(project, name)
        box = _up(project, name, suite, steps, owner)
    else:
        box = _up_somewhere(project, suite, steps, owner)
    try:
        yield box
    finally:
        down(project, box.name)


def _up_somewhere(project: Path, suite: str | None, steps: Steps, owner: Process) -> Box:
    """A box of a number that nobody has."""
    for number in _FOR_TESTS:
        name = f"box{number}"
        if record.read(project, name) is not None:
            continue
        box = _up(project, name, suite, steps, owner)
        # Somebody else may have taken the name meanwhile; theirs is theirs.
        if box.owner == owner:
            return box
    raise HostError(
        f"box{_FOR_TESTS[0]} to box{_FOR_TESTS[-1]} are all taken. Run: ./invoke lab.box list"
    )
