"""loads/wrk/adapter.py: what must hold for every report, not only for the captured ones."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.unit.loads.wrk_text import Histogram, Number, Report

# No deadline: the machine that runs this may be busy, and nothing here is about time.
ROUNDS = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])

WHOLE = st.integers(min_value=0, max_value=2**40)
COUNT = st.integers(min_value=1, max_value=2**31)
# The values around wrk's changes of unit come up as often as all the others together.
LATENCY_US = st.integers(min_value=1, max_value=2**32 - 1) | st.sampled_from(
    [849, 850, 851, 999_994, 999_995, 999_999, 1_000_000, 50_994_999, 50_995_000, 51_000_000]
)
HISTOGRAM = st.dictionaries(LATENCY_US, COUNT, max_size=30).map(Histogram)
ERRORS = st.dictionaries(
    st.sampled_from(["connect", "read", "write", "timeout", "status"]),
    st.integers(min_value=1, max_value=2**31 - 1),
)
EITHER = st.booleans()
RATE = st.floats(min_value=0, max_value=10_000_000)
URL = st.from_regex(r"https?://[a-z0-9.-]{1,20}(:[0-9]{1,5})?(/[!-~]{0,20})?", fullmatch=True)


@st.composite
def reports(
    draw: st.DrawFn,
    histogram: st.SearchStrategy[Histogram] = HISTOGRAM,
    errors: st.SearchStrategy[dict[str, int]] = ERRORS,
    with_latency: st.SearchStrategy[bool] = EITHER,
) -> Report:
    latency = draw(histogram)
    runtime_us = draw(st.integers(min_value=1_000_000, max_value=2**33))
    found = draw(errors)
    # the correction adds latencies, timeouts are requests without one
    recorded = draw(st.integers(min_value=1, max_value=latency.count)) if latency.count else 0
    return Report(
        latency=latency,
        requests=recorded + found.get("timeout", 0),
        runtime_us=runtime_us,
        read_bytes=draw(WHOLE),
        duration_s=runtime_us // 1_000_000,
        url=draw(URL),
        threads=draw(COUNT),
        connections=draw(COUNT),
        with_latency=draw(with_latency),
        rate=(draw(RATE), draw(RATE), draw(RATE)),
        errors=found,
    )


SOUND = reports(histogram=HISTOGRAM.filter(lambda latency: latency.count), errors=st.just({}))


def close(parsed: float | None, exact: Number, unit: float) -> bool:
    return parsed is not None and abs(parsed - float(exact)) <= 0.005 * unit * (1 + 1e-9)


def unit_us(time_us: Number) -> int:
    if time_us < 850:
        return 1
    if time_us < 1_000_000:
        return 1000
    return 1_000_000 if time_us < 51_000_000 else 60_000_000


def unit_bytes(amount: Number) -> int:
    unit = 1
    while unit < 1024**4 and float(amount) >= 0.85 * 1024 * unit:
        unit *= 1024
    return unit


# --- printed, then parsed -----------------------------------------------------------------------


@ROUNDS
@given(report=reports())
def test_counts_come_back_exactly(wrk: ModuleType, report: Report) -> None:
    [run] = wrk.parse(report.text(), "printed")
    names = ("connect", "read", "write", "timeout")
    assert run["source"] == "printed"
    assert run["url"] == report.url
    assert (run["threads"], run["connections"]) == (report.threads, report.connections)
    assert run["requests"] == report.requests
    assert run["socket_errors"] == {name: report.count(name) for name in names}
    assert run["non_2xx_responses"] == report.count("status")


@ROUNDS
@given(report=reports())
def test_figures_come_back_within_the_printed_precision(wrk: ModuleType, report: Report) -> None:
    [run] = wrk.parse(report.text(), "printed")
    elapsed_us = report.runtime_us
    assert close(run["elapsed_s"] * 1e6, elapsed_us, unit_us(elapsed_us))
    assert close(run["requests_per_s"], report.per_s(report.requests), 1)
    read, transfer = report.read_bytes, report.per_s(report.read_bytes)
    assert close(run["read_bytes"], read, unit_bytes(read))
    assert close(run["transfer_bytes_per_s"], transfer, unit_bytes(transfer))


@ROUNDS
@given(report=SOUND)
def test_latencies_come_back_within_the_printed_precision(wrk: ModuleType, report: Report) -> None:
    [run] = wrk.parse(report.text(), "printed")
    latency = report.latency
    exact: dict[str, Number] = {
        "avg": latency.mean,
        "stdev": latency.stdev,
        "max": latency.maximum,
    }
    for percent in (50, 75, 90, 99):
        exact[f"p{percent}"] = latency.percentile(percent)
    for name, time_us in exact.items():
        parsed = run[f"latency_{name}_us"]
        if name.startswith("p") and not report.with_latency:
            assert parsed is None
        else:
            assert close(parsed, time_us, unit_us(time_us)), name


@ROUNDS
@given(report=SOUND)
def test_a_sound_report_has_no_problems(wrk: ModuleType, report: Report) -> None:
    assert wrk.parse(report.text(), "printed")[0]["problems"] == []


@ROUNDS
@given(report=reports())
def test_every_error_is_a_problem(wrk: ModuleType, report: Report) -> None:
    problems = " ".join(wrk.parse(report.text(), "printed")[0]["problems"])
    socket_errors = report.errors.keys() - {"status"}
    assert ("socket errors" in problems) == bool(socket_errors)
    assert ("not 2xx" in problems) == ("status" in report.errors)
    assert ("no request" in problems) == (report.requests == 0)


# --- damaged texts ------------------------------------------------------------------------------

PROSE = st.sampled_from(["", "\n", "## With kernel uprobe\n```console\n", "```\n$ wrk -c 100\n"])
TEXTS = st.lists(st.tuples(PROSE, SOUND.map(Report.text)), min_size=1, max_size=3)


def outcome(wrk: ModuleType, text: str) -> tuple[list[dict[str, Any]], bool]:
    """Return the runs that were accepted, and whether the text was refused."""
    try:
        return wrk.parse(text, "damaged"), False
    except wrk.ParseError as error:
        return error.parsed, True


@ROUNDS
@given(pieces=TEXTS, data=st.data())
def test_a_cut_text_yields_whole_runs_and_a_refusal(
    wrk: ModuleType, pieces: list[tuple[str, str]], data: st.DataObject
) -> None:
    text = "".join(prose + report for prose, report in pieces)
    whole = wrk.parse(text, "damaged")
    cut = data.draw(st.integers(min_value=0, max_value=len(text)))
    starts, ends, position = [], [], 0
    for prose, report in pieces:
        starts.append(position + len(prose))
        position += len(prose) + len(report)
        ends.append(position - 1)  # without its last newline a report is whole
    runs, refused = outcome(wrk, text[:cut])
    assert runs == whole[: sum(end <= cut for end in ends)]
    # from the duration on, the beginning of a report cannot be taken for anything else
    inside = any(
        start + len("Running 1") <= cut < end for start, end in zip(starts, ends, strict=True)
    )
    assert refused == (inside or not runs)


@ROUNDS
@given(pieces=TEXTS, data=st.data())
def test_a_text_without_its_beginning_yields_whole_runs_or_a_refusal(
    wrk: ModuleType, pieces: list[tuple[str, str]], data: st.DataObject
) -> None:
    text = "".join(prose + report for prose, report in pieces)
    whole = wrk.parse(text, "damaged")
    cut = data.draw(st.integers(min_value=0, max_value=len(text)))
    runs, refused = outcome(wrk, text[cut:])
    assert refused or runs == whole[len(whole) - len(runs) :]
    if refused:
        assert runs == [] or all(run in whole for run in runs)


@ROUNDS
@given(report=SOUND, data=st.data())
def test_a_missing_line_is_noticed(wrk: ModuleType, report: Report, data: st.DataObject) -> None:
    lines = report.text().splitlines(keepends=True)
    first = data.draw(st.integers(min_value=0, max_value=len(lines) - 1))
    last = data.draw(st.integers(min_value=first, max_value=len(lines) - 1))
    without_percentiles = report.with_latency and (first, last) == (5, 9)
    runs, refused = outcome(wrk, "".join(lines[:first] + lines[last + 1 :]))
    assert refused or without_percentiles
    assert len(runs) == without_percentiles


@ROUNDS
@given(
    report=SOUND,
    garbage=st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])),
    data=st.data(),
)
def test_a_foreign_line_is_noticed(
    wrk: ModuleType, report: Report, garbage: str, data: st.DataObject
) -> None:
    lines = report.text().splitlines(keepends=True)
    index = data.draw(st.integers(min_value=1, max_value=len(lines) - 1))
    runs, refused = outcome(wrk, "".join([*lines[:index], garbage + "\n", *lines[index:]]))
    assert refused
    assert runs == []


@ROUNDS
@given(text=st.text())
def test_any_other_text_is_refused(wrk: ModuleType, text: str) -> None:
    runs, refused = outcome(wrk, text)
    assert (runs, refused) == ([], True)


@ROUNDS
@given(report=SOUND, data=st.data())
def test_a_damaged_character_never_costs_more_than_a_refusal(
    wrk: ModuleType, report: Report, data: st.DataObject
) -> None:
    text = report.text()
    index = data.draw(st.integers(min_value=0, max_value=len(text) - 1))
    damaged = text[:index] + data.draw(st.characters()) + text[index + 1 :]
    runs, refused = outcome(wrk, damaged)
    assert len(runs) == (not refused)


# --- with the files of done.lua -----------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


TRIALS = reports(
    histogram=HISTOGRAM.filter(lambda latency: latency.count),
    errors=st.just({}),
    with_latency=st.just(True),
)


@ROUNDS
@given(report=TRIALS)
def test_text_and_files_of_one_run_agree(wrk: ModuleType, folder: Path, report: Report) -> None:
    report.leave_in(folder)
    result = wrk.collect(folder, 0, report.text(), "")
    assert result["problems"] == []
    assert result["requests"] == report.requests
    assert result["histogram_count"] == report.latency.count
    assert result["latency_us"]["p99"] == report.latency.percentile(99)


@ROUNDS
@given(text_of=TRIALS, files_of=TRIALS)
def test_text_and_files_of_two_runs_do_not(
    wrk: ModuleType, folder: Path, text_of: Report, files_of: Report
) -> None:
    assume(text_of.requests != files_of.requests)
    files_of.leave_in(folder)
    assert wrk.collect(folder, 0, text_of.text(), "")["problems"]
