"""uplab/hostside/rundir.py: what is in a run directory is whole."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from uplab.hostside.rundir import Events, TrialDirectory, utc_now, write_json

ROOT = Path(__file__).parents[3]


def test_utc_now_is_utc_with_microseconds() -> None:
    before = datetime.now(UTC)
    text = utc_now()
    assert text.endswith("Z")
    assert len(text) == len("2026-01-31T12:00:00.123456Z")
    assert before <= datetime.fromisoformat(text) <= datetime.now(UTC)


def test_json_is_written_sorted_with_a_newline_and_nothing_beside_it(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": "µ", "a": None})
    assert (tmp_path / "a.json").read_text() == '{\n "a": null,\n "b": "µ"\n}\n'
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    unwritable: Any = {"a": object()}
    with pytest.raises(TypeError):
        write_json(path, unwritable)
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    """The file's inode changes with each write: it is replaced, never written in place."""
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with path.open() as old:
        write_json(path, {"a": 2})
        assert json.load(old) == {"a": 1}


def test_a_trial_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    trial = TrialDirectory(tmp_path / "trials", "0001-a-none-12B-b01")
    (trial.path / "server.log").write_text("ready\n")
    assert os.listdir(tmp_path / "trials") == [".part-0001-a-none-12B-b01"]
    trial.keep({"schema": 1})
    assert os.listdir(tmp_path / "trials") == ["0001-a-none-12B-b01"]
    kept = tmp_path / "trials" / "0001-a-none-12B-b01"
    assert sorted(os.listdir(kept)) == ["server.log", "trial.json"]
    assert json.loads((kept / "trial.json").read_text()) == {"schema": 1}


def test_a_dropped_trial_leaves_nothing(tmp_path: Path) -> None:
    trial = TrialDirectory(tmp_path, "0001")
    (trial.path / "scratch").mkdir()
    trial.drop()
    trial.drop()
    assert os.listdir(tmp_path) == []


def test_what_a_crash_left_of_a_trial_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".part-0001").mkdir()
    (tmp_path / ".part-0001" / "server.log").write_text("of the crashed one")
    trial = TrialDirectory(tmp_path, "0001")
    assert list(trial.path.iterdir()) == []


def test_a_whole_trial_is_never_overwritten(tmp_path: Path) -> None:
    TrialDirectory(tmp_path, "0001").keep({"first": True})
    with pytest.raises(OSError, match="not empty"):
        TrialDirectory(tmp_path, "0001").keep({"first": False})
    assert json.loads((tmp_path / "0001" / "trial.json").read_text()) == {"first": True}


def test_events_are_lines_with_both_clocks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = Events(tmp_path / "events.jsonl", follow=False)
    events.emit("trial-start", cell="a", text="two\nlines µ")
    # Each line is there at once: who looks at a run that goes on sees where it is.
    seen = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    events.emit("run-end")
    events.close()
    assert len(seen) == 1
    assert seen[0]["event"] == "trial-start"
    assert seen[0]["text"] == "two\nlines µ"
    assert datetime.fromisoformat(seen[0]["utc"]).tzinfo is not None
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert json.loads(lines[1])["monotonic_ns"] > seen[0]["monotonic_ns"]
    assert capsys.readouterr().out == ""


def test_who_follows_reads_the_same_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = Events(tmp_path / "events.jsonl", follow=True)
    events.emit("a")
    events.emit("b")
    events.close()
    assert capsys.readouterr().out == (tmp_path / "events.jsonl").read_text()


def test_events_are_appended(tmp_path: Path) -> None:
    for name in ("first", "second"):
        events = Events(tmp_path / "events.jsonl", follow=False)
        events.emit(name)
        events.close()
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["first", "second"]


def test_a_run_goes_on_when_nobody_follows_any_more(tmp_path: Path) -> None:
    """With the reader gone, all events are in the file, and the program ends as if none was."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from uplab.hostside.rundir import Events\n"
        "events = Events(Path(sys.argv[1]), follow=True)\n"
        "sys.stdin.read()\n"
        "for number in range(3):\n"
        "    events.emit('step', number=number)\n"
        "events.close()\n"
    )
    path = tmp_path / "events.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stdin.close()
        said = process.stderr.read().decode()
        code = process.wait()
    lines = path.read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [0, 1, 2]
    assert (code, said) == (0, "")
