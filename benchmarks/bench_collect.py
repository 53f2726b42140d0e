"""Collecting a run over SSH, beside `rsync -az` of the same tree over the same sshd. JSON lines.

Both bring the same files to an empty folder, by turns; ours checks every digest on the way. What
counts is the ratio within a round, because the machine may be busy. The trials have logs like
those of real tracers: lines of numbers that change and words that do not, about 90 kB a trial.

UPLAB_BENCH_TRIALS says how many trials (default 5000, half a gigabyte; 10000 is 1 GB),
UPLAB_BENCH_ROUNDS how many rounds (default 3). Needs rsync: apt-get install rsync
"""

import json
import os
import random
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests import sshd
from tests.runs import Spec, make_run
from uplab import adapters, fetchrun, hostzip
from uplab.hostside import press, sums
from uplab.ssh import SshHost
from uplab.sshconfig import endpoint

ROOT = Path(__file__).resolve().parents[1]
RUN = "20261122T131751Z-h1-collect"
LIMIT_RATIO = 1.2
LOG_BYTES = 82_000
#: So many different logs follow each other: more than any compression looks back.
LOGS = 200
MODES = ("none", "none-again", "tracer-only", "kernel-uprobe")
SIZES = (12, 1024, 2048, 4096, 16_384)
CELLS = 2 * len(MODES) * len(SIZES)
TRIALS = int(os.environ.get("UPLAB_BENCH_TRIALS", "5000"))
ROUNDS = int(os.environ.get("UPLAB_BENCH_ROUNDS", "3"))


def log(chance: random.Random) -> bytes:
    """What a tracer prints in a trial: a line for each request it saw, and some of its own."""
    lines: list[str] = []
    size, clock_ns = 0, 1_700_000_000_000_000_000
    while size < LOG_BYTES:
        clock_ns += chance.randrange(20_000, 900_000)
        if chance.randrange(8) < 6:
            line = (
                f"{clock_ns} REQUEST seq={chance.getrandbits(32)} pid={12000 + chance.randrange(4)}"
                f" tid={12000 + chance.randrange(40)} comm=go-server proto=HTTP1 dir=egress "
                f"len={chance.randrange(100, 260)} cap_seq={chance.getrandbits(48)} "
                f'goid={chance.randrange(1, 200)} "GET / HTTP/1.1" '
                f"127.0.0.1:{chance.randrange(32768, 60999)} -> 127.0.0.1:446\n"
            )
        else:
            line = (
                f"{clock_ns} [eBPF] INFO [uprobe] reader {chance.randrange(8)} handled "
                f"{chance.randrange(1, 4096)} events, lost 0, queue {chance.randrange(64)}\n"
            )
        lines.append(line)
        size += len(line)
    return "".join(lines).encode()


def make_tree(run: Path) -> None:
    """A run that has ended, as it lies on a host."""
    spec = Spec(modes=MODES, sizes=SIZES, blocks=max(1, TRIALS // CELLS), sums=False)
    make_run(run, spec)
    chance = random.Random(1)
    logs = [log(chance) for _ in range(LOGS)]
    for number, trial in enumerate(sorted((run / "trials").iterdir())):
        first = f"trial {trial.name}\n".encode()
        (trial / "tracer.log").write_bytes(first + logs[number % LOGS])
    sums.write(run)


def timed(bring: Callable[[Path], object], into: Path) -> float:
    """How long it takes to bring the run into an empty folder, in seconds."""
    into.mkdir()
    os.sync()
    began_s = time.monotonic()
    bring(into)
    taken_s = time.monotonic() - began_s
    shutil.rmtree(into)
    return taken_s


def main() -> int:
    if shutil.which("rsync") is None:
        raise SystemExit("collect: there is no rsync. Run: apt-get install rsync")
    # The keys of this sshd are files; who runs this may have an agent with many others.
    os.environ.pop("SSH_AUTH_SOCK", None)
    with tempfile.TemporaryDirectory(prefix="uplab-bench-collect-") as name:
        folder = Path(name)
        run = folder / "runs" / RUN
        make_tree(run)
        files = [run / inside for inside in sums.files(run)]
        size_bytes = sum(file.stat().st_size for file in files)
        zipapp = hostzip.write(adapters.load([ROOT]), folder / "zips")
        with sshd.running(folder / "sshd") as server:
            options = (f"--runs={folder / 'runs'}", f"--state={folder / 'state'}")
            host = SshHost("h1", endpoint("h1", server.variables()), zipapp, options)
            shell = ["ssh", "-F", "none", "-i", str(server.client_key), "-p", str(server.port)]
            shell += ["-o", f"UserKnownHostsFile={server.known_hosts}"]
            source = f"root@{sshd.ADDRESS}:{run}/"

            def by_rsync(into: Path) -> None:
                argv = ["rsync", "-az", "-e", shlex.join(shell), source, f"{into}/"]
                subprocess.run(argv, check=True)

            def by_uplab(into: Path) -> None:
                with host.held():
                    fetchrun.fetch(host, RUN, into, print)

            pairs = [
                (timed(by_uplab, folder / "ours"), timed(by_rsync, folder / "rsync"))
                for _ in range(ROUNDS)
            ]
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    line = {
        "benchmark": "collecting over SSH",
        "trials": max(1, TRIALS // CELLS) * CELLS,
        "files": len(files),
        "bytes": size_bytes,
        "press": press.best().name,
        "median_s": round(statistics.median(ours for ours, _ in pairs), 2),
        "rsync_median_s": round(statistics.median(theirs for _, theirs in pairs), 2),
        "ratio": round(ratio, 2),
        "limit_ratio": LIMIT_RATIO,
        "rounds": ROUNDS,
        "passed": ratio <= LIMIT_RATIO,
    }
    print(json.dumps(line), flush=True)
    return 0 if ratio <= LIMIT_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
