"""The printer that the other tests trust prints what wrk printed."""

from pathlib import Path

import pytest

from tests.unit.loads.wrk_text import (
    Histogram,
    Report,
    format_binary,
    format_duration,
    format_metric,
    format_time_us,
    print_units,
)


@pytest.mark.parametrize(
    ("amount_us", "printed"),
    [
        (0, "0.00us"),
        (849, "849.00us"),
        (850, "0.85ms"),
        (999_999, "1000.00ms"),
        (1_000_000, "1.00s"),
        (50_990_000, "50.99s"),
        (51_000_000, "0.85m"),
        (7_200_000_000, "120.00m"),
    ],
)
def test_times(amount_us: int, printed: str) -> None:
    assert format_time_us(amount_us) == printed


def test_durations_bytes_and_rates() -> None:
    assert [format_duration(s) for s in (10, 51, 60, 7200)] == ["10s", "1m", "1m", "120m"]
    assert [format_binary(n) for n in (870, 871, 1024**4, 1024**6)] == [
        "870.00",
        "0.85K",
        "1.00T",
        "1048576.00T",
    ]
    assert [format_metric(n) for n in (3.5, 850, 9.5e6)] == ["3.50", "0.85k", "9.50M"]


def test_columns() -> None:
    assert print_units(700_450, format_time_us, 8) == "700.45ms"
    assert print_units(999_999, format_time_us, 8) == "1000.00m"
    assert print_units(1_500_000, format_time_us, 10) == "    1.50s "


def test_a_report_is_printed_as_wrk_printed_it(data: Path) -> None:
    report = Report(
        latency=Histogram({700_450: 1}),
        requests=1,
        runtime_us=1_004_340,
        read_bytes=129,
        url="http://127.0.0.1:18080/slow?ms=700",
        threads=1,
        connections=1,
        rate=(1, 0, 1),
    )
    assert report.text() == (data / "one-request.txt").read_text()


def test_a_report_without_requests_is_printed_as_wrk_printed_it(data: Path) -> None:
    report = Report(
        latency=Histogram({}),
        requests=0,
        runtime_us=1_010_000,
        read_bytes=0,
        url="http://127.0.0.1:18080/hang",
        threads=2,
        connections=20,
        rate=(0, 0, 0),
    )
    assert report.text() == (data / "hanging-server.txt").read_text()
