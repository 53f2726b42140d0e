"""uplab/importing.py: texts of a load as a run, with what they do not prove marked."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from uplab import checksums, claims, importing, published, results
from uplab.errors import UsageError
from uplab.export import formats
from uplab.importing import Given
from uplab.report import markdown, model
from uplab.report.model import Report
from uplab.report.write import write_reports

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "wrk"
DOCUMENT = DATA / "seed-document.md"
NOW = datetime(2026, 11, 22, 13, 17, 51, tzinfo=UTC)
TEXT = """Running 10s test @ http://127.0.0.1:447
  10 threads and 100 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     3.97ms    5.62ms 145.05ms   88.74%
    Req/Sec     4.19k   642.85     8.18k    81.37%
  {requests} requests in 10.00s, 51.87MB read
Requests/sec:  {rate}
Transfer/sec:      5.19MB
"""


def text(rate: int) -> str:
    return TEXT.format(requests=rate * 10, rate=f"{rate}.00")


def imported(folder: Path, *named: Path, **given: Any) -> Path:
    told = Given(**({"body_bytes": 12} | given))
    found = importing.read(importing.files_of([*map(str, named)]), ROOT / "loads", told, None)
    return importing.write(found, told, folder, NOW)


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return model.build(results.load(imported(tmp_path_factory.mktemp("imported"), DOCUMENT)))


def test_the_published_document_becomes_its_six_results(seed: Report) -> None:
    found = {
        (trial.cell.server, trial.cell.mode): trial.load.requests_per_s
        for trial in seed.run.trials
        if trial.load
    }
    (source, *_) = published.load(ROOT / "published")
    assert found == {(each.server, each.mode): each.requests_per_s for each in source.results}


def test_its_overheads_are_the_published_ones(seed: Report) -> None:
    rows = published.rows(seed.analysis, published.load(ROOT / "published")[:1])
    assert len(rows) == 4
    for row in rows:
        assert row.ours is not None
        assert row.ours.value == pytest.approx(row.published_pct)
        assert row.position == published.NO_INTERVAL


def test_what_is_not_proved_is_marked(seed: Report) -> None:
    assert seed.run.provenance == "imported"
    assert {cell.grade for _, cell in seed.rows()} == {"not attested"}
    said = markdown.render(seed)
    assert "kernel-uprobe (not attested)" in said
    assert "Not attested: that the server was traced as its mode says" in said
    assert "these figures were not measured" not in said.lower()


def test_what_no_text_holds_is_missing_and_never_zero(seed: Report) -> None:
    for trial in seed.run.trials:
        assert (trial.cpu, trial.hits, trial.wall_s, trial.started_utc) == (None,) * 4
        assert trial.load is not None
        assert trial.load.histogram_count is None
        assert trial.load.latency_us["p99"] is None
        assert trial.load.latency_us["avg"]
    assert seed.run.fingerprint_before == {}
    rows = formats.render(seed, "jsonl").decode().splitlines()
    assert all(json.loads(row)["server_cpu_us_per_request"] is None for row in rows)


def test_it_goes_through_every_report(seed: Report) -> None:
    assert write_reports(seed.run.path).is_file()
    for form in formats.FORMATS:
        assert formats.render(seed, form)
    cases = claims.decide(seed, claims.load(ROOT / "claims" / "seed.yml"))
    assert {case.said for case in cases} == {"cannot tell (n = 1, needs at least 3)"}


def test_the_texts_are_kept_and_vouched_for(seed: Report) -> None:
    assert seed.run.verified
    assert checksums.differences(seed.run.path) == []
    (copy,) = (seed.run.path / "imported").iterdir()
    assert copy.read_bytes() == DOCUMENT.read_bytes()
    first = json.loads(next((seed.run.path / "trials").glob("0001-*/trial.json")).read_text())
    assert first["imported"] == {"file": f"imported/{copy.name}", "report": 1}


def test_folders_of_texts_are_repeats(tmp_path: Path) -> None:
    for mode, rate in (("no-probe", 1000), ("user-uprobe", 600), ("kernel-uprobe", 200)):
        for repeat in range(4):
            path = tmp_path / "logs" / "http" / mode / f"{repeat}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(rate + repeat))
    run_dir = imported(tmp_path / "results", tmp_path / "logs", tracer="deepflow")
    report = model.build(results.load(run_dir))
    found = {cell.cell.mode: (cell.n, cell.cell.tracer) for _, cell in report.rows()}
    assert found == {
        "none": (4, None),
        "userspace-uprobe": (4, "deepflow"),
        "kernel-uprobe": (4, "deepflow"),
    }
    kernel = next(cell for _, cell in report.rows() if cell.cell.mode == "kernel-uprobe")
    assert kernel.overhead_pct is not None
    assert kernel.overhead_pct.interval is not None
    assert kernel.overhead_pct.value == pytest.approx(79.9, abs=0.1)


def test_a_text_with_errors_is_an_invalid_trial(tmp_path: Path) -> None:
    shutil.copy(DATA / "timeouts.txt", tmp_path / "kernel-uprobe.txt")
    report = model.build(
        results.load(imported(tmp_path / "results", tmp_path / "kernel-uprobe.txt"))
    )
    (trial,) = report.invalid
    assert any("socket errors" in reason.text for reason in trial.reasons)


@pytest.mark.parametrize(
    ("named", "mode"),
    [
        ("Without trace", "none"),
        ("no-probe", "none"),
        ("no_probe", "none"),
        ("baseline", "none"),
        ("no-uprobe", "tracer-only"),
        ("tracer-only", "tracer-only"),
        ("With kernel uprobe", "kernel-uprobe"),
        ("With bpftime userspace uprobe (mocked hashmap)", "userspace-uprobe"),
        ("user-uprobe", "userspace-uprobe"),
        ("logs/kernel-uprobe/run-1.txt", "kernel-uprobe"),
        ("bpftime/without-trace.txt", "none"),
        ("bpftime-none.txt", "none"),
        ("bpftime.txt", "userspace-uprobe"),
        ("none-again", "none-again"),
        ("HTTPS", None),
        ("Test examples (https)", None),
        ("nonesuch", None),
    ],
)
def test_a_mode_is_read_from_words(named: str, mode: str | None) -> None:
    assert importing.mode_of(named) == mode


def test_a_text_that_names_no_mode_is_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text(text(1000))
    with pytest.raises(UsageError, match=r"does not say how the server was traced.*--mode MODE"):
        imported(tmp_path / "results", path)
    run_dir = imported(tmp_path / "results", path, mode="none", server="mine", host="box 7")
    run = results.load(run_dir)
    assert (run.trials[0].cell.mode, run.trials[0].cell.server) == ("none", "mine")
    assert run_dir.name == "20261122T131751Z-box-7-imported"


def test_a_folder_above_what_was_named_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "kernel-uprobe" / "logs" / "1.txt"
    path.parent.mkdir(parents=True)
    path.write_text(text(1000))
    for named in (path, path.parent):
        with pytest.raises(UsageError, match="does not say how"):
            imported(tmp_path / "results", named)
    run = results.load(imported(tmp_path / "results", path.parent.parent))
    assert run.trials[0].cell.mode == "kernel-uprobe"


def test_a_report_below_no_heading_is_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "log.md"
    path.write_text(f"{text(1000)}\n# With kernel uprobe\n{text(200)}")
    with pytest.raises(UsageError, match="does not say how"):
        imported(tmp_path / "results", path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((None, None), "--body-bytes N"),
        ((-1, None), "--body-bytes N"),
        ((12, "fast"), "no mode 'fast'; there are: none-again"),
    ],
)
def test_what_has_to_be_said(given: tuple[int | None, str | None], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        importing.given(*given, None, None, "x")


def test_what_is_not_there_or_no_text_of_a_load(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        importing.files_of([str(tmp_path / "absent")])
    with pytest.raises(UsageError, match="no file given"):
        importing.files_of([])
    with pytest.raises(UsageError, match="no file given"):
        importing.files_of([str(tmp_path)])
    (tmp_path / "none.txt").write_text("hello\n")
    with pytest.raises(UsageError, match=r"none\.txt:1: "):
        imported(tmp_path / "results", tmp_path / "none.txt")


def test_a_run_is_never_written_over(tmp_path: Path) -> None:
    imported(tmp_path, DOCUMENT)
    with pytest.raises(UsageError, match="is there already"):
        imported(tmp_path, DOCUMENT)


def test_connections_tell_groups_apart(tmp_path: Path) -> None:
    few = text(1000).replace("100 connections", "5 connections")
    (tmp_path / "none.txt").write_text(text(1000) + few)
    report = model.build(results.load(imported(tmp_path / "r", tmp_path / "none.txt")))
    assert len(report.analysis.groups) == 2


def test_the_how_to_names_words_that_are_read() -> None:
    text = (ROOT / "docs" / "how-to" / "import-existing-logs.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", text, re.MULTILINE))
    assert set(rows) == {mode for mode, _ in importing._MODES}
    for mode, words in rows.items():
        assert {importing.mode_of(word) for word in words.split(", ")} == {mode}
