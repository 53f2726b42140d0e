"""Charts as specifications: what is on them, and that names on them do not touch."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runs import KEPT, Traced, make_run
from uplab import published, results
from uplab.analysis import Group
from uplab.report.charts import book, draw, overhead, style
from uplab.report.charts.overhead import Published
from uplab.report.model import Report, build

ROOT = Path(__file__).resolve().parents[3]
PIXELS = st.floats(-200, 400, allow_nan=False)


def report_of(tmp_path: Path, **changes: Any) -> Report:
    return build(results.load(make_run(tmp_path / "run", **changes)))


def renamed(run_dir: Path, names: dict[str, str]) -> Report:
    """The report of a run in whose documents these values are others."""
    for path in [*run_dir.glob("trials/*/trial.json"), run_dir / "run.json"]:
        text = path.read_text()
        for old, new in names.items():
            text = text.replace(f'": "{old}"', f'": {json.dumps(new)}')
        path.write_text(text)
    return build(results.load(run_dir, strict=False))


def one_group(tmp_path: Path, **changes: Any) -> Group:
    (group,) = report_of(tmp_path, **{"servers": ("https",), **changes}).analysis.groups
    return group


def values(spec: Any, field: str) -> list[dict[str, Any]]:
    """The values of all layers that have a field."""
    found = [value for layer in spec["layer"] for value in layer["data"]["values"]]
    return [value for value in found if field in value]


def texts(spec: Any) -> list[str]:
    return [value["text"] for value in values(spec, "text")]


# -------------------------------------------------------------------------------- names that fit


@given(st.lists(PIXELS, max_size=9))
def test_names_keep_their_distance_and_their_order(wanted: list[float]) -> None:
    places = style.apart(wanted, 26, 8, 260)
    in_order = [place for _, place in sorted(zip(wanted, places, strict=True))]
    assert all(b - a >= 25.8 for a, b in pairwise(in_order))
    assert all(7.9 <= place <= 260.1 for place in places)


@given(st.lists(st.floats(20, 100), max_size=4))
def test_names_that_have_room_stay_where_they_belong(steps: list[float]) -> None:
    wanted = [20 + sum(steps[:at]) for at in range(len(steps) + 1)]
    places = style.apart(wanted, 20, 0, 1000)
    assert places == pytest.approx(wanted, abs=0.1)


@pytest.mark.parametrize(
    ("figure", "shown"),
    [
        ("20.0 % (-17.8 to 45.7)", "20.0 % (\u221217.8 to 45.7)"),
        ("850 us", "850 µs"),
        ("extra CPU us/req", "extra CPU µs/req"),
        ("hybrid-2 status", "hybrid-2 status"),
    ],
)
def test_figures_are_set_with_their_own_signs(figure: str, shown: str) -> None:
    assert style.typeset(figure) == shown


# ------------------------------------------------------------------------------- what is on them


def test_every_mode_has_its_name_its_figure_and_what_was_published(tmp_path: Path) -> None:
    group = one_group(tmp_path, modes=tuple(KEPT), blocks=4)
    spec = overhead.spec(group, [Published("seed", "kernel-uprobe", 54.6)])
    shown = texts(spec)
    order = [text for text in shown if "uprobe" in text or text.startswith("tracer")]
    assert order == [
        "tracer-only (gotrace)",
        "kernel-uprobe (gotrace)",
        "kernel-uprobe, published (seed)",
        "userspace-uprobe (gotrace, hybrid)",
    ]
    assert "54.6 %" in shown
    assert "noise floor" in shown
    assert sum(" to " in text for text in shown) == 3


@pytest.mark.parametrize("kept", [0.0001, 0.5, 1.0, 3.0, 50.0])
def test_no_figure_and_no_mark_leaves_the_chart(tmp_path: Path, kept: float) -> None:
    group = one_group(
        tmp_path, kept={"kernel-uprobe": kept, "tracer-only": 1 / kept}, blocks=3, noise=0.4
    )
    spec = overhead.spec(group, [])
    assert spec is not None
    low, high = spec["layer"][-1]["encoding"]["x"].get("scale") or (0, style.PLOT)
    for value in values(spec, "text"):
        wide = style.text_px(value["text"]) if " %" in value["text"] else 0
        assert low <= value["x"] <= high or wide == 0
    (domain,) = {tuple(x) for x in _domains(spec)}
    for value in values(spec, "at"):
        assert domain[0] <= value["at"] <= domain[1]
        assert domain[0] <= value.get("to", domain[0]) <= domain[1]


def _domains(spec: Any) -> list[list[float]]:
    scales = [layer["encoding"]["x"].get("scale") for layer in spec["layer"]]
    return [scale["domain"] for scale in scales if scale]


def test_nothing_measured_is_no_chart(tmp_path: Path) -> None:
    report = report_of(tmp_path, blocks=0)
    assert list(book.make(report, ()).all()) == []


def test_the_names_of_files_are_harmless_and_differ(tmp_path: Path) -> None:
    report = renamed(make_run(tmp_path / "run", blocks=1), {"https": "a/../b", "http": "ab"})
    names = [chart.name for chart in book.make(report, ()).all()]
    assert len(names) == len(set(names))
    assert all(name.replace("-", "").isalnum() for name in names)
    assert {"overhead-ab-12B", "overhead-ab-12B-2"} <= set(names)


def test_a_waterfall_ends_with_the_check(tmp_path: Path) -> None:
    options = {"bpftime_prefix": ""}
    report = report_of(
        tmp_path, servers=("https",), modes=tuple(KEPT), traced=(Traced(options=options),), blocks=3
    )
    (chart,) = book.make(report, ()).by_group[book.BUDGET].values()
    shown = texts(chart.spec)
    assert {"kernel-uprobe (gotrace)", "userspace-uprobe (gotrace, hybrid)"} <= set(shown)
    (cell,) = [cell for _, cell in report.rows() if cell.cell.mode == "kernel-uprobe" and cell.n]
    assert cell.reconciliation
    steps = [text for text in shown if " µs" in text][:4]
    assert [step.rsplit(" ", 2)[0] for step in steps] == [
        "none",
        "tracer",
        "probes",
        "hits \u00d7 cost",
    ]
    calculated_us = cell.reconciliation.calculated_us
    assert calculated_us
    assert steps[3].endswith(f"{calculated_us:,.1f} µs")
    bars = {
        value["say"].split(": ")[1].rsplit(" ", 2)[0]: value
        for value in values(chart.spec, "say")
        if value["say"].startswith("kernel-uprobe")
    }
    assert bars["tracer"]["at"] == bars["none"]["to"]
    assert bars["probes"]["at"] == bars["hits \u00d7 cost"]["at"] == bars["tracer"]["to"]
    check = bars["hits \u00d7 cost"]
    assert check["to"] - check["at"] == pytest.approx(calculated_us)


def test_latencies_reach_to_the_last_percentile_that_the_samples_carry(tmp_path: Path) -> None:
    few = report_of(tmp_path / "few", servers=("https",), blocks=1, histogram_buckets=20)
    many = report_of(tmp_path / "many", servers=("https",), blocks=3, histogram_buckets=6000)
    for report, last in ((few, 1.0), (many, 4.0)):
        (chart,) = book.make(report, ()).by_group[book.LATENCY].values()
        said = [value["x"] for value in values(chart.spec, "say")]
        assert max(said) == last


def test_sizes_have_a_chart_with_published_figures_of_their_server(tmp_path: Path) -> None:
    report = report_of(tmp_path, sizes=(1024, 4096), blocks=3)
    sources = published.load(ROOT / "published")
    charts = book.make(report, sources).sizes
    assert list(charts) == ["https", "http"]
    said = [value["say"] for value in values(charts["http"].spec, "say")]
    assert any("published (upstream-by-size)" in text for text in said)


def test_under_an_open_loop_nothing_published_stands_beside_ours(tmp_path: Path) -> None:
    report = report_of(tmp_path, loop="open", blocks=3)
    sources = published.load(ROOT / "published")
    assert "published" not in json.dumps([c.spec for c in book.make(report, sources).all()])


# -------------------------------------------------------------------------------------- drawn


def test_a_drawing_is_xml_without_ids_and_the_same_twice(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", blocks=3, servers=("https",))
    (group,) = renamed(run_dir, {"gotrace": "<script>&\"'"}).analysis.groups
    spec = overhead.spec(group, [])
    assert spec is not None
    assert "tracer-only (<script>&\"')" in texts(spec)
    picture = draw.svg(spec)
    assert draw.svg(spec) == picture
    assert {draw.pdf(picture) for _ in range(5)} == {draw.pdf(picture)}
    root = ElementTree.fromstring(picture)
    assert not [element for element in root.iter() if "id" in element.attrib]
    assert not [element for element in root.iter() if element.tag.endswith("script")]


def test_getting_ready_draws_nothing_that_is_kept() -> None:
    draw.get_ready()
