"""What limited the figures, and which latencies they make incomparable, as a report says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.handmade import blocks_of, cell, run_of, trial
from tests.runs import make_run
from uplab import results
from uplab.analysis import analyse
from uplab.report import markdown, model, resources, sentences
from uplab.saturation import HOST, LOAD, NEITHER, OTHERS, SERVER

KINDS = (HOST, LOAD, NEITHER, OTHERS, SERVER)


def test_the_report_names_it_with_shares_and_meaning(tmp_path: Path) -> None:
    run = results.load(make_run(tmp_path / "run", servers=("https",), blocks=2))
    (group,) = analyse(run).groups
    table = resources.table(group)
    assert [row[0] for row in table.rows] == ["none", "none-again", *_traced(table.rows)]
    assert all(row[1] in KINDS for row in table.rows)
    assert resources.sentences(group)
    nothing = run_of([trial(1, cell("none"), 1, 1000)])
    (empty,) = analyse(nothing).groups
    assert resources.table(empty).rows == ()
    assert resources.sentences(empty) == []


def _traced(rows: tuple[tuple[str, ...], ...]) -> list[str]:
    return [row[0] for row in rows if "gotrace" in row[0]]


def test_the_report_has_it_as_a_section(tmp_path: Path) -> None:
    run = results.load(make_run(tmp_path / "run", servers=("https",), blocks=2))
    text = markdown.render(model.build(run))
    assert "## What limited the figures" in text
    assert "| mode | saturated | trials | server | load generator | whole host |" in text


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_explained(kind: str) -> None:
    assert resources.meaning(kind)


def test_a_closed_loop_s_note_names_the_modes_with_other_rates() -> None:
    none = [1000.0, 1010.0, 990.0, 1005.0]
    run = blocks_of(
        {
            "none": none,
            "none-again": [1001.0, 1008.0, 992.0, 1004.0],
            "tracer-only": [1000.5, 1009.0, 991.0, 1004.5],
            "kernel-uprobe": [rate / 5 for rate in none],
        }
    )
    (group,) = analyse(run).groups
    note = sentences.latency_note(group)
    assert note.endswith("Not comparable with none here: kernel-uprobe (gotrace).")


def test_without_a_verdict_the_note_names_no_mode() -> None:
    (group,) = analyse(blocks_of({"none": [1000.0], "kernel-uprobe": [200.0]})).groups
    assert sentences.latency_note(group).endswith("not comparable with each other.")


def test_where_no_mode_differs_the_note_says_so() -> None:
    same = {mode: [1000.0, 1010.0, 990.0] for mode in ("none", "none-again", "tracer-only")}
    same["none-again"] = [990.0, 1010.0, 1000.0]
    (group,) = analyse(blocks_of(same)).groups
    note = sentences.latency_note(group)
    assert note.endswith("In this run no mode differs from none by more than the noise.")
