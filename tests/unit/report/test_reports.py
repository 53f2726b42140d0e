"""Reports of synthetic runs: what they say, that they repeat, and that foreign text stays text."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.runs import KEPT, Traced, edit_json, make_run, write_json
from uplab import results
from uplab.errors import GateError, UsageError
from uplab.report import markdown, terminal, trials_csv
from uplab.report.model import Report, build
from uplab.report.write import write_reports

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "data" / "runs"
INVALID = ("https-kernel-uprobe-gotrace-12B", 2, 1)
WHY_INVALID = "wrk reported 3 read errors"
UNAVAILABLE = "no bpftime on this host"


def synthetic(directory: Path, **changes: Any) -> Path:
    spec: dict[str, Any] = {
        "modes": tuple(KEPT),
        "invalid": {INVALID: WHY_INVALID},
        "flagged": {("http-none-12B", 1, 1): "steal 6.1 % > 5.0 %"},
        "unavailable": {"userspace-uprobe": UNAVAILABLE},
    }
    return make_run(directory, **(spec | changes))


def report_of(run_dir: Path) -> Report:
    return build(results.load(run_dir, strict=False))


def in_terminal(report: Report, width: int = 120, encoding: str = "utf-8") -> str:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    console = Console(file=out, width=width, highlight=False, markup=False, emoji=False)
    terminal.render(report, console)
    assert isinstance(out.buffer, io.BytesIO)
    return out.buffer.getvalue().decode(encoding)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic(tmp_path_factory.mktemp("reports") / "run")


@pytest.fixture(params=["markdown", "terminal"])
def rendered(request: pytest.FixtureRequest, run_dir: Path) -> str:
    report = report_of(run_dir)
    shown = markdown.render(report) if request.param == "markdown" else in_terminal(report, 400)
    return shown.replace("\\", "")


# ------------------------------------------------------------------------------- what it says


@pytest.mark.parametrize(
    "content",
    [
        "local, matrix seed, 2026-11-22 13:17:51 UTC",
        "uplab 0.1.0, run 20261122T131751Z-local-seed, complete, verified against SHA256SUMS",
        "the run's provenance is synthetic",
        "kernel-uprobe (gotrace) costs the https server 83.7 % of its throughput (95 % interval",
        "tracer-only (gotrace) costs the http server",
        f"on the http server, not available here: {UNAVAILABLE}.",
        "Noise floor: 4.7 % slower or 4.9 % faster.",
        "2 to 60, +200/connection",
        "kernel, 13.0",
        "1 of 56 trials invalid: they do not count",
        "1 of 56 trials flagged: they count",
        "1 of 7 trials rejected (14.3 %); throughput lost with them 83.8 %",
        "Invalid trials (1 of 56)",
        WHY_INVALID,
        "https-userspace-uprobe-gotrace-hybrid-12B",
        "steal 6.1 % > 5.0 %",
        "single-stepped",
        "12,300",
        "closed loop on the same host",
        "6 blocks",
        "seed 20231104",
        "connections 100, duration_s 10, threads 10",
        "6.18.5",
        "A synthetic CPU @ 3.00GHz, 2 logical CPUs, virtual machine",
        "golang 2:1.19~1 distro",
        "a missing figure is never 0",
        "p50",
        "p99",
    ],
)
def test_a_report_says(rendered: str, content: str) -> None:
    assert content in rendered


def test_the_answer_comes_before_the_figures(rendered: str) -> None:
    answers = [rendered.index(f"costs the {server} server") for server in ("https", "http")]
    assert max(answers) < rendered.index("CPU us/req")


def test_the_chart_has_a_bar_per_mode_and_the_floor(run_dir: Path) -> None:
    lines = markdown.render(report_of(run_dir)).splitlines()
    (tracer_only,) = [line for line in lines if line.startswith("tracer-only (gotrace)  ")][:1]
    (kernel,) = [line for line in lines if line.startswith("kernel-uprobe (gotrace)  ")][:1]
    assert kernel.count("█") == 42  # 83 % of 50
    assert tracer_only.count("█") == 6
    assert "▒" in tracer_only
    assert any(line.startswith("noise floor") and "··" in line for line in lines)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_no_line_of_a_chart_or_table_is_wider_than_the_terminal(run_dir: Path, width: int) -> None:
    shown = in_terminal(report_of(run_dir), width)
    assert max(len(line) for line in shown.splitlines()) <= width
    assert "83.7 %" in shown


def test_a_narrow_terminal_loses_no_column(run_dir: Path) -> None:
    shown = in_terminal(report_of(run_dir), 80)
    for heading in ("req/s", "spread", "throughput lost", "hits/req", "CPU us/req", "events lost"):
        assert heading in shown


def test_a_terminal_without_unicode_gets_ascii_bars(run_dir: Path) -> None:
    shown = in_terminal(report_of(run_dir), 100, "ascii")
    assert "#####" in shown
    assert "█" not in shown


def test_output_that_is_no_terminal_has_no_escape_sequences(run_dir: Path) -> None:
    assert "\x1b" not in in_terminal(report_of(run_dir))


def test_show_prints_a_run_directory(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show(run_dir)
    assert "kernel-uprobe (gotrace) costs the https server" in capsys.readouterr().out


# ---------------------------------------------------------------------------- what is missing


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"blocks": 2}, "of its throughput (n = 2, too few for an interval)."),
        ({"blocks": 2}, "Noise floor: unknown, because fewer than 3 blocks"),
        ({"modes": ("none", "kernel-uprobe")}, "with no noise floor to hold it against."),
        ({"modes": ("kernel-uprobe",)}, "no estimate, no block holds both it and a valid none."),
        (
            {"kept": {"kernel-uprobe": 1.0}},
            "on the https server: no difference that this run can tell",
        ),
        ({"kept": {"kernel-uprobe": 1.3}}, "With kernel-uprobe (gotrace), the https server serves"),
        ({"sizes": (12, 4096)}, "the https server (4 KiB body)"),
        ({"blocks": 0}, "no estimate, it was not measured yet."),
    ],
)
def test_a_sentence_claims_no_more_than_the_trials(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    plain_run = {"invalid": {}, "unavailable": {}, "modes": ("none", "none-again", "kernel-uprobe")}
    report = report_of(synthetic(tmp_path / "run", **(plain_run | changes)))
    assert sentence in markdown.render(report)
    assert sentence in in_terminal(report, 400)


def test_a_cell_of_which_no_trial_counts_is_said_to_have_none(tmp_path: Path) -> None:
    cell = "https-kernel-uprobe-gotrace-12B"
    invalid = {(cell, block, attempt): WHY_INVALID for block in (1, 2) for attempt in (1, 2)}
    run_dir = synthetic(tmp_path / "run", blocks=2, invalid=invalid, max_attempts=2)
    shown = markdown.render(report_of(run_dir))
    assert "no estimate, none of its 4 trials counts." in shown
    assert "4 of 4 trials rejected" in shown


def test_every_invalid_trial_is_listed(tmp_path: Path) -> None:
    invalid = {(INVALID[0], block, 1): f"reason {block}" for block in range(1, 41)}
    report = report_of(synthetic(tmp_path / "run", blocks=40, invalid=invalid, histogram_buckets=5))
    for shown in (markdown.render(report), in_terminal(report)):
        assert all(f"load: reason {block}" in shown for block in range(1, 41))


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    run_dir = synthetic(tmp_path / "run", outcome="interrupted")
    for shown in (markdown.render(report_of(run_dir)), in_terminal(report_of(run_dir), 400)):
        assert "NOT verified" in shown
        assert "The run is not complete (interrupted): 56 of 56 planned trials." in shown
        assert "no SHA256SUMS (the run is interrupted)" in shown


def test_programs_that_a_tracer_altered_beside_the_server_are_named(tmp_path: Path) -> None:
    run_dir = synthetic(tmp_path / "run")
    others = [{"name": "containerd", "pid": 7, "exe": "/usr/bin/containerd"}]
    edit_json(run_dir / "run.json", touched={"processes": others})
    wanted = "have altered other programs too: containerd (pid 7, /usr/bin/containerd)."
    for shown in both(run_dir):
        assert wanted in " ".join(shown.split())


def test_a_changed_run_is_not_called_verified(tmp_path: Path) -> None:
    run_dir = synthetic(tmp_path / "run")
    (run_dir / "events.jsonl").write_text("changed")
    with pytest.raises(GateError, match="changed: events"):
        write_reports(run_dir)
    shown = write_reports(run_dir, strict=False).read_text(encoding="utf-8")
    assert "NOT verified" in shown
    assert "changed: events.jsonl" in shown


def test_what_changed_on_the_host_is_named(tmp_path: Path) -> None:
    run_dir = synthetic(tmp_path / "run")
    host = json.loads((run_dir / "host.json").read_text())
    after = host["after"] | {"uptime_s": 2000.0}
    after["settings"] = after["settings"] | {"governor": "powersave"}
    edit_json(run_dir / "host.json", after=after)
    shown = markdown.render(report_of(run_dir))
    assert "settings.governor: performance before, powersave after" in shown
    assert "uptime_s" not in shown


def test_a_histogram_that_cannot_be_read_is_a_notice_not_a_crash(tmp_path: Path) -> None:
    run_dir = synthetic(tmp_path / "run")
    damaged = next((run_dir / "trials").glob("*https-none-12B-b01/load.hist"))
    damaged.write_bytes(b"junk")
    shown = markdown.render(report_of(run_dir)).replace("\\", "")
    assert (
        f"A latency histogram is left out: {damaged.parent.name}: load.hist: starts with" in shown
    )


def test_a_run_without_anything_is_still_a_report(tmp_path: Path) -> None:
    run_dir = synthetic(tmp_path / "run", blocks=0, servers=())
    edit_json(run_dir / "run.json", hit_cost=[], pins={})
    (run_dir / "host.json").unlink()
    shown = markdown.render(report_of(run_dir))
    assert "The run holds no cell." in shown
    assert "Not measured in this run." in shown
    assert "Invalid trials (0 of 0)" in shown
    assert "Not measured in this run." in in_terminal(report_of(run_dir))


# ------------------------------------------------------------------------ how it was traced


def userspace(directory: Path, **changes: Any) -> Path:
    """A run in which userspace was traced in three ways."""
    traced = (
        Traced(),
        Traced("hybrid", "daemon", {}, "daemon"),
        Traced("hybrid-entries", "syscall-server", {"jit": False, "map_kind": "hash"}, "other"),
    )
    spec: dict[str, Any] = {"modes": tuple(KEPT), "servers": ("https",), "traced": traced}
    return make_run(directory, **(spec | changes))


def open_loop(directory: Path, **changes: Any) -> Path:
    """A run at a fixed rate, which one mode does not keep up with."""
    spec: dict[str, Any] = {
        "modes": ("none", "none-again", "tracer-only", "kernel-uprobe"),
        "servers": ("https",),
        "loop": "open",
        "reached": {"kernel-uprobe": 0.95},
    }
    return make_run(directory, **(spec | changes))


def both(run_dir: Path) -> list[str]:
    """A run as Markdown without its escapes, and in a terminal with room for everything."""
    report = report_of(run_dir)
    return [markdown.render(report).replace("\\", ""), in_terminal(report, 600)]


def row_of(shown: str, label: str, *contents: str) -> str:
    """The row of a table that begins with a label and holds all of these."""
    (found,) = [
        line
        for line in shown.splitlines()
        if re.match(rf"(\| )?{re.escape(label)}(  | \|)", line)
        and all(content in line for content in contents)
    ]
    return found


def test_each_way_of_tracing_in_userspace_is_a_row_of_its_own(tmp_path: Path) -> None:
    for shown in both(userspace(tmp_path / "run")):
        placed = "userspace: casgstatus; kernel: tls_write, tls_read"
        assert row_of(shown, "userspace-uprobe (gotrace, hybrid)", placed, "syscall-server")
        assert row_of(shown, "userspace-uprobe (gotrace, hybrid, daemon)", placed, " daemon ")
        other = "userspace-uprobe (gotrace, hybrid-entries, no JIT, hash maps)"
        assert row_of(shown, other, "userspace: casgstatus, tls_write, tls_read", "no JIT")
        assert shown.count(f"{other} costs the https server") == 1


def test_placement_says_of_each_site_where_it_lay(tmp_path: Path) -> None:
    for shown in both(userspace(tmp_path / "run")):
        assert row_of(
            shown,
            "userspace-uprobe (gotrace, hybrid)",
            "userspace, 13.0",
            "kernel, 1.0",
            "kernel, 2.0",
        )
        assert row_of(shown, "tracer-only (gotrace)", "untouched")


def test_a_run_without_userspace_has_no_columns_about_it(tmp_path: Path) -> None:
    run_dir = synthetic(tmp_path / "run", unavailable={}, modes=("none", "kernel-uprobe"))
    for shown in both(run_dir):
        assert "loader" not in shown
        assert "runtime options" not in shown


def test_the_csv_says_how_each_trial_was_traced(tmp_path: Path) -> None:
    report = report_of(userspace(tmp_path / "run", blocks=1))
    rows = list(csv.DictReader(io.StringIO(trials_csv.render(report.run, report.analysis))))
    found = {row["cell"]: row for row in rows}
    hybrid = found["https-userspace-uprobe-gotrace-hybrid-12B"]
    assert (hybrid["sites_in_userspace"], hybrid["sites_in_kernel"]) == (
        "casgstatus",
        "tls_write tls_read",
    )
    assert (hybrid["loader"], hybrid["runtime_options"]) == ("syscall-server", "")
    other = found["https-userspace-uprobe-gotrace-hybrid-entries-other-12B"]
    assert other["runtime_options"] == "no JIT, hash maps"
    assert {row["evidence"] for row in rows} == {"proven"}
    assert found["https-none-12B"]["sites_in_kernel"] == ""


@pytest.mark.parametrize("grade", ["sites only", "links only"])
def test_a_lower_grade_of_evidence_stands_with_every_figure(tmp_path: Path, grade: str) -> None:
    run_dir = synthetic(tmp_path / "run", blocks=3, invalid={}, servers=("https",))
    for path in run_dir.glob("trials/*kernel-uprobe*/trial.json"):
        document = json.loads(path.read_text())
        edit_json(path, attestation=document["attestation"] | {"grade": grade})
    for shown in both(run_dir):
        named = [line for line in shown.splitlines() if "kernel-uprobe (gotrace" in line]
        # The sentence, the bar, and a row of every table.
        assert len(named) >= 8
        assert all(f"kernel-uprobe (gotrace, {grade})" in line for line in named)
        assert row_of(shown, "tracer-only (gotrace)", "proven")
    report = report_of(run_dir)
    rows = csv.DictReader(io.StringIO(trials_csv.render(report.run, report.analysis)))
    assert {row["evidence"] for row in rows if row["mode"] == "kernel-uprobe"} == {grade}


def test_the_audit_names_what_is_outside_of_its_range(tmp_path: Path) -> None:
    run_dir = synthetic(tmp_path / "run", invalid={}, blocks=3, servers=("https",))
    name = "kernel-uprobe (gotrace)"
    for shown in both(run_dir):
        assert row_of(shown, name, "casgstatus", "13.00", "2 to 60, +200/connection", "within")
        assert row_of(shown, name, "events lost", "0.00", "within")
    first = sorted(run_dir.glob("trials/*kernel-uprobe*/trial.json"))[0]
    hits = json.loads(first.read_text())["hits"]
    hits["by_name"]["casgstatus"] = {"hits": 7, "per_request": 0.0001}
    hits["events"] |= {"emitted": 3, "lost": 99}
    reasons = [{"code": "events-lost", "text": "events lost: 99"}]
    edit_json(first, hits=hits, verdict={"valid": False, "reasons": reasons, "flags": []})
    for shown in both(run_dir):
        for what in ("casgstatus", "events emitted", "events lost"):
            assert row_of(shown, name, what, "1 of 3 outside")


def test_trials_that_lost_events_are_named(tmp_path: Path) -> None:
    run_dir = synthetic(tmp_path / "run", invalid={}, blocks=3, servers=("https",))
    lossy = sorted(run_dir.glob("trials/*kernel-uprobe*/trial.json"))[0]
    reasons = [{"code": "events-lost", "text": "events lost: 42"}]
    edit_json(lossy, verdict={"valid": False, "reasons": reasons, "flags": []})
    shown = markdown.render(report_of(run_dir)).replace("\\", "")
    assert f"- {lossy.parent.name}: invalid(events lost: 42)." in shown


def test_the_cost_of_a_hit_has_its_class_and_its_source(tmp_path: Path) -> None:
    run_dir = userspace(tmp_path / "run", blocks=3)
    costs = json.loads((run_dir / "run.json").read_text())["hit_cost"]
    for shown in both(run_dir):
        assert row_of(shown, "userspace", "bpftime", "180", "gotrace")
        assert row_of(shown, "single-stepped", "4883ec28", "5,200", "uprobe_multi")
    failed = costs[-1] | {"ns_per_hit": None, "error": "agent: refused"}
    whole = {"tracer": "other", "error": "exit code 1"}
    edit_json(run_dir / "run.json", hit_cost=[*costs[:-1], failed, whole])
    for shown in both(run_dir):
        assert row_of(shown, "userspace", "not measurable", "agent: refused")
        assert row_of(shown, "-", "not measurable", "exit code 1")


def test_hits_times_cost_stand_beside_the_measured_cpu(tmp_path: Path) -> None:
    run_dir = userspace(tmp_path / "run", blocks=3)
    for shown in both(run_dir):
        # 16 hits of 5,200 ns in the kernel; in the hybrid 13 of 180 ns and 3 of 5,200 ns.
        assert row_of(shown, "kernel-uprobe (gotrace)", "83.2", "114.7", "tracer-only", "0.73")
        assert row_of(shown, "userspace-uprobe (gotrace, hybrid)", "17.9", "tracer-only")
    costs = json.loads((run_dir / "run.json").read_text())["hit_cost"]
    edit_json(run_dir / "run.json", hit_cost=costs[:-1])
    for shown in both(run_dir):
        assert row_of(shown, "kernel-uprobe (gotrace)", "83.2", "tracer-only")
        assert row_of(
            shown, "userspace-uprobe (gotrace, hybrid)", "not measured: userspace", "tracer-only"
        )


# --------------------------------------------------------------------------- at a fixed rate


def test_at_a_fixed_rate_the_report_speaks_of_cpu(tmp_path: Path) -> None:
    for shown in both(open_loop(tmp_path / "run")):
        assert "more CPU per request at a fixed rate of 1,000 req/s (95 % interval" in shown
        assert "less CPU per request. The same untraced server" in shown
        assert "extra CPU per request" in shown
        assert "throughput" not in shown
        assert "asks at a fixed rate of 1,000 req/s, whether answers came or not" in shown
        assert "it waits for each answer" not in shown
        assert row_of(shown, "tracer-only (gotrace)", "1,000 of 1,000")


def test_a_rate_that_was_not_reached_is_said(tmp_path: Path) -> None:
    for shown in both(open_loop(tmp_path / "run")):
        assert row_of(shown, "kernel-uprobe (gotrace)", "950 of 1,000")
        assert "in 6 of 6 trials (950 of 1,000 req/s)" in shown
        assert shown.count("It did not keep up with that rate.") == 1
        assert "Its p99 latency was" in shown
    for shown in both(open_loop(tmp_path / "kept", reached={})):
        assert "did not keep up" not in shown


def test_the_chart_of_a_cost_reaches_beyond_all_of_it(tmp_path: Path) -> None:
    lines = markdown.render(report_of(open_loop(tmp_path / "run"))).splitlines()
    assert any(line.endswith("400 %                  800 %") for line in lines)
    (kernel,) = [line for line in lines if line.startswith("kernel-uprobe (gotrace)  ")][:1]
    assert 25 < kernel.count("█") < 40


# ----------------------------------------------------------------------------------- foreign text


HOSTILE = "\x1b[31m\x1b]0;owned\x07<script>alert(1)</script> | [x](http://evil) `code`\n# top\u202e"


def make_hostile(value: Any, key: str = "") -> Any:
    """Every text of a document with something added that no report may pass on."""
    kept = (
        "id",
        "trial",
        "plan_sha256",
        "outcome",
        "status",
        "mode",
        "started_utc",
        "sha256",
        "loop",
    )
    if isinstance(value, dict):
        return {name: make_hostile(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [make_hostile(inner, key) for inner in value]
    return value + HOSTILE if isinstance(value, str) and key not in kept else value


def test_text_of_a_host_stays_text(tmp_path: Path) -> None:
    run_dir = synthetic(tmp_path / "run", blocks=3)
    for path in [*run_dir.glob("trials/*/trial.json"), run_dir / "run.json", run_dir / "host.json"]:
        write_json(path, make_hostile(json.loads(path.read_text())))
    report = report_of(run_dir)
    shown = in_terminal(report, 200)
    assert "<script>" in shown
    assert "owned" not in shown
    document = re.sub(r"^```text\n.*?^```\n", "", markdown.render(report), flags=re.M | re.S)
    assert "```" not in document
    assert "<script>" not in document.replace(r"\<script>", "")
    assert "[x](" not in document.replace(r"\[x\](", "")
    assert "\n# top" not in document
    assert document.count("\n# ") == 0
    for text in (shown, document, trials_csv.render(report.run, report.analysis)):
        assert not any(c in text for c in "\x1b\x07\u202e")


def test_a_chart_cannot_be_left_by_a_name(tmp_path: Path) -> None:
    run_dir = synthetic(tmp_path / "run", blocks=3)
    for path in [*run_dir.glob("trials/*/trial.json"), run_dir / "run.json"]:
        text = path.read_text().replace('"tracer": "gotrace"', '"tracer": "g\\n```\\n# out"')
        text = text.replace('"mode": "kernel-uprobe"', '"mode": "```"')
        path.write_text(text)
    lines = markdown.render(report_of(run_dir)).splitlines()
    assert sum(line.startswith("```") for line in lines) == 4


# ------------------------------------------------------------------------------------ same bytes


@pytest.mark.parametrize(
    ("make", "folder"), [(synthetic, ""), (userspace, "userspace"), (open_loop, "open-loop")]
)
def test_the_report_is_the_golden_one(
    tmp_path: Path, make: Callable[[Path], Path], folder: str
) -> None:
    written = write_reports(make(tmp_path / "run"))
    for name in ("report.md", "trials.csv"):
        made, golden = written.with_name(name), GOLDEN / folder / name
        if os.environ.get("UPLAB_UPDATE_GOLDEN") == "1":
            golden.write_bytes(made.read_bytes())
        assert made.read_text(encoding="utf-8") == golden.read_text(encoding="utf-8"), (
            f"{golden} differs; look at it, then: UPLAB_UPDATE_GOLDEN=1 pytest {__file__}"
        )


@pytest.mark.parametrize("timezone", ["Pacific/Kiritimati", "America/New_York"])
@pytest.mark.parametrize("locale", ["C", "de_DE.ISO-8859-1", "tr_TR.UTF-8"])
def test_the_same_run_gives_the_same_bytes_anywhere(
    run_dir: Path, tmp_path: Path, timezone: str, locale: str
) -> None:
    program = (
        "import sys, pathlib; from uplab.report.write import write_reports;"
        "print(write_reports(pathlib.Path(sys.argv[1])))"
    )
    subprocess.run(
        [sys.executable, "-c", program, os.path.relpath(run_dir, tmp_path)],
        cwd=tmp_path,
        env=os.environ
        | {"TZ": timezone, "LC_ALL": locale, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "77"},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    for name in ("report.md", "trials.csv"):
        assert (run_dir / "report" / name).read_bytes() == (GOLDEN / name).read_bytes()


def test_making_a_report_does_not_change_what_is_vouched_for(tmp_path: Path) -> None:
    run_dir = synthetic(tmp_path / "run", blocks=2)
    first = write_reports(run_dir).read_bytes()
    assert write_reports(run_dir).read_bytes() == first
    assert results.load(run_dir).verified


# ---------------------------------------------------------------------------------------- files


def test_the_csv_holds_every_trial_and_which_count(run_dir: Path) -> None:
    report = report_of(run_dir)
    rows = list(csv.DictReader(io.StringIO(trials_csv.render(report.run, report.analysis))))
    assert len(rows) == 56
    assert sum(row["counted"] == "yes" for row in rows) == 48
    (invalid,) = [row for row in rows if row["valid"] == "no"]
    assert (invalid["counted"], invalid["reasons"]) == ("no", f"load: {WHY_INVALID}")
    none = next(row for row in rows if row["mode"] == "none")
    assert (none["tracer"], none["hits_per_request"]) == ("", "")
    assert float(none["requests_per_s"]) > 10_000


def test_the_csv_is_inert_in_a_spreadsheet(tmp_path: Path) -> None:
    run_dir = synthetic(tmp_path / "run", blocks=1, flagged={("http-none-12B", 1, 1): "=cmd|calc"})
    report = report_of(run_dir)
    rows = csv.DictReader(io.StringIO(trials_csv.render(report.run, report.analysis)))
    assert "'=cmd|calc" in [row["flags"] for row in rows]


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    run_dir = synthetic(tmp_path / "run", blocks=1)
    (tmp_path / "elsewhere").mkdir()
    (run_dir / "report").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a symbolic link"):
        write_reports(run_dir)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_report_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    run_dir = synthetic(tmp_path / "run", blocks=1)
    (run_dir / "report").write_text("a file")
    with pytest.raises(UsageError, match="cannot be written"):
        write_reports(run_dir)


def test_a_terminal_that_lacks_a_character_gets_another(tmp_path: Path) -> None:
    run_dir = synthetic(tmp_path / "run", blocks=1, flagged={("http-none-12B", 1, 1): "größer"})
    program = (
        "import sys, pathlib; from uplab.report.terminal import show;"
        "show(pathlib.Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(run_dir)],
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "gr??er" in done.stdout
    assert "#####" in done.stdout


# ------------------------------------------------------------------------------- sequential runs

SEQUENTIAL = {
    "half_width_pp": 1.5,
    "looks": [3, 6],
    "reached": ["https-kernel-uprobe-gotrace-12B"],
    "not_reached": ["https-none-again-12B"],
    "stopped": "--max-blocks 6",
}


@pytest.fixture(scope="module")
def sequential_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = make_run(
        tmp_path_factory.mktemp("sequential") / "run",
        servers=("https",),
        modes=("none", "none-again", "kernel-uprobe", "tracer-only"),
        histogram_buckets=10,
    )
    edit_json(run_dir / "run.json", sequential=SEQUENTIAL)
    return run_dir


@pytest.mark.parametrize("form", ["markdown", "terminal"])
def test_an_interval_that_came_by_looking_is_called_sequential(
    sequential_dir: Path, form: str
) -> None:
    report = report_of(sequential_dir)
    shown = markdown.render(report) if form == "markdown" else in_terminal(report, 400)
    shown = shown.replace("\\", "")
    for content in (
        "Sequential intervals: blocks were added to know every overhead to 1.5 pp",
        "Not known to 1.5 pp: https-none-again-12B.",
        "of its throughput (sequential 95 % interval ",
        "known to 1.5 pp (sequential)",
        " pp, reached",
        " pp, not reached",
        " pp, not looked at",
        "looked at 3, 6 blocks; stopped: --max-blocks 6",
        "half the width of the interval of the overhead, in percentage points",
    ):
        assert content in shown, content
    assert "(95 % interval" not in shown
    assert "The last look" not in shown


def test_the_csv_names_for_each_trial_whether_its_overhead_was_known(sequential_dir: Path) -> None:
    report = report_of(sequential_dir)
    rows = csv.DictReader(io.StringIO(trials_csv.render(report.run, report.analysis)))
    found = {row["mode"]: row["sequential"] for row in rows}
    assert found == {
        "none": "1.5 pp",
        "none-again": "1.5 pp, not reached",
        "kernel-uprobe": "1.5 pp, reached",
        "tracer-only": "1.5 pp, not looked at",
    }


def test_a_run_that_broke_before_its_last_look_says_how_to_go_on(
    sequential_dir: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(sequential_dir, run_dir)
    label = {**SEQUENTIAL, "looks": [], "reached": [], "not_reached": [], "stopped": None}
    edit_json(run_dir / "run.json", sequential=label)
    shown = " ".join(in_terminal(report_of(run_dir), 400).split())
    run_id = "20261122T131751Z-local-seed"
    assert f"Run: invoke bench.resume {run_id} --until-ci 1.5pp" in shown
    assert "not looked at yet" in shown


def test_a_run_with_a_fixed_number_of_blocks_is_not_called_sequential(rendered: str) -> None:
    assert "sequential" not in rendered.lower()
