"""What every call of ./invoke costs before its task begins: JSON lines on stdout.

The wrapper is compared with what it runs, tasks.py under the environment's Python, in pairs that
stand next to each other in time: on a noisy machine the difference of two medians measured one
after the other would mostly be noise. The order within a pair alternates.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT_ADDED_S = 0.1
LIMIT_LIST_S = 0.6
PAIRS = 25
LISTINGS = 15


def wall_s(command: list[str]) -> float:
    """Return how long the command takes; it must succeed."""
    begin_s = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin_s


def wrapper() -> dict[str, object]:
    wrapped = [str(ROOT / "invoke"), "--version"]
    bare = [str((ROOT / ".venv").resolve() / "bin" / "python"), str(ROOT / "tasks.py"), "--version"]
    added_s: list[float] = []
    for pair in range(PAIRS):
        if pair % 2:
            with_wrapper_s, without_s = wall_s(wrapped), wall_s(bare)
        else:
            without_s, with_wrapper_s = wall_s(bare), wall_s(wrapped)
        added_s.append(with_wrapper_s - without_s)
    median_s = statistics.median(added_s)
    return {
        "benchmark": "cli.wrapper",
        "added_ms_median": round(median_s * 1e3, 2),
        "added_ms_worst": round(max(added_s) * 1e3, 2),
        "limit_added_ms": LIMIT_ADDED_S * 1e3,
        "pairs": PAIRS,
        "passed": median_s < LIMIT_ADDED_S,
    }


def listing() -> dict[str, object]:
    times_s = [wall_s([str(ROOT / "invoke"), "--list"]) for _ in range(LISTINGS)]
    median_s = statistics.median(times_s)
    return {
        "benchmark": "cli.list",
        "wall_s_median": round(median_s, 4),
        "wall_s_best": round(min(times_s), 4),
        "limit_wall_s": LIMIT_LIST_S,
        "runs": LISTINGS,
        "passed": median_s <= LIMIT_LIST_S,
    }


def main() -> int:
    # Whatever is missing is installed here, and measured nowhere.
    wall_s([str(ROOT / "invoke"), "--list"])
    results = [wrapper(), listing()]
    for result in results:
        print(json.dumps(result), flush=True)
    return 0 if all(result["passed"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
