"""lab.setup over SSH on disposable hosts: converged, from zero, and several at once. JSON lines.

Converged: with mitogen (what lab.setup does), with Ansible's own settings in the same run, and the
digest check alone; CPU seconds are those of the controller and of the host together. The host has
every role; bpftime and DeepFlow's tracer are programs that it names (stand-ins: any file will do),
because nothing of them is run.

From zero: lab.setup on a box that was just made, beside apt-get alone on another one, with the
packages that lab.setup added and the seconds that it took to compile.

At once: one lab.setup on several boxes, from zero, against the CPU seconds that it took divided by
the processors. UPLAB_BENCH_BOXES says how many (default 10, fewer where memory is short).
"""

import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from uplab import box
from uplab.box import cgroups
from uplab.box.record import Box

ROOT = Path(__file__).resolve().parents[1]
CONVERGED_LIMIT_S = 12.0
CONVERGED_CPU_SHARE = 0.45
DIGEST_LIMIT_S = 2.0
FROM_ZERO_RATIO = 1.3
AT_ONCE_RATIO = 1.2
CONVERGED_ROUNDS = 3
BYTES_PER_BOX = 1_500_000_000
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: What ansible.cfg sets for speed, put back to the defaults of ansible-core.
STOCK = {
    "ANSIBLE_PIPELINING": "False",
    "ANSIBLE_GATHERING": "implicit",
    "ANSIBLE_SSH_ARGS": "-C -o ControlMaster=auto -o ControlPersist=60s",
}
EVERYTHING = ["golang", "wrk", "servers", "gotrace", "llvm", "rust", "bpftime", "deepflow"]
BPFTIME = (
    "bpftime",
    "bpftimetool",
    "bpftime_daemon",
    "libbpftime-agent.so",
    "libbpftime-syscall-server.so",
)


@dataclass(frozen=True)
class Cost:
    """What a command took: on the wall, and of all processors here and in the boxes."""

    wall_s: float
    controller_cpu_s: float
    hosts_cpu_s: float
    output: str

    @property
    def cpu_s(self) -> float:
        """Here and in the boxes."""
        return self.controller_cpu_s + self.hosts_cpu_s


def ticks(pid: int) -> int:
    """The CPU time of a process and of the children that it has waited for; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(int(field) for field in fields[11:15])


def cpu_of(boxes: list[Box]) -> float:
    """The CPU seconds of boxes so far: whoever ends there is waited for there."""
    return sum(ticks(pid) for one in boxes for pid in cgroups.processes(one.cgroups)) / TICKS_PER_S


def masters(folder: Path) -> list[int]:
    """The connections that Ansible left open for its next run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def run(words: list[str], boxes: list[Box], environment: dict[str, str]) -> Cost:
    """Run ./invoke; out: what it cost."""
    # Short, because a socket's path has 108 bytes.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="cp") as folder:
        own = {"ANSIBLE_SSH_CONTROL_PATH_DIR": folder, **environment}
        hosts_s, before = cpu_of(boxes), resource.getrusage(resource.RUSAGE_CHILDREN)
        began_s = time.monotonic()
        done = subprocess.run(
            [str(ROOT / "invoke"), *words],
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            check=False,
        )
        wall_s = time.monotonic() - began_s
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        left = masters(Path(folder))
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        cpu_s += sum(ticks(pid) for pid in left) / TICKS_PER_S
        hosts_s = cpu_of(boxes) - hosts_s
        for pid in left:
            os.kill(pid, 15)
    if done.returncode != 0:
        raise SystemExit(f"{shlex.join(words)}: {done.stdout[-1500:]}{done.stderr[-500:]}")
    return Cost(wall_s, cpu_s, hosts_s, done.stdout)


def within(one: Box, script: str) -> str:
    """Run a shell script in a box; out: what it printed."""
    argv = box.ssh_argv(one, "sh", "-ec", shlex.quote(script))
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{one.name}: {script}: {done.stdout[-500:]}{done.stderr[-500:]}")
    return done.stdout


@contextmanager
def inventory_of(one: Box, **variables: Any) -> Iterator[Path]:
    """An inventory with a box and further variables."""
    known = yaml.safe_load((ROOT / ".uplab" / "boxes" / "inventory.yml").read_text())
    host = {**known["uplab"]["hosts"][one.name], **variables}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hosts.yml"
        path.write_text(yaml.safe_dump({"uplab": {"hosts": {one.name: host}}}))
        yield path


