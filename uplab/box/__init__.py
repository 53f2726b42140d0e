"""``box``: a disposable host with its own systemd and SSH, made in seconds, gone without a trace.

A box is for the tests and for trying uplab without touching one's machine. It is systemd-nspawn
over an overlay of a base that mmdebstrap made once, it shares the machine's kernel and network, and
sshd listens on a loopback address of its own: box1 on 127.77.0.1, box2 on 127.77.0.2. One that has
a network of its own (:mod:`uplab.box.network`) has all ports for itself. Everything about boxes
lies in ``.uplab/boxes``.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from uplab.box import access, base, cgroups, container, lock, needs, network, record
from uplab.box.access import ssh_argv
from uplab.box.record import Box, Network, Process
from uplab.box.steps import Steps
from uplab.errors import HostError, UsageError

__all__ = [
    "Box",
    "Wish",
    "cut",
    "down",
    "list_boxes",
    "mend",
    "outside_argv",
    "reset",
    "restart",
    "running",
    "ssh_argv",
    "up",
]

DEFAULT_SUITE = "bookworm"
_QUIET = Steps()
#: Boxes that tests make without a name: out of the way of those that people make.
_FOR_TESTS = range(200, 255)


@dataclass(frozen=True)
class Wish:
    """How a box is to be made; None for the default, or as it is where it is up already."""

    suite: str | None = None
    network: Network | None = None

    def refusal(self, known: Box) -> str | None:
        """What a box that is up has other than this; None where it fits."""
        if self.suite not in (None, known.suite):
            return known.suite
        if self.network not in (None, known.network):
            return f"its network {known.network}"
        return None


def up(
    project: Path,
    name: str,
    *,
    suite: str | None = None,
    network: Network | None = None,
    steps: Steps = _QUIET,
) -> Box:
    """A box that can be logged in to; one that is up already stays as it is.

    Args:
        project: the checkout.
        name: ``box1`` to ``box254``.
        suite: the Debian release of a new box; None for the default.
        network: ``shared``: the machine's; ``own``: one in which it has all ports for itself, and
            reaches the machine and other such boxes alone. None for ``shared``.
        steps: told what is going on.

    Raises:
        UsageError: no such name or suite; or the box is up with another suite or network.
        HostError: no root; or it does not start.
        GateError: the base cannot be built, or packages that it needs cannot be installed.
    """
    return _up(project, name, Wish(suite, network), steps, owner=None)


def _up(project: Path, name: str, wish: Wish, steps: Steps, owner: Process | None) -> Box:
    record.number(name)
    needs.require_root()
    needs.require_programs(steps)
    boxes = record.boxes_folder(project)
    with lock.hold(boxes, name, steps):
        known = record.read(project, name)
        if known is not None and known.is_up():
            if has := wish.refusal(known):
                raise UsageError(
                    f"{name} is up with {has}. Run: ./invoke lab.box down --name {name}"
                )
            return known
        if known is not None:
            steps.say(f"removing what is left of an earlier {name}")
        _remove(project, name)
        return _create(project, name, wish, steps, owner)


def _create(project: Path, name: str, wish: Wish, steps: Steps, owner: Process | None) -> Box:
    """Make a box where there is none."""
    boxes = record.boxes_folder(project)
    in_use = frozenset(box.base for box in record.read_all(project))
    suite = wish.suite or DEFAULT_SUITE
    below = base.ensure(boxes, base.recipe(suite), steps, in_use)
    (boxes / name).mkdir(mode=0o755)
    box = _named_anew(
        Box(
            name=name,
            folder=boxes / name,
            port=access.PORT if wish.network == record.OWN else access.free_port(name),
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
        if wish.network == record.OWN:
            box = _noted_in_a_network(boxes, box, steps)
        access.make_keys(box)
        access.give_to_caller(box)
        return _boot(project, box, steps)
    except BaseException as error:
        _remove_failed(project, box, error)
        raise


def _noted_in_a_network(boxes: Path, box: Box, steps: Steps) -> Box:
    """Give a box its address in a network of its own; noted, so that the switch stays for it."""
    with lock.hold(boxes, "network", steps):
        box = replace(box, own_address=network.address(network.ensure(boxes), box.name))
        record.write(box)
    return box


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


def _boot(project: Path, box: Box, steps: Steps, *, keep: bool = False) -> Box:
    """Start a box that has keys and wait until it lets root in; ``keep`` the layers that it has."""
    record.write(box)
    steps.now(f"{box.name}: starting")
    if keep:
        container.renew_layers(box)
    else:
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
    _release_network(boxes)


def _release_network(boxes: Path) -> None:
    """Remove the network of boxes where none is left that has it."""
    if network.read(boxes) is not None:
        with lock.hold(boxes, "network", _QUIET):
            network.release(boxes)


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
        _release_network(boxes)
        return False
    with lock.hold(boxes, name, steps):
        steps.now(f"{name}: ending")
        found = (boxes / name).exists()
        _remove(project, name)
    return found


def reset(project: Path, name: str, *, steps: Steps = _QUIET) -> Box:
    """The same box with nothing changed in it since it was made: suite, network, address, keys.

    Raises:
        UsageError: there is no such box.
        HostError: no root; or it does not start again.
        GateError: its base was damaged and cannot be built again.
    """
    boxes = record.boxes_folder(project)
    with _ended(project, name, steps) as box:
        fresh = _named_anew(box)
        try:
            if base.damage(boxes / box.base) is not None:
                below = base.ensure(boxes, base.recipe(box.suite), steps, frozenset({box.base}))
                fresh = replace(fresh, base=below.name)
            _put_aside(box)
            if fresh.own_address is not None:
                fresh = _noted_in_a_network(boxes, fresh, steps)
            return _boot(project, fresh, steps)
        except BaseException as error:
            _remove_failed(project, fresh, error)
            raise


def restart(project: Path, name: str, *, steps: Steps = _QUIET) -> Box:
    """The same box booted again, as after its reset button: all of its files are there.

    One that has ended by itself starts again.

    Raises:
        UsageError: there is no such box, or the machine itself was restarted meanwhile: a box does
            not sync its files.
        HostError: no root; or it does not start again.
    """
    with _ended(project, name, steps) as box:
        if box.boot_id != record.boot_id():
            raise UsageError(
                f"{name} was up when this machine went down, and its files were not synced. "
                f"Run: ./invoke lab.box reset --name {name}"
            )
        again = _named_anew(box)
        try:
            if again.own_address is not None:
                again = _noted_in_a_network(record.boxes_folder(project), again, steps)
            return _boot(project, again, steps, keep=True)
        except BaseException as error:
            _remove_failed(project, again, error)
            raise


@contextmanager
def _ended(project: Path, name: str, steps: Steps) -> Iterator[Box]:
    """A box whose processes were ended, and that nobody else touches."""
    record.number(name)
    needs.require_root()
    needs.require_programs(steps)
    with lock.hold(record.boxes_folder(project), name, steps):
        box = record.read(project, name)
        if box is None:
            raise UsageError(f"there is no {name}. Run: ./invoke lab.box up --name {name}")
        steps.now(f"{name}: ending")
        record.write(replace(box, state=record.STARTING))
        container.stop(box)
        yield box


def list_boxes(project: Path) -> list[Box]:
    """All boxes by number, also those that ended by themselves or were never ready."""
    return record.read_all(project)


@contextmanager
def running(
    project: Path,
    name: str | None = None,
    *,
    suite: str | None = None,
    network: Network | None = None,
    steps: Steps = _QUIET,
) -> Iterator[Box]:
    """A fresh box for as long as a block runs, and gone after it: for tests.

    Args:
        project: the checkout.
        name: of the box; one of that name is ended first. None for a free one from box200 on.
        suite: the Debian release.
        network: as for ``up``.
        steps: told what is going on.

    What an earlier process left here because it was killed is ended first.

    Raises:
        as ``up`` and ``down``.
    """
    for box in record.read_all(project):
        if box.owner is not None and not box.owner.lives():
            down(project, box.name)
    owner = Process.of(os.getpid())
    wish = Wish(suite, network)
    if name is not None:
        down(project, name)
        box = _up(project, name, wish, steps, owner)
    else:
        box = _up_somewhere(project, wish, steps, owner)
    try:
        yield box
    finally:
        down(project, box.name)


def _up_somewhere(project: Path, wish: Wish, steps: Steps, owner: Process) -> Box:
    """A box of a number that nobody has."""
    for number in _FOR_TESTS:
        name = f"box{number}"
        if record.read(project, name) is not None:
            continue
        box = _up(project, name, wish, steps, owner)
        # Somebody else may have taken the name meanwhile; theirs is theirs.
        if box.owner == owner:
            return box
    raise HostError(
        f"box{_FOR_TESTS[0]} to box{_FOR_TESTS[-1]} are all taken. Run: ./invoke lab.box list"
    )


def cut(box: Box) -> None:
    """Let nothing through to a box that has a network of its own, until :func:`mend`.

    As when a switch on the way dies: both ends keep their link, nobody is told, what is sent is
    lost.

    Raises:
        HostError: it has no network of its own, or that is gone.
    """
    network.set_passing(box, passing=False)


def mend(box: Box) -> None:
    """Let everything through again; raises as :func:`cut`."""
    network.set_passing(box, passing=True)


def outside_argv(box: Box, *command: str) -> list[str]:
    """The command that runs a command in a box, but with the machine's network.

    So packages come into a box that reaches nothing but other boxes.

    Raises:
        HostError: the box does not run.
    """
    first = container.first_process(box)
    namespaces = [f"--{name}" for name in ("mount", "uts", "ipc", "pid", "cgroup", "root", "wd")]
    return ["nsenter", f"--target={first}", *namespaces, "--", *command]
