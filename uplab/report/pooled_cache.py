"""Pooled latencies that were made before, so that a second report need not inflate thousands of
histograms again.

What is kept can always be derived again: a cache that is absent, damaged or not writable costs time
and nothing else. It lies with the reader, never in the run directory: a run may come from anybody,
and figures in it that nobody vouches for would be believed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from uplab import checksums
from uplab.measured import Run, Trial
from uplab.report.latency import CURVE, HISTOGRAM_FILE, PERCENTILES, Latency

# Of another program, or for other percentiles, a figure is another one.
_FORM = json.dumps([1, PERCENTILES, CURVE])
_MAX_BYTES = 64_000_000


class PooledCache:
    """The pooled latencies of one run, by the digests of the histograms that they are made of."""

    def __init__(self, folder: Path, run: Run) -> None:
        """In: the folder of all caches, and a run. Of one that is not verified nothing is kept."""
        self._digests: dict[str, str] = {}
        self._known: dict[str, Latency] = {}
        self._changed = False
        if run.verified:
            self._digests = checksums.read_sums(run.path)
            listed = "\n".join(f"{digest} {name}" for name, digest in self._digests.items())
            self._path = folder / f"{hashlib.sha256(listed.encode()).hexdigest()}.json"
            self._known = _read(self._path)

    def get(self, trials: Sequence[Trial]) -> Latency | None:
        """What these trials' histograms gave together, if it is known."""
        return self._known.get(self._key(trials))

    def put(self, trials: Sequence[Trial], found: Latency) -> None:
        """Keep what these trials gave; what has problems is looked at anew each time."""
        key = self._key(trials)
        if key and not found.problems:
            self._known[key] = found
            self._changed = True

    def save(self) -> None:
        """Write what is new. Where that cannot be done, nothing is kept."""
        if not self._changed:
            return
        part = self._path.with_suffix(".part")
        kept = {key: asdict(found) for key, found in self._known.items()}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(kept), encoding="utf-8")
            part.replace(self._path)
        except OSError:
            return

    def _key(self, trials: Sequence[Trial]) -> str:
        """Of the trials' histograms, in any order; empty where one is not vouched for."""
        names = [f"trials/{trial.name}/{HISTOGRAM_FILE}" for trial in trials]
        digests = sorted(self._digests.get(name, "") for name in names)
        if not digests or not digests[0]:
            return ""
        return hashlib.sha256("\n".join([_FORM, *digests]).encode()).hexdigest()


def _read(path: Path) -> dict[str, Latency]:
    """What a file holds; nothing where it is absent or not what it should be."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            return {}
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {key: _latency(value) for key, value in kept.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _latency(value: dict[str, Any]) -> Latency:
    samples, trials = value["samples"], value["trials"]
    if type(samples) is not int or type(trials) is not int:
        raise ValueError("not numbers")
    percentiles_us, curve_us = tuple(value["percentiles_us"]), tuple(value["curve_us"])
    found = Latency(percentiles_us, samples, trials, (), curve_us)
    for figures, wanted in ((found.percentiles_us, PERCENTILES), (found.curve_us, CURVE)):
        if len(figures) != len(wanted) or not all(_is_time(figure) for figure in figures):
            raise ValueError("not the percentiles that are wanted")
    return found


def _is_time(figure: object) -> bool:
    return figure is None or (type(figure) is int and figure >= 0)
