"""The loads of h2load in tests/data/adapters: report, log, and whether a rate was kept."""

import importlib.util
import signal
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ADAPTER = Path(__file__).parents[3] / "tests/data/adapters/loads/h2load/adapter.py"
ASKED = "asked for 1000 requests/s on 10 connections\n"
#: h2load 1.52, 3 s of 100 requests/s on 3 connections, as it printed it.
REPORT = """\
starting benchmark...
finished in 3.00s, 100.00 req/s, 13.23KB/s
requests: 300 total, 300 started, 300 done, 300 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 300 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 39.69KB (40647) total, 30.76KB (31500) headers (space savings 40.00%), 3.52KB (3600) data
                     min         max         mean         sd        +/- sd
time for request:       60us       565us       262us        90us    66.33%
"""
BEGAN_US = 1_795_379_052_000_000


@pytest.fixture(scope="module")
def h2load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("h2load_adapter", ADAPTER)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def log(folder: Path, requests: Iterable[tuple[int, int]], status: str = "200") -> Path:
    """Write h2load's log: when each request began, in us from the first one, and its latency."""
    lines = (f"{BEGAN_US + began}\t{status}\t{latency}\n" for began, latency in requests)
    (folder / "requests.tsv").write_text("".join(lines))
    return folder


def report(requests: int) -> str:
    return REPORT.replace("300 ", f"{requests} ")


def problems(h2load: ModuleType, scratch: Path, requests: int) -> list[str]:
    """Of an open loop that was asked for 1000 requests/s."""
    found: list[str] = h2load.collect(scratch, 0, ASKED + report(requests), "")["problems"]
    return found


def test_figures_come_from_the_log_of_every_request(h2load: ModuleType, tmp_path: Path) -> None:
    scratch = log(tmp_path, ((10_000 * n, 1000 - n) for n in range(300)))
    found: dict[str, Any] = h2load.collect(scratch, 0, REPORT, "")
    assert found["problems"] == []
    assert (found["requests"], found["elapsed_s"], found["requests_per_s"]) == (300, 3.0, 100.0)
    assert (found["read_bytes"], found["transfer_bytes_per_s"]) == (40647, 13549.0)
    latency = found["latency_us"]
    assert (latency["min"], latency["max"], latency["avg"]) == (701, 1000, 850.5)
    assert (latency["p50"], latency["p90"], latency["p99"]) == (850, 970, 997)
    assert latency["p99_99"] == 1000
    assert found["histogram"] == {"values_us": list(range(701, 1001)), "counts": [1] * 300}


def test_a_kept_rate_is_no_problem(h2load: ModuleType, tmp_path: Path) -> None:
    scratch = log(tmp_path, ((1000 * n, 500) for n in range(2000)))
    assert problems(h2load, scratch, 2000) == []


def test_a_rate_that_was_not_reached_is_told(h2load: ModuleType, tmp_path: Path) -> None:
    scratch = log(tmp_path, ((1050 * n, 500) for n in range(2000)))
    (problem,) = problems(h2load, scratch, 2000)
    assert problem == (
        "asked for 1000 requests/s, sent were 952: "
        "lower rate_per_s, or raise connections or streams of the load"
    )


def test_requests_that_were_held_back_are_told(h2load: ModuleType, tmp_path: Path) -> None:
    # Nothing was sent for 0.8 s, then all of it at once: the rate is right, the latencies are not.
    times_us = [1000 * n if not 1000 <= n < 1800 else 1_800_000 for n in range(3000)]
    scratch = log(tmp_path, ((time_us, 500) for time_us in times_us))
    (problem,) = problems(h2load, scratch, 3000)
    assert problem.startswith("requests were held back for up to 0.8 s: ")


def test_a_closed_loop_is_asked_for_no_rate(h2load: ModuleType, tmp_path: Path) -> None:
    scratch = log(tmp_path, ((1050 * n, 500) for n in range(2000)))
    assert h2load.collect(scratch, 0, report(2000), "")["problems"] == []


@pytest.mark.parametrize("requests", [1, 2])
def test_a_few_requests_say_nothing_of_a_rate(
    h2load: ModuleType, tmp_path: Path, requests: int
) -> None:
    assert problems(h2load, log(tmp_path, [(0, 500)] * requests), requests) == []


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ("0 errored", "7 requests errored"),
        ("0 timeout", "7 requests timed out"),
        ("0 4xx", "7 answers that are not 2xx"),
    ],
)
def test_what_the_report_says_against_itself(
    h2load: ModuleType, tmp_path: Path, changed: str, problem: str
) -> None:
    scratch = log(tmp_path, ((10_000 * n, 500) for n in range(300)))
    stdout = REPORT.replace(changed, changed.replace("0", "7"))
    assert h2load.collect(scratch, 0, stdout, "")["problems"] == [problem]


def test_log_and_report_must_agree(h2load: ModuleType, tmp_path: Path) -> None:
    scratch = log(tmp_path, ((10_000 * n, 500) for n in range(299)))
    found = h2load.collect(scratch, 0, REPORT, "")
    assert found["problems"] == ["its log holds 299 requests, not 300"]
    assert found["histogram_count"] == 299
    failed = h2load.collect(log(tmp_path, [(0, 5)], status="-1"), 0, report(1), "")
    assert failed["problems"] == ["its log holds 0 requests, not 1"]


def test_nothing_is_made_up_where_there_is_no_report(h2load: ModuleType, tmp_path: Path) -> None:
    found = h2load.collect(tmp_path, 1, "", "could not connect to host\n")
    assert found["problems"] == [
        "h2load ended with exit code 1",
        "could not connect to host",
        "h2load printed no whole report",
    ]
    assert found["requests"] is found["requests_per_s"] is found["read_bytes"] is None
    assert set(found["latency_us"].values()) == {None}


def test_a_full_log_is_told_with_what_helps(h2load: ModuleType, tmp_path: Path) -> None:
    found = h2load.collect(tmp_path, -signal.SIGXFSZ, "", "")
    assert found["problems"][0] == (
        "h2load's log of requests is full: lower rate_per_s or duration_s of the load"
    )