def converged() -> Iterator[dict[str, Any]]:
    """A host with every role that is up to date, converged again in three ways."""
    with box.running(ROOT) as one:
        within(one, f"mkdir /opt/theirs; cd /opt/theirs; touch rust_sample {' '.join(BPFTIME)}")
        theirs = {
            "uplab_components": EVERYTHING,
            "bpftime_prefix": "/opt/theirs",
            "deepflow_tracer_path": "/opt/theirs/rust_sample",
        }
        with inventory_of(one, **theirs) as inventory:
            setup = ["lab.setup", "--host", one.name, "--inventory", str(inventory)]
            run(setup, [one], {})
            yield from ways(setup, one)


def ways(setup: list[str], one: Box) -> Iterator[dict[str, Any]]:
    """The three ways, by turns; the medians of the walls, the sums of the CPU seconds."""
    kinds: dict[str, Callable[[], Cost]] = {
        "mitogen": lambda: run(setup, [one], {}),
        "ansible's own settings": lambda: run([*setup, "--stock"], [one], STOCK),
        "digest only": lambda: run([*setup, "--if-changed"], [one], {}),
    }
    costs: dict[str, list[Cost]] = {way: [] for way in kinds}
    for _ in range(CONVERGED_ROUNDS):
        for way, act in kinds.items():
            costs[way].append(act())
    stock_cpu_s = sum(cost.cpu_s for cost in costs["ansible's own settings"])
    limits_s = {"mitogen": CONVERGED_LIMIT_S, "digest only": DIGEST_LIMIT_S}
    for way, found in costs.items():
        wall_s = sorted(cost.wall_s for cost in found)[CONVERGED_ROUNDS // 2]
        share = sum(cost.cpu_s for cost in found) / stock_cpu_s
        unchanged = way == "digest only" or all("changed=0" in cost.output for cost in found)
        share_kept = way != "mitogen" or share <= CONVERGED_CPU_SHARE
        yield {
            "benchmark": "lab.setup converged over SSH, every role",
            "way": way,
            "wall_s_median": round(wall_s, 2),
            "limit_s": limits_s.get(way),
            "controller_cpu_s": round(sum(c.controller_cpu_s for c in found) / len(found), 2),
            "host_cpu_s": round(sum(c.hosts_cpu_s for c in found) / len(found), 2),
            "cpu_share_of_stock": round(share, 3),
            "limit_cpu_share": CONVERGED_CPU_SHARE if way == "mitogen" else None,
            "rounds": CONVERGED_ROUNDS,
            "passed": unchanged and share_kept and wall_s <= limits_s.get(way, wall_s),
        }


def from_zero() -> dict[str, Any]:
    """A box that was just made, against apt-get alone on another one."""
    with box.running(ROOT) as one:
        ours = run(["lab.setup", "--host", one.name], [one], {})
        added = json.loads(within(one, "cat /opt/uplab/packages.json"))["added"]
        manifest = json.loads(within(one, "cat /opt/uplab/manifest.json"))
    compile_s = sum(record["build_s"] for record in manifest["components"].values())
    with box.running(ROOT) as other:
        began_s = time.monotonic()
        install = "DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends"
        within(other, f"apt-get update -q; {install} {' '.join(added)}")
        apt_s = time.monotonic() - began_s
    ratio = ours.wall_s / (apt_s + compile_s)
    return {
        "benchmark": "lab.setup from zero over SSH",
        "wall_s": round(ours.wall_s, 1),
        "apt_alone_s": round(apt_s, 1),
        "compile_s": round(compile_s, 1),
        "packages": len(added),
        "ratio": round(ratio, 2),
        "limit_ratio": FROM_ZERO_RATIO,
        "passed": ratio <= FROM_ZERO_RATIO,
    }


def at_once() -> dict[str, Any]:
    """Several boxes that were just made, in one lab.setup."""
    available = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024
    wanted = int(os.environ.get("UPLAB_BENCH_BOXES", "10"))
    number = max(1, min(wanted, available // BYTES_PER_BOX))
    with ExitStack() as stack:
        boxes = [stack.enter_context(box.running(ROOT)) for _ in range(number)]
        cost = run(["lab.setup", "--host", ",".join(one.name for one in boxes)], boxes, {})
    floor_s = cost.cpu_s / len(os.sched_getaffinity(0))
    return {
        "benchmark": "lab.setup from zero, boxes at once",
        "boxes": number,
        "wall_s": round(cost.wall_s, 1),
        "cpu_s": round(cost.cpu_s, 1),
        "cores": len(os.sched_getaffinity(0)),
        "ratio": round(cost.wall_s / floor_s, 2),
        "limit_ratio": AT_ONCE_RATIO,
        "passed": cost.wall_s <= AT_ONCE_RATIO * floor_s,
    }


def figures() -> Iterator[dict[str, Any]]:
    """All of them, one after the other."""
    yield from converged()
    yield from_zero()
    yield at_once()


def main() -> int:
    kept = True
    for line in figures():
        print(json.dumps(line), flush=True)
        kept = kept and bool(line["passed"])
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
