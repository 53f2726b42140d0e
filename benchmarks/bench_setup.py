"""How long a converged lab.setup takes on this machine, in four ways, one JSON line each.

Ansible with mitogen (what lab.setup does), with our ansible.cfg alone, with ansible's own
settings, and the digest check alone. Wall and CPU seconds, of children included. Needs a host that
is set up: ./invoke lab.setup
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMITS_S = {"mitogen": 10.0, "our ansible.cfg": 25.0, "digest only": 1.0}

#: ansible's own settings: what ansible.cfg sets for speed, put back to the defaults.
STOCK = {
    "ANSIBLE_PIPELINING": "False",
    "ANSIBLE_GATHERING": "implicit",
    "ANSIBLE_SSH_ARGS": "-C -o ControlMaster=auto -o ControlPersist=60s",
}


def timed(way: str, arguments: list[str], environment: dict[str, str]) -> dict[str, object]:
    """Run ./invoke lab.setup; out: its times."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began_s = time.monotonic()
    done = subprocess.run(
        [str(ROOT / "invoke"), "lab.setup", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    wall_s = time.monotonic() - began_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done.returncode != 0:
        raise SystemExit(f"lab.setup ({way}): {done.stdout[-500:]}{done.stderr[-500:]}")
    return {
        "benchmark": "lab.setup converged",
        "way": way,
        "wall_s": round(wall_s, 2),
        "cpu_s": round(cpu_s, 2),
        "limit_s": LIMITS_S.get(way),
        "changed": "changed=0" not in done.stdout and way != "digest only",
    }


def main() -> int:
    subprocess.run([str(ROOT / "invoke"), "lab.setup", "--if-changed"], check=True, stdout=2)
    kept = True
    ways: list[tuple[str, list[str], dict[str, str]]] = [
        ("mitogen", [], {}),
        ("our ansible.cfg", ["--stock"], {}),
        ("ansible's own settings", ["--stock"], STOCK),
        ("digest only", ["--if-changed"], {}),
    ]
    for way, arguments, environment in ways:
        line = timed(way, arguments, environment)
        print(json.dumps(line), flush=True)
        limit_s = LIMITS_S.get(way)
        kept = (
            kept
            and not line["changed"]
            and (limit_s is None or float(str(line["wall_s"])) <= limit_s)
        )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
