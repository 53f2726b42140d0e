"""The load `wrk`: reads its text, and collects what one run of it left behind.

Two functions are called from outside, by whoever loads this file by its path:

- `parse` reads every wrk report in a text, strictly;
- `collect` judges one wrk that ran with `done.lua`, from its exit code, its text and the files of
  `done.lua`.

wrk prints its figures with two decimals and a unit. The rules are those of wrk's own source, the
same in every release from 2.0.0 to 4.2.0: `format_units` in src/units.c changes to the next unit at
0.85 of it (850 us is `0.85ms`, 870.4 bytes are `0.85KB`), bytes are counted in steps of 1024, times
of a second and more in steps of 60 that end at minutes.
"""

import json
import re
import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from operator import mul
from pathlib import Path
from typing import Final, NamedTuple, TypedDict


class SocketErrors(TypedDict):
    """How often wrk failed at its sockets; None where nothing is known."""

    connect: int | None
    read: int | None
    write: int | None
    timeout: int | None


class Run(TypedDict):
    """One wrk report, as printed; None where wrk printed no such figure."""

    source: str
    url: str
    threads: int
    connections: int
    requests: int
    elapsed_s: float
    read_bytes: float
    requests_per_s: float
    transfer_bytes_per_s: float
    latency_avg_us: float | None
    latency_stdev_us: float | None
    latency_max_us: float | None
    latency_p50_us: float | None
    latency_p75_us: float | None
    latency_p90_us: float | None
    latency_p99_us: float | None
    socket_errors: SocketErrors
    non_2xx_responses: int
    problems: list[str]


class Histogram(TypedDict):
    """The non-empty buckets of wrk's latency histogram, ascending by value."""

    values_us: list[int]
    counts: list[int]


class LoadResult(TypedDict):
    """What one wrk measured, exact where `done.lua` says it; None where nothing is known."""

    requests: int | None
    elapsed_s: float | None
    requests_per_s: float | None
    read_bytes: int | None
    transfer_bytes_per_s: float | None
    latency_us: dict[str, float | None]
    socket_errors: SocketErrors
    non_2xx_responses: int | None
    histogram_count: int | None
    problems: list[str]
    histogram: Histogram


class ParseError(ValueError):
    """A text that is not, or not only, whole wrk reports.

    `source`, `line_number` (from 1) and `line` say where, `reason` says why, and `parsed` holds the
    runs before that line.
    """

    def __init__(
        self, source: str, line_number: int, line: str, reason: str, parsed: list[Run]
    ) -> None:
        quoted = line if len(line) <= 200 else line[:200] + "..."
        super().__init__(f"{source}:{line_number}: {reason}: {quoted!r}")
        self.source = source
        self.line_number = line_number
        self.line = line
        self.reason = reason
        self.parsed = parsed


def parse(text: str, source: str) -> list[Run]:
    """Read every wrk report in `text`; `source` is the name of the text in results and errors.

    Text around the reports (prose, Markdown, prompts) is passed over, and a report may be indented
    or quoted with `>`. Inside a report every line is accounted for.

    Raises ParseError for a report that is cut short or holds a line that wrk does not print there,
    for a line of a report outside of one, for an error message of wrk, and for a text without any
    report.
    """
    raw_lines = _ESCAPE.sub("", text).split("\n") if "\x1b" in text else text.split("\n")
    lines = [raw.strip().lstrip("> ") for raw in raw_lines]
    runs: list[Run] = []
    try:
        index = 0
        while index < len(lines):
            header = _RUNNING.fullmatch(lines[index])
            if header:
                reader = _Reader(lines, index)
                runs.append(_read_run(reader, header, source))
                index = reader.index
            else:
                _pass_over(lines, index)
                index += 1
        if not runs:
            raise _Refusal(_first_text(lines), "the text holds no report of wrk")
    except _Refusal as refusal:
        line = raw_lines[refusal.index].rstrip("\r")
        raise ParseError(source, refusal.index + 1, line, refusal.reason, runs) from None
    return runs


# --- wrk's text: its lines ------------------------------------------------------------------------

