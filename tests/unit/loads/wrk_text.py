"""Prints reports as wrk does, and leaves files as done.lua does, from figures that a test chose.

Mirrors src/units.c, src/stats.c and print_stats(), print_units(), print_stats_latency() and main()
of src/wrk.c, with exact fractions where wrk has long doubles.
"""

import json
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

Number = Fraction | int | float


def format_units(
    amount: Number, units: Sequence[str], scale: int, base: str = "", places: int = 2
) -> str:
    left, unit = Fraction(amount), base
    for name in units[:-1]:  # the loop of wrk ends before its last unit
        if left < Fraction(scale * 85, 100):
            break
        left, unit = left / scale, name
    if not places:
        return f"{round(left)}{unit}"
    hundredths = round(left * 100)
    return f"{hundredths // 100}.{hundredths % 100:02}{unit}"


def format_time_us(amount: Number) -> str:
    if amount >= 1_000_000:
        return format_units(Fraction(amount) / 1_000_000, ("m", "h"), 60, "s")
    return format_units(amount, ("ms", "s"), 1000, "us")


def format_duration(duration_s: int) -> str:
    return format_units(duration_s, ("m", "h"), 60, "s", places=0)


def format_metric(amount: Number) -> str:
    return format_units(amount, "kMGTP", 1000)


def format_binary(amount: Number) -> str:
    return format_units(amount, "KMGTP", 1024)


def print_units(amount: Number, form: Callable[[Number], str], width: int) -> str:
    text = form(amount)
    pad = 2 - text[-1].isalpha() - text[-2].isalpha()
    width -= pad
    return f"{text[:width]:>{width}}" + " " * pad


@dataclass(frozen=True)
class Histogram:
    """Latencies by value in us."""

    counts: dict[int, int]

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    @property
    def mean(self) -> Fraction:
        if not self.count:
            return Fraction(0)
        return Fraction(sum(value * times for value, times in self.counts.items()), self.count)

    @property
    def stdev(self) -> float:
        if self.count < 2:
            return 0.0
        squares = sum((value - self.mean) ** 2 * times for value, times in self.counts.items())
        return math.sqrt(squares / (self.count - 1))

    @property
    def maximum(self) -> int:
        return max(self.counts, default=0)

    def within_stdev(self) -> str:
        if not self.count:
            return "-nan"
        low, high = self.mean - Fraction(self.stdev), self.mean + Fraction(self.stdev)
        inside = sum(times for value, times in self.counts.items() if low <= value <= high)
        return format_units(Fraction(100 * inside, self.count), ("",), 1000)

    def percentile(self, percent: Number) -> int:
        # C's round() goes away from zero at a half
        rank = math.floor(Fraction(percent) / 100 * self.count + 1)
        total = 0
        for value in sorted(self.counts):
            total += self.counts[value]
            if total >= rank:
                return value
        return 0


@dataclass(frozen=True)
class Report:
    """What wrk knows at the end of a run."""

    latency: Histogram
    requests: int
    runtime_us: int
    read_bytes: int
    duration_s: int = 1
    url: str = "http://127.0.0.1:447/"
    threads: int = 10
    connections: int = 100
    with_latency: bool = True
    rate: tuple[Number, Number, Number] = (3260, 1200.5, 7770)
    errors: dict[str, int] = field(default_factory=dict)

    def count(self, error: str) -> int:
        return self.errors.get(error, 0)

    def text(self) -> str:
        lines = [
            f"Running {format_duration(self.duration_s)} test @ {self.url}",
            f"  {self.threads} threads and {self.connections} connections",
            f"  Thread Stats{'Avg':>6}{'Stdev':>11}{'Max':>8}{'+/- Stdev':>12}",
            self._row("Latency", self._latency_figures(), format_time_us),
            self._row("Req/Sec", self.rate, format_metric),
            *self._distribution(),
            self._totals(),
            *self._error_lines(),
            f"Requests/sec: {format_units(self.per_s(self.requests), ('',), 10**30):>9}",
            f"Transfer/sec: {format_binary(self.per_s(self.read_bytes)):>10}B",
        ]
        return "".join(line + "\n" for line in lines)

    def per_s(self, amount: int) -> Fraction:
        return Fraction(amount * 1_000_000, self.runtime_us)

    def _latency_figures(self) -> tuple[Number, Number, Number]:
        return self.latency.mean, self.latency.stdev, self.latency.maximum

    def _row(
        self, name: str, figures: tuple[Number, Number, Number], form: Callable[[Number], str]
    ) -> str:
        columns = zip(figures, (8, 10, 9), strict=True)
        printed = "".join(print_units(figure, form, width) for figure, width in columns)
        return f"    {name:<10}{printed}{self.latency.within_stdev():>8}%"

    def _distribution(self) -> list[str]:
        if not self.with_latency:
            return []
        rows = [
            f"{percent:7}%" + print_units(self.latency.percentile(percent), format_time_us, 10)
            for percent in (50, 75, 90, 99)
        ]
        return ["  Latency Distribution", *rows]

    def _totals(self) -> str:
        elapsed, read = format_time_us(self.runtime_us), format_binary(self.read_bytes)
        return f"  {self.requests} requests in {elapsed}, {read}B read"

    def _error_lines(self) -> list[str]:
        lines = []
        names = ("connect", "read", "write", "timeout")
        if any(self.count(name) for name in names):
            counts = ", ".join(f"{name} {self.count(name)}" for name in names)
            lines.append(f"  Socket errors: {counts}")
        if self.count("status"):
            lines.append(f"  Non-2xx or 3xx responses: {self.count('status')}")
        return lines

    def summary(self) -> dict[str, object]:
        latency = self.latency
        some = latency.count > 0
        return {
            "schema": 1,
            "duration_us": self.runtime_us,
            "requests": self.requests,
            "bytes": self.read_bytes,
            "errors": {
                name: self.count(name) for name in ("connect", "read", "write", "status", "timeout")
            },
            "latency": {
                "count": latency.count,
                "buckets": len(latency.counts),
                "min_us": min(latency.counts) if some else None,
                "max_us": latency.maximum if some else None,
                "mean_us": float(latency.mean) if some else None,
                "stdev_us": latency.stdev if some else None,
            },
        }

    def leave_in(self, scratch: Path) -> None:
        """Write the two files of done.lua."""
        write_histogram(scratch, sorted(self.latency.counts.items()))
        write_summary(scratch, self.summary())


def write_histogram(scratch: Path, buckets: Sequence[tuple[int, int]]) -> None:
    content = b"".join(struct.pack("<II", value, count) for value, count in buckets)
    (scratch / "wrk-histogram.u4").write_bytes(content)


def write_summary(scratch: Path, summary: dict[str, object]) -> None:
    (scratch / "wrk-summary.json").write_text(json.dumps(summary) + "\n")
