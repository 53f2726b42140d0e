"""The loads `h2load` and `h2load-closed`: what one run printed, and its log of every request."""

import re
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PERCENTILES = {"p50": 50.0, "p75": 75.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9, "p99_99": 99.99}
_FINISHED = re.compile(r"^finished in ([\d.]+)(us|ms|s), ", re.MULTILINE)
_REQUESTS = re.compile(
    r"^requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, "
    r"(\d+) errored, (\d+) timeout$",
    re.MULTILINE,
)
_STATUS = re.compile(r"^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx$", re.MULTILINE)
_TRAFFIC = re.compile(r"^traffic: \S+ \((\d+)\) total", re.MULTILINE)
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
#: What start.sh printed; a closed loop asks for no rate.
_ASKED = re.compile(r"^asked for (\d+) requests/s on ", re.MULTILINE)
#: An open loop that sends less than this share of its rate has not been one.
_LEAST_RATE = 0.98
#: Nor one that was so late: the time that a request is held back is in no latency.
_MOST_LATE_S = 0.5
_BIN_US = 100_000


@dataclass
class Log:
    """Of the log of requests: how often each latency was seen, and how many began when."""

    latencies_us: Counter[int] = field(default_factory=Counter)
    begun: Counter[int] = field(default_factory=Counter)
    first_us: int | None = None
    last_us: int | None = None

    def add(self, began_us: int, latency_us: int) -> None:
        """Count one request; they come in the order of their ends."""
        self.latencies_us[latency_us] += 1
        self.begun[began_us // _BIN_US] += 1
        self.first_us = min(began_us, self.first_us or began_us)
        self.last_us = max(began_us, self.last_us or began_us)

    @property
    def requests(self) -> int:
        """How many it holds."""
        return sum(self.begun.values())


def collect(scratch: Path, exit_code: int, stdout: str, stderr: str) -> dict[str, Any]:
    """What hostside keeps of one run; never raises for what the run did."""
    problems = _ending(exit_code)
    problems += [line for line in stderr.strip().splitlines()[-1:] if line]
    finished, totals = _FINISHED.search(stdout), _REQUESTS.search(stdout)
    status, traffic = _STATUS.search(stdout), _TRAFFIC.search(stdout)
    if not (finished and totals and status and traffic):
        problems.append("h2load printed no whole report")
    elapsed_s = float(finished[1]) * _SECONDS[finished[2]] if finished else None
    succeeded, errored, timeouts = (
        (int(totals[3]), int(totals[5]), int(totals[6])) if totals else (None, None, None)
    )
    others = sum(int(status[index]) for index in (2, 3, 4)) if status else None
    for count, what in ((errored, "requests errored"), (timeouts, "requests timed out")):
        problems += [f"{count} {what}"] if count else []
    problems += [f"{others} answers that are not 2xx"] if others else []
    problems += ["no requests"] if succeeded == 0 else []
    log = _read_log(scratch / "requests.tsv")
    if succeeded is not None and log.requests != succeeded:
        problems.append(f"its log holds {log.requests} requests, not {succeeded}")
    asked = _ASKED.search(stdout)
    problems += _short_of(int(asked[1]), log) if asked else []
    latencies_us, values = log.latencies_us, sorted(log.latencies_us)
    read_bytes = int(traffic[1]) if traffic else None
    return {
        "requests": succeeded,
        "elapsed_s": elapsed_s,
        "requests_per_s": succeeded / elapsed_s if succeeded and elapsed_s else None,
        "read_bytes": read_bytes,
        "transfer_bytes_per_s": read_bytes / elapsed_s if read_bytes and elapsed_s else None,
        "latency_us": _figures(values, latencies_us),
        "socket_errors": {"connect": None, "read": errored, "write": None, "timeout": timeouts},
        "non_2xx_responses": others,
        "histogram_count": log.requests,
        "problems": problems,
        "histogram": {"values_us": values, "counts": [latencies_us[v] for v in values]},
    }


def _ending(exit_code: int) -> list[str]:
    """What its exit says."""
    if exit_code == -signal.SIGXFSZ:
        return ["h2load's log of requests is full: lower rate_per_s or duration_s of the load"]
    return [f"h2load ended with exit code {exit_code}"] if exit_code else []


def _read_log(path: Path) -> Log:
    """The log: begin in microseconds since 1970, status, latency in microseconds."""
    log = Log()
    try:
        with path.open() as lines:
            for line in lines:
                fields = line.split("\t")
                if len(fields) == 3 and fields[1].startswith("2"):
                    log.add(int(fields[0]), int(fields[2]))
    except (OSError, ValueError):
        return Log()
    return log


def _short_of(rate_per_s: int, log: Log) -> list[str]:
    """What speaks against an open loop: fewer requests than asked for, or sent too late.

    Counted from the first request to the last, because nothing is sent while connections are
    opened. h2load holds a request back where all streams of a connection wait for an answer.
    """
    if log.first_us is None or log.last_us is None or log.first_us == log.last_us:
        return []
    sent_per_s = (log.requests - 1) / (log.last_us - log.first_us) * 1e6
    late_s = _latest_s(rate_per_s, log, log.first_us)
    if sent_per_s < _LEAST_RATE * rate_per_s:
        problem = f"asked for {rate_per_s} requests/s, sent were {sent_per_s:.0f}"
    elif late_s > _MOST_LATE_S:
        problem = f"requests were held back for up to {late_s:.1f} s"
    else:
        return []
    return [f"{problem}: lower rate_per_s, or raise connections or streams of the load"]


def _latest_s(rate_per_s: int, log: Log, first_us: int) -> float:
    """How far the sending ever was behind its schedule, by tenths of a second."""
    begun, latest_s = 0, 0.0
    for number in range(min(log.begun), max(log.begun)):
        begun += log.begun[number]
        due_s = ((number + 1) * _BIN_US - first_us) / 1e6
        latest_s = max(latest_s, due_s - begun / rate_per_s)
    return latest_s


def _figures(values: list[int], counts: Counter[int]) -> dict[str, float | None]:
    """Minimum, maximum, mean, deviation and percentiles."""
    names = ("min", "avg", "stdev", "max", *PERCENTILES)
    figures: dict[str, float | None] = dict.fromkeys(names)
    number = sum(counts.values())
    if not number:
        return figures
    mean = sum(value * count for value, count in counts.items()) / number
    variance = sum((value - mean) ** 2 * count for value, count in counts.items()) / number
    figures |= {"min": values[0], "max": values[-1], "avg": mean, "stdev": variance**0.5}
    seen, wanted = 0, list(PERCENTILES.items())
    for value in values:
        seen += counts[value]
        while wanted and seen >= wanted[0][1] / 100 * number:
            figures[wanted.pop(0)[0]] = value
    return figures