_INT: Final = r"(\d{1,20})"
_DECIMAL: Final = r"(\d{1,20}\.\d\d)"
_TIME: Final = r"(\d{1,20}\.\d\d|-?nan)(us|ms|s|m)"
_BYTES: Final = _DECIMAL + "([KMGT]?)B"
_RATE: Final = r"(?:\d{1,20}\.\d\d|-?nan)[kMGT]?"
_SHARE: Final = r"(\d{1,3}\.\d\d|-?nan)%"


def _line(pattern: str) -> re.Pattern[str]:
    """Compile the pattern of a line; each space in it stands for the padding of wrk's columns."""
    return re.compile(pattern.replace(" ", r"\s+"), re.ASCII)


_ESCAPE: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_RUNNING: Final = _line(rf"Running {_INT}([sm]) test @ (\S+)")
_THREADS: Final = _line(rf"{_INT} threads and {_INT} connections")
_COLUMNS: Final = _line(r"Thread Stats Avg Stdev Max \+/- Stdev")
# A Max of 1000.00ms fills its column of 9, so that no space may be left before it.
_LATENCY: Final = _line(rf"Latency {_TIME} {_TIME}\s*{_TIME} {_SHARE}")
_REQ_SEC: Final = _line(rf"Req/Sec {_RATE} {_RATE}\s*{_RATE} {_SHARE}")
_DISTRIBUTION: Final = _line(r"Latency Distribution")
_PERCENTILES: Final = tuple(_line(rf"{percent}% {_TIME}") for percent in (50, 75, 90, 99))
_TOTALS: Final = _line(rf"{_INT} requests in {_TIME}, {_BYTES} read")
_SOCKET_ERRORS: Final = _line(
    rf"Socket errors: connect {_INT}, read {_INT}, write {_INT}, timeout {_INT}"
)
_NON_2XX: Final = _line(rf"Non-2xx or 3xx responses: {_INT}")
_REQUESTS_PER_S: Final = _line(rf"Requests/sec: {_DECIMAL}")
_TRANSFER_PER_S: Final = _line(rf"Transfer/sec: {_BYTES}")

# What wrk says instead of a report: main() and parse_args() in src/wrk.c, src/script.c.
_FAILURE: Final = re.compile(
    r"(?:wrk: )?(?:"
    r"unable to (?:connect to|resolve) \S*:\S+ \S"
    r"|unable to create thread \d|unable to initialize SSL"
    r"|invalid URL: |number of connections must be >= threads|Usage: wrk <options> <url>"
    r"|incomplete request at \d+:\d+|PANIC: unprotected error in call to Lua API"
    r")|.*\bwrk: (?:command )?not found",
    re.ASCII,
)
# The start of a line that only a report has: outside of one, the report's head is missing.
_STRAY: Final = re.compile(
    r"Running \S+ test @|\d+ threads and \d+ connections|Thread Stats\b"
    r"|(?:Latency|Req/Sec)\s+(?:\d+\.\d\d|-?nan)|Latency Distribution|(?:50|75|90|99)%\s+\d+\.\d\d"
    r"|\d+ requests in \d|Socket errors:|Non-2xx or 3xx responses:|(?:Requests|Transfer)/sec:",
    re.ASCII,
)
# The first line of a report, cut off at any character after the duration began.
_RUNNING_CUT: Final = re.compile(
    r"Running \d+(?:[sm](?: (?:t(?:e(?:s(?:t(?: @?)?)?)?)?)?)?)?", re.ASCII
)


class _Refusal(Exception):
    """The line `index` (from 0) cannot be accepted because of `reason`."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index
        self.reason = reason


class _Reader:
    """Walks down the lines of one report, the first of which is already read."""

    def __init__(self, lines: Sequence[str], start: int) -> None:
        self.lines = lines
        self.start = start
        self.index = start + 1

    def accept(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Read the next line if it fits."""
        if self.index == len(self.lines):
            return None
        match = pattern.fullmatch(self.lines[self.index])
        if match:
            self.index += 1
        return match

    def require(self, pattern: re.Pattern[str], name: str) -> re.Match[str]:
        """Read the next line, which must be the one called `name`."""
        match = self.accept(pattern)
        if match:
            return match
        report = f"the report that begins at line {self.start + 1}"
        if not any(self.lines[self.index :]):
            last = max(number for number, line in enumerate(self.lines) if line)
            raise _Refusal(last, f"{report} is cut short before its line '{name}'")
        raise _Refusal(self.index, f"{report} has this line in place of '{name}'")


