"""How many blocks it takes until overheads are known well enough. Pure functions.

The width that is asked for is half the width of the 95 % interval of an overhead, in percentage
points. On the scale of the logarithms that interval is m - h to m + h; in percent it is from
100 * (1 - exp(m + h)) to 100 * (1 - exp(m - h)), so half its width is 100 * exp(m) * sinh(h): a
mode that keeps little of the throughput is known to a point with fewer blocks.

Looking at the figures and stopping when they please makes an interval cover its truth less often
than its 95 %, because small spreads are believed too early. Two rules keep that small: no look has
fewer than FIRST_LOOK blocks, and looks are few, since a look is at most at twice the blocks of the
one before and otherwise where the spread says that it will be enough. What is left of it is
measured in tests/unit/test_sequential.py and told in docs/how-to/repeat-until-known.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import asinh, exp, inf, sinh

from uplab.estimates import LEAST_FOR_INTERVAL, half_width

#: A spread of fewer blocks says too little: looked at from three on, intervals would cover 90 %.
FIRST_LOOK = 6
#: More than these nobody waits for; how many more is not told.
COUNTED_TO = 1_000_000
# A further look has at least an eighth more blocks, or it hardly tells more than the one before.
_LEAST_GROWTH = 8
# e**700 is near the largest number there is; beyond it only a forged run can lie.
_LARGEST = 700.0


def half_width_pp(n: int, mean: float, deviation: float) -> float:
    """Half the width of an overhead's 95 % interval, in percentage points.

    Args:
        n: how many pairs there are, at least 2.
        mean: of their log ratios.
        deviation: the standard deviation of their log ratios.
    """
    half = min(half_width(n, deviation), _LARGEST)
    return 100 * exp(min(mean, _LARGEST)) * sinh(half)


def pairs_needed(width_pp: float, mean: float, deviation: float) -> int | None:
    """How many pairs give an interval that is narrow enough, if mean and spread stay as they are.

    The t quantile depends on the number that is looked for, so it is found by trying.

    Args:
        width_pp: half the width that is wanted, in percentage points; above 0.
        mean: of the log ratios so far.
        deviation: their standard deviation.

    Returns:
        the smallest number that does, at least FIRST_LOOK; None beyond COUNTED_TO.
    """
    wanted = asinh(width_pp / 100 * exp(-max(min(mean, _LARGEST), -_LARGEST)))

    def enough(n: int) -> bool:
        return half_width(n, deviation) <= wanted

    high = FIRST_LOOK
    while not enough(high):
        if high >= COUNTED_TO:
            return None
        high = min(2 * high, COUNTED_TO)
    low = FIRST_LOOK
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high


@dataclass(frozen=True, slots=True)
class Overhead:
    """One cell's overhead at a look: its pairs, summed up.

    `mean` is of the log ratios, None without a pair; `deviation` their standard deviation, None
    below two.
    """

    cell_id: str
    n: int
    mean: float | None
    deviation: float | None

    @property
    def half_width_pp(self) -> float | None:
        """Half the width of its interval, in percentage points; None where it has none."""
        if self.n < LEAST_FOR_INTERVAL or self.mean is None or self.deviation is None:
            return None
        return half_width_pp(self.n, self.mean, self.deviation)

    def is_within(self, width_pp: float) -> bool:
        """Whether it is known well enough, from enough pairs to believe it."""
        half = self.half_width_pp
        return self.n >= FIRST_LOOK and half is not None and half <= width_pp

    def blocks_needed(self, width_pp: float, blocks: int) -> float | None:
        """The blocks to expect; inf beyond COUNTED_TO, None where the pairs say nothing.

        Of a cell that lacks a pair in some of the `blocks` so far, as many more will lack one.
        """
        if self.n < 2 or self.mean is None or self.deviation is None:
            return None
        pairs = pairs_needed(width_pp, self.mean, self.deviation)
        if pairs is None or not blocks:
            return inf
        return -(-pairs * max(blocks, self.n) // self.n)


@dataclass(frozen=True, slots=True)
class Look:
    """What is known after so many blocks, and how well it has to be: `width_pp`."""

    blocks: int
    width_pp: float
    overheads: tuple[Overhead, ...]

    @property
    def reached(self) -> tuple[Overhead, ...]:
        """Those that are known well enough."""
        return tuple(o for o in self.overheads if o.is_within(self.width_pp))

    @property
    def not_reached(self) -> tuple[Overhead, ...]:
        """All others."""
        return tuple(o for o in self.overheads if not o.is_within(self.width_pp))

    @property
    def waited_for(self) -> tuple[Overhead, ...]:
        """Those for which further blocks are worth it: a cell without any pair will get none."""
        return tuple(o for o in self.not_reached if o.n)

    @property
    def widest(self) -> Overhead | None:
        """The one that takes the most blocks; None where nothing says how many."""
        told = [o for o in self.overheads if self._needs(o) is not None]
        return max(told, key=lambda o: self._needs(o) or 0, default=None)

    @property
    def expected(self) -> float | None:
        """The blocks to expect in all; inf beyond COUNTED_TO, None where nothing says how many."""
        return None if self.widest is None else self._needs(self.widest)

    def next_at(self, most: int) -> int:
        """At how many blocks to look again.

        Args:
            most: how many blocks there may be in all.

        Returns:
            a number of blocks; that of this look where there may be no more.
        """
        expected = self.expected or inf
        least = self.blocks + max(1, self.blocks // _LEAST_GROWTH)
        wanted = max(least, min(expected, 2 * self.blocks), FIRST_LOOK)
        return max(self.blocks, int(min(wanted, most)))

    def _needs(self, overhead: Overhead) -> float | None:
        return overhead.blocks_needed(self.width_pp, self.blocks)


def look(log_ratios: Mapping[str, Sequence[float]], blocks: int, width_pp: float) -> Look:
    """Look at what there is.

    Args:
        log_ratios: ln(figure(mode) / figure(none)) of each pair, by cell id.
        blocks: how many were measured.
        width_pp: half the width of the interval that is wanted, in percentage points.
    """
    overheads = (_overhead(cell_id, ratios) for cell_id, ratios in log_ratios.items())
    return Look(blocks, width_pp, tuple(overheads))


def _overhead(cell_id: str, ratios: Sequence[float]) -> Overhead:
    n = len(ratios)
    mean = statistics.fmean(ratios) if n else None
    return Overhead(cell_id, n, mean, statistics.stdev(ratios, mean) if n > 1 else None)
