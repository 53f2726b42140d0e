"""The page and its charts as files, by their paths inside `report/`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from uplab import published
from uplab.published import Source
from uplab.report.charts import book, draw
from uplab.report.html import page
from uplab.report.model import Report

NAME = "report.html"
_PUBLISHED = Path(__file__).resolve().parents[3] / "published"


def files_of(report: Report) -> dict[str, bytes]:
    """`report.html`, and each of its charts as SVG and PDF; equal bytes for an equal report.

    The published figures are those of this checkout; without them, ours stand alone.
    """
    return files_beside(report, published.load(_PUBLISHED) if _PUBLISHED.is_dir() else ())


def files_beside(report: Report, sources: Sequence[Source]) -> dict[str, bytes]:
    """files_of() beside other published figures."""
    charts = book.make(report, sources)
    drawn = {chart.name: draw.svg(chart.spec) for chart in charts.all()}
    files = {NAME: page.render(report, charts, drawn, sources)}
    for name, picture in drawn.items():
        files[f"charts/{name}.svg"] = picture.encode()
        files[f"charts/{name}.pdf"] = draw.pdf(picture)
    return files


def get_ready() -> None:
    """Load what a page is made with, so that the next one is made at once.

    For idle moments, such as while a run is measured: it takes about a second of one CPU.
    """
    page.environment()
    draw.get_ready()