def _pass_over(lines: Sequence[str], index: int) -> None:
    """Refuse a line outside of reports that shows that a report is missing there."""
    line = lines[index]
    if _STRAY.match(line):
        raise _Refusal(index, "a line of a report whose beginning is missing")
    if _FAILURE.match(line):
        raise _Refusal(index, "wrk made no report but says")
    if index == len(lines) - 1 and _RUNNING_CUT.fullmatch(line):
        raise _Refusal(index, "the report that begins here is cut short")


def _first_text(lines: Sequence[str]) -> int:
    return next((index for index, line in enumerate(lines) if line), 0)


def _read_run(reader: _Reader, header: re.Match[str], source: str) -> Run:
    announced, announced_unit, url = header.groups()
    threads, connections = reader.require(_THREADS, "... threads and ... connections").groups()
    reader.require(_COLUMNS, "Thread Stats")
    avg, stdev, maximum = _latency_row(reader.require(_LATENCY, "Latency"))
    reader.require(_REQ_SEC, "Req/Sec")
    p50, p75, p90, p99 = _percentiles(reader, recorded=avg is not None)
    totals = reader.require(_TOTALS, "... requests in ..., ... read")
    requests, elapsed, elapsed_unit, read, read_unit = totals.groups()
    elapsed_us = _time_us(elapsed, elapsed_unit)
    if elapsed_us is None:
        raise _Refusal(reader.index - 1, "the elapsed time is no number")
    socket_errors = reader.accept(_SOCKET_ERRORS)
    non_2xx = reader.accept(_NON_2XX)
    per_s = reader.require(_REQUESTS_PER_S, "Requests/sec:")
    transfer, transfer_unit = reader.require(_TRANSFER_PER_S, "Transfer/sec:").groups()
    run: Run = {
        "source": source,
        "url": url,
        "threads": int(threads),
        "connections": int(connections),
        "requests": int(requests),
        "elapsed_s": elapsed_us / 1_000_000,
        "read_bytes": _bytes(read, read_unit),
        "requests_per_s": float(per_s[1]),
        "transfer_bytes_per_s": _bytes(transfer, transfer_unit),
        "latency_avg_us": avg,
        "latency_stdev_us": stdev,
        "latency_max_us": maximum,
        "latency_p50_us": p50,
        "latency_p75_us": p75,
        "latency_p90_us": p90,
        "latency_p99_us": p99,
        "socket_errors": _socket_errors(socket_errors),
        "non_2xx_responses": int(non_2xx[1]) if non_2xx else 0,
        "problems": [],
    }
    run["problems"] = _problems(run, int(announced), announced_unit)
    return run


def _latency_row(row: re.Match[str]) -> tuple[float | None, float | None, float | None]:
    """Read average, standard deviation and maximum in us; None for what was not measured.

    Without a single recorded latency wrk prints `0.00us` three times, and `-nan%` because it
    divides by their number.
    """
    avg, avg_unit, stdev, stdev_unit, maximum, maximum_unit, share = row.groups()
    if avg_unit == "m" and len(avg) > 6:
        # print_units() in src/wrk.c cuts the average at 8 characters, so that 1000.00ms loses its
        # "s"; an average of 1000 minutes would lose its whole unit.
        avg_unit = "ms"
    figures = (
        _time_us(avg, avg_unit),
        _time_us(stdev, stdev_unit),
        _time_us(maximum, maximum_unit),
    )
    if share.endswith("nan"):
        return figures[0] or None, figures[1] or None, figures[2] or None
    return figures


def _percentiles(reader: _Reader, *, recorded: bool) -> list[float | None]:
    """Read the percentiles 50, 75, 90 and 99 in us, if wrk printed them (`--latency`).

    Without a recorded latency it prints each as 0: None.
    """
    if not reader.accept(_DISTRIBUTION):
        return [None] * len(_PERCENTILES)
    rows = [reader.require(pattern, pattern.pattern[:3]).groups() for pattern in _PERCENTILES]
    return [_time_us(number, unit) if recorded else None for number, unit in rows]


