"""What a remote run takes beside its trials, on boxes with sshd and systemd. JSON lines.

Start: from `invoke bench.all` to the first trial's server start on a host that is up to date.
Report: from the end of the last trial to the report on the screen. Following: what who follows a
run costs its host, as a share of a core. At once: several boxes in one `bench.all`, against the
slowest of them alone; the load leaves the machine idle, so that what is measured is uplab.

The boxes stand on the programs of this machine's store. Run first: ./invoke lab.setup
UPLAB_BENCH_ROUNDS says how often each is measured (default 5), UPLAB_BENCH_BOXES how many boxes
there are at once (default 4).
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.system import away
from uplab import inventory, provision
from uplab.box.record import Box

ROOT = Path(__file__).resolve().parents[1]
STORE = Path("/opt/uplab")
MATRIX = ROOT / "benchmarks" / "remote.yml"
START_LIMIT_S = 3.0
REPORT_LIMIT_S = 2.0
FOLLOWING_LIMIT_PCT = 0.5
AT_ONCE_RATIO = 1.15
FOLLOWED_S = 20.0
ROUNDS = int(os.environ.get("UPLAB_BENCH_ROUNDS", "5"))
BOXES = int(os.environ.get("UPLAB_BENCH_BOXES", "4"))


@dataclass(frozen=True)
class Timed:
    """One `bench.all`: wall seconds, and when (UNIX time) it began and said where its report is."""

    wall_s: float
    began_s: float
    reported_s: float
    runs: dict[str, Path]

    def events(self, host: str) -> list[dict[str, Any]]:
        """What happened there."""
        text = (self.runs[host] / "events.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


def measure(hosts: Sequence[str], *words: str, folder: Path) -> Timed:
    """Run `bench.all` on hosts that are up to date."""
    results = Path(tempfile.mkdtemp(dir=folder))
    argv = [str(ROOT / "invoke"), "bench.all", "--host", ",".join(hosts), "--matrix", str(MATRIX)]
    began_s, reported_s, said = time.time(), 0.0, []
    with subprocess.Popen(
        [*argv, "--results", str(results), *words], stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout or ():
            said.append(line)
            if line.startswith("report: "):
                reported_s = time.time()
    if process.returncode != 0:
        raise SystemExit(f"remote: bench.all ended with {process.returncode}: {''.join(said)}")
    runs = {json.loads((run / "run.json").read_text())["host"]: run for run in results.iterdir()}
    return Timed(time.time() - began_s, began_s, reported_s, runs)


def unix_s(event: dict[str, Any]) -> float:
    """When it happened; a box has this machine's clock."""
    return datetime.fromisoformat(event["utc"]).timestamp()


def around(box: Box, folder: Path) -> Iterator[dict[str, Any]]:
    """What comes before the first trial, and after the last."""
    before_s, after_s = [], []
    for _ in range(ROUNDS):
        done = measure([box.name], folder=folder)
        events = done.events(box.name)
        starts = [unix_s(event) for event in events if event.get("step") == "start"]
        ends = [unix_s(event) for event in events if event["event"] == "trial-end"]
        before_s.append(starts[0] - done.began_s)
        after_s.append(done.reported_s - ends[-1])
    yield limited("bench.all to the first server's start", before_s, START_LIMIT_S)
    yield limited("end of the last trial to the report", after_s, REPORT_LIMIT_S)


def limited(name: str, seconds: Sequence[float], limit_s: float) -> dict[str, Any]:
    """A line of figures."""
    median_s = statistics.median(seconds)
    return {
        "benchmark": name,
        "median_s": round(median_s, 2),
        "min_s": round(min(seconds), 2),
        "max_s": round(max(seconds), 2),
        "limit_s": limit_s,
        "rounds": len(seconds),
        "passed": median_s <= limit_s,
    }


# ---- following -----------------------------------------------------------------------------------


