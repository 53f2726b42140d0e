"""The compact histogram: what goes in comes out, and damage is refused."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uplab.hostside import histogram
from uplab.hostside.histogram import MAGIC, decode, encode, percentile, pool

U32 = st.integers(min_value=0, max_value=2**32 - 1)
COUNTS = st.integers(min_value=1, max_value=2**32 - 1)
HISTOGRAMS = st.dictionaries(U32, COUNTS, max_size=60).map(
    lambda seen: (sorted(seen), [seen[value] for value in sorted(seen)])
)
SMALL = st.dictionaries(st.integers(0, 500), st.integers(1, 20), min_size=1, max_size=40).map(
    lambda seen: (sorted(seen), [seen[value] for value in sorted(seen)])
)


def body(*words: int) -> bytes:
    return MAGIC + zlib.compress(struct.pack(f"<{len(words)}I", *words))


@given(HISTOGRAMS)
def test_what_is_encoded_is_decoded(shape: tuple[list[int], list[int]]) -> None:
    values, counts = decode(encode(*shape))
    assert (values.tolist(), counts.tolist()) == shape


def test_the_form_is_the_documented_one() -> None:
    assert decode(body(2, 100, 150, 7, 1))[0].tolist() == [100, 250]
    assert zlib.decompress(encode([100], [7])[len(MAGIC) :]) == struct.pack("<3I", 1, 100, 7)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "starts with"),
        (b"uplabh2\n" + zlib.compress(b"\0\0\0\0"), "starts with"),
        (MAGIC + b"not zlib", "cannot be decompressed"),
        (body(1, 5, 1)[:-4], "cut short"),
        (body(1, 5, 1) + b"x", "follow the body"),
        (MAGIC + zlib.compress(b"\0"), "too few"),
        (body(2, 5, 1), "2 buckets take"),
        (body(1, 5, 1, 1), "1 buckets take"),
        (body(2, 5, 0, 1, 1), "ascend"),
        (body(2, 6, 2**32 - 6, 1, 1), "ascend"),
        (body(1, 5, 0), "count 0"),
    ],
)
def test_a_damaged_file_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode(data)


def test_a_decompression_bomb_stops_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histogram, "MAX_BUCKETS", 10)
    with pytest.raises(ValueError, match="larger than 10 buckets"):
        decode(MAGIC + zlib.compress(b"\0" * 10_000_000))


def test_an_oversized_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histogram, "MAX_FILE_BYTES", 10)
    with pytest.raises(ValueError, match="at most 10"):
        decode(body(1, 5, 1))


@pytest.mark.parametrize(
    ("values", "counts", "reason"),
    [
        ([1, 2], [1], "2 values but 1 counts"),
        ([2, 1], [1, 1], "ascend"),
        ([1], [0], "count 0"),
        ([-1], [1], "32-bit"),
        ([2**32], [1], "32-bit"),
        ([1.5], [1], "32-bit"),
    ],
)
def test_what_could_not_be_read_is_not_written(
    values: list[int], counts: list[int], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        encode(values, counts)


@given(HISTOGRAMS.filter(lambda shape: bool(shape[0])), st.data())
def test_no_flipped_byte_gives_another_histogram(
    shape: tuple[list[int], list[int]], data: st.DataObject
) -> None:
    good = bytearray(encode(*shape))
    place = data.draw(st.integers(0, len(good) - 1))
    good[place] ^= data.draw(st.integers(1, 255))
    try:
        values, counts = decode(bytes(good))
    except ValueError:
        return
    # The two bytes of zlib's header hold bits that do not change the content.
    assert (values.tolist(), counts.tolist()) == shape


@given(SMALL, st.sampled_from([0.1, 1, 25, 50, 75, 90, 99, 99.9, 99.99, 100]))
def test_a_percentile_is_the_nearest_rank_of_the_samples(
    shape: tuple[list[int], list[int]], p: float
) -> None:
    samples = [value for value, count in zip(*shape, strict=True) for _ in range(count)]
    found = percentile(*shape, p)
    assert found is not None
    at_most = sum(sample <= found for sample in samples)
    below = sum(sample < found for sample in samples)
    assert below * 100_000 < round(p * 1000) * len(samples) <= at_most * 100_000


def test_a_percentile_is_exact_where_floats_are_not() -> None:
    assert percentile(list(range(1, 1001)), [1] * 1000, 99.9) == 999


def test_no_sample_has_no_percentile() -> None:
    assert percentile([], [], 50) is None


@pytest.mark.parametrize("p", [0, -1, 100.1])
def test_a_percentile_outside_its_range_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile([1], [1], p)


@given(SMALL, SMALL)
def test_pooling_is_having_all_samples(
    one: tuple[list[int], list[int]], other: tuple[list[int], list[int]]
) -> None:
    def samples(shape: tuple[list[int], list[int]]) -> list[int]:
        return [value for value, count in zip(*shape, strict=True) for _ in range(count)]

    assert samples(pool([one, other])) == sorted(samples(one) + samples(other))


def test_a_pooled_percentile_is_not_the_mean_of_percentiles() -> None:
    busy, idle = ([100], [990]), ([9_000], [10])
    assert percentile(*pool([busy, idle]), 50) == 100
    assert percentile(*pool([busy, idle]), 99.9) == 9_000