def _socket_errors(line: re.Match[str] | None) -> SocketErrors:
    connect, read, write, timeout = map(int, line.groups()) if line else (0, 0, 0, 0)
    return {"connect": connect, "read": read, "write": write, "timeout": timeout}


# --- wrk's text: its figures ----------------------------------------------------------------------

_UNIT_US: Final = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000}
_UNIT_BYTES: Final = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def _time_us(number: str, unit: str) -> float | None:
    """Convert a printed time; None for `-nan`. Integers up to the one division keep it exact."""
    if number.endswith("nan"):
        return None
    return int(number.replace(".", "")) * _UNIT_US[unit] / 100


def _bytes(number: str, unit: str) -> float:
    return int(number.replace(".", "")) * _UNIT_BYTES[unit] / 100


def _time_step_us(value_us: float) -> float:
    """Return how far apart two neighbouring printed times are near `value_us`, at the coarser."""
    if value_us < 850:
        return 0.01
    if value_us < 999_995:
        return 10
    return 10_000 if value_us < 50_995_000 else 600_000


def _bytes_step(value_bytes: float) -> float:
    """Return how far apart two neighbouring printed byte figures are near `value_bytes`."""
    unit = 1
    while unit < 1024**4 and value_bytes >= 870 * unit:
        unit *= 1024
    return unit / 100


def _near(printed: float, exact: float, step: float) -> bool:
    """Tell whether `exact` may have been printed as `printed` where prints are `step` apart."""
    return abs(printed - exact) <= step * 0.5000001 + abs(exact) * 1e-12


def _problems(run: Run, announced: int, announced_unit: str) -> list[str]:
    """List every reason why the text says that this run cannot count."""
    problems = []
    if run["requests"] == 0:
        problems.append("no request was completed")
    elif run["latency_avg_us"] is None:
        problems.append("no latency was recorded")
    errors = run["socket_errors"]
    if any(errors.values()):
        counts = ", ".join(f"{name} {count}" for name, count in errors.items())
        problems.append(f"socket errors: {counts}")
    if run["non_2xx_responses"]:
        problems.append(f"{run['non_2xx_responses']} responses were not 2xx or 3xx")
    # wrk prints the duration without decimals, and from 51 s on in minutes: 1m is 51 s at least.
    shortest_s = announced if announced_unit == "s" else max(51.0, (announced - 0.5) * 60)
    if run["elapsed_s"] < shortest_s * 0.99:
        problems.append(
            f"ended after {run['elapsed_s']:g} s of the announced {announced}{announced_unit}"
        )
    problems += _contradictions(run)
    return problems


def _contradictions(run: Run) -> list[str]:
    """List the figures of one report that cannot all be true, whatever was rounded off."""
    found = []
    elapsed_s, read_bytes = run["elapsed_s"], run["read_bytes"]
    slack_s = _time_step_us(elapsed_s * 1_000_000) / 2_000_000
    longest_s, shortest_s = elapsed_s + slack_s, max(elapsed_s - slack_s, 1e-9)
    per_s = run["requests_per_s"]
    low, high = run["requests"] / longest_s - 0.00501, run["requests"] / shortest_s + 0.00501
    if not low <= per_s <= high:
        found.append(f"Requests/sec {per_s:g} is not {run['requests']} requests in {elapsed_s:g} s")
    transfer = run["transfer_bytes_per_s"]
    read_slack, slack = _bytes_step(read_bytes) / 2, _bytes_step(transfer) / 2
    low = (read_bytes - read_slack) / longest_s - slack
    high = (read_bytes + read_slack) / shortest_s + slack
    if not low <= transfer <= high:
        found.append(f"Transfer/sec {transfer:g} B is not {read_bytes:g} B in {elapsed_s:g} s")
    avg, maximum = run["latency_avg_us"], run["latency_max_us"]
    if avg is not None and maximum is not None and avg > maximum:
        found.append(f"the average latency {avg:g} us is above the maximum {maximum:g} us")
    ascending = (
        run["latency_p50_us"],
        run["latency_p75_us"],
        run["latency_p90_us"],
        run["latency_p99_us"],
        maximum,
    )
    known = [value for value in ascending if value is not None]
    if known != sorted(known):
        found.append("the latency percentiles and the maximum do not ascend")
    return found


