"""loads/wrk/adapter.py, collect(): each reason why a run cannot count, where it occurs."""

import struct
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.unit.loads.wrk_text import Histogram, Report, write_histogram, write_summary

COUNTS = {100: 60, 250: 25, 2_000: 10, 40_000: 4, 900_000: 1}
REPORT = Report(
    latency=Histogram(COUNTS),
    requests=90,
    runtime_us=10_103_000,
    read_bytes=11_610,
    duration_s=10,
)
FIGURES = ("requests", "elapsed_s", "requests_per_s", "read_bytes", "transfer_bytes_per_s")


def assert_no_figures(result: dict[str, Any]) -> None:
    assert {result[name] for name in FIGURES} == {None}
    assert set(result["latency_us"].values()) == {None}
    assert set(result["socket_errors"].values()) == {None}
    assert result["non_2xx_responses"] is None


def collect_of(
    wrk: ModuleType, scratch: Path, report: Report = REPORT, **summary: Any
) -> dict[str, Any]:
    """Collect a run whose summary differs from its text by `summary`."""
    report.leave_in(scratch)
    write_summary(scratch, report.summary() | summary)
    result: dict[str, Any] = wrk.collect(scratch, 0, report.text(), "")
    return result


# --- a run that counts --------------------------------------------------------------------------


def test_a_captured_run(wrk: ModuleType, data: Path) -> None:
    captured = data / "with-done"
    result = wrk.collect(captured, 0, (captured / "stdout.txt").read_text(), "")
    histogram = result.pop("histogram")
    assert result == {
        "requests": 1044,
        "elapsed_s": 1.000499,
        "requests_per_s": 1044 / 1.000499,
        "read_bytes": 134676,
        "transfer_bytes_per_s": 134676 / 1.000499,
        "latency_us": {
            "min": 3201,
            "avg": 3813.3132183908046,
            "stdev": 135.03201771375822,
            "max": 5028,
            "p50": 3797,
            "p75": 3878,
            "p90": 3981,
            "p99": 4216,
            "p99_9": 4371,
            "p99_99": 5028,
        },
        "socket_errors": {"connect": 0, "read": 0, "write": 0, "timeout": 0},
        "non_2xx_responses": 0,
        "histogram_count": 1044,
        "problems": [],
    }
    assert len(histogram["values_us"]) == len(histogram["counts"]) == 433
    assert histogram["values_us"] == sorted(histogram["values_us"])
    assert sum(histogram["counts"]) == 1044


def test_a_printed_run(wrk: ModuleType, tmp_path: Path) -> None:
    result = collect_of(wrk, tmp_path)
    assert result["problems"] == []
    assert result["histogram"] == {"values_us": [*COUNTS], "counts": [*COUNTS.values()]}
    assert result["histogram_count"] == 100  # wrk's correction added ten to the 90 requests
    assert result["latency_us"]["p99_9"] == 900_000


@pytest.mark.parametrize(
    ("counts", "per_10000", "expected_us"),
    [
        ({10: 1}, 5_000, 10),
        ({10: 1, 20: 1}, 5_000, 20),  # round(0.5 * 2 + 0.5) is 2, not 1
        ({10: 2, 20: 1}, 5_000, 10),
        ({10: 90, 20: 10}, 9_000, 20),
        ({10: 91, 20: 9}, 9_000, 10),
        ({10: 9_999, 20: 1}, 9_999, 20),
        ({10: 10_000, 20: 1}, 9_999, 10),
        ({}, 5_000, None),
    ],
)
def test_percentiles_are_those_of_wrk(
    wrk: ModuleType, counts: dict[int, int], per_10000: int, expected_us: int | None
) -> None:
    histogram = {"values_us": [*counts], "counts": [*counts.values()]}
    assert wrk.percentiles_us(histogram, [per_10000]) == [expected_us]


# --- what the text and the exit code say --------------------------------------------------------


def test_a_refused_connection(wrk: ModuleType, tmp_path: Path) -> None:
    said = "unable to connect to 127.0.0.1:1 Connection refused"
    result = wrk.collect(tmp_path, 1, "", said + "\n")
    assert result["problems"] == [
        f"wrk exited with 1: {said}",
        "done.lua left no wrk-summary.json",
    ]
    assert_no_figures(result)
    assert result["histogram_count"] is None
    assert result["histogram"] == {"values_us": [], "counts": []}


def test_a_killed_wrk(wrk: ModuleType, tmp_path: Path) -> None:
    problems = wrk.collect(tmp_path, -9, "", "")["problems"]
    assert problems[0] == "wrk was ended by signal 9"


def test_a_text_cut_short(wrk: ModuleType, tmp_path: Path) -> None:
    REPORT.leave_in(tmp_path)
    text = REPORT.text()
    result = wrk.collect(tmp_path, 0, text[: text.index("Transfer")], "")
    [problem] = result["problems"]
    assert problem == (
        "wrk's text:12: the report that begins at line 1 is cut short before its line "
        "'Transfer/sec:': 'Requests/sec:      8.91'"
    )
    assert_no_figures(result)


