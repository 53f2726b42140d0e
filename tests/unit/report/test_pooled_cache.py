"""What is kept of pooled latencies: the same figures, and never those of another run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runs import make_run
from uplab import results
from uplab.report import model
from uplab.report.model import build


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", blocks=3, servers=("https",), histogram_buckets=60)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def unreadable(*_: Any) -> Any:
    raise AssertionError("a histogram was read")


def test_a_second_report_reads_no_histogram_and_says_the_same(
    run_dir: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(results.load(run_dir), cache)
    assert first.latency == build(results.load(run_dir)).latency
    monkeypatch.setattr(model, "pooled", unreadable)
    assert build(results.load(run_dir), cache).latency == first.latency
    with pytest.raises(AssertionError, match="a histogram was read"):
        build(results.load(run_dir))


def test_what_nobody_vouches_for_is_neither_kept_nor_believed(run_dir: Path, cache: Path) -> None:
    build(results.load(run_dir), cache)
    (kept,) = cache.iterdir()
    before = kept.read_bytes()
    histogram = next(run_dir.glob("trials/*/load.hist"))
    histogram.write_bytes(b"junk")
    report = build(results.load(run_dir, strict=False), cache)
    assert any("load.hist: starts with" in notice for notice in report.notices)
    assert [path.read_bytes() for path in cache.iterdir()] == [before]


def test_another_choice_of_trials_is_another_figure(tmp_path: Path, cache: Path) -> None:
    runs = [
        make_run(tmp_path / name, blocks=3, servers=("https",), seed=seed, histogram_buckets=60)
        for name, seed in (("one", 1), ("other", 2))
    ]
    kept = [build(results.load(run), cache).latency for run in runs]
    assert kept == [build(results.load(run)).latency for run in runs]
    assert len(list(cache.iterdir())) == 2


def _first_time(value: Any) -> Callable[[dict[str, Any]], None]:
    def change(kept: dict[str, Any]) -> None:
        next(iter(kept.values()))["percentiles_us"][0] = value

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: next(iter(kept.values())).pop("curve_us"),
        lambda kept: next(iter(kept.values()))["curve_us"].pop(),
        lambda kept: kept.update(other=3),
        lambda kept: next(iter(kept.values())).update(samples="many"),
        _first_time("<script>"),
        _first_time(-1),
        _first_time(1.5),
    ],
)
def test_a_damaged_cache_is_derived_again(
    run_dir: Path, cache: Path, damage: Callable[[dict[str, Any]], None]
) -> None:
    first = build(results.load(run_dir), cache)
    (path,) = cache.iterdir()
    kept = json.loads(path.read_text())
    damage(kept)
    path.write_text(json.dumps(kept))
    assert build(results.load(run_dir), cache).latency == first.latency


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff\xfe", b"{"])
def test_a_cache_that_is_no_cache_is_derived_again(
    run_dir: Path, cache: Path, content: bytes
) -> None:
    first = build(results.load(run_dir), cache)
    (path,) = cache.iterdir()
    path.write_bytes(content)
    assert build(results.load(run_dir), cache).latency == first.latency
    assert json.loads(path.read_text())


def test_a_cache_that_cannot_be_written_costs_only_time(run_dir: Path, tmp_path: Path) -> None:
    place = tmp_path / "a file"
    place.write_text("")
    assert build(results.load(run_dir), place).latency == build(results.load(run_dir)).latency
