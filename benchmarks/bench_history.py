"""How long the history of many runs takes: prints one JSON line.

Run: python -m benchmarks.bench_history [runs, default 1000] [trials of each, default 50]

The runs are synthetic and made in a temporary directory; making them is not timed. The history is
asked for three times: `cold`, with nothing kept of any run, so that every byte of all of them is
read and verified; `opened`, with everything kept; `one_new`, with one run more than before. Each is
a process of its own, as for a person. Exit code 1 above a limit.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.runs import KEPT, Spec, edit_json, make_run
from uplab.history import page, task
from uplab.hostside import sums

ROOT = Path(__file__).resolve().parents[1]
SERVERS = ("https", "http")
LIMIT_OPENED_S = 5.0
LIMIT_ONE_NEW_S = 5.0
LIMIT_PAGE_BYTES = 8_000_000
FIRST = datetime(2024, 1, 1, tzinfo=UTC)
#: As many different contents as there are; the others are copies of them under other names.
DIFFERENT = 20
SMALL_HISTOGRAM = 40


def main(runs: int = 1000, trials: int = 50) -> int:
    with tempfile.TemporaryDirectory(prefix="uplab-bench-history-") as directory:
        folder = Path(directory) / "results"
        folder.mkdir()
        spare = _make(Path(directory), folder, runs, trials)
        took = {"cold_s": _ask(folder), "opened_s": _ask(folder)}
        spare.rename(folder / spare.name)
        took["one_new_s"] = _ask(folder)
        page_bytes = (folder / page.NAME).stat().st_size
        store_bytes = sum(path.stat().st_size for path in (folder / task.STORE).iterdir())
    line = {
        "benchmark": "history",
        "runs": runs,
        "trials": runs * trials,
        **took,
        "page_bytes": page_bytes,
        "parquet_bytes": store_bytes,
        "limit_opened_s": LIMIT_OPENED_S,
        "limit_one_new_s": LIMIT_ONE_NEW_S,
        "limit_page_bytes": LIMIT_PAGE_BYTES,
    }
    print(json.dumps(line))
    kept = (
        took["opened_s"] <= LIMIT_OPENED_S,
        took["one_new_s"] <= LIMIT_ONE_NEW_S,
        page_bytes <= LIMIT_PAGE_BYTES,
    )
    return int(not all(kept))


def _make(scratch: Path, folder: Path, runs: int, trials: int) -> Path:
    """Runs in the folder, a day after each other, on two hosts; out: one more, beside it."""
    cells = len(KEPT) * len(SERVERS)
    blocks = max(1, trials // cells)
    for number in range(DIFFERENT):
        spec = Spec(
            servers=SERVERS,
            modes=tuple(KEPT),
            blocks=blocks,
            seed=number,
            histogram_buckets=SMALL_HISTOGRAM,
        )
        make_run(scratch / f"run{number}", spec)
    for number in range(runs + 1):
        started = FIRST + timedelta(days=number)
        host = f"host{number % 2}"
        name = f"{started:%Y%m%dT%H%M%SZ}-{host}-seed"
        run_dir = (folder if number < runs else scratch) / name
        _copy(scratch / f"run{number % DIFFERENT}", run_dir)
        edit_json(
            run_dir / "run.json",
            run_id=name,
            host=host,
            started_utc=f"{started:%Y-%m-%dT%H:%M:%S}.000000Z",
            pins={"golang": {"version": f"1.{19 + number // 100}"}},
        )
        sums.write(run_dir)
    return scratch / name


def _copy(source: Path, run_dir: Path) -> None:
    """A run under another name; files of trials are shared, which no reader can tell."""
    shutil.copytree(source / "trials", run_dir / "trials", copy_function=os.link)
    for path in source.iterdir():
        if path.is_file():
            shutil.copy(path, run_dir)


def _ask(folder: Path) -> float:
    """Seconds from the command to its end."""
    argv = [sys.executable, str(ROOT / "tasks.py"), "report.history", "--results", str(folder)]
    began = time.perf_counter()
    subprocess.run(argv, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return round(time.perf_counter() - began, 3)


if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in sys.argv[1:])))
