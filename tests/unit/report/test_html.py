"""The report as a page, in a real browser, and as bytes."""

import json
import os
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Browser, Page, chromium
from tests.runs import KEPT, Spec, Traced, edit_json, make_run, write_json
from uplab import results
from uplab.hostside import sums
from uplab.hostside.reasons import REASONS
from uplab.report import write
from uplab.report.charts import style
from uplab.report.html import files, page, trials
from uplab.report.model import Report, build

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = "\x1b[31m\x1b]0;owned\x07<script>alert(1)</script><img src=x onerror=alert(1)>'\"&\u202e"
LOG = "\x1b[31mred\x1b[0m </pre><script>document.title = 'owned'</script>\n\x1b]0;owned\x07done\n"
CHARTS = ("overhead", "throughput", "latency", "cpu", "budget")


def report_of(run_dir: Path) -> Report:
    return build(results.load(run_dir, strict=False))


def written(run_dir: Path) -> Path:
    """The page of a run, beside its charts, in the run directory."""
    report = report_of(run_dir)
    return write.write_some(report, files.files_of(report)) / files.NAME


# ------------------------------------------------------------------------------------- the runs


def whole(directory: Path) -> Path:
    """All modes, userspace in two ways, under a runtime that lies at a long path."""
    options = {"bpftime_prefix": "/root/some/where/bpftime-own"}
    traced = (Traced(options=options), Traced("hybrid-entries", options=options))
    return make_run(directory, modes=tuple(KEPT), traced=traced, blocks=4)


