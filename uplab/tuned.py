"""What `--tune` did to a host for a run, as its run.json has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from uplab.fields import Fields


@dataclass(frozen=True, slots=True)
class Change:
    """A setting of the host and the value that it was given; `old` is None where it had it."""

    path: str
    new: str
    old: str | None


@dataclass(frozen=True, slots=True)
class Tuned:
    """The settings of a run with `--tune`.

    `refused` are the knobs that this host has not, or does not let anybody set, with the reason;
    `not_restored` the paths that were not put back after the run: somebody else changed them, or
    the kernel refused.
    """

    changes: tuple[Change, ...]
    refused: tuple[tuple[str, str], ...]
    not_restored: tuple[str, ...]


def read(fields: Fields) -> Tuned:
    """The object `tuning` of run.json; raises UsageError where it has not the expected form."""
    changed = [
        Change(part.text("path"), part.text("new"), part.text("old"))
        for part in fields.parts("changed")
    ]
    already = [
        Change(part.text("path"), part.text("new"), None) for part in fields.parts("already")
    ]
    restored = fields.part_or_empty("restored")
    left = [
        part.needed_part("entry").text("path")
        for name in ("left", "failed")
        for part in restored.parts(name)
    ]
    return Tuned(
        tuple(changed + already),
        tuple((part.text("knob"), part.text("reason")) for part in fields.parts("not_tunable")),
        tuple(left),
    )


def lines(tuned: Tuned) -> Iterator[tuple[str, str]]:
    """For the reader of a report, as label and text."""
    if tuned.changes:
        yield "Tuned for the run", "; ".join(_said(change) for change in tuned.changes)
    if tuned.refused:
        reasons = "; ".join(f"{knob} ({reason})" for knob, reason in tuned.refused)
        yield "Could not be tuned", reasons
    if tuned.not_restored:
        yield "Not put back after the run", ", ".join(tuned.not_restored)


def _said(change: Change) -> str:
    before = "already" if change.old is None else f"was {change.old}"
    return f"{change.path} = {change.new} ({before})"
