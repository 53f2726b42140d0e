"""How a report speaks of an overhead: by the load's loop."""

from __future__ import annotations

from dataclasses import dataclass

from uplab.analysis import CLOSED, OPEN


@dataclass(frozen=True, slots=True)
class Words:
    """The words for one kind of overhead.

    `figure` is its name in a table, `what` what a mode changes, `worse` and `better` whole
    sentences, `up`, `down` and `same` what stands behind a percentage, `was` the verb before it;
    `floor` is a noise floor in both directions, `share` a range of percent in a sentence.
    """

    figure: str
    what: str
    worse: str
    better: str
    up: str
    down: str
    same: str
    was: str
    floor: str
    share: str


WORDS = {
    CLOSED: Words(
        figure="throughput lost",
        what="the throughput",
        worse="{name} costs {server} {share} of its throughput",
        better="With {name}, {server} serves {share} more than with none",
        up="slower",
        down="faster",
        same="different",
        was="was",
        floor="{worse} slower or {better} faster",
        share="{} % of the throughput",
    ),
    OPEN: Words(
        figure="extra CPU per request",
        what="the CPU per request",
        worse="{name} costs {server} {share} more CPU per request",
        better="With {name}, {server} needs {share} less CPU per request than with none",
        up="more CPU per request",
        down="less CPU per request",
        same="more or less CPU per request",
        was="needed",
        floor="{worse} more or {better} less CPU per request",
        share="{} % more CPU per request",
    ),
}
