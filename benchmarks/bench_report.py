"""How long a report over many trials takes: prints one JSON line.

Run: python -m benchmarks.bench_report [trials, default 10000] [histogram samples, default 40000]

The run is synthetic and made in a temporary directory; making it is not timed. Every trial has the
files of a real one, and a histogram as large as a real one (its size is in the output), so that
hashing, decompressing and pooling are not flattered. The whole report is made twice: `cold`, with
nothing pooled before, then with the pooled latencies that the first one kept. Exit code 1 above a
limit.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.runs import KEPT, Spec, make_run
from uplab import results
from uplab.analysis import analyse
from uplab.report import markdown, trials_csv, write
from uplab.report.html import files
from uplab.report.model import build

MODES = tuple(KEPT)
SERVERS = ("https", "http")
SIZES = (12, 1024, 2048, 4096, 16_384, 65_536, 131_072, 196_608, 229_376, 262_144)
# For 10,000 trials: reading, verifying, analysing, pooling, drawing and writing.
LIMIT_COLD_S = 30.0
LIMIT_CACHED_S = 10.0
LIMIT_PEAK_BYTES = 500_000_000
LIMIT_PAGE_BYTES = 8_000_000
T = TypeVar("T")


def timed(name: str, action: Callable[[], T], into: dict[str, float]) -> T:
    """Run a step; its wall and CPU seconds go into `into`. On a busy machine the two differ."""
    began, cpu_began = time.perf_counter(), time.process_time()
    result = action()
    into[f"{name}_s"] = round(time.perf_counter() - began, 3)
    into[f"{name}_cpu_s"] = round(time.process_time() - cpu_began, 3)
    return result


def main(trials: int = 10_000, samples: int = 40_000) -> int:
    cells = len(MODES) * len(SERVERS) * len(SIZES)
    spec = Spec(
        servers=SERVERS,
        modes=MODES,
        sizes=SIZES,
        blocks=max(1, trials // cells),
        histogram_buckets=samples // 3,
    )
    with tempfile.TemporaryDirectory(prefix="uplab-bench-report-") as directory:
        run_dir, cache = make_run(Path(directory) / "run", spec), Path(directory) / "cache"
        histogram = next(run_dir.glob("trials/*/load.hist"))

        def whole() -> Path:
            return write.write_files(build(results.load(run_dir), cache))

        steps: dict[str, float] = {}
        took: dict[str, float] = {}
        timed("cold", whole, took)
        folder = timed("cached", whole, took).parent
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        run = timed("load_and_verify", lambda: results.load(run_dir), steps)
        timed("analyse", lambda: analyse(run), steps)
        report = timed("analyse_and_pool", lambda: build(run), steps)
        timed("markdown", lambda: markdown.render(report), steps)
        timed("csv", lambda: trials_csv.render(report.run, report.analysis), steps)
        timed("page_and_charts", lambda: files.files_of(report), steps)
        page_bytes = (folder / files.NAME).stat().st_size
        limits = {
            "limit_cold_s": LIMIT_COLD_S,
            "limit_cached_s": LIMIT_CACHED_S,
            "limit_peak_bytes": LIMIT_PEAK_BYTES,
            "limit_page_bytes": LIMIT_PAGE_BYTES,
        }
        line = {
            "benchmark": "report",
            "trials": len(run.trials),
            "cells": cells,
            "histogram_bytes": histogram.stat().st_size,
            **took,
            "peak_bytes": peak_bytes,
            "page_bytes": page_bytes,
            **limits,
            **steps,
            "charts": len(list((folder / "charts").glob("*.svg"))),
        }
        print(json.dumps(line))
    kept = (
        took["cold_s"] <= LIMIT_COLD_S,
        took["cached_s"] <= LIMIT_CACHED_S,
        peak_bytes <= LIMIT_PEAK_BYTES,
        page_bytes <= LIMIT_PAGE_BYTES,
    )
    return int(not all(kept))


if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in sys.argv[1:])))
