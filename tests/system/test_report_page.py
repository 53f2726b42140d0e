"""The page of a run that was really measured, in a real browser."""

from __future__ import annotations

import urllib.parse
from pathlib import Path

from tests.browser import chromium
from tests.system.lab import Lab
from uplab.report.write import write_reports


def test_the_page_of_a_real_run_opens_with_all_its_charts(lab: Lab, tmp_path: Path) -> None:
    outcome = lab.measure(only="server=https")
    assert outcome.run_dir is not None
    page = write_reports(outcome.run_dir).with_name("report.html")
    with chromium(tmp_path) as browser:
        tab = browser.page()
        for width in (390, 1280):
            tab.look(width)
            tab.open(page)
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert tab.screenshot(tmp_path / f"{width}.png").stat().st_size > 20_000
        marks = tab.evaluate(
            "[...document.querySelectorAll('figure svg')].map("
            "svg => svg.querySelectorAll('[data-say]').length)"
        )
        links = tab.evaluate("[...document.querySelectorAll('a')].map(a => a.href)")
        assert tab.messages == []
    assert len(marks) == 5
    assert min(marks) > 0
    for link in links:
        found = urllib.parse.urlparse(link)
        assert Path(urllib.parse.unquote(found.path)).is_file(), link
