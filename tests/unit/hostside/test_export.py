"""uplab/hostside/{export,runs}.py: runs by their names, and gone when they have arrived."""

import os
from pathlib import Path

import pytest

from uplab.hostside import export
from uplab.hostside.errors import USAGE, HostError
from uplab.hostside.runs import forget

RUN = "20261122T131751Z-local-seed"
LONG = "0001-" + "a" * 120


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    run = tmp_path / "runs" / RUN
    (run / "trials" / LONG).mkdir(parents=True)
    (run / "run.json").write_text("{}\n")
    (run / "trials" / LONG / "trial.json").write_text("{}\n")
    (run / "trials" / ".part-0002").mkdir()
    (run / "trials" / ".part-0002" / "server.log").write_text("half")
    (run / ".part-host.json").write_text("half")
    return tmp_path / "runs"


def test_forget_removes_one_run(runs: Path) -> None:
    (runs / "other").mkdir()
    forget(runs, RUN)
    assert os.listdir(runs) == ["other"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../etc", "a/b", "/etc", ".part-x", "a\n", "-rf", "ä", "a" * 300]
)
def test_a_name_that_is_none_is_refused(runs: Path, name: str) -> None:
    with pytest.raises(HostError) as caught:
        forget(runs, name)
    assert str(caught.value) == f"{name!r} is not the name of a run"
    assert caught.value.exit_code == USAGE
    assert os.listdir(runs) == [RUN]


def test_an_unknown_run_is_named_with_its_place(runs: Path) -> None:
    with pytest.raises(HostError, match=f"^no run yesterday in {runs}$") as caught:
        export.run_path(runs, "yesterday")
    assert caught.value.exit_code == USAGE