# --- what done.lua leaves -------------------------------------------------------------------------

_SUMMARY: Final = "wrk-summary.json"
_HISTOGRAM: Final = "wrk-histogram.u4"
_ERROR_NAMES: Final = ("connect", "read", "write", "timeout")
# Per ten thousand, so that ranks are exact.
_PERCENTILE_POINTS: Final = {
    "p50": 5_000,
    "p75": 7_500,
    "p90": 9_000,
    "p99": 9_900,
    "p99_9": 9_990,
    "p99_99": 9_999,
}
_LATENCY_NAMES: Final = ("min", "avg", "stdev", "max", *_PERCENTILE_POINTS)


class _Summary(NamedTuple):
    """What `done.lua` wrote as wrk's summary."""

    duration_us: int
    requests: int
    read_bytes: int
    errors: dict[str, int]
    latency_count: int
    buckets: int
    min_us: int | None
    max_us: int | None
    mean_us: float | None
    stdev_us: float | None


def collect(scratch: Path, exit_code: int, stdout: str, stderr: str) -> LoadResult:
    """Judge one wrk that ran with `done.lua` and `--latency`.

    `scratch` is the directory that UPLAB_LOAD_OUT named, fresh for this wrk; `exit_code` is
    negative for a signal; `stdout` and `stderr` are wrk's.

    The figures are those of `done.lua`, exact, in the units of their names. `problems` lists every
    reason why the run cannot count: what the text says, and wherever text, summary and histogram
    disagree by more than wrk's rounding. Figures are None if the text or the summary cannot be
    read. `histogram_count` exceeds `requests`, because wrk adds the latencies that it thinks it
    missed (stats_correct() in src/stats.c). Raises nothing for what wrk did.
    """
    problems: list[str] = []
    if exit_code:
        problems.append(f"wrk {_ending(exit_code)}{_quote_last(stderr)}")
    run = _only_run(stdout, exit_code, problems)
    summary = _read_summary(scratch, stderr, exit_code, problems)
    histogram = _read_histogram(scratch, problems) if summary else None
    if summary and histogram:
        problems += _histogram_disagreements(summary, histogram)
    if run and summary:
        problems += _summary_disagreements(run, summary)
    if run and histogram:
        problems += _percentile_disagreements(run, histogram)
    return _result(summary if run else None, histogram, problems)


def percentiles_us(histogram: Histogram, per_10000: Sequence[int]) -> list[int | None]:
    """Return percentiles in us by wrk's own rule, each named by its ten-thousandths.

    stats_percentile() in src/stats.c takes the bucket in which the running count reaches
    round(p / 100 * count + 0.5): the integer part of p / 100 * count, plus 1. An empty histogram
    has no percentiles: None.
    """
    reached = list(accumulate(histogram["counts"]))
    if not reached:
        return [None for _ in per_10000]
    ranks = (point * reached[-1] // 10_000 + 1 for point in per_10000)
    return [histogram["values_us"][bisect_left(reached, rank)] for rank in ranks]


def _ending(exit_code: int) -> str:
    return f"exited with {exit_code}" if exit_code > 0 else f"was ended by signal {-exit_code}"


def _quote_last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f": {lines[-1]}" if lines else ""


def _only_run(stdout: str, exit_code: int, problems: list[str]) -> Run | None:
    if exit_code and not stdout.strip():
        return None
    try:
        runs = parse(stdout, "wrk's text")
    except ParseError as error:
        problems.append(str(error))
        return None
    if len(runs) > 1:
        problems.append(f"wrk's text holds {len(runs)} reports")
        return None
    problems += runs[0]["problems"]
    return runs[0]


def _read_summary(
    scratch: Path, stderr: str, exit_code: int, problems: list[str]
) -> _Summary | None:
    path = scratch / _SUMMARY
    try:
        return _summary_of(json.loads(path.read_bytes()))
    except FileNotFoundError:
        said = "" if exit_code else _quote_last(stderr)
        problems.append(f"done.lua left no {_SUMMARY}{said}")
    except (OSError, ValueError) as error:
        problems.append(f"{_SUMMARY} cannot be read: {error}")
    return None


def _summary_of(content: object) -> _Summary:
    """Check what was read from the summary. Raises ValueError that names what does not fit."""
    top = _object(content, "the summary")
    if top.get("schema") != 1:
        raise ValueError(f"schema is {top.get('schema')!r}, not 1")
    errors = _object(top.get("errors"), "errors")
    latency = _object(top.get("latency"), "latency")
    count = _integer(latency, "count")
    return _Summary(
        duration_us=_integer(top, "duration_us"),
        requests=_integer(top, "requests"),
        read_bytes=_integer(top, "bytes"),
        errors={name: _integer(errors, name) for name in (*_ERROR_NAMES, "status")},
        latency_count=count,
        buckets=_integer(latency, "buckets"),
        min_us=_integer(latency, "min_us") if count else None,
        max_us=_integer(latency, "max_us") if count else None,
        mean_us=_number(latency, "mean_us") if count else None,
        stdev_us=_number(latency, "stdev_us") if count else None,
    )


def _object(value: object, name: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r}, not an object")
    return value


def _integer(parent: dict[str, object], name: str) -> int:
    value = parent.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} is {value!r}, not a count")
    return value


