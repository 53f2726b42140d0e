"""What the task ``lab.box`` does and prints."""

from __future__ import annotations

import time
from pathlib import Path

from uplab import box as boxes
from uplab.box import record
from uplab.box.record import Box
from uplab.box.steps import Steps
from uplab.errors import UsageError

ACTIONS = ("up", "down", "reset", "restart", "list")


def wish(suite: str | None, network: str | None) -> boxes.Wish:
    """How boxes are made, from the words of the command line; UsageError for no such network."""
    for known in (None, record.SHARED, record.OWN):
        if network == known:
            return boxes.Wish(suite, known)
    raise UsageError(f"a box has the network {record.SHARED} or {record.OWN}, not {network!r}")


def act(project: Path, action: str, names: list[str], wish: boxes.Wish, steps: Steps) -> None:
    """Carry out an action on boxes, one after the other.

    Args:
        project: the checkout.
        action: one of ``ACTIONS``.
        names: of the boxes; none for ``box1``.
        wish: how boxes are made.
        steps: gets the output.

    Raises:
        UsageError: another action; and what ``up``, ``down``, ``reset`` and ``restart`` raise.
    """
    if action not in ACTIONS:
        raise UsageError(f"lab.box takes {', '.join(ACTIONS)}, not {action!r}")
    if action == "list":
        for line in table(boxes.list_boxes(project)):
            steps.say(line)
        return
    for name in names or ["box1"]:
        _act_on_one(project, action, name, wish, steps)


def _act_on_one(project: Path, action: str, name: str, wish: boxes.Wish, steps: Steps) -> None:
    if action == "down":
        _down(project, name, steps)
        return
    began_s = time.monotonic()
    known = record.read(project, name)
    if action in ("reset", "restart"):
        again = boxes.reset if action == "reset" else boxes.restart
        box = again(project, name, steps=steps)
    else:
        box = boxes.up(project, name, suite=wish.suite, network=wish.network, steps=steps)
    how = "up already" if box == known else f"ready after {time.monotonic() - began_s:.1f} s"
    steps.say(f"{name} is {how}: {login(box)}")


def _down(project: Path, name: str, steps: Steps) -> None:
    was_there = boxes.down(project, name, steps=steps)
    steps.say(f"{name} is gone" if was_there else f"there is no {name}")


def login(box: Box) -> str:
    """The command that a person logs in with."""
    return f"ssh -F {box.folder.parent / 'ssh_config'} {box.name}"


def table(found: list[Box]) -> list[str]:
    """A line for each box."""
    if not found:
        return ["there are no boxes. Run: ./invoke lab.box up"]
    rows = [("box", "state", "release", "network", "address", "port", "started")]
    rows += [
        (
            box.name,
            state(box),
            box.suite,
            box.network,
            box.address,
            str(box.port),
            box.started_utc,
        )
        for box in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def state(box: Box) -> str:
    """``up``, ``starting`` (or left so by a crash), or ``ended``."""
    if box.is_up():
        return "up"
    return "starting" if box.lives() else "ended"
