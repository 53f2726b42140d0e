"""loads/wrk/adapter.py, parse(): captured texts of wrk, and texts that cannot be trusted."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

NO_ERRORS = {"connect": 0, "read": 0, "write": 0, "timeout": 0}
NOTHING_MEASURED = dict.fromkeys(
    f"latency_{name}_us" for name in ("avg", "stdev", "max", "p50", "p75", "p90", "p99")
)
REPORT = """\
Running 10s test @ https://127.0.0.1:446
  10 threads and 100 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     6.99ms   15.99ms 350.69ms   93.88%
    Req/Sec     3.26k     1.20k    7.77k    77.91%
  Latency Distribution
     50%    1.78ms
     75%    6.37ms
     90%   11.69ms
     99%   59.19ms
  320042 requests in 10.10s, 39.68MB read
  Socket errors: connect 1, read 2, write 3, timeout 4
  Non-2xx or 3xx responses: 5
Requests/sec:  31688.27
Transfer/sec:      3.93MB
"""


def only_run(wrk: ModuleType, path: Path) -> dict[str, Any]:
    runs: list[dict[str, Any]] = wrk.parse(path.read_text(), path.name)
    assert len(runs) == 1
    return runs[0]


def refusal(wrk: ModuleType, text: str, source: str = "some.txt") -> Any:
    with pytest.raises(wrk.ParseError) as caught:
        wrk.parse(text, source)
    return caught.value


def lines_of_report() -> Iterator[tuple[int, str]]:
    yield from enumerate(REPORT.splitlines(keepends=True))


# --- what wrk printed ---------------------------------------------------------------------------


def test_every_figure_of_a_report(wrk: ModuleType, data: Path) -> None:
    assert only_run(wrk, data / "https-latency.txt") == {
        "source": "https-latency.txt",
        "url": "https://127.0.0.1:18443",
        "threads": 10,
        "connections": 100,
        "requests": 66112,
        "elapsed_s": 2.09,
        "read_bytes": 8524922.88,
        "requests_per_s": 31610.45,
        "transfer_bytes_per_s": 4078960.64,
        "latency_avg_us": 5280.0,
        "latency_stdev_us": 12760.0,
        "latency_max_us": 291660.0,
        "latency_p50_us": 1780.0,
        "latency_p75_us": 6370.0,
        "latency_p90_us": 11690.0,
        "latency_p99_us": 59190.0,
        "socket_errors": NO_ERRORS,
        "non_2xx_responses": 0,
        "problems": [],
    }


def test_without_percentiles_they_are_none(wrk: ModuleType, data: Path) -> None:
    run = only_run(wrk, data / "http.txt")
    assert {run[f"latency_p{percent}_us"] for percent in (50, 75, 90, 99)} == {None}
    assert run["latency_avg_us"] == 950.0
    assert run["problems"] == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("one-connection", {"latency_avg_us": 160.73, "latency_p50_us": 54.0}),
        ("http-latency", {"latency_p50_us": 511.0, "latency_p75_us": 2100.0, "elapsed_s": 2.03}),
        ("seconds", {"latency_max_us": 1.5e6, "latency_p99_us": 1.5e6, "read_bytes": 3092.48}),
        ("minutes", {"latency_avg_us": 52.2e6, "latency_stdev_us": 220.31, "elapsed_s": 60.0}),
        ("bytes", {"read_bytes": 258.0, "transfer_bytes_per_s": 257.7}),
        ("one-request", {"requests": 1, "latency_stdev_us": 0.0, "latency_p50_us": 700450.0}),
        (
            "gigabytes",
            {"read_bytes": 3.64 * 1024**3, "transfer_bytes_per_s": 1.18 * 1024**3},
        ),
        ("redirect", {"non_2xx_responses": 0}),
        ("script-not-loaded", {"requests": 9245}),
    ],
)
def test_units_of_every_magnitude(
    wrk: ModuleType, data: Path, name: str, expected: dict[str, float]
) -> None:
    run = only_run(wrk, data / f"{name}.txt")
    assert {key: run[key] for key in expected} == expected
    assert run["problems"] == []


@pytest.mark.parametrize(
    ("name", "problems"),
    [
        ("hanging-server", ["no request was completed"]),
        (
            "https-to-http",
            [
                "no request was completed",
                "socket errors: connect 5638, read 0, write 0, timeout 0",
            ],
        ),
        (
            "http-to-https",
            [
                "socket errors: connect 0, read 6049, write 0, timeout 0",
                "6049 responses were not 2xx or 3xx",
            ],
        ),
        ("server-dies", ["socket errors: connect 0, read 21, write 33900, timeout 0"]),
        ("server-dies-https", ["socket errors: connect 4311, read 20, write 0, timeout 0"]),
        ("not-found", ["54773 responses were not 2xx or 3xx"]),
        (
            "timeouts",
            ["no latency was recorded", "socket errors: connect 0, read 0, write 0, timeout 40"],
        ),
        ("interrupted", ["ended after 1.52 s of the announced 10s"]),
        ("interrupted-early", ["ended after 0.30177 s of the announced 10s"]),
        ("interrupted-hours", ["ended after 1.2 s of the announced 120m"]),
        ("interrupted-51s", ["ended after 1.22 s of the announced 1m"]),
    ],
)
def test_a_failed_run_says_why_it_cannot_count(
    wrk: ModuleType, data: Path, name: str, problems: list[str]
) -> None:
    assert only_run(wrk, data / f"{name}.txt")["problems"] == problems


@pytest.mark.parametrize("name", ["hanging-server", "https-to-http", "timeouts"])
def test_what_was_not_measured_is_none_and_never_nan_or_zero(
    wrk: ModuleType, data: Path, name: str
) -> None:
    run = only_run(wrk, data / f"{name}.txt")
    assert {key: run[key] for key in NOTHING_MEASURED} == NOTHING_MEASURED
    assert json.loads(json.dumps(run, allow_nan=False)) == run


def test_nan_anywhere_is_none(wrk: ModuleType) -> None:
    text = REPORT.replace("6.99ms   15.99ms 350.69ms   93.88%", "-nanus   -nanus 350.69ms   -nan%")
    run = wrk.parse(text, "x")[0]
    assert (run["latency_avg_us"], run["latency_stdev_us"]) == (None, None)
    assert run["latency_max_us"] == 350690.0
    assert "no latency was recorded" in run["problems"]


def test_the_errors_of_a_report(wrk: ModuleType) -> None:
    run = wrk.parse(REPORT, "x")[0]
    assert run["socket_errors"] == {"connect": 1, "read": 2, "write": 3, "timeout": 4}
    assert run["non_2xx_responses"] == 5


def test_an_average_that_wrk_cut_off_is_not_taken_for_minutes(wrk: ModuleType) -> None:
    text = REPORT.replace("  6.99ms   15.99ms 350.69ms", "1000.00m   15.99ms1000.00ms")
    run = wrk.parse(text, "x")[0]
    assert (run["latency_avg_us"], run["latency_max_us"]) == (1e6, 1e6)


def test_an_average_that_lost_its_whole_unit_is_refused(wrk: ModuleType) -> None:
    error = refusal(wrk, REPORT.replace("   6.99ms   15.99ms", "1000.00    15.99ms"))
    assert error.line_number == 4


# --- several runs, and what stands around them --------------------------------------------------


def test_the_published_document_holds_six_runs(wrk: ModuleType, data: Path) -> None:
    path = data / "seed-document.md"
    runs = wrk.parse(path.read_text(), path.name)
    assert [(run["url"], run["requests_per_s"]) for run in runs] == [
        ("https://127.0.0.1:446", 31688.27),
        ("https://127.0.0.1:446", 14374.98),
        ("https://127.0.0.1:446", 18886.51),
        ("http://127.0.0.1:447", 41425.58),
        ("http://127.0.0.1:447", 17364.72),
        ("http://127.0.0.1:447", 22671.80),
    ]
    assert [run["problems"] for run in runs] == [[]] * 6
    assert runs[4]["latency_max_us"] == 1_040_000.0


@pytest.mark.parametrize(
    "around",
    [
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "".join(f"    {line}\n" for line in text.splitlines()),
        lambda text: "".join(f"> {line}\n" for line in text.splitlines()),
        lambda text: f"$ wrk https://127.0.0.1:446\n{text}$ \n",
        lambda text: f"\x1b[?2004l\r{text}\x1b[?2004h\x1b[1;32mroot@host\x1b[0m:~# exit\n",
        lambda text: f"# Title\n\nWe saw latencies of 5 ms:\n\n```\n{text}```\n\nAnd so on.\n",
    ],
    ids=["no newline", "CRLF", "indented", "quoted", "prompts", "escapes", "Markdown"],
)
def test_a_report_is_found_wherever_it_stands(wrk: ModuleType, around: Any) -> None:
    assert wrk.parse(around(REPORT), "x") == wrk.parse(REPORT, "x")


def test_runs_that_follow_each_other_at_once(wrk: ModuleType) -> None:
    assert wrk.parse(REPORT * 3, "x") == wrk.parse(REPORT, "x") * 3


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("refused", "unable to connect to 127.0.0.1:1 Connection refused"),
        ("unresolved", "unable to resolve no.such.host.invalid:http Name or service not known"),
        ("bad-url", "invalid URL: 127.0.0.1:18080"),
        ("bad-connections", "number of connections must be >= threads"),
        ("usage", "Usage: wrk <options> <url>"),
        ("version", "Usage: wrk <options> <url>"),
        ("script-panic", "PANIC: unprotected error in call to Lua API (panic.lua:1: no)"),
    ],
)
def test_what_wrk_says_instead_of_a_report(
    wrk: ModuleType, data: Path, name: str, quoted: str
) -> None:
    error = refusal(wrk, (data / f"{name}.txt").read_text(), f"{name}.txt")
    assert error.line.strip() == quoted
    assert error.reason == "wrk made no report but says"
    assert error.parsed == []


@pytest.mark.parametrize(
    "line",
    [
        "unable to create thread 3: Resource temporarily unavailable",
        "unable to initialize SSL",
        "incomplete request at 1:1",
        "bash: wrk: command not found",
        "sh: 1: wrk: not found",
    ],
)
def test_other_failures_after_a_run_keep_the_run(wrk: ModuleType, line: str) -> None:
    error = refusal(wrk, f"{REPORT}\n{line}\n{REPORT}", "both.txt")
    assert error.parsed == wrk.parse(REPORT, "both.txt")
    assert (error.source, error.line_number, error.line) == ("both.txt", 17, line)
    assert str(error) == f"both.txt:17: wrk made no report but says: {line!r}"


@pytest.mark.parametrize(
    ("text", "line_number", "line"),
    [
        ("", 1, ""),
        ("\n\n", 1, ""),
        ("\nPing statistics\n", 2, "Ping statistics"),
        ("We were unable to connect to the server: it was off\n" * 2, 1, None),
    ],
)
def test_a_text_without_any_report(
    wrk: ModuleType, text: str, line_number: int, line: str | None
) -> None:
    error = refusal(wrk, text)
    assert error.reason == "the text holds no report of wrk"
    assert error.line_number == line_number
    assert line is None or error.line == line


def test_a_long_line_is_quoted_in_part(wrk: ModuleType) -> None:
    error = refusal(wrk, "x" * 10_000)
    assert len(error.line) == 10_000
    assert len(str(error)) < 300


@pytest.mark.parametrize(("index", "line"), [*lines_of_report()])
def test_a_report_without_one_of_its_lines(wrk: ModuleType, index: int, line: str) -> None:
    optional = ("Socket errors", "Non-2xx")
    text = REPORT.replace(line, "")
    if line.strip().startswith(optional):
        assert len(wrk.parse(text, "x")) == 1
    else:
        assert refusal(wrk, text).line_number in (index, index + 1)


@pytest.mark.parametrize(("index", "line"), [*lines_of_report()])
def test_a_report_with_a_line_too_many(wrk: ModuleType, index: int, line: str) -> None:
    assert refusal(wrk, REPORT.replace(line, line + line)).line_number == index + 2


def test_a_killed_run_names_its_first_line_and_quotes_what_came_next(wrk: ModuleType) -> None:
    head = "".join(line for _, line in list(lines_of_report())[:2])
    error = refusal(wrk, f"{REPORT}\n$ wrk\n{head}root@host:~# \n")
    assert error.line == "root@host:~# "
    assert error.reason == (
        "the report that begins at line 18 has this line in place of 'Thread Stats'"
    )
    assert len(error.parsed) == 1


def test_a_report_cut_short_quotes_its_last_line(wrk: ModuleType) -> None:
    error = refusal(wrk, REPORT[: REPORT.index("Transfer")] + "\n\n")
    assert error.line_number == 14
    assert error.line == "Requests/sec:  31688.27"
    assert error.reason == (
        "the report that begins at line 1 is cut short before its line 'Transfer/sec:'"
    )


def test_a_report_cut_in_its_first_line(wrk: ModuleType) -> None:
    for cut in ("Running 1", "Running 10s", "Running 10s te", "Running 10s test @"):
        assert refusal(wrk, REPORT + cut).line == cut


def test_lines_of_a_report_without_its_beginning(wrk: ModuleType) -> None:
    for index, line in list(lines_of_report())[1:]:
        error = refusal(wrk, f"text\n{line}{REPORT}")
        assert (error.line_number, error.line) == (2, line.rstrip("\n")), index
        assert error.reason == "a line of a report whose beginning is missing"


@pytest.mark.parametrize(
    ("printed", "changed"),
    [
        ("10s test", "10h test"),
        ("10 threads", "ten threads"),
        ("6.99ms", "6.99"),
        ("6.99ms", "6.9ms"),
        ("6.99ms", "6,99ms"),
        ("6.99ms", "6.99ns"),
        ("6.99ms", "-6.99ms"),
        ("93.88%", "93.88"),
        ("3.26k", "3.26x"),
        ("     50%", "     51%"),
        ("10.10s", "10.10"),
        ("10.10s", "-nans"),
        ("39.68MB", "39.68mB"),
        ("39.68MB", "39.68PB"),
        ("timeout 4", "timeout -4"),
        ("31688.27", "31688"),
        ("31688.27", "inf"),
        ("3.93MB", "3.93M"),
        ("3.93MB", "3.93MB/s"),
        ("320042", "9" * 5000),
    ],
)
def test_a_figure_that_wrk_cannot_have_printed(wrk: ModuleType, printed: str, changed: str) -> None:
    assert printed in REPORT
    error = refusal(wrk, REPORT.replace(printed, changed))
    assert changed in error.line


# --- figures that contradict each other ---------------------------------------------------------


@pytest.mark.parametrize(
    ("printed", "changed", "problem"),
    [
        ("31688.27", "31788.27", "Requests/sec 31788.3 is not 320042 requests in 10.1 s"),
        ("320042", "32004", "Requests/sec 31688.3 is not 32004 requests in 10.1 s"),
        ("3.93MB", "3.93GB", "Transfer/sec 4.21981e+09 B is not 4.16075e+07 B in 10.1 s"),
        ("350.69ms", "3.50ms", "the average latency 6990 us is above the maximum 3500 us"),
        ("11.69ms", "1.69ms", "the latency percentiles and the maximum do not ascend"),
        ("59.19ms", "1.00s", "the latency percentiles and the maximum do not ascend"),
    ],
)
def test_contradictions_are_problems(
    wrk: ModuleType, printed: str, changed: str, problem: str
) -> None:
    before = wrk.parse(REPORT, "x")[0]["problems"]
    after = wrk.parse(REPORT.replace(printed, changed), "x")[0]["problems"]
    assert problem not in before
    assert problem in after
