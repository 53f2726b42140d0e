"""How long the statistics of many cells take: prints one JSON line.

Run: python -m benchmarks.bench_analysis [compared cells, default 1000] [blocks, default 10]

The run is made in memory, so what is timed is the analysis alone: paired overheads with t intervals
and, from ten blocks on, BCa bootstraps of as many resamples as a report's. A comparison of two such
runs, cell by cell, is timed beside it. Exit code 1 above the limit.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from pathlib import Path

from tests.handmade import cell, run_of, trial
from uplab.analysis import analyse
from uplab.comparison import compare
from uplab.estimates import RESAMPLES
from uplab.measured import Run, Trial

MODES = ("none", "none-again", "tracer-only", "kernel-uprobe", "userspace-uprobe")
# For 1,000 compared cells of 10 blocks: overheads, t intervals, bootstraps of 10,000 resamples.
LIMIT_S = 10.0


def make(cells: int, blocks: int, seed: int) -> Run:
    """A run of so many cells that are compared, each group with its `none`."""
    chance = random.Random(seed)
    trials: list[Trial] = []
    for size in range(1, cells // (len(MODES) - 1) + 1):
        for at, mode in enumerate(MODES):
            for block in range(1, blocks + 1):
                rate = 50_000 / (1 + at) * math.exp(chance.gauss(0, 0.03))
                of = cell(mode, body_bytes=size)
                trials.append(trial(len(trials) + 1, of, block, rate, cpu_us=1e6 / rate))
    return run_of(trials, path=Path(f"run-{seed}"), seed=seed)


def main(cells: int = 1000, blocks: int = 10) -> int:
    run, other = make(cells, blocks, 1), make(cells, blocks, 2)
    began_s, cpu_began_s = time.perf_counter(), time.process_time()
    found = analyse(run)
    analyse_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_began_s
    began_s = time.perf_counter()
    compared = compare(run, other)
    summaries = [summary for group in found.groups for summary in group.cells]
    line = {
        "benchmark": "analysis",
        "cells": sum(summary.overhead_pct is not None for summary in summaries),
        "blocks": blocks,
        "resamples": RESAMPLES,
        "analyse_s": round(analyse_s, 3),
        "analyse_cpu_s": round(cpu_s, 3),
        "limit_analyse_s": LIMIT_S,
        "compared_cells": len(compared.cells),
        "compare_s": round(time.perf_counter() - began_s, 3),
    }
    print(json.dumps(line))
    return int(analyse_s > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in sys.argv[1:])))
