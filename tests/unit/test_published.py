"""uplab/published.py: published figures beside ours, and the files of them that we ship."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.runs import edit_json, make_run
from uplab import published, results
from uplab.errors import UsageError
from uplab.measured import LoadHost
from uplab.published import BETTER, NO_INTERVAL, NOT_MEASURED, OPEN_LOOP, WITHIN, WORSE
from uplab.report import markdown, model
from uplab.report.model import Report

ROOT = Path(__file__).resolve().parents[2]
SOURCE: dict[str, Any] = {
    "schema": 1,
    "name": "elsewhere",
    "source": {"document": "d", "by": "b", "each_result": "one run"},
    "load": {"name": "wrk", "parameters": {"threads": 10, "connections": 100, "duration_s": 10}},
    "body_bytes": 12,
    "results": [
        {"server": "https", "mode": "none", "requests_per_s": 1000},
        {"server": "https", "mode": "kernel-uprobe", "requests_per_s": 160},
    ],
}


def report_of(directory: Path, **changes: Any) -> Report:
    spec: dict[str, Any] = {"servers": ("https",), "histogram_buckets": 5}
    return model.build(results.load(make_run(directory, **(spec | changes))))


def source(folder: Path, kernel: float = 160, **changes: Any) -> published.Source:
    data = SOURCE | changes
    data["results"] = [dict(each) for each in data["results"]]
    data["results"][-1]["requests_per_s"] = kernel
    (folder / "published.yml").write_text(yaml.safe_dump(data))
    (read,) = published.load(folder)
    return read


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A run whose kernel uprobes leave 16 % of the throughput."""
    return report_of(tmp_path_factory.mktemp("published") / "run")


# --- what is shipped ------------------------------------------------------------------------------


def test_the_shipped_figures_are_those_that_were_published() -> None:
    seed, *later = published.load(ROOT / "published")
    assert seed.name == "seed"
    shown = {place: round(pct, 1) for place, pct in published.overheads(seed).items()}
    assert shown == {
        ("https", "kernel-uprobe", 12): 54.6,
        ("https", "userspace-uprobe", 12): 40.4,
        ("http", "kernel-uprobe", 12): 58.1,
        ("http", "userspace-uprobe", 12): 45.3,
    }
    assert [(each.name, len(each.results)) for each in later] == [
        ("upstream-averages", 48),
        ("upstream-by-size", 41),
    ]
    assert all("kernel" in each.not_recorded for each in later)


def test_a_figure_without_its_none_has_no_ratio() -> None:
    (by_size,) = [each for each in published.load(ROOT / "published") if "size" in each.name]
    assert ("http", "userspace-uprobe", 10) not in published.overheads(by_size)
    assert ("http", "userspace-uprobe", 1024) in published.overheads(by_size)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": 1}, "no such field"),
        ({"results": []}, "at least 1 item"),
        ({"schema": 2}, "schema"),
        ({"results": [{"server": "https", "mode": "none", "requests_per_s": 0}]}, "greater than 0"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    (tmp_path / "wrong.yml").write_text(yaml.safe_dump(SOURCE | change))
    with pytest.raises(UsageError, match=said) as caught:
        published.load(tmp_path)
    assert str(tmp_path / "wrong.yml") in str(caught.value)


def test_a_folder_without_figures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no published figures"):
        published.load(tmp_path)


# --- where ours lies ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "position"),
    [(160, WITHIN), (500, WORSE), (20, BETTER)],
)
def test_where_ours_lies(tmp_path: Path, report: Report, kernel: float, position: str) -> None:
    (row,) = published.rows(report.analysis, [source(tmp_path, kernel)])
    assert (row.label, row.position) == ("kernel-uprobe (gotrace)", position)
    assert row.kept_ratio is not None
    assert row.kept_ratio == pytest.approx(160 / kernel, rel=0.1)