def _number(parent: dict[str, object], name: str) -> float:
    value = parent.get(name)
    if not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{name} is {value!r}, not a number")
    return float(value)


def _read_histogram(scratch: Path, problems: list[str]) -> Histogram | None:
    """Read the pairs (value_us, count) of little-endian unsigned 32-bit integers."""
    words = array("I")
    try:
        words.frombytes((scratch / _HISTOGRAM).read_bytes())
    except (OSError, ValueError) as error:
        problems.append(f"{_HISTOGRAM} cannot be read: {error}")
        return None
    if len(words) % 2:
        problems.append(f"{_HISTOGRAM} ends in the middle of a bucket")
        return None
    if sys.byteorder == "big":
        words.byteswap()
    return {"values_us": words[0::2].tolist(), "counts": words[1::2].tolist()}


# --- do text, summary and histogram agree? --------------------------------------------------------


def _histogram_disagreements(summary: _Summary, histogram: Histogram) -> list[str]:
    values, counts = histogram["values_us"], histogram["counts"]
    total = sum(counts)
    found = []
    if total != summary.latency_count:
        found.append(f"the histogram holds {total} latencies, done() says {summary.latency_count}")
    if len(values) != summary.buckets:
        found.append(f"the histogram has {len(values)} buckets, done() says {summary.buckets}")
    if any(above <= below for below, above in pairwise(values)):
        found.append("the buckets of the histogram do not ascend")
    if 0 in counts:
        found.append("the histogram has an empty bucket")
    if not (values and total):
        return found
    ends = (values[0], values[-1])
    if ends != (summary.min_us, summary.max_us):
        found.append(
            f"the histogram runs from {ends[0]} to {ends[1]} us, "
            f"done() says {summary.min_us} to {summary.max_us}"
        )
    mean_us = sum(map(mul, values, counts)) / total
    if summary.mean_us is not None and abs(mean_us - summary.mean_us) > 1e-9 * mean_us:
        found.append(f"the histogram's mean is {mean_us:g} us, done() says {summary.mean_us:g}")
    return found


