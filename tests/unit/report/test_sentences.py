"""The one sentence for each server, and what is said of cells that were not measured."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.runs import KEPT, Traced, edit_json, make_run
from uplab import results
from uplab.report import columns, sentences
from uplab.report.model import Report, build


def report_of(run_dir: Path, **changes: Any) -> Report:
    spec: dict[str, Any] = {"servers": ("https",), "blocks": 4, "histogram_buckets": 20} | changes
    return build(results.load(make_run(run_dir, **spec), strict=False))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"modes": ("none", "none-again", "kernel-uprobe")},
            "On the https server, kernel-uprobe costs 84 % of the throughput.",
        ),
        (
            {"kept": {"tracer-only": 1.0}, "modes": ("none", "none-again", "tracer-only")},
            "On the https server, what tracer-only costs cannot be told from noise.",
        ),
        (
            {"kept": {"kernel-uprobe": 1.5}, "modes": ("none", "none-again", "kernel-uprobe")},
            "kernel-uprobe is 49.3 % faster.",
        ),
        (
            {"modes": ("none", "none-again", "kernel-uprobe"), "blocks": 0},
            "kernel-uprobe has no estimate.",
        ),
        ({"modes": ("none",)}, "No way of tracing was measured on the https server."),
        (
            {"sizes": (12, 4096), "modes": ("none", "none-again", "kernel-uprobe")},
            "On the https server (2 sizes of the answer), kernel-uprobe costs 84 % of",
        ),
        (
            {"modes": tuple(KEPT)},
            "; kernel-uprobe costs 84 % of the throughput; and userspace-uprobe costs ",
        ),
        (
            {"loop": "open", "modes": ("none", "none-again", "kernel-uprobe")},
            "kernel-uprobe costs 5",
        ),
    ],
)
def test_a_server_has_one_sentence(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    (short,) = sentences.in_short(report_of(tmp_path / "run", **changes))
    assert sentence in short
    assert short.endswith(".")


def test_ways_that_cannot_be_told_from_noise_are_counted(tmp_path: Path) -> None:
    traced = (Traced(), Traced("hybrid-entries"), Traced("hybrid", "daemon", {}, "daemon"))
    kept = {"https-userspace-uprobe-gotrace-hybrid-12B": 1.0}
    report = report_of(
        tmp_path / "run",
        modes=("none", "none-again", "userspace-uprobe"),
        traced=traced,
        kept=kept,
        noise=0.005,
    )
    (short,) = sentences.in_short(report)
    assert "in 2 of 3 ways (the other cannot be told from noise)" in short


def test_cells_of_one_reason_share_a_sentence_and_a_row(tmp_path: Path) -> None:
    traced = tuple(Traced(suffix=f"way{number}") for number in range(20))
    run_dir = make_run(
        tmp_path / "run",
        servers=("https",),
        modes=("none", "userspace-uprobe", "kernel-uprobe"),
        traced=traced,
        unavailable={"userspace-uprobe": "no bpftime"},
        blocks=1,
    )
    document = results.load(run_dir).path / "run.json"
    cells = [
        cell | ({"status": "not applicable"} if cell["id"].endswith("way19-12B") else {})
        for cell in _cells(document)
    ]
    edit_json(document, cells=cells)
    report = build(results.load(run_dir, strict=False))
    (group,) = report.analysis.groups
    said = list(sentences.answers(group, report))
    assert len(said) == 3
    assert said[1].startswith("19 ways were not measured on the https server, not available here")
    assert "1 combination is not applicable to the https server" in said[2]
    table = columns.unavailable(report.unavailable)
    assert [row[0] for row in table.rows if row[0]] == ["not available here", "not applicable"]
    named = ", ".join(row[3] for row in table.rows).split(", ")
    assert sorted(named) == sorted(cell.cell.cell_id for cell in report.unavailable)


def _cells(document: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(document.read_text())["cells"]
    return found
