"""uplab/export: every form of a run, its bytes, and what reads it."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import jsonschema
import pytest

from tests.runs import KEPT, edit_json, make_run
from uplab import results
from uplab.errors import UsageError
from uplab.export import formats, gobench, latex, records, seed_form
from uplab.report import model
from uplab.report.model import Report

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "data" / "exports"
SCHEMA = ROOT / "docs" / "reference" / "schemas" / "trial-record.schema.json"
INVALID = ("https-kernel-uprobe-gotrace-12B", 2, 1)


def synthetic(directory: Path, **changes: Any) -> Path:
    spec: dict[str, Any] = {
        "modes": tuple(KEPT),
        "blocks": 3,
        "invalid": {INVALID: 'socket errors: read 3, "quoted", | and & and _'},
        "flagged": {("http-none-12B", 1, 1): "steal 6.1 % > 5.0 %"},
        "unavailable": {"userspace-uprobe": "no bpftime"},
        "histogram_buckets": 5,
    }
    return make_run(directory, **(spec | changes))


def report_of(run_dir: Path) -> Report:
    return model.build(results.load(run_dir, strict=False))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic(tmp_path_factory.mktemp("exports") / "run")


@pytest.fixture(scope="module")
def report(run_dir: Path) -> Report:
    return report_of(run_dir)


def queried(query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(":memory:") as connection:
        rows: list[tuple[Any, ...]] = connection.execute(query).fetchall()
    return rows


# --- all forms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", formats.FORMATS)
def test_the_same_run_gives_the_same_bytes(run_dir: Path, report: Report, form: str) -> None:
    """In another process, another time zone, locale and folder."""
    program = (
        "import sys, pathlib; from uplab import results; from uplab.report import model; "
        "from uplab.export import formats; "
        "report = model.build(results.load(pathlib.Path(sys.argv[1]))); "
        "sys.stdout.buffer.write(formats.render(report, sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(run_dir), form],
        env={"PYTHONPATH": str(ROOT), "TZ": "Asia/Kathmandu", "LC_ALL": "C", "PATH": "/usr/bin"},
        cwd="/",
        capture_output=True,
        check=True,
    )
    assert done.stdout == formats.render(report, form)


@pytest.mark.parametrize("form", formats.FORMATS)
def test_a_run_without_trials_has_every_form(tmp_path: Path, form: str) -> None:
    content = formats.render(report_of(synthetic(tmp_path / "run", blocks=0)), form)
    assert bool(content) == (form != "jsonl"), "no trial is no line"


def test_what_is_no_form_is_refused_with_those_that_are(report: Report) -> None:
    with pytest.raises(UsageError, match=r"no format 'xls'; there are: csv, parquet, jsonl"):
        formats.render(report, "xls")


def test_every_file_belongs_to_its_form(tmp_path: Path) -> None:
    report = report_of(synthetic(tmp_path / "run"))
    for form in formats.FORMATS:
        path = formats.write(report, form, None)
        assert path.parent == tmp_path / "run" / "report"
        assert formats.of_file(path.name) == form
    assert formats.of_file("report.md") is None
    elsewhere = formats.write(report, "csv", tmp_path / "mine.csv")
    assert elsewhere.read_bytes() == (tmp_path / "run" / "report" / "trials.csv").read_bytes()


# --- records --------------------------------------------------------------------------------------


def test_the_published_schema_is_the_records() -> None:
    wanted = json.dumps(records.json_schema(), indent=2) + "\n"
    assert SCHEMA.read_text() == wanted, f"{SCHEMA} is out of date. Run: ./invoke build.reference"
    jsonschema.Draft202012Validator.check_schema(records.json_schema())


def test_every_line_fits_the_published_schema(report: Report) -> None:
    schema = json.loads(SCHEMA.read_text())
    lines = formats.render(report, "jsonl").decode().splitlines()
    assert len(lines) == len(report.run.trials)
    for line in lines:
        jsonschema.validate(json.loads(line), schema)


def test_the_schema_refuses_what_no_record_is(report: Report) -> None:
    good = next(records.records(report))
    schema = json.loads(SCHEMA.read_text())
    for wrong in ({**good, "colour": 1}, {**good, "valid": None}, {**good, "requests": 1.5}, {}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_the_records_have_the_columns_and_figures_of_the_csv(report: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(formats.render(report, "csv").decode())))
    found = list(records.records(report))
    of_run = {"run_id", "host", "matrix", "plan_sha256", "provenance", "uplab_version"}
    assert found[0].keys() - of_run == rows[0].keys()
    for row, record in zip(rows, found, strict=True):
        assert row["trial"] == record["trial"]
        shown = record["requests_per_s"]
        assert row["requests_per_s"] == ("" if shown is None else str(shown))
        assert row["valid"] == ("yes" if record["valid"] else "no")


def test_a_missing_figure_is_null_and_never_zero(tmp_path: Path) -> None:
    run_dir = synthetic(tmp_path / "run", sums=False, outcome="interrupted")
    (first, *_) = sorted((run_dir / "trials").iterdir())
    edit_json(first / "trial.json", load=None, cpu=None, hits=None)
    report = report_of(run_dir)
    record = json.loads(formats.render(report, "jsonl").splitlines()[0])
    for name in ("requests", "requests_per_s", "server_cpu_s", "hits_per_request", "events_lost"):
        assert record[name] is None
    path = formats.write(report, "parquet", None)
    (row,) = queried(
        f"SELECT requests, requests_per_s, hits_per_request FROM '{path}' WHERE number = 1"
    )
    assert row == (None, None, None)
    assert first.name not in re.sub(r"^#.*$", "", gobench.render(report).decode(), flags=re.M)


# --- Parquet --------------------------------------------------------------------------------------


def test_parquet_has_types_and_all_figures(tmp_path: Path, report: Report) -> None:
    path = formats.write(report, "parquet", tmp_path / "it's.parquet")
    quoted = str(path).replace("'", "''")
    types = {row[0]: row[1] for row in queried(f"DESCRIBE SELECT * FROM '{quoted}'")}
    assert [*types] == [column.name for column in records.COLUMNS]
    assert (types["requests"], types["valid"]) == ("BIGINT", "BOOLEAN")
    assert (types["requests_per_s"], types["trial"]) == ("DOUBLE", "VARCHAR")
    rows = queried(f"SELECT * FROM '{quoted}' ORDER BY number")
    assert rows == [tuple(record.values()) for record in records.records(report)]


def test_parquet_holds_no_time_of_its_making(report: Report) -> None:
    first = formats.render(report, "parquet")
    assert formats.render(report, "parquet") == first
    assert first[:4] == first[-4:] == b"PAR1"


# --- the Go benchmark format ----------------------------------------------------------------------


def results_of(report: Report) -> Iterator[tuple[str, int, dict[str, float]]]:
    """As the format's description reads it: name, iterations, values by unit."""
    for line in gobench.render(report).decode().splitlines():
        if re.match(r"Benchmark[^a-z]", line):
            name, iterations, *rest = line.split()
            assert len(rest) % 2 == 0
            yield name, int(iterations), dict(zip(rest[1::2], map(float, rest[::2]), strict=True))