def following(box: Box, folder: Path) -> dict[str, Any]:
    """The CPU time of a follower's processes on the host, while trials go on."""
    words = ["--host", box.name, "--results", str(folder / "followed")]
    begin = ["bench.all", *words, "--matrix", str(MATRIX), "--detach", "--set", "blocks=1000"]
    subprocess.run([str(ROOT / "invoke"), *begin], stdout=subprocess.DEVNULL, check=True)
    with subprocess.Popen(
        [str(ROOT / "invoke"), "bench.follow", *words], stdout=subprocess.PIPE, text=True
    ) as process:
        if process.stdout is None or not any("1/" in line for line in process.stdout):
            raise SystemExit("remote: bench.follow shows no trial")
        before = followers_ns(box)
        began_s = time.monotonic()
        time.sleep(FOLLOWED_S)
        window_s = time.monotonic() - began_s
        used_ns = {pid: ns - before.get(pid, 0) for pid, ns in followers_ns(box).items()}
        subprocess.run(
            [str(ROOT / "invoke"), "bench.stop", "--host", box.name],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        process.communicate()
    share_pct = 100 * sum(used_ns.values()) / 1e9 / window_s
    return {
        "benchmark": "following, on the host",
        "pct_of_a_core": round(share_pct, 3),
        "limit_pct": FOLLOWING_LIMIT_PCT,
        "processes": len(before),
        "window_s": round(window_s, 1),
        "passed": len(before) >= 2 and share_pct < FOLLOWING_LIMIT_PCT,
    }


def followers_ns(box: Box) -> dict[int, int]:
    """PID and CPU nanoseconds of `hostside follow` in a box, and of the sshd that it speaks to."""
    found: dict[int, int] = {}
    if box.leader is None:
        raise SystemExit(f"remote: box {box.name} is not up")
    for pid in below(box.leader.pid):
        try:
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if b"follow" in argv:
            for one in (pid, int(parent)):
                found[one] = int(Path(f"/proc/{one}/schedstat").read_text().split()[0])
    return found


def below(pid: int) -> Iterator[int]:
    """A process and all its descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in children:
            yield from below(int(child))


# ---- at once -------------------------------------------------------------------------------------


def at_once(boxes: Sequence[Box], folder: Path) -> dict[str, Any]:
    """Several boxes in one `bench.all`, and each alone, by turns."""
    settings = ("load.duration_s=5", "load.requests=100", "blocks=6")
    words = ("--only", "mode=none", *(f"--set={setting}" for setting in settings))
    names = [box.name for box in boxes]
    ratios = []
    for _ in range(max(1, ROUNDS // 2)):
        alone_s = [measure([name], *words, folder=folder).wall_s for name in names]
        together_s = measure(names, *words, folder=folder).wall_s
        ratios.append(together_s / max(alone_s))
    ratio = statistics.median(ratios)
    return {
        "benchmark": "boxes at once",
        "boxes": len(boxes),
        "slowest_alone_s": round(max(alone_s), 1),
        "together_s": round(together_s, 1),
        "ratio": round(ratio, 3),
        "limit_ratio": AT_ONCE_RATIO,
        "rounds": len(ratios),
        "passed": ratio <= AT_ONCE_RATIO,
    }


# ---- the boxes -----------------------------------------------------------------------------------


@contextmanager
def up_to_date(count: int, folder: Path) -> Iterator[list[Box]]:
    """Boxes whose manifest is that of a host that is set up."""
    programs = folder / "programs"
    (programs / "bin").mkdir(parents=True)
    for component in ("servers", "gotrace"):
        for program in (STORE / "current" / component / "bin").iterdir():
            shutil.copy(program, programs / "bin")
    tls = (STORE / "tls" / "cert.pem", STORE / "tls" / "key.pem")
    with away.prepared(programs, tls, count, network="own") as boxes:
        for box in boxes:
            there = away.Away(box, folder)
            manifest = json.loads(there.run("cat", "/opt/uplab/manifest.json"))
            manifest["digest"] = provision.digest(ROOT, inventory.host(ROOT, box.name))
            there.run("tee", "/opt/uplab/manifest.json", stdin=json.dumps(manifest).encode())
        yield boxes


def figures() -> Iterator[dict[str, Any]]:
    """All of them, one after the other."""
    if not (STORE / "current" / "gotrace").exists():
        raise SystemExit("remote: the store is empty. Run: ./invoke lab.setup")
    with tempfile.TemporaryDirectory(prefix="uplab-bench-remote-") as name:
        folder = Path(name)
        with up_to_date(BOXES, folder) as boxes:
            yield from around(boxes[0], folder)
            yield following(boxes[0], folder)
            yield at_once(boxes, folder)


def main() -> int:
    kept = True
    for line in figures():
        print(json.dumps(line), flush=True)
        kept = kept and bool(line["passed"])
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
