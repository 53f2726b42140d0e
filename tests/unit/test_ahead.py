"""uplab/ahead.py: what a report takes is imported while a run goes on elsewhere, and only then."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Begins, waits for the thread, and says what is imported and whether there was a thread.
PROGRAM = """
import json, sys, threading
from pathlib import Path
from uplab import ahead
from uplab.remote import LocalHost
from uplab.ssh import SshHost
kind, blocks = sys.argv[1:]
host = LocalHost("h", Path("z")) if kind == "local" else SshHost("h", None, Path("z"))
before = "scipy.special" in sys.modules
ahead.begin(host, int(blocks))
for thread in threading.enumerate():
    if thread.name == "ahead":
        thread.join()
names = ("scipy.special", "scipy.stats", "uplab.report.write")
print(json.dumps([before, *(name in sys.modules for name in names)]))
"""


@pytest.mark.parametrize(
    ("kind", "blocks", "imported"),
    [
        ("remote", 6, [False, True, False, True]),
        ("remote", 10, [False, True, True, True]),
        ("local", 10, [False, False, False, False]),
    ],
)
def test_what_is_imported(kind: str, blocks: int, imported: list[bool]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, str(blocks)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == imported
