"""How long a report over many trials takes: prints one JSON line.

Run: python -m benchmarks.bench_report [trials, default 10000] [histogram samples, default 40000]

The run is synthetic and made in a temporary directory; making it is not timed. Every trial has the
files of a real one, and a histogram as large as a real one (its size is in the output), so that
hashing, decompressing and pooling are not flattered. Exit code 1 above the limit.
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
from uplab.report import write
from uplab.report.model import build

MODES = tuple(KEPT)
SERVERS = ("https", "http")
SIZES = (12, 1024, 2048, 4096, 16_384, 65_536, 131_072, 196_608, 229_376, 262_144)
# For 10,000 trials: reading, verifying, analysing, pooling and writing.
LIMIT_S = 10.0
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
        run_dir = make_run(Path(directory) / "run", spec)
        histogram = next(run_dir.glob("trials/*/load.hist"))
        steps: dict[str, float] = {}
        whole: dict[str, float] = {}
        path = timed("in_all", lambda: write.write_reports(run_dir), whole)
        run = timed("load_and_verify", lambda: results.load(run_dir), steps)
        timed("analyse", lambda: analyse(run), steps)
        report = timed("analyse_and_pool", lambda: build(run), steps)
        timed("write", lambda: write.write_files(report), steps)
        line = {
            "benchmark": "report",
            "trials": len(run.trials),
            "cells": cells,
            "histogram_bytes": histogram.stat().st_size,
            **whole,
            "limit_in_all_s": LIMIT_S,
            **steps,
            "report_bytes": path.stat().st_size,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        print(json.dumps(line))
    return int(whole["in_all_s"] > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in sys.argv[1:])))
