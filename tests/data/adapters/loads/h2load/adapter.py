"""The load `h2load`: what one run of it printed, and its log of every request."""

import re
from collections import Counter
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


def collect(scratch: Path, exit_code: int, stdout: str, stderr: str) -> dict[str, Any]:
    """What hostside keeps of one run; never raises for what the run did."""
    problems = [] if exit_code == 0 else [f"h2load ended with exit code {exit_code}"]
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
    latencies_us = _latencies_us(scratch / "requests.tsv")
    if succeeded is not None and sum(latencies_us.values()) != succeeded:
        problems.append(f"its log holds {sum(latencies_us.values())} requests, not {succeeded}")
    values = sorted(latencies_us)
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
        "histogram_count": sum(latencies_us.values()),
        "problems": problems,
        "histogram": {"values_us": values, "counts": [latencies_us[v] for v in values]},
    }


def _latencies_us(path: Path) -> Counter[int]:
    """How often each latency was seen: the log's third column, in microseconds."""
    found: Counter[int] = Counter()
    try:
        with path.open() as lines:
            for line in lines:
                fields = line.split("\t")
                if len(fields) == 3 and fields[1].startswith("2"):
                    found[int(fields[2])] += 1
    except (OSError, ValueError):
        return Counter()
    return found


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
