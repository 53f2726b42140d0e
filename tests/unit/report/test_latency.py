"""Pooled latencies: the counts are pooled, the percentile is taken from the pool."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runs import make_run
from uplab import results
from uplab.hostside import histogram
from uplab.measured import Run
from uplab.report.latency import CURVE, PERCENTILES, Pool, pooled

SHAPES = st.dictionaries(
    st.integers(0, 2**32 - 1) | st.integers(0, 300) | st.integers(2**22 - 2, 2**22 + 2),
    st.integers(1, 1000),
    max_size=40,
).map(lambda seen: (sorted(seen), [seen[value] for value in sorted(seen)]))


@given(st.lists(SHAPES, max_size=4), st.sampled_from([1, 50, 90, 99, 99.99, 100]))
def test_the_quick_pool_agrees_with_the_plain_one(
    shapes: list[tuple[list[int], list[int]]], p: float
) -> None:
    pool = Pool()
    for values, counts in shapes:
        pool.add(np.array(values, dtype="<u4"), np.array(counts, dtype="<u4"))
    plain = histogram.percentile(*histogram.pool(shapes), p)
    assert pool.percentile(p) == plain
    assert pool.percentiles([p])[0] in (plain, None)


def run_with(tmp_path: Path, contents: list[bytes | None]) -> Run:
    run_dir = make_run(tmp_path / "run", servers=("https",), modes=("none",), blocks=len(contents))
    for trial, content in zip(sorted((run_dir / "trials").iterdir()), contents, strict=True):
        (trial / "load.hist").unlink()
        if content is not None:
            (trial / "load.hist").write_bytes(content)
    return results.load(run_dir, strict=False)


def test_trials_are_pooled_not_averaged(tmp_path: Path) -> None:
    busy = histogram.encode([100], [989])
    slow = histogram.encode([9_000], [11])
    run = run_with(tmp_path, [busy, slow])
    found = pooled(run, run.trials)
    # Of a thousand samples none lies above the 99.99th percentile.
    expected = {50: 100, 90: 100, 99: 9000, 99.9: 9000, 99.99: None}
    assert dict(zip(PERCENTILES, found.percentiles_us, strict=True)) == expected
    assert dict(zip(CURVE, found.curve_us, strict=True))[90] == 100
    assert (found.samples, found.trials, found.problems) == (1000, 2, ())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "no load.hist"),
        (b"junk", "load.hist: starts with"),
        (histogram.MAGIC + b"junk", "load.hist: the body cannot be decompressed"),
    ],
)
def test_a_histogram_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    run = run_with(tmp_path, [histogram.encode([100], [5]), content])
    found = pooled(run, run.trials)
    assert (found.trials, found.samples) == (1, 5)
    assert len(found.problems) == 1
    assert found.problems[0].startswith(f"{run.trials[1].name}: {problem}")


@pytest.mark.parametrize(
    ("words", "problem"),
    [((2, 6, 0, 1, 1), "values must ascend"), ((1, 5, 0), "a bucket without a sample")],
)
def test_the_quick_reader_refuses_what_decode_refuses(
    tmp_path: Path, words: tuple[int, ...], problem: str
) -> None:
    import struct
    import zlib

    content = histogram.MAGIC + zlib.compress(struct.pack(f"<{len(words)}I", *words))
    run = run_with(tmp_path, [content])
    assert problem in pooled(run, run.trials).problems[0]


def test_no_trial_has_no_percentiles(tmp_path: Path) -> None:
    run = run_with(tmp_path, [histogram.encode([], [])])
    for found in (pooled(run, ()), pooled(run, run.trials)):
        assert set(found.percentiles_us) == set(found.curve_us) == {None}