def with_everything_wrong(directory: Path) -> Path:
    """A trial for every reason to be invalid, with logs that would like to be more than text."""
    cells = ("https-kernel-uprobe-gotrace-12B", "http-none-12B", "http-tracer-only-gotrace-12B")
    invalid = {(cells[i % 3], 1 + i // 3, 1): "to be replaced" for i in range(len(REASONS))}
    why = {"userspace-uprobe": "no bpftime on this host", "as-shipped": "makes no sense"}
    run_dir = make_run(
        directory,
        modes=(*KEPT, "as-shipped"),
        kept={"as-shipped": 0.5},
        blocks=-(-len(REASONS) // 3),
        invalid=invalid,
        flagged={("https-none-12B", 1, 1): "steal 6.1 % > 5.0 %"},
        unavailable=why,
        histogram_buckets=40,
    )
    codes = iter(REASONS)
    for path in sorted(run_dir.glob("trials/*/trial.json")):
        trial = json.loads(path.read_text())
        if not trial["verdict"]["valid"]:
            code = next(codes)
            trial["verdict"]["reasons"] = [{"code": code, "text": f"as seen: {code}{HOSTILE}"}]
            write_json(path, trial)
            path.with_name("tracer.log").write_text(LOG, encoding="utf-8")
    assert next(codes, None) is None
    document = json.loads((run_dir / "run.json").read_text())
    for cell in document["cells"]:
        if cell["mode"] == "as-shipped":
            cell["status"] = "not applicable"
    write_json(run_dir / "run.json", document)
    (run_dir / "SHA256SUMS").unlink()
    sums.write(run_dir)
    return run_dir


def empty(directory: Path) -> Path:
    run_dir = make_run(directory, blocks=0, servers=())
    edit_json(run_dir / "run.json", hit_cost=[], pins={}, artifacts={})
    (run_dir / "host.json").unlink()
    return run_dir


def hostile(directory: Path) -> Path:
    """Every text of a run that no code depends on has something added to it."""
    # Servers that differ in which latencies can be compared: each has an explanation of its own.
    kept = {"http-kernel-uprobe-gotrace-12B": 1.0}
    run_dir = make_run(directory, modes=tuple(KEPT), blocks=3, kept=kept)
    for path in [*run_dir.glob("trials/*/trial.json"), run_dir / "run.json", run_dir / "host.json"]:
        write_json(path, _hostile(json.loads(path.read_text())))
    return run_dir


def _hostile(value: Any, key: str = "") -> Any:
    kept = ("id", "trial", "plan_sha256", "outcome", "status", "mode", "started_utc", "loop")
    if isinstance(value, dict):
        return {name: _hostile(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_hostile(inner, key) for inner in value]
    return value + HOSTILE if isinstance(value, str) and key not in kept else value


RUNS: dict[str, Callable[[Path], Path]] = {
    "whole": whole,
    "wrong": with_everything_wrong,
    "empty": empty,
    "hostile": hostile,
    "open": lambda directory: make_run(directory, loop="open", servers=("https",), blocks=3),
    "sizes": lambda directory: make_run(directory, sizes=(12, 4096), servers=("http",), blocks=3),
    "short": lambda directory: make_run(directory, modes=("none",), servers=("http",), blocks=1),
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of each run."""
    folder = tmp_path_factory.mktemp("pages")
    return {name: written(make(folder / name)) for name, make in RUNS.items()}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    opened = browser.page()
    yield opened
    opened.call("Page.close")


# ------------------------------------------------------------------------------------ in a browser


def texts(tab: Page, selector: str) -> list[str]:
    found: list[str] = tab.evaluate(
        f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)"
    )
    return found


@pytest.mark.parametrize("name", RUNS)
def test_a_page_opens_without_a_message_and_fits_the_window(
    pages: dict[str, Path], tab: Page, name: str, tmp_path: Path
) -> None:
    for width in (390, 1280):
        for dark in (False, True):
            tab.look(width, dark=dark)
            tab.open(pages[name])
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            shot = tab.screenshot(tmp_path / f"{name}-{width}-{dark}.png", height=1600)
            assert shot.stat().st_size > 5_000
            paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (paper == "rgb(255, 255, 255)") is not dark
    assert tab.messages == []
    assert tab.evaluate("document.title").startswith("local")


def test_what_goes_wrong_in_a_page_is_noticed(tmp_path: Path, tab: Page) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='missing.png'><script>console.error('oh'); nothing.here()</script>")
    tab.look(390)
    tab.open(bad)
    said = " ".join(tab.messages)
    assert all(word in said for word in ("oh", "nothing is not defined", "ERR_FILE_NOT_FOUND"))


@pytest.mark.parametrize("name", RUNS)
def test_every_chart_has_marks_that_lie_within_it(
    pages: dict[str, Path], tab: Page, name: str
) -> None:
    tab.look(1280)
    tab.open(pages[name])
    # Closed details have no size.
    tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    charts = tab.evaluate(
        """[...document.querySelectorAll('figure svg')].map(svg => {
          const room = svg.getBoundingClientRect();
          const marks = [...svg.querySelectorAll('[data-say]')].map(e => e.getBoundingClientRect());
          const inside = r => r.left >= room.left - 1 && r.right <= room.right + 1 &&
            r.top >= room.top - 1 && r.bottom <= room.bottom + 1;
          return {says: svg.getAttribute('aria-label'), marks: marks.length,
                  outside: marks.filter(r => !inside(r)).length};
        })"""
    )
    assert (charts == []) == (name == "empty")
    for chart in charts:
        assert chart["says"].startswith("Chart: ")
        assert chart["marks"] > 0, chart
        assert chart["outside"] == 0, chart
    if name == "whole":
        assert len(charts) == 2 * len(CHARTS)


@pytest.mark.parametrize("name", RUNS)
def test_every_link_leads_somewhere(pages: dict[str, Path], tab: Page, name: str) -> None:
    tab.look(1280)
    tab.open(pages[name])
    links = tab.evaluate("[...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")
    assert links
    for link in links:
        if link.startswith("#"):
            assert tab.evaluate(f"!!document.getElementById({json.dumps(link[1:])})"), link
        else:
            assert (pages[name].parent / urllib.parse.unquote(link)).is_file(), link
    in_all = len(list((pages[name].parent.parent / "trials").iterdir()))
    logs = [link for link in links if link.endswith("/server.log")]
    assert len(logs) == in_all


@pytest.mark.parametrize("name", ["wrong", "hostile"])
def test_text_of_a_host_stays_text(pages: dict[str, Path], tab: Page, name: str) -> None:
    tab.look(1280)
    tab.open(pages[name])
    shown = tab.evaluate("document.body.textContent")
    assert "<script>" in shown
    assert "owned" not in tab.evaluate("document.title")
    # The page's own, and one that holds data.
    assert tab.evaluate("document.scripts.length") <= 2
    assert tab.evaluate("document.images.length") == 0
    content = pages[name].read_text(encoding="utf-8")
    assert not any(character in content for character in "\x1b\x07\u202e")
    assert "<script>alert" not in content


def test_nothing_runs_that_is_not_the_page_s_own(pages: dict[str, Path], tab: Page) -> None:
    tab.look(1280)
    tab.open(pages["whole"])
    tab.evaluate(
        "(() => { const s = document.createElement('script'); s.textContent = 'window.evil = 1';"
        " document.body.append(s); })()"
    )
    assert tab.evaluate("window.evil === undefined")
    assert any("Content Security Policy" in message for message in tab.messages)


def test_a_mark_says_its_figure_to_the_keyboard(pages: dict[str, Path], tab: Page) -> None:
    tab.look(390)
    tab.open(pages["whole"])
    tab.evaluate("document.querySelector('figure svg').focus()")
    said = []
    for _ in range(2):
        tab.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
        said.append(tab.evaluate("document.getElementById('tip').textContent"))
    assert said[0] != said[1]
    assert all(re.match(r"tracer-only \(gotrace\): 1\d\.\d % \(", text) for text in said[:1])
    tab.call("Input.dispatchKeyEvent", type="keyDown", key="Escape")
    assert tab.evaluate("document.getElementById('tip').hidden")


def test_trials_beyond_the_first_are_added_and_filtered(
    tmp_path: Path, tab: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "IN_PAGE", 10)
    made = written(with_everything_wrong(tmp_path / "run"))
    in_all = len(list((tmp_path / "run" / "trials").iterdir()))
    tab.look(1280)
    tab.open(made)
    assert tab.evaluate("document.querySelectorAll('#all tbody tr').length") == 10
    first = texts(tab, "#all tbody tr:first-child td")
    tab.evaluate("document.querySelector('#more button').click()")
    assert tab.evaluate("document.querySelectorAll('#all tbody tr').length") == in_all
    last = "#all tbody tr:last-child"
    assert len(texts(tab, f"{last} td")) == len(first)
    for link in tab.evaluate(f"[...document.querySelectorAll('{last} a')].map(a => a.href)"):
        assert Path(urllib.parse.unquote(urllib.parse.urlparse(link).path)).is_file()
    tab.evaluate(
        "(() => { const i = document.getElementById('filter'); i.value = 'port-in-use';"
        " i.dispatchEvent(new Event('input')); })()"
    )
    assert texts(tab, "#matches") == [f"1 of {in_all}"]
    assert len(texts(tab, "#all tbody tr:not([hidden])")) == 1
    assert tab.messages == []


def test_without_a_script_and_on_paper_everything_is_there(
    pages: dict[str, Path], tab: Page, tmp_path: Path
) -> None:
    tab.look(718, paper=True)
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(pages["whole"])
    # Tables that are folded on a screen are seen on paper.
    visible = (
        "[...document.querySelectorAll('#cost svg, #cost table')].map("
        "e => e.checkVisibility() && e.getBoundingClientRect().height > 20)"
    )
    seen = tab.evaluate(visible)
    assert len(seen) >= 4
    assert all(seen)
    tab.look(718)
    assert not all(tab.evaluate(visible))
    assert tab.pdf(tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


# ------------------------------------------------------------------------------------ what it says


class _Tags(HTMLParser):
    """What a page holds, by tag."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags(content: str, name: str) -> list[dict[str, str | None]]:
    return [attributes for tag, attributes in _Tags(content).found if tag == name]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("whole", "On the https server, tracer-only costs 1"),
        ("whole", "bpftime-own is /root/some/where/bpftime-own"),
        ("whole", "userspace-uprobe (gotrace, hybrid-entries, bpftime-own)"),
        ("whole", "was published"),
        ("whole", "<dt>noise floor, https</dt>"),
        ("wrong", "<dt>cells not available here</dt><dd>2 of 12</dd>"),
        ("wrong", "makes no sense"),
        ("wrong", "steal 6.1 % &gt; 5.0 %"),
        ("wrong", "red &lt;/pre&gt;&lt;script&gt;"),
        ("empty", "The run holds no cell."),
        ("empty", "NOT verified"),
        ("open", "more CPU per request"),
        ("sizes", "On the http server (2 sizes of the answer), tracer-only costs"),
        ("short", "<dt>noise floor, http</dt><dd>unknown</dd>"),
    ],
)
def test_a_page_says(pages: dict[str, Path], name: str, sentence: str) -> None:
    assert sentence in pages[name].read_text(encoding="utf-8")


def test_every_reason_is_in_the_page(pages: dict[str, Path]) -> None:
    content = pages["wrong"].read_text(encoding="utf-8")
    assert all(f"{code}: as seen: {code}" in content for code in REASONS)


def test_a_page_loads_nothing_and_can_be_used_without_eyes(pages: dict[str, Path]) -> None:
    for path in pages.values():
        content = path.read_text(encoding="utf-8")
        assert not tags(content, "link")
        assert not [script for script in tags(content, "script") if "src" in script]
        assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)\S+[\"']", content)
        assert tags(content, "html") == [{"lang": "en"}]
        assert len(tags(content, "h1")) == len(tags(content, "main")) == 1
        for heading in tags(content, "th"):
            assert heading["scope"] in ("col", "row")
        assert len(tags(content, "table")) == len(tags(content, "caption"))
        for chart in tags(content, "svg"):
            assert chart["role"] == "img"
            assert chart["aria-label"]
        ids = [found["id"] for _, found in _Tags(content).found if found.get("id")]
        assert len(ids) == len(set(ids))


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio of two colours."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_colours_of_charts_and_page_can_be_read() -> None:
    look = (ROOT / "uplab" / "report" / "html" / "page.css").read_text()
    light, dark = (
        dict(re.findall(r"--([a-z-]+):(#[0-9a-f]{3,6})", part))
        for part in re.findall(r":root\{([^}]*)\}", look)
    )
    light["paper"] = "#ffffff"
    for scheme in (light, dark):
        for name in ("ink", "muted", "link", "warn"):
            assert contrast(scheme[name], scheme["paper"]) >= 4.5, name
        assert contrast(scheme["ink"], scheme["soft"]) >= 4.5
        assert contrast(scheme["warn"], scheme["warn-soft"]) >= 4.5
    quiet = {style.PAPER, style.GRID, style.BAND}
    for colour in set(style.COLOURS) - quiet:
        assert contrast(colour, style.PAPER) >= 4.5, colour
        assert contrast(page.DARK[colour], dark["paper"]) >= 4.5, colour
    # Texts stand on the band of the noise floor too.
    assert contrast(style.MUTED, style.BAND) >= 4.5
    assert contrast(page.DARK[style.MUTED], page.DARK[style.BAND]) >= 4.5
    assert set(page.DARK) == set(style.COLOURS)


# -------------------------------------------------------------------------------------- same bytes


def test_the_same_run_gives_the_same_bytes_anywhere(tmp_path: Path) -> None:
    run_dir = whole(tmp_path / "run")
    program = (
        "import sys, pathlib; from uplab import results; from uplab.report.model import build;"
        "from uplab.report import write; from uplab.report.html import files;"
        "report = build(results.load(pathlib.Path(sys.argv[1])));"
        "write.write_some(report, files.files_of(report))"
    )
    made = []
    for number, (timezone, locale) in enumerate(
        [("UTC", "C"), ("Pacific/Kiritimati", "tr_TR.UTF-8"), ("America/New_York", "de_DE")]
    ):
        elsewhere = tmp_path / f"cwd{number}"
        elsewhere.mkdir()
        subprocess.run(
            [sys.executable, "-c", program, os.path.relpath(run_dir, elsewhere)],
            cwd=elsewhere,
            env=os.environ
            | {"TZ": timezone, "LC_ALL": locale, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "77"},
            check=True,
        )
        made.append(
            {
                str(path.relative_to(run_dir)): path.read_bytes()
                for path in sorted((run_dir / "report").rglob("*"))
                if path.is_file()
            }
        )
    assert made[0] == made[1] == made[2]
    assert {Path(name).suffix for name in made[0]} == {".html", ".svg", ".pdf"}
    assert len(made[0]) == 1 + 2 * 2 * len(CHARTS)


def test_the_data_for_the_script_cannot_end_its_element() -> None:
    shown = trials.json_for_script({"a": "</script><script>alert(1)</script>&\u2028"})
    assert not set("<>&\u2028") & set(shown)
    assert json.loads(shown) == {"a": "</script><script>alert(1)</script>&\u2028"}


def test_a_page_without_published_figures_is_one_too(tmp_path: Path) -> None:
    report = report_of(make_run(tmp_path / "run", blocks=3, servers=("http",)))
    content = files.files_beside(report, ())[files.NAME].decode()
    assert "was published" not in content
    assert "tracer-only (gotrace)" in content


def test_a_run_with_many_groups_names_its_highest_noise_floor(tmp_path: Path) -> None:
    spec = Spec(servers=("http",), sizes=(1, 2, 4, 8), blocks=3, logs=False, histogram_buckets=9)
    content = files.files_beside(report_of(make_run(tmp_path / "run", spec)), ())[files.NAME]
    assert content.count(b"<dt>highest noise floor, ") == 1
