"""What a trial costs beside its load, and what hostside uses while the load measures.

Orchestration is the trial's wall time minus the elapsed times that the load itself printed
(warm-up and measured). In the same run the published procedure is timed with the same programs:
one second of sleep after the server's start, the tracer's own readiness, then the load. One JSON
line per mode on stdout. Needs a host that is set up: ./invoke lab.setup
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uplab import arrival, detached, matrix, plan, provision
from uplab.hostside.spec import Cell, Plan
from uplab.hostside.store import Store
from uplab.hostside.templates import fill, fill_argv
from uplab.plain import plain
from uplab.remote import Host

ROOT = Path(__file__).resolve().parents[1]
#: What the medians must not exceed, by mode and way of attaching.
LIMITS_S = {"none": 0.3, "kernel-uprobe uprobe_multi": 0.5}
HOSTSIDE_LIMIT_PCT = 1.0
PUBLISHED_SLEEP_S = 1.0
PUBLISHED_ROUNDS = 3


def measured(made: Plan, host: Host, scratch: Path) -> list[dict[str, Any]]:
    """Run the plan; out: the records of its trials."""
    running = detached.start(host, plain(made), print)
    end = running.follow(lambda _event: None)
    if end.code != 0:
        raise SystemExit(f"orchestration: {end.said}")
    run_dir = arrival.bring(host, made.run_id, scratch, print)
    return [json.loads(path.read_text()) for path in run_dir.glob("trials/*/trial.json")]


def published(made: Plan, cell: Cell, store: Store) -> float:
    """One trial by the published procedure; out: its seconds beside the load."""
    server, load = made.adapters.servers[cell.server], made.adapters.loads[cell.load]
    values = {name: str(store.path(ref)) for name, ref in server.programs.items()}
    numbers = {**cell.server_parameters, "body_bytes": cell.body_bytes}
    values["address"] = "127.0.0.1"
    began_s = time.monotonic()
    argv = fill_argv(server.argv, {**values, **numbers}, {})
    running = [subprocess.Popen(argv, stdout=subprocess.DEVNULL)]
    time.sleep(PUBLISHED_SLEEP_S)
    if cell.tracer is not None:
        tracer = made.adapters.tracers[cell.tracer]
        programs = {name: str(store.path(ref)) for name, ref in tracer.programs.items()}
        mode_args = {"mode_args": tracer.modes[cell.mode].args}
        argv = fill_argv(tracer.argv, {**programs, "pid": running[0].pid}, mode_args)
        running.append(subprocess.Popen(argv, stdout=subprocess.PIPE))
        if running[-1].stdout is not None:
            running[-1].stdout.readline()
    url = fill(server.url, {**values, **numbers})
    argv = [str(store.path(load.programs["program"])), "-t", "2", "-c", "20", "-d", "1s", url]
    elapsed_s = 0.0
    for _part in ("warm-up", "measured"):
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        elapsed_s += float(done.stdout.split(" requests in ")[1].split("s,")[0])
    for process in reversed(running):
        process.terminate()
        process.communicate()
    return time.monotonic() - began_s - elapsed_s


def mode_of(trial: dict[str, Any]) -> str:
    """The mode, with the way of attaching where there is a tracer."""
    hits = trial["hits"]
    attach = f" {hits['attach']}" if hits else ""
    return f"{trial['cell']['mode']}{attach}"


def report(trials: list[dict[str, Any]]) -> bool:
    """Print a line for each mode; out: whether all limits were kept."""
    kept = True
    for mode in sorted({mode_of(trial) for trial in trials}):
        mine = [trial for trial in trials if mode_of(trial) == mode]
        beside_s = [t["times"]["wall_s"] - t["times"]["load_elapsed_s"] for t in mine]
        hostside = [100 * t["cpu"]["hostside_s"] / t["cpu"]["window_s"] for t in mine]
        median_s, limit_s = statistics.median(beside_s), LIMITS_S.get(mode)
        kept = kept and (limit_s is None or median_s <= limit_s)
        kept = kept and statistics.median(hostside) < HOSTSIDE_LIMIT_PCT
        line = {
            "benchmark": "orchestration",
            "mode": mode,
            "trials": len(mine),
            "valid": sum(t["verdict"]["valid"] for t in mine),
            "orchestration_median_s": round(median_s, 3),
            "orchestration_max_s": round(max(beside_s), 3),
            "limit_s": limit_s,
            "hostside_cpu_pct_of_a_core": round(statistics.median(hostside), 2),
            "hostside_cpu_limit_pct": HOSTSIDE_LIMIT_PCT,
        }
        print(json.dumps(line), flush=True)
    return kept


def main() -> int:
    experiment = matrix.load(str(ROOT / "benchmarks" / "orchestration.yml"), ROOT)
    host = provision.connect(ROOT, "local", experiment.registry)
    answer = host.inspect(plan.inspect_request(experiment))
    made, _ = plan.make(experiment, "local", answer, datetime.now(UTC))
    if not made.cells:
        raise SystemExit("orchestration: nothing can run here. Run: ./invoke lab.setup")
    with tempfile.TemporaryDirectory() as scratch:
        kept = report(measured(made, host, Path(scratch)))
    store = Store(Path("/opt/uplab"), answer["manifest"])
    for cell in made.cells:
        seconds = [published(made, cell, store) for _ in range(PUBLISHED_ROUNDS)]
        line = {
            "benchmark": "published procedure",
            "cell": cell.id,
            "orchestration_median_s": round(statistics.median(seconds), 3),
        }
        print(json.dumps(line), flush=True)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
