"""Planning 100,000 trials: expanding the matrix, judging, planning, and what is pushed. JSON lines.

Two shapes: a matrix of the usual size with many blocks, and one of thousands of cells. Each in a
process of its own, so that its memory is its own; that of importing uplab is in it.
"""

import json
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from uplab import matrix, plan
from uplab.hostside.doctor import AVAILABLE
from uplab.plain import plain

ROOT = Path(__file__).resolve().parents[1]
TRIALS = 100_000
LIMIT_S = 2.0
LIMIT_BYTES = 300_000_000
SHAPES = {"many blocks": 1, "many cells": 250}
ONE = "one"


def figures(shape: str) -> dict[str, object]:
    """Plan the published experiment with so many sizes, and enough blocks."""
    sizes = [12 + 16 * number for number in range(SHAPES[shape])]
    settings = [f"factors.body_bytes={sizes}"]
    cells = len(matrix.load("seed", ROOT, settings).cells)
    blocks = -(-TRIALS // cells)
    # It waits for nothing: its processor time is what it takes on a machine that is not busy.
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    experiment = matrix.load("seed", ROOT, [*settings, f"blocks={blocks}"])
    asked = json.dumps(plan.inspect_request(experiment))
    answer = {
        "cells": {cell.id: [AVAILABLE, None] for cell in experiment.cells},
        "artifacts": {},
        "manifest": {},
    }
    made, _ = plan.make(experiment, "local", answer, datetime.now(UTC))
    pushed = json.dumps({"plan": plain(made)})
    cpu_s, wall_s = time.process_time() - began_cpu_s, time.perf_counter() - began_s
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "benchmark": "plan",
        "shape": shape,
        "cells": len(made.cells),
        "blocks": made.blocks,
        "trials": plan.trials(made),
        "cpu_s": round(cpu_s, 3),
        "wall_s": round(wall_s, 3),
        "limit_s": LIMIT_S,
        "pushed_bytes": len(asked) + len(pushed),
        "peak_rss_bytes": peak_bytes,
        "limit_rss_bytes": LIMIT_BYTES,
        "passed": cpu_s <= LIMIT_S and peak_bytes <= LIMIT_BYTES,
    }


def main() -> int:
    if sys.argv[1:2] == [ONE]:
        line = figures(sys.argv[2])
        print(json.dumps(line), flush=True)
        return 0 if line["passed"] else 1
    argv = [sys.executable, "-m", "benchmarks.bench_plan", ONE]
    codes = [subprocess.run([*argv, shape], cwd=ROOT, check=False).returncode for shape in SHAPES]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