def test_an_empty_text(wrk: ModuleType, tmp_path: Path) -> None:
    REPORT.leave_in(tmp_path)
    result = wrk.collect(tmp_path, 0, "", "")
    assert result["problems"] == ["wrk's text:1: the text holds no report of wrk: ''"]
    assert_no_figures(result)


def test_two_reports(wrk: ModuleType, tmp_path: Path) -> None:
    REPORT.leave_in(tmp_path)
    result = wrk.collect(tmp_path, 0, REPORT.text() * 2, "")
    assert result["problems"] == ["wrk's text holds 2 reports"]
    assert_no_figures(result)


def test_errors_and_other_statuses(wrk: ModuleType, tmp_path: Path) -> None:
    errors = {"connect": 1, "read": 2, "write": 3, "timeout": 4, "status": 5}
    result = collect_of(wrk, tmp_path, replace(REPORT, errors=errors))
    assert result["problems"] == [
        "socket errors: connect 1, read 2, write 3, timeout 4",
        "5 responses were not 2xx or 3xx",
    ]
    assert result["socket_errors"] == {"connect": 1, "read": 2, "write": 3, "timeout": 4}
    assert result["non_2xx_responses"] == 5


def test_no_requests(wrk: ModuleType, tmp_path: Path) -> None:
    report = replace(REPORT, latency=Histogram({}), requests=0, read_bytes=0)
    result = collect_of(wrk, tmp_path, report)
    assert result["problems"] == ["no request was completed"]
    assert set(result["latency_us"].values()) == {None}
    assert (result["requests"], result["requests_per_s"]) == (0, 0.0)
    assert result["histogram_count"] == 0


def test_an_interrupted_run(wrk: ModuleType, tmp_path: Path) -> None:
    report = replace(REPORT, duration_s=30)
    assert collect_of(wrk, tmp_path, report)["problems"] == [
        "ended after 10.1 s of the announced 30s"
    ]


def test_a_run_without_percentiles(wrk: ModuleType, tmp_path: Path) -> None:
    report = replace(REPORT, with_latency=False)
    assert collect_of(wrk, tmp_path, report)["problems"] == [
        "wrk printed no percentiles: run it with --latency"
    ]


# --- what done.lua left -------------------------------------------------------------------------


def test_no_summary_names_what_done_lua_said(wrk: ModuleType, tmp_path: Path) -> None:
    said = "done.lua: no summary and no histogram written: no space"
    result = wrk.collect(tmp_path, 0, REPORT.text(), said + "\n")
    assert result["problems"] == [f"done.lua left no wrk-summary.json: {said}"]
    assert_no_figures(result)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "Expecting value"),
        ('{"schema": 1', "Expecting ',' delimiter"),
        ("[]", "the summary is [], not an object"),
        ("{}", "schema is None, not 1"),
        ('{"schema": 1}', "errors is None, not an object"),
        ('{"schema": 1, "errors": {}, "latency": {}}', "count is None, not a count"),
    ],
)
def test_a_damaged_summary(wrk: ModuleType, tmp_path: Path, content: str, reason: str) -> None:
    REPORT.leave_in(tmp_path)
    (tmp_path / "wrk-summary.json").write_text(content)
    [problem] = wrk.collect(tmp_path, 0, REPORT.text(), "")["problems"]
    assert problem.startswith(f"wrk-summary.json cannot be read: {reason}")


@pytest.mark.parametrize("value", [-1, 1.5, "90", True, None])
def test_a_summary_with_a_count_that_is_none(
    wrk: ModuleType, tmp_path: Path, value: object
) -> None:
    [problem] = collect_of(wrk, tmp_path, requests=value)["problems"]
    assert problem == f"wrk-summary.json cannot be read: requests is {value!r}, not a count"


def test_a_summary_with_a_mean_that_is_no_number(wrk: ModuleType, tmp_path: Path) -> None:
    latency = REPORT.summary()["latency"]
    assert isinstance(latency, dict)
    [problem] = collect_of(wrk, tmp_path, latency=latency | {"mean_us": float("nan")})["problems"]
    assert problem == "wrk-summary.json cannot be read: mean_us is nan, not a number"


def test_no_histogram(wrk: ModuleType, tmp_path: Path) -> None:
    REPORT.leave_in(tmp_path)
    (tmp_path / "wrk-histogram.u4").unlink()
    result = wrk.collect(tmp_path, 0, REPORT.text(), "")
    [problem] = result["problems"]
    assert problem.startswith("wrk-histogram.u4 cannot be read: ")
    assert result["latency_us"]["p50"] is None
    assert result["latency_us"]["max"] == 900_000
    assert result["histogram_count"] is None


@pytest.mark.parametrize(
    ("lost_bytes", "reason"), [(4, "ends in the middle of a bucket"), (1, "cannot be read: ")]
)
def test_a_histogram_cut_short(
    wrk: ModuleType, tmp_path: Path, lost_bytes: int, reason: str
) -> None:
    REPORT.leave_in(tmp_path)
    path = tmp_path / "wrk-histogram.u4"
    path.write_bytes(path.read_bytes()[:-lost_bytes])
    [problem] = wrk.collect(tmp_path, 0, REPORT.text(), "")["problems"]
    assert problem.startswith(f"wrk-histogram.u4 {reason}")


