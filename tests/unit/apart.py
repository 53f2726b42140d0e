"""Campaigns in a process of their own, as on the command line: a signal can come to one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BEFORE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from dataclasses import replace
from pathlib import Path
from tests.unit.test_campaign import host_of
from uplab import campaign, fleet, provision
from uplab.cli.common import error_edge
folder = Path(sys.argv[1])
"""
#: Measures ``m.yml`` of the folder on this machine.
ONE_HOST = """
provision.connect = lambda _, name, registry, __: host_of(folder, name, registry)
request = campaign.Request(folder, 'local', str(folder / 'm.yml'), setup=False)
with error_edge('bench.all'):
    campaign.run(request)
"""


def start(folder: Path, program: str = ONE_HOST) -> subprocess.Popen[str]:
    """Start a program whose ``folder`` is the test's, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", _BEFORE + program, str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