def test_the_published_spread_is_of_all_sources(tmp_path: Path, report: Report) -> None:
    near, far = source(tmp_path, 500), source(tmp_path, 400, name="other")
    rows = published.rows(report.analysis, [near, far])
    assert [row.outside_spread for row in rows] == [True, True]
    assert rows[0].spread is not None
    assert (rows[0].spread.low, rows[0].spread.high) == (50, 60)
    (alone,) = published.rows(report.analysis, [near])
    assert (alone.spread, alone.outside_spread) == (None, False)
    around = [source(tmp_path, 150), source(tmp_path, 500, name="other")]
    assert not any(row.outside_spread for row in published.rows(report.analysis, around))


def test_below_three_blocks_nobody_can_tell(tmp_path: Path) -> None:
    report = report_of(tmp_path / "run", blocks=2)
    (row,) = published.rows(report.analysis, [source(tmp_path)])
    assert row.position == NO_INTERVAL


def test_what_was_not_measured_is_no_zero(tmp_path: Path) -> None:
    report = report_of(tmp_path / "run", unavailable={"kernel-uprobe": "no BPF"})
    (row,) = published.rows(report.analysis, [source(tmp_path)])
    assert (row.label, row.ours, row.kept_ratio, row.position) == (None, None, None, NOT_MEASURED)


def test_other_servers_and_sizes_are_left_out(tmp_path: Path, report: Report) -> None:
    assert published.rows(report.analysis, [source(tmp_path, body_bytes=1024)]) == ()
    said = markdown.sections(published.sections(report, [source(tmp_path, body_bytes=1024)]))
    assert "No published figure has a server and body size of this run." in said


def test_an_open_loop_is_not_compared(tmp_path: Path) -> None:
    report = report_of(tmp_path / "run", loop="open")
    (row,) = published.rows(report.analysis, [source(tmp_path)])
    assert (row.ours, row.position) == (None, OPEN_LOOP)


# --- the setup ------------------------------------------------------------------------------------


def test_what_differs_in_the_setup(report: Report) -> None:
    seed = published.load(ROOT / "published")[0]
    found = {each.what: (each.published, each.ours) for each in published.differences(report, seed)}
    assert found["kernel"] == ("6.2.16-19-pve", "6.18.5")
    assert found["logical CPUs"] == ("48", "2")
    assert found["Go version"] == ("not recorded", "2:1.19~1")
    assert found["cost per hit"][0] == "not recorded"
    assert "single-stepped 5,200 ns" in found["cost per hit"][1]
    assert "load" not in found


def test_a_load_on_a_second_machine_is_one_of_them(report: Report) -> None:
    far = LoadHost("r730", "192.0.2.7", 90.0, 110.0, 0.0, 1e-5, 10_000, 10_000)
    remote = replace(report, run=replace(report.run, load_host=far))
    seed = published.load(ROOT / "published")[0]
    found = {each.what: (each.published, each.ours) for each in published.differences(remote, seed)}
    assert found["load from"] == ("not recorded", "r730")


def test_what_is_equal_is_left_out(tmp_path: Path, report: Report) -> None:
    same = source(tmp_path, host={"kernel": "6.18.5"}, tracer="gotrace")
    assert {each.what for each in published.differences(report, same)}.isdisjoint(
        {"kernel", "tracer", "load"}
    )


def test_the_text_names_what_lies_outside(report: Report) -> None:
    said = markdown.sections(published.sections(report, published.load(ROOT / "published")))
    assert said.startswith("# 20261122T131751Z-local-seed beside what was published\n")
    assert "ours is worse" in said
    assert "ours loses 29.1 percentage points more than published." in said
    assert "Not recorded by the source: Go version" in said
    assert "31688" not in said.replace(",", ""), "absolute figures belong to their host"


def test_text_of_a_run_stays_text(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", servers=("https",), sums=False, outcome="interrupted")
    edit_json(run_dir / "run.json", run_id="<script>alert(1)</script>")
    report = model.build(results.load(run_dir, strict=False))
    said = markdown.sections(published.sections(report, published.load(ROOT / "published")))
    assert "\\<script>" in said
