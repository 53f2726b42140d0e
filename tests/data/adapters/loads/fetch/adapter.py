"""The load `fetch`: as a program it sends requests, as a module it says what came of them."""

import http.client
import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PERCENTILES = ("p50", "p75", "p90", "p99", "p99_9", "p99_99")


def fetch(url: str, requests: int, rate_per_s: int) -> list[int]:
    """Latencies in microseconds, one for each request; raises OSError where one fails."""
    interval_s = 1 / rate_per_s if rate_per_s else 0.0
    next_s = time.monotonic()
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    latencies_us = []
    for _ in range(requests):
        time.sleep(max(0.0, next_s - time.monotonic()))
        next_s += interval_s
        began_ns = time.monotonic_ns()
        connection.request("GET", parts.path)
        connection.getresponse().read()
        latencies_us.append((time.monotonic_ns() - began_ns) // 1000)
    connection.close()
    return latencies_us


def collect(scratch: Path, exit_code: int, stdout: str, stderr: str) -> dict[str, Any]:
    """What hostside keeps of one run; never raises for what the run did."""
    seen: dict[str, Any] = {"elapsed_s": None, "latencies_us": []}
    problems = [] if exit_code == 0 else [f"fetch ended with exit code {exit_code}: {stdout!r}"]
    try:
        seen = json.loads((scratch / "fetch.json").read_text())
    except (OSError, ValueError) as error:
        problems.append(f"fetch left no figures ({type(error).__name__})")
    latencies_us = sorted(seen["latencies_us"])
    if not latencies_us:
        problems.append("no requests")
    if stderr.strip():
        problems.append(stderr.strip().splitlines()[-1])
    figures: dict[str, float | None] = dict.fromkeys(("min", "avg", "stdev", "max", *PERCENTILES))
    if latencies_us:
        average = sum(latencies_us) / len(latencies_us)
        figures |= {"min": latencies_us[0], "max": latencies_us[-1], "avg": average, "stdev": 0.0}
        for name in PERCENTILES:
            share = float(name[1:].replace("_", ".")) / 100
            figures[name] = latencies_us[min(int(share * len(latencies_us)), len(latencies_us) - 1)]
    requests, elapsed_s = len(latencies_us), seen["elapsed_s"]
    values = sorted(set(latencies_us))
    return {
        "requests": requests,
        "elapsed_s": elapsed_s,
        "requests_per_s": requests / elapsed_s if elapsed_s else None,
        "read_bytes": None,
        "transfer_bytes_per_s": None,
        "latency_us": figures,
        "socket_errors": dict.fromkeys(("connect", "read", "write", "timeout"), 0),
        "non_2xx_responses": 0,
        "histogram_count": requests,
        "problems": problems,
        "histogram": {"values_us": values, "counts": [latencies_us.count(v) for v in values]},
    }


def main() -> None:
    """Send the requests and leave the figures in the scratch folder."""
    url, requests, rate_per_s, scratch = sys.argv[1:]
    began_s = time.monotonic()
    latencies_us = fetch(url, int(requests), int(rate_per_s))
    seen = {"elapsed_s": time.monotonic() - began_s, "latencies_us": latencies_us}
    (Path(scratch) / "fetch.json").write_text(json.dumps(seen))
    print(f"{len(latencies_us)} requests")


if __name__ == "__main__":
    main()
