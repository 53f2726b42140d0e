"""All runs over time: what is read and what is kept, what is left out and why, what is shown."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.browser import chromium
from tests.runs import Spec, edit_json, make_run
from uplab import results
from uplab.analysis import analyse
from uplab.errors import UsageError
from uplab.history import chart, page, rows, scan, shown, task
from uplab.history.shown import History
from uplab.history.store import Store
from uplab.history.task import Asked
from uplab.hostside import sums

ROOT = Path(__file__).resolve().parents[2]
SPEC = Spec(servers=("http",), modes=("none", "none-again", "kernel-uprobe"), blocks=4)
REPORT = [sys.executable, str(ROOT / "tasks.py"), "report.history", "--results"]
TRACED = "kernel-uprobe (gotrace)"


def add(folder: Path, day: int, host: str = "alpha", **changes: Any) -> Path:
    """A run of that day in the folder; `changes` are those of the Spec."""
    name = f"202601{day:02d}T120000Z-{host}-seed"
    run_dir = make_run(folder / name, Spec(**{**vars(SPEC), "seed": day, **changes}))
    edit(run_dir, run_id=name, host=host, started_utc=f"2026-01-{day:02d}T12:00:00.000000Z")
    return run_dir


def edit(run_dir: Path, **changes: Any) -> None:
    """Another run.json, vouched for like the first."""
    edit_json(run_dir / "run.json", **changes)
    sums.write(run_dir)


def on_host(run_dir: Path, **kernel: str) -> None:
    """Another kernel."""
    document = json.loads((run_dir / "host.json").read_text())
    document["before"]["kernel"].update(kernel)
    edit_json(run_dir / "host.json", **document)
    sums.write(run_dir)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "results"
    made.mkdir()
    return made


def read(folder: Path, **asked: Any) -> History:
    return task.read(Asked(folder, **asked))


def scanned(folder: Path) -> scan.Scanned:
    return scan.update(folder, Store(folder / task.STORE))


# --- what is read, and what is kept ---------------------------------------------------------------


def test_only_new_and_changed_runs_are_read(folder: Path) -> None:
    first = add(folder, 1)
    add(folder, 2)
    assert scanned(folder).read == 2
    assert scanned(folder).read == 0
    add(folder, 3)
    assert scanned(folder).read == 1
    edit(first, uplab_version="9.9.9")
    assert scanned(folder).read == 1
    versions = [run.uplab_version for run in read(folder).runs]
    assert versions == ["9.9.9", "0.1.0", "0.1.0"]


def test_a_report_made_again_changes_nothing(folder: Path) -> None:
    run_dir = add(folder, 1)
    scanned(folder)
    (run_dir / "report").mkdir()
    (run_dir / "report" / "report.md").write_text("new\n")
    assert scanned(folder).read == 0


def test_a_byte_that_changed_behind_the_sums_is_seen(folder: Path) -> None:
    run_dir = add(folder, 1)
    assert len(read(folder).runs) == 1
    log = next(run_dir.glob("trials/*/server.log"))
    log.write_text("other\n")
    history = read(folder)
    assert history.runs == ()
    (left_out,) = history.left_out
    assert f"changed: {log.relative_to(run_dir)}" in left_out.reason
    log.write_text("ready\n")
    assert len(read(folder).runs) == 1


def test_fresh_reads_everything_again(folder: Path) -> None:
    run_dir = add(folder, 1)
    scanned(folder)
    log = next(run_dir.glob("trials/*/server.log"))
    times = log.stat()
    log.write_text("READY\n")
    os.utime(log, ns=(times.st_atime_ns, times.st_mtime_ns))
    # As long as before and of the same time: only its bytes can tell.
    assert len(read(folder).runs) == 1
    assert read(folder, fresh=True).runs == ()


def test_a_run_that_was_removed_leaves_the_history(folder: Path) -> None:
    gone = add(folder, 1)
    add(folder, 2)
    assert len(read(folder).runs) == 2
    shutil.rmtree(gone)
    assert [run.run for run in read(folder).runs] == ["20260102T120000Z-alpha-seed"]
    with Store(folder / task.STORE).connected() as connection:
        (left,) = connection.execute("SELECT count(DISTINCT key) FROM cells").fetchone() or ()
    assert left == 1


@pytest.mark.parametrize("damage", ["empty", "text", "other-columns", "gone"])
def test_a_store_that_is_no_good_is_made_again(folder: Path, damage: str) -> None:
    add(folder, 1)
    before = read(folder)
    store = Store(folder / task.STORE)
    path = store.path("cells")
    if damage == "gone":
        path.unlink()
    elif damage == "other-columns":
        shutil.copy(store.path("runs"), path)
    else:
        path.write_bytes(b"" if damage == "empty" else b"no parquet at all")
    assert scanned(folder).read == 1
    assert read(folder) == before


def test_many_runs_are_read_by_several_processes_alike(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in range(1, 26):
        add(folder, day, blocks=1, modes=("none",))
    # As a process of its own, which ends with all that it started.
    done = subprocess.run([*REPORT, str(folder), "--json"], capture_output=True, check=True)
    monkeypatch.setattr(scan, "_FEW", 99)
    assert json.loads(done.stdout) == shown.document(read(folder, fresh=True))


def test_the_rows_are_the_report_s_figures(folder: Path) -> None:
    run_dir = add(folder, 1)
    (panel,) = read(folder).panels
    (group,) = analyse(results.load(run_dir)).groups
    cells = {cell.cell.mode: cell for cell in group.cells}
    none, traced = panel.series
    assert none.values == [cells["none"].requests_per_s]
    estimate = cells["kernel-uprobe"].overhead_pct
    assert estimate is not None
    assert estimate.interval is not None
    assert traced.values == [estimate.value]
    assert traced.points[0].interval == (estimate.interval.low, estimate.interval.high)
    assert traced.label == TRACED


def test_the_parquet_files_can_be_queried_by_anybody(folder: Path) -> None:
    import duckdb

    add(folder, 1)
    read(folder)
    path = Store(folder / task.STORE).path("cells")
    with duckdb.connect() as connection:
        asked = connection.execute(f"SELECT mode, n FROM '{path}' ORDER BY place")
        found = asked.fetchall()
    assert found == [("none", 4), ("none-again", 4), ("kernel-uprobe", 4)]


# --- what is left out -----------------------------------------------------------------------------


def test_what_cannot_be_trusted_is_left_out_with_its_reason(folder: Path) -> None:
    add(folder, 1)
    edit(add(folder, 2), schema=99)
    (add(folder, 3, outcome="running") / "SHA256SUMS").unlink()
    (folder / "empty").mkdir()
    (folder / ".hidden").mkdir()
    (folder / "history.html").write_text("ours")
    broken = add(folder, 6)
    (broken / "run.json").write_text("{")
    sums.write(broken)
    history = read(folder)
    assert [run.run for run in history.runs] == ["20260101T120000Z-alpha-seed"]
    reasons = {one.run: one.reason for one in history.left_out}
    assert list(reasons) == [
        "20260102T120000Z-alpha-seed",
        "20260103T120000Z-alpha-seed",
        "20260106T120000Z-alpha-seed",
        "empty",
    ]
    assert "schema 99" in reasons["20260102T120000Z-alpha-seed"]
    assert "the run is running" in reasons["20260103T120000Z-alpha-seed"]
    assert "not valid JSON" in reasons["20260106T120000Z-alpha-seed"]
    assert "run.json" in reasons["empty"]
    html = page.render(history, folder, folder).decode()
    for reason in ("schema 99", "the run is running", "not valid JSON"):
        assert reason in html


def test_whatever_a_run_says_the_others_are_shown(folder: Path) -> None:
    add(folder, 1)
    edit(add(folder, 2), blocks=2**64)
    edit(add(folder, 3), host="a\0\ud800\nb", pins={"\ud800\0": "\udfff"}, run_id="x" * 99_999)
    (folder / "odd\nname").mkdir()
    history = read(folder)
    assert [run.host for run in history.runs] == ["alpha", "a b"]
    assert {one.reason for one in history.left_out} == {
        f"blocks is {2**64}, which no run has",
        "its name holds what no name may",
    }
    assert page.render(history, folder, folder)
    assert json.dumps(shown.document(history))
    assert read(folder) == history


def test_a_run_may_lie_elsewhere(folder: Path, tmp_path: Path) -> None:
    elsewhere = add(tmp_path, 1)
    (folder / elsewhere.name).symlink_to(elsewhere)
    (folder / "dangling").symlink_to(tmp_path / "nowhere")
    history = read(folder)
    assert [run.run for run in history.runs] == [elsewhere.name]
    assert history.left_out == ()


def test_no_folder_and_no_such_host_are_said(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"Run: invoke bench\.all"):
        read(folder / "none")
    add(folder, 1)
    with pytest.raises(UsageError, match=r"no run of host 'alfa'.*did you mean alpha"):
        read(folder, host="alfa")


def test_a_folder_that_cannot_be_written_is_said(folder: Path, tmp_path: Path) -> None:
    add(folder, 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be written.*--cache FOLDER"):
        read(folder, cache=tmp_path / "file" / "store")
    assert read(folder, cache=tmp_path / "store").runs


# --- trends ---------------------------------------------------------------------------------------


def test_what_changed_is_marked_where_it_came(folder: Path) -> None:
    for day in (1, 2, 3):
        run_dir = add(folder, day)
        if day > 1:
            on_host(run_dir, release="6.19.0")
        if day > 2:
            edit(run_dir, pins={"go": "1.22"})
    history = read(folder)
    (panel,) = history.panels
    assert {at: change.fields for at, change in panel.changes.items()} == {
        2: (("kernel.release", "6.18.5", "6.19.0"),),
        3: (("pins.go", "1.19", "1.22"),),
    }
    assert [row[1:] for row in shown.changed(history.changes).rows] == [
        ("pins.go", "1.19", "1.22"),
        ("kernel.release", "6.18.5", "6.19.0"),
    ]
    said = json.dumps(chart.spec(panel))
    assert "before run 2: kernel.release from 6.18.5 to 6.19.0" in said


def test_a_change_in_a_run_without_a_figure_stands_at_the_next_one_with_it(folder: Path) -> None:
    add(folder, 1)
    on_host(add(folder, 2, servers=("https",)), release="6.19.0")
    on_host(add(folder, 3), release="6.19.0")
    http = next(panel for panel in read(folder).panels if panel.server == "http")
    assert list(http.changes) == [2]


def test_hosts_are_apart(folder: Path) -> None:
    add(folder, 1)
    on_host(add(folder, 2, host="beta"), release="6.19.0")
    history = read(folder)
    assert [panel.host for panel in history.panels] == ["alpha", "beta"]
    # Another host is no change of a host.
    assert history.changes == ()
    alone = read(folder, host="beta")
    assert [run.host for run in alone.runs] == ["beta"]
    assert alone.panels == history.panels[1:]


def test_other_settings_of_the_load_are_another_chart(folder: Path) -> None:
    add(folder, 1)
    add(folder, 2, loop="open")
    assert len(read(folder).panels) == 2


@pytest.mark.parametrize(
    ("kept", "moved"), [((0.16, 0.16), None), ((0.6, 0.16), "up"), ((0.16, 0.6), "down")]
)
def test_a_cell_that_moved_is_named(
    folder: Path, kept: tuple[float, float], moved: str | None
) -> None:
    for day, share in enumerate(kept, start=1):
        add(folder, day, kept={"kernel-uprobe": share})
    (panel,) = read(folder).panels
    (traced,) = [series for series in panel.series if series.label == TRACED]
    assert traced.moved == moved
    (row,) = [row for row in shown.newest(panel).rows if row[0] == TRACED]
    assert row[2] == (moved or "-")


def test_a_cell_without_a_figure_has_no_point(folder: Path) -> None:
    add(folder, 1)
    add(folder, 2, unavailable={"kernel-uprobe": "no tracer here"})
    (panel,) = read(folder).panels
    points = {series.label: len(series.points) for series in panel.series}
    assert points == {"none": 2, TRACED: 1}
    newest = shown.behind(panel).rows[0]
    assert newest[3] == "-"


# --- the page, the terminal, JSON -----------------------------------------------------------------


def test_the_page_is_the_same_bytes_and_fetches_nothing(folder: Path) -> None:
    add(folder, 1)
    add(folder, 2)
    html = page.render(read(folder), folder, folder)
    assert page.render(read(folder, fresh=True), folder, folder) == html
    text = html.decode()
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", text)
    assert "default-src 'none'" in text.replace("&#39;", "'")
    assert text.count("<svg") == 1


def test_the_page_links_the_reports_that_there_are(folder: Path, tmp_path: Path) -> None:
    with_report = add(folder, 1)
    add(folder, 2)
    (with_report / "report").mkdir()
    (with_report / "report" / "report.html").write_text("report")
    history = read(folder)
    path = page.write(history, folder, tmp_path / "elsewhere" / "h.html")
    links = re.findall(r'<th scope="row" class="run"><a href="([^"]+)"', path.read_text())
    assert [(path.parent / link).resolve() for link in links] == [
        with_report / "report" / "report.html"
    ]


def test_what_a_run_says_stays_text(folder: Path) -> None:
    run_dir = add(folder, 1)
    edit(run_dir, host="<script>alert(1)</script>\x1b[2J", uplab_version="<b>1</b>")
    html = page.render(read(folder), folder, folder).decode()
    assert "<script>alert" not in html
    assert "<b>1</b>" not in html
    assert "\x1b" not in html


def test_a_long_history_shows_the_newest_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in range(1, 7):
        run_dir = add(folder, day, blocks=1)
        if day in (2, 5):
            edit(run_dir, pins={"go": str(day)})
    monkeypatch.setattr(shown, "NEWEST", 3)
    html = page.render(read(folder), folder, folder).decode()
    assert "(the newest 3 of 6 runs)" in html
    # The index has them all.
    assert len(re.findall(r'<th scope="row" class="run">2026010\dT', html)) >= 6


def test_an_empty_folder_is_a_page_too(folder: Path) -> None:
    history = read(folder)
    assert "No run holds a figure." in page.render(history, folder, folder).decode()
    (runs, _) = shown.sections(history)
    assert runs.lines == ("None. Run: invoke bench.all",)


def test_json_holds_everything(folder: Path) -> None:
    add(folder, 1)
    on_host(add(folder, 2), release="6.19.0")
    document = shown.document(read(folder))
    assert [run["facts"]["kernel.release"] for run in document["runs"]] == ["6.18.5", "6.19.0"]
    assert len(document["cells"]) == 4
    assert document["changes"][0]["fields"] == [
        {"what": "kernel.release", "from": "6.18.5", "to": "6.19.0"}
    ]
    assert document["left_out"] == []
    json.dumps(document, allow_nan=False)


def test_the_columns_of_the_tables_have_types() -> None:
    assert rows.columns(rows.RunRow)["kernel"] == "VARCHAR"
    assert rows.columns(rows.CellRow)["overhead_pct"] == "DOUBLE"


def test_the_task_prints_and_writes(folder: Path) -> None:
    add(folder, 1)
    argv = [*REPORT, str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert TRACED in done.stdout
    assert done.stdout.endswith(f"\nhistory: {folder}/history.html\n")
    done = subprocess.run([*argv, "--json"], capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)["runs"]) == 1


def test_a_real_browser_shows_the_page(folder: Path, tmp_path: Path) -> None:
    for day in (1, 2, 3):
        run_dir = add(folder, day)
        if day == 3:
            on_host(run_dir, release="6.19.0")
    (folder / "empty").mkdir()
    path = page.write(read(folder), folder, folder / page.NAME)
    with chromium(tmp_path) as browser:
        tab = browser.page()
        for width in (390, 1280):
            tab.look(width)
            tab.open(path)
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
        said = tab.evaluate("[...document.querySelectorAll('[data-say]')].map(m => m.dataset.say)")
        tab.evaluate(
            "const i = document.querySelector('#filter'); i.value = '20260102';"
            "i.dispatchEvent(new Event('input'))"
        )
        matches = tab.evaluate("document.querySelector('#matches').textContent")
        assert tab.messages == []
    # Three runs of two cells, and what changed.
    assert len(said) == 7
    assert "before run 3: kernel.release from 6.18.5 to 6.19.0" in said
    assert matches == "1 of 3"
