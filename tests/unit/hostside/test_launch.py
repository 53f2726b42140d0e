"""uplab/hostside/launch.py: what is started begins, or says at once why it does not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.unit.test_plan import experiment, made
from uplab.hostside import launch
from uplab.hostside.errors import HOST, HostError
from uplab.plain import plain

#: Far below the time that a run has to begin in, and far above what a process takes to end.
LIMIT_S = 30.0


@pytest.fixture
def places(tmp_path: Path) -> launch.Places:
    return launch.Places(tmp_path / "root", tmp_path / "state", tmp_path / "runs")


def refusal(places: launch.Places, folder: Path, program: str) -> str:
    """What launch says of a hostside that is this program; nothing is left of the run."""
    path = folder / "hostside.py"
    path.write_text(program)
    began_s = time.monotonic()
    with pytest.raises(HostError) as caught:
        launch.launch(places, path, {"plan": plain(made(experiment()))})
    assert time.monotonic() - began_s < LIMIT_S
    assert caught.value.exit_code == HOST
    assert os.listdir(places.runs) == []
    return str(caught.value)


def test_one_that_ends_before_it_says_who_it_is_gives_its_last_words(
    places: launch.Places, tmp_path: Path
) -> None:
    program = "import sys\nprint('first')\nsys.exit('there is no room for me')\n"
    said = refusal(places, tmp_path, program)
    assert said == "the run ended before it began: there is no room for me"


def test_one_that_is_killed_early_has_no_words(places: launch.Places, tmp_path: Path) -> None:
    program = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
    assert refusal(places, tmp_path, program) == "the run ended before it began: it was killed"


def test_one_that_is_killed_after_it_said_who_it_is(places: launch.Places, tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(root)!r})
from pathlib import Path
from uplab.hostside.control import Control, Process
Control(Path(__file__).parents[1]).began(Process.own(None))
print("so far so good", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert refusal(places, tmp_path, program) == "the run ended before it began: so far so good"
