"""uplab/hostside/runs.py: what a killed run left is put right by whoever stops it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.unit.hostside import kerneltree
from tests.unit.hostside.kerneltree import ASLR, BEFORE
from uplab.hostside import procfs, runs, tuning
from uplab.hostside.control import Control, Process, boot_id
from uplab.hostside.errors import HostError
from uplab.hostside.knobs import Wish
from uplab.hostside.settings import Settings
from uplab.hostside.tuning_journal import Journal, journal_of

RUN_ID = "20260131T120000Z-h1-seed"


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The folder of runs, with one whose process is gone; its name is RUN_ID."""
    folder = tmp_path / "lib" / "runs"
    control = Control(folder / RUN_ID)
    control.folder.mkdir(parents=True)
    (control.folder / "process.json").write_text(
        json.dumps(asdict(Process(pid=2**22, start_ticks=1, boot_id=boot_id())))
    )
    (control.run / "run.json").write_text(json.dumps({"outcome": "running"}))
    return folder


def test_who_stops_a_run_that_is_being_removed_does_not_keep_it(
    killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = shutil.rmtree

    def remove(folder: Path, **options: Any) -> None:
        with pytest.raises(HostError, match=f"no run {RUN_ID}"):
            runs.stop(killed, tmp_path / "state", RUN_ID)
        removed(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", remove)
    runs.forget(killed, RUN_ID)
    assert list(killed.iterdir()) == []


def test_a_run_that_is_collected_as_soon_as_it_stops_is_told(
    killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = Process.wait

    def wait(process: Process, timeout_s: float) -> bool:
        ended = waited(process, timeout_s)
        shutil.rmtree(killed / RUN_ID)
        return ended

    monkeypatch.setattr(Process, "wait", wait)
    ticks = "import time; print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", ticks], stdout=subprocess.PIPE) as run:
        assert run.stdout
        run.stdout.readline()
        noted = Process(run.pid, procfs.start_ticks(run.pid) or 0, boot_id())
        (Control(killed / RUN_ID).folder / "process.json").write_text(json.dumps(asdict(noted)))
        done = runs.stop(killed, tmp_path / "state", RUN_ID)
    assert done["did"] == "it was stopped, and collected"
    assert list(killed.iterdir()) == []


def test_stopping_a_killed_run_puts_back_what_it_had_tuned(
    killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(kerneltree.make(tmp_path / "kernel"))
    monkeypatch.setattr(runs, "Settings", lambda: settings)
    tuning.apply(settings, Journal(journal_of(killed)), RUN_ID, [Wish("aslr", ASLR, "0")])
    assert settings.read(ASLR) == "0"
    done = runs.stop(killed, tmp_path / "state", RUN_ID)
    before = BEFORE[ASLR].strip()
    assert settings.read(ASLR) == before
    assert done["did"] == f"it was killed before; put back {ASLR} to {before}"
    assert done["state"] == "interrupted"
    assert not journal_of(killed).exists()
