"""uplab/hostside/export.py: a run as tar, and gone when it has arrived."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from uplab import collect
from uplab.hostside import export
from uplab.hostside.errors import USAGE, HostError

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


def exported(runs: Path) -> bytes:
    out = io.BytesIO()
    export.write(runs, RUN, out)
    return out.getvalue()


def test_the_tar_holds_the_finished_files(runs: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(exported(runs))) as archive:
        files = sorted(member.name for member in archive if member.isfile())
        assert files == ["run.json", f"trials/{LONG}/trial.json"]


def test_what_is_sent_arrives_as_it_was(runs: Path, tmp_path: Path) -> None:
    collect.unpack(exported(runs), tmp_path / "here")
    assert (tmp_path / "here" / "trials" / LONG / "trial.json").read_text() == "{}\n"


def test_a_run_without_trials_arrives_too(tmp_path: Path) -> None:
    """An interrupted run keeps its form: readers find an empty folder of trials, not none."""
    (tmp_path / "runs" / RUN / "trials").mkdir(parents=True)
    (tmp_path / "runs" / RUN / "run.json").write_text("{}\n")
    collect.unpack(exported(tmp_path / "runs"), tmp_path / "here")
    assert sorted(os.listdir(tmp_path / "here")) == ["run.json", "trials"]


def test_forget_removes_one_run(runs: Path) -> None:
    (runs / "other").mkdir()
    export.forget(runs, RUN)
    assert os.listdir(runs) == ["other"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../etc", "a/b", "/etc", ".part-x", "a\n", "-rf", "ä", "a" * 300]
)
def test_a_name_that_is_none_is_refused(runs: Path, name: str) -> None:
    with pytest.raises(HostError) as caught:
        export.forget(runs, name)
    assert str(caught.value) == f"{name!r} is not the name of a run"
    assert caught.value.exit_code == USAGE
    assert os.listdir(runs) == [RUN]


def test_an_unknown_run_is_named_with_its_place(runs: Path) -> None:
    with pytest.raises(HostError, match=f"^no run yesterday in {runs}$") as caught:
        export.write(runs, "yesterday", io.BytesIO())
    assert caught.value.exit_code == USAGE