def _summary_disagreements(run: Run, summary: _Summary) -> list[str]:
    elapsed_s = summary.duration_us / 1_000_000
    counted: dict[str, tuple[int | None, int]] = {
        "requests": (run["requests"], summary.requests),
        "non-2xx responses": (run["non_2xx_responses"], summary.errors["status"]),
    }
    printed_errors = run["socket_errors"]
    counted["connect errors"] = (printed_errors["connect"], summary.errors["connect"])
    counted["read errors"] = (printed_errors["read"], summary.errors["read"])
    counted["write errors"] = (printed_errors["write"], summary.errors["write"])
    counted["timeouts"] = (printed_errors["timeout"], summary.errors["timeout"])
    found = [
        f"the text says {printed} {name}, done() says {exact}"
        for name, (printed, exact) in counted.items()
        if printed != exact
    ]
    expected = summary.requests - summary.errors["timeout"]
    if summary.latency_count < expected:
        found.append(f"{summary.latency_count} latencies were recorded for {expected} requests")
    if summary.duration_us == 0:
        return [*found, "done() says that no time passed"]
    found += _disagreement(
        "elapsed us", run["elapsed_s"] * 1_000_000, summary.duration_us, _time_step_us
    )
    found += _disagreement("bytes read", run["read_bytes"], summary.read_bytes, _bytes_step)
    found += _disagreement(
        "requests/s", run["requests_per_s"], summary.requests / elapsed_s, _rate_step
    )
    found += _disagreement(
        "bytes/s", run["transfer_bytes_per_s"], summary.read_bytes / elapsed_s, _bytes_step
    )
    for name, printed, exact in (
        ("us of average latency", run["latency_avg_us"], summary.mean_us),
        ("us of latency deviation", run["latency_stdev_us"], summary.stdev_us),
        ("us of maximum latency", run["latency_max_us"], summary.max_us),
    ):
        found += _disagreement(name, printed, exact, _time_step_us)
    return found


def _percentile_disagreements(run: Run, histogram: Histogram) -> list[str]:
    printed = {
        "p50": run["latency_p50_us"],
        "p75": run["latency_p75_us"],
        "p90": run["latency_p90_us"],
        "p99": run["latency_p99_us"],
    }
    exact = percentiles_us(histogram, [_PERCENTILE_POINTS[name] for name in printed])
    if exact[0] is not None and None in printed.values():
        return ["wrk printed no percentiles: run it with --latency"]
    found = []
    for (name, text_us), histogram_us in zip(printed.items(), exact, strict=True):
        found += _disagreement(f"us of latency {name}", text_us, histogram_us, _time_step_us)
    return found


def _rate_step(_value: float) -> float:
    return 0.01


def _disagreement(
    name: str, printed: float | None, exact: float | None, step: Callable[[float], float]
) -> list[str]:
    """Compare a printed figure with the exact one; None means that there is no such figure."""
    if printed is None and exact is None:
        return []
    if printed is not None and exact is not None and _near(printed, exact, step(printed)):
        return []
    return [f"the text says {_show(printed)} {name}, done() says {_show(exact)}"]


def _show(figure: float | None) -> str:
    return "no" if figure is None else f"{figure:.15g}"


# --- the result -----------------------------------------------------------------------------------


def _result(
    summary: _Summary | None, histogram: Histogram | None, problems: list[str]
) -> LoadResult:
    shown: Histogram = histogram or {"values_us": [], "counts": []}
    result: LoadResult = {
        "requests": None,
        "elapsed_s": None,
        "requests_per_s": None,
        "read_bytes": None,
        "transfer_bytes_per_s": None,
        "latency_us": dict.fromkeys(_LATENCY_NAMES),
        "socket_errors": {"connect": None, "read": None, "write": None, "timeout": None},
        "non_2xx_responses": None,
        "histogram_count": sum(shown["counts"]) if histogram else None,
        "problems": problems,
        "histogram": shown,
    }
    if not summary:
        return result
    elapsed_s = summary.duration_us / 1_000_000
    result["requests"] = summary.requests
    result["elapsed_s"] = elapsed_s
    result["read_bytes"] = summary.read_bytes
    if elapsed_s:
        result["requests_per_s"] = summary.requests / elapsed_s
        result["transfer_bytes_per_s"] = summary.read_bytes / elapsed_s
    result["latency_us"] |= {
        "min": summary.min_us,
        "avg": summary.mean_us,
        "stdev": summary.stdev_us,
        "max": summary.max_us,
    }
    points = percentiles_us(shown, list(_PERCENTILE_POINTS.values()))
    result["latency_us"] |= dict(zip(_PERCENTILE_POINTS, points, strict=True))
    errors = summary.errors
    result["socket_errors"] = {
        "connect": errors["connect"],
        "read": errors["read"],
        "write": errors["write"],
        "timeout": errors["timeout"],
    }
    result["non_2xx_responses"] = errors["status"]
    return result
