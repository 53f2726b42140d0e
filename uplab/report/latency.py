"""Latency percentiles of a cell from the histograms of all its trials.

The counts are pooled and the percentile is taken from the pool: a mean of percentiles is no
percentile of anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from uplab.fields import bytes_of
from uplab.hostside import histogram
from uplab.measured import Run, Trial
from uplab.results import trial_directory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HISTOGRAM_FILE = "load.hist"
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99)
# Ten for each power of ten of 1 / (1 - p): evenly spaced on the axis that latencies are drawn on.
CURVE = tuple(float(f"{100 * (1 - 10 ** (-step / 10)):.6g}") for step in range(41))
# Buckets up to 4.2 s are added up in one array; the few above it, one by one.
_DENSE_US = 2**22
_AT_ONCE = 2
_MOST_US = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Latency:
    """Pooled latencies of a cell.

    `percentiles_us` in the order of PERCENTILES, `curve_us` in that of CURVE; None where there are
    too few samples for one to lie above it. `samples` is what the histograms hold (a load that
    corrects for what it missed holds more than there were requests), `trials` how many were pooled,
    `problems` why others were not.
    """

    percentiles_us: tuple[int | None, ...]
    samples: int
    trials: int
    problems: tuple[str, ...]
    curve_us: tuple[int | None, ...] = ()


def pooled(run: Run, trials: Sequence[Trial]) -> Latency:
    """The latency of the given trials together. In: a run and trials of one cell."""
    pool = Pool()
    paths = [trial_directory(run, trial) / HISTOGRAM_FILE for trial in trials]
    problems = []
    # Decompressing releases the interpreter's lock, so two at once use two cores.
    with ThreadPoolExecutor(_AT_ONCE) as readers:
        for trial, result in zip(trials, readers.map(_read, paths), strict=True):
            if isinstance(result, str):
                problems.append(f"{trial.name}: {result}")
            else:
                pool.add(*result)
    return Latency(
        percentiles_us=pool.percentiles(PERCENTILES),
        samples=pool.samples,
        trials=len(trials) - len(problems),
        problems=tuple(problems),
        curve_us=pool.percentiles(CURVE),
    )


class Pool:
    """Histograms added up. Memory does not grow with the number of trials."""

    def __init__(self) -> None:
        import numpy as np

        self._dense: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._tail: dict[int, int] = defaultdict(int)
        self.samples = 0

    def add(self, values_us: NDArray[np.int64], counts: NDArray[np.uint32]) -> None:
        """Add one histogram: ascending values in microseconds, and their counts."""
        import numpy as np

        split = int(np.searchsorted(values_us, _DENSE_US))
        if split:
            self._reach(int(values_us[split - 1]))
            # No value occurs twice in a histogram, so plain indexing adds every count.
            self._dense[values_us[:split]] += counts[:split]
        for value_us, count in zip(
            values_us[split:].tolist(), counts[split:].tolist(), strict=True
        ):
            self._tail[value_us] += count
        self.samples += int(counts.sum(dtype=np.int64))

    def percentiles(self, wanted: Sequence[float]) -> tuple[int | None, ...]:
        """The given percentiles in microseconds by nearest rank.

        None where no sample lies above it: of a thousand samples the 99.99th percentile is but the
        slowest one.
        """
        import numpy as np

        reached = np.cumsum(self._dense)
        ranks = [max(1, histogram.rank_of(p, self.samples)) for p in wanted]
        return tuple(self._at(rank, reached) if rank < self.samples else None for rank in ranks)

    def percentile(self, p: float) -> int | None:
        """The p-th percentile in microseconds by nearest rank; None without a sample."""
        import numpy as np

        if self.samples == 0:
            return None
        return self._at(histogram.rank_of(p, self.samples), np.cumsum(self._dense))

    def _at(self, rank: int, reached: NDArray[np.int64]) -> int | None:
        """The value of a rank; `reached` is how many samples lie at or below each dense value."""
        import numpy as np

        below = int(reached[-1]) if len(reached) else 0
        if rank <= below:
            return int(np.searchsorted(reached, rank))
        for value_us in sorted(self._tail):
            below += self._tail[value_us]
            if below >= rank:
                return value_us
        return None

    def _reach(self, value_us: int) -> None:
        import numpy as np

        if value_us >= len(self._dense):
            grown = np.zeros(min(_DENSE_US, 2 * value_us + 1), dtype=np.int64)
            grown[: len(self._dense)] = self._dense
            self._dense = grown


def _read(path: Path) -> tuple[NDArray[np.int64], NDArray[np.uint32]] | str:
    """The histogram in a file, or why there is none."""
    import numpy as np

    try:
        steps_part, counts_part = histogram.unpack(bytes_of(path, histogram.MAX_FILE_BYTES))
    except FileNotFoundError:
        return f"no {HISTOGRAM_FILE}"
    except (OSError, ValueError) as error:
        return f"{HISTOGRAM_FILE}: {error}"
    steps_us = np.frombuffer(steps_part, dtype="<u4")
    counts = np.frombuffer(counts_part, dtype="<u4")
    values_us = np.cumsum(steps_us, dtype=np.int64)
    if not np.all(steps_us[1:]) or (len(values_us) and values_us[-1] > _MOST_US):
        return f"{HISTOGRAM_FILE}: values must ascend to less than 2^32 us"
    if np.any(counts == 0):
        return f"{HISTOGRAM_FILE}: a bucket without a sample (count 0)"
    return values_us, counts