def test_each_trial_that_counts_is_a_line(report: Report) -> None:
    found = list(results_of(report))
    counted = [trial for trial in report.run.trials if trial.name in report.analysis.counted]
    assert len(found) == len(counted) > 0
    for (name, iterations, values), trial in zip(found, counted, strict=True):
        assert trial.load is not None
        assert trial.load.requests == iterations
        assert values["req/s"] == pytest.approx(trial.load.requests_per_s, rel=1e-6)
        assert f"/server={trial.cell.server}/mode={trial.cell.mode}" in name
        assert not re.search(r"-\d+$", name), "that would be GOMAXPROCS"
    assert any("server-cpu-ns/req" in values for _, _, values in found)


def test_what_does_not_count_is_a_comment(report: Report) -> None:
    comments = [
        line for line in gobench.render(report).decode().splitlines() if line.startswith("#")
    ]
    uncounted = {trial.name for trial in report.run.trials} - report.analysis.counted
    assert uncounted
    assert {line.removeprefix("# does not count: ") for line in comments} == uncounted


def test_the_lines_before_are_configuration_and_units(report: Report) -> None:
    head, _, _ = gobench.render(report).decode().partition("\n\n")
    lines = head.splitlines()
    keys = [line for line in lines if not line.startswith("Unit ")]
    assert all(re.match(r"[a-z][^\sA-Z:]*: \S", line) for line in keys)
    assert "Unit req/s better=higher" in lines
    assert "Unit server-cpu-ns/req better=lower" in lines