def test_the_histogram_is_little_endian(wrk: ModuleType, tmp_path: Path) -> None:
    report = replace(REPORT, latency=Histogram({0x01020304: 90}))
    report.leave_in(tmp_path)
    assert (tmp_path / "wrk-histogram.u4").read_bytes() == struct.pack("<II", 0x01020304, 90)
    result = wrk.collect(tmp_path, 0, report.text(), "")
    assert result["histogram"] == {"values_us": [0x01020304], "counts": [90]}


# --- where they disagree ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("buckets", "problem"),
    [
        (
            [*list(COUNTS.items())[:-1], (900_000, 2)],
            "the histogram holds 101 latencies, done() says 100",
        ),
        ([(90, 0), *COUNTS.items()], "the histogram has an empty bucket"),
        ([(100, 30), (100, 30), *list(COUNTS.items())[1:]], "the histogram has 6 buckets"),
        ([*COUNTS.items()][::-1], "the buckets of the histogram do not ascend"),
        (
            [(99, 60), *list(COUNTS.items())[1:]],
            "the histogram runs from 99 to 900000 us, done() says 100 to 900000",
        ),
        (
            [(100, 60), (251, 25), *list(COUNTS.items())[2:]],
            "the histogram's mean is 10922.8 us, done() says 10922.5",
        ),
        ([], "the histogram holds 0 latencies, done() says 100"),
        (
            [(100, 60), (260, 25), *list(COUNTS.items())[2:]],
            "the text says 250 us of latency p75, done() says 260",
        ),
    ],
)
def test_a_histogram_of_another_run(
    wrk: ModuleType, tmp_path: Path, buckets: list[tuple[int, int]], problem: str
) -> None:
    REPORT.leave_in(tmp_path)
    write_histogram(tmp_path, buckets)
    problems = wrk.collect(tmp_path, 0, REPORT.text(), "")["problems"]
    assert problem in " ".join(problems)


@pytest.mark.parametrize(
    ("summary", "problem"),
    [
        ({"requests": 91}, "the text says 90 requests, done() says 91"),
        ({"duration_us": 10_093_000}, "the text says 10100000 elapsed us, done() says 10093000"),
        ({"duration_us": 0}, "done() says that no time passed"),
        ({"bytes": 11_500}, "the text says 11612.16 bytes read, done() says 11500"),
        ({"requests": 900}, "the text says 8.91 requests/s, done() says 89.08"),
        ({"bytes": 116_100}, "the text says 1146.88 bytes/s, done() says 11491.6"),
        ({"requests": 101}, "100 latencies were recorded for 101 requests"),
    ],
)
def test_a_summary_of_another_run(
    wrk: ModuleType, tmp_path: Path, summary: dict[str, Any], problem: str
) -> None:
    assert problem in " ".join(collect_of(wrk, tmp_path, **summary)["problems"])


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        ("connect", "the text says 0 connect errors, done() says 7"),
        ("read", "the text says 0 read errors, done() says 7"),
        ("write", "the text says 0 write errors, done() says 7"),
        ("timeout", "the text says 0 timeouts, done() says 7"),
        ("status", "the text says 0 non-2xx responses, done() says 7"),
    ],
)
def test_errors_that_the_text_does_not_know(
    wrk: ModuleType, tmp_path: Path, error: str, problem: str
) -> None:
    errors = replace(REPORT, errors={error: 7}).summary()["errors"]
    assert problem in collect_of(wrk, tmp_path, errors=errors)["problems"]


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("mean_us", 11_000.0, "the text says 10920 us of average latency, done() says 11000"),
        ("stdev_us", 1.0, "us of latency deviation, done() says 1"),
        ("max_us", 900_006, "the text says 900000 us of maximum latency, done() says 900006"),
        ("count", 0, "the text says 900000 us of maximum latency, done() says no"),
        ("count", 101, "the histogram holds 100 latencies, done() says 101"),
        ("buckets", 4, "the histogram has 5 buckets, done() says 4"),
        ("min_us", 99, "done() says 99 to 900000"),
    ],
)
def test_latencies_that_the_text_does_not_have(
    wrk: ModuleType, tmp_path: Path, name: str, value: float, problem: str
) -> None:
    latency = REPORT.summary()["latency"]
    assert isinstance(latency, dict)
    problems = collect_of(wrk, tmp_path, latency=latency | {name: value})["problems"]
    assert problem in " ".join(problems)


@pytest.mark.parametrize("maximum_us", [899_995, 900_005])
def test_what_wrk_rounds_off_is_no_disagreement(
    wrk: ModuleType, tmp_path: Path, maximum_us: int
) -> None:
    counts = {value: count for value, count in COUNTS.items() if value < 900_000}
    report = replace(REPORT, latency=Histogram({**counts, maximum_us: 1}))
    report.leave_in(tmp_path)
    assert wrk.collect(tmp_path, 0, report.text(), "")["problems"] == []
