"""tests/system/reliability.py: the table of faults, and when a row is not the page's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.system import reliability
from tests.system.reliability import HEAD, Row, put, report, rows

ROW = Row("a disk breaks", "4", 2, 0, "`bench.collect`, then `bench.resume`")
EMPTY = f"before\n<!-- rows: begin -->\n{HEAD}<!-- rows: end -->\nafter\n"


def test_a_row_is_put_into_the_page_once() -> None:
    page = put(put(EMPTY, ROW), replace(ROW, fault="another"))
    page = put(page, replace(ROW, struck_at=3))
    assert rows(page) == [
        "| a disk breaks | 4 | 3 | 0 | `bench.collect`, then `bench.resume` |\n",
        "| another | 4 | 2 | 0 | `bench.collect`, then `bench.resume` |\n",
    ]
    assert page.startswith("before\n")
    assert page.endswith("<!-- rows: end -->\nafter\n")


@pytest.mark.parametrize(
    "other",
    [
        replace(ROW, code="0"),
        replace(ROW, lost=1),
        replace(ROW, back="itself"),
        replace(ROW, fault="another"),
    ],
)
def test_what_differs_from_the_page_is_seen(other: Row) -> None:
    line = str(ROW)
    assert replace(ROW, struck_at=7).is_like(line)
    assert not other.is_like(line)


def test_a_row_that_is_not_the_page_s_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reliability, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(reliability, "OUTPUT", tmp_path / "made" / "rows.md")
    monkeypatch.setattr(reliability, "_UPDATE", False)
    (tmp_path / "page.md").write_text(put(EMPTY, ROW))
    report(replace(ROW, struck_at=9))
    assert rows((tmp_path / "made" / "rows.md").read_text()) == [str(replace(ROW, struck_at=9))]
    for row in (replace(ROW, lost=1), replace(ROW, fault="not in the page")):
        with pytest.raises(AssertionError, match="UPLAB_UPDATE_GOLDEN=1"):
            report(row)
    assert rows((tmp_path / "page.md").read_text()) == [str(ROW)]
