r"""A latency histogram as a small file (`load.hist`), and percentiles of one or several.

Standard library only: the same file is written on the host and read by the report.

Form: the magic `uplabh1\n`, then zlib of: n, then n steps in microseconds, then n counts, all
unsigned 32-bit little-endian. The first step is the lowest value, each further one the distance to
the next value: mostly small and equal numbers, so the file is a third of what values would take and
is inflated in half the time. 40,000 buckets are 420 KB as JSON and 10 KB like this.

A decoder meets files from other machines, so it refuses whatever it does not expect: a reader that
guesses would turn a damaged file into a wrong percentile.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import accumulate, pairwise

MAGIC = b"uplabh1\n"
# One bucket per microsecond of a load generator's usual time limit of 2 s; this is twice that.
MAX_BUCKETS = 4_000_000
# A file of that many buckets compresses below this; anything larger is not one of ours.
MAX_FILE_BYTES = 32_000_000
_WORD_BYTES = 4

if array("I").itemsize != _WORD_BYTES:  # pragma: no cover - no supported platform does this
    raise ImportError("array('I') is not 32 bits wide here; load.hist could not be read")


def encode(values_us: Sequence[int], counts: Sequence[int]) -> bytes:
    """The bytes of a `load.hist` file.

    In: bucket values in microseconds, strictly ascending, and how often each was seen (at least 1).
    Out: the file's bytes. Raises ValueError where decode() would refuse the result.
    """
    if len(values_us) != len(counts):
        raise ValueError(f"{len(values_us)} values but {len(counts)} counts")
    if len(values_us) > MAX_BUCKETS:
        raise ValueError(f"{len(values_us)} buckets, at most {MAX_BUCKETS} are allowed")
    try:
        words_values, words_counts = array("I", values_us), array("I", counts)
    except (OverflowError, TypeError) as error:
        raise ValueError(f"a value or count is not an unsigned 32-bit number: {error}") from error
    _check(words_values, words_counts)
    steps = array("I", (b - a for a, b in pairwise((0, *words_values))))
    raw = struct.pack("<I", len(steps)) + _bytes_of(steps) + _bytes_of(words_counts)
    return MAGIC + zlib.compress(raw, 6)


def decode(data: bytes) -> tuple[array[int], array[int]]:
    """The values (microseconds, ascending) and counts in the bytes of a `load.hist` file.

    Raises ValueError when the magic, the size, the order or a count is wrong.
    """
    steps_part, counts_part = unpack(data)
    try:
        values_us = array("I", accumulate(_words(steps_part)))
    except OverflowError as error:
        raise ValueError("the values must ascend to less than 2^32 us") from error
    counts = _words(counts_part)
    _check(values_us, counts)
    return values_us, counts


def unpack(data: bytes) -> tuple[memoryview, memoryview]:
    """The raw little-endian words of the steps and of the counts, sizes checked, contents not.

    For a reader with a quicker way than decode() to check ascending values and counts above zero.
    Raises ValueError for a wrong magic, size, or a damaged or oversized body.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{len(data)} bytes, at most {MAX_FILE_BYTES} are allowed")
    if not data.startswith(MAGIC):
        raise ValueError(f"starts with {bytes(data[: len(MAGIC)])!r}, not with {MAGIC!r}")
    raw = _inflate(data)
    if len(raw) < _WORD_BYTES:
        raise ValueError(f"the body holds {len(raw)} bytes, too few for a number of buckets")
    (buckets,) = struct.unpack_from("<I", raw)
    expected_bytes = _WORD_BYTES * (1 + 2 * buckets)
    if len(raw) != expected_bytes:
        raise ValueError(f"{buckets} buckets take {expected_bytes} bytes, found {len(raw)}")
    middle = _WORD_BYTES * (1 + buckets)
    view = memoryview(raw)
    return view[_WORD_BYTES:middle], view[middle:]


def percentile(values_us: Sequence[int], counts: Sequence[int], p: float) -> int | None:
    """The p-th percentile (0 < p <= 100) in microseconds by nearest rank; None without a sample.

    Nearest rank: the smallest value that at least p % of the samples do not exceed. Raises
    ValueError for another p.
    """
    if not 0 < p <= 100:
        raise ValueError(f"percentile {p}: must be above 0 and at most 100")
    total = sum(counts)
    if total == 0:
        return None
    rank = rank_of(p, total)
    seen = 0
    for value_us, count in zip(values_us, counts, strict=True):
        seen += count
        if seen >= rank:
            return value_us
    raise ValueError("a count is negative")


def rank_of(p: float, total: int) -> int:
    """The 1-based nearest rank of percentile p among `total` samples.

    Exact: 99.9 % of 1000 is 999, where floating point says a little more and gives the 1000th.
    """
    share = Fraction(str(p)) / 100 * total
    return -(-share.numerator // share.denominator)


def pool(
    histograms: Iterable[tuple[Sequence[int], Sequence[int]]],
) -> tuple[list[int], list[int]]:
    """Several histograms as one: counts of equal values (microseconds) added, values ascending.

    A percentile of the pooled samples is a percentile; a mean of percentiles is not.
    """
    together: dict[int, int] = {}
    for values_us, counts in histograms:
        for value_us, count in zip(values_us, counts, strict=True):
            together[value_us] = together.get(value_us, 0) + count
    ascending = sorted(together)
    return ascending, [together[value_us] for value_us in ascending]


def _inflate(data: bytes) -> bytes:
    """The decompressed body, never more than a histogram may take: a bomb stops at the limit."""
    limit = _WORD_BYTES * (1 + 2 * MAX_BUCKETS)
    machine = zlib.decompressobj()
    try:
        raw = machine.decompress(memoryview(data)[len(MAGIC) :], limit + 1)
    except zlib.error as error:
        raise ValueError(f"the body cannot be decompressed: {error}") from error
    if len(raw) > limit:
        raise ValueError(f"the body is larger than {MAX_BUCKETS} buckets take")
    if not machine.eof:
        raise ValueError("the body is cut short")
    if machine.unused_data:
        raise ValueError(f"{len(machine.unused_data)} bytes follow the body")
    return raw


def _check(values_us: array[int], counts: array[int]) -> None:
    for earlier, later in pairwise(values_us):
        if later <= earlier:
            raise ValueError(f"values must ascend: {earlier} is followed by {later}")
    if 0 in counts:
        raise ValueError("a bucket without a sample (count 0)")


def _bytes_of(words: array[int]) -> bytes:
    if sys.byteorder == "little":
        return words.tobytes()
    swapped = array("I", words)
    swapped.byteswap()
    return swapped.tobytes()


def _words(part: memoryview) -> array[int]:
    words = array("I")
    words.frombytes(part)
    if sys.byteorder == "big":
        words.byteswap()
    return words