def test_names_hold_no_space_or_slash_of_their_own(tmp_path: Path) -> None:
    run_dir = synthetic(tmp_path / "run", sums=False, outcome="interrupted", invalid={}, blocks=1)
    (first, *_) = sorted((run_dir / "trials").iterdir())
    cell = json.loads((first / "trial.json").read_text())["cell"] | {"server": "a b/c-4", "id": "x"}
    edit_json(first / "trial.json", cell=cell)
    (name,) = [name for name, _, _ in results_of(report_of(run_dir)) if "a_b_c" in name]
    assert "/server=a_b_c-4/" in name


# --- Markdown and LaTeX ---------------------------------------------------------------------------


def test_the_form_of_the_published_experiment(report: Report) -> None:
    """Made by: `report.export RUN --format md`, of the synthetic run above."""
    golden = GOLDEN / "figures.md"
    assert seed_form.render(report).decode() == golden.read_text(encoding="utf-8")


def test_its_headings_are_the_published_ones(report: Report) -> None:
    said = seed_form.render(report).decode()
    document = (ROOT / "tests" / "data" / "wrk" / "seed-document.md").read_text()
    for heading in ("### HTTPS", "### HTTP", "#### Without trace", "#### With kernel uprobe"):
        assert re.search(rf"^{heading}\b", document, re.MULTILINE)
        assert re.search(rf"^{heading}\b", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("value_us", "shown"),
    [(635.91, "635.91us"), (850, "0.85ms"), (6990, "6.99ms"), (1.04e6, "1.04s"), (51e6, "0.85m")],
)
def test_times_have_the_unit_that_wrk_chooses(value_us: float, shown: str) -> None:
    assert seed_form._time(value_us) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(869, "869.00B"), (870.4, "0.85KB"), (1866465.28, "1.78MB")]
)
def test_bytes_have_the_unit_that_wrk_chooses(value: float, shown: str) -> None:
    assert seed_form._bytes(value) == shown


def test_a_load_s_text_cannot_leave_its_block(tmp_path: Path) -> None:
    run_dir = synthetic(tmp_path / "run", sums=False, outcome="interrupted")
    for path in run_dir.glob("trials/*/load.txt"):
        path.write_text("````\n<script>\x1b[2J\u202e\n")
    said = seed_form.render(report_of(run_dir)).decode()
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert "`````console" in said


def test_a_trial_without_its_text_says_so(tmp_path: Path) -> None:
    report = report_of(synthetic(tmp_path / "run", logs=False))
    assert "holds no load.txt." in seed_form.render(report).decode()


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("50 % & more_ #1", r"50 \% \& more\_ \#1"),
        (
            "\\input{x} $y$ ~^",
            r"\textbackslash{}input\{x\} \$y\$ \textasciitilde{}\textasciicircum{}",
        ),
        ("a -- b", r"a -{}- b"),
        ("naïve → x", "na[U+00EF]ve [U+2192] x"),
        (
            "<a> | \"b\" 'c'",
            r"\textless{}a\textgreater{} \textbar{} \textquotedbl{}b\textquotedbl{} "
            r"\textquotesingle{}c\textquotesingle{}",
        ),
        ("a\nb\x1b[2J", "a b"),
    ],
)
def test_text_is_escaped_for_latex(text: str, escaped: str) -> None:
    assert latex.escape(text) == escaped


def test_a_latex_table_is_whole(report: Report) -> None:
    said = latex.render(report).decode("ascii")
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}", r"\end{tabular}"):
        assert said.count(rule) == len(report.analysis.groups)
    (figures,) = set(re.findall(r"\\begin\{tabular\}\{>\{.+\}p\{.+\}(r+)\}", said))
    rows = [line for line in said.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(figures)}
    assert any("$-$" in row for row in rows)


def test_the_reference_names_every_form() -> None:
    text = (ROOT / "docs" / "reference" / "exports.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \|", text, re.MULTILINE)
    assert rows == [(name, entry.file) for name, entry in formats.FORMATS.items()]
