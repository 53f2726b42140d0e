"""uplab/hostside/children.py: real programs, their output, their end, and what they leave."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.waiting import LIMIT_S, wait_for
from uplab.hostside import children, procfs, serveruser
from uplab.hostside.children import Child, Ledger
from uplab.hostside.errors import Interrupted
from uplab.hostside.loop import Loop

ROOT = Path(__file__).parents[3]
STUBBORN = "trap '' TERM INT; echo ready; while :; do sleep 0.05; done"


@dataclass
class Stage:
    """A loop, a ledger, and whatever was started: none of it outlives the test."""

    loop: Loop
    folder: Path
    started: list[Child] = field(default_factory=list)

    @property
    def ledger_file(self) -> Path:
        return self.folder / "children.json"

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.ledger_file)

    def start(
        self, *argv: str, env: Mapping[str, str] | None = None, log: Path | None = None
    ) -> Child:
        place = log or self.folder / "child.log"
        child = Child(self.loop, self.ledger, "child", argv, place, env or {})
        self.started.append(child)
        return child

    def shell(self, script: str) -> Child:
        return self.start("sh", "-c", script)

    def python(self, program: str) -> Child:
        return self.start(sys.executable, "-S", "-c", program)

    def finish(self, child: Child) -> None:
        assert self.loop.until(lambda: child.ended, LIMIT_S)
        child.stop("SIGTERM", 1.0)

    def log(self) -> bytes:
        return (self.folder / "child.log").read_bytes()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Loop() as loop:
        stage = Stage(loop, tmp_path)
        yield stage
        for child in stage.started:
            for pid in procfs.session_members(child.pid):
                os.kill(pid, signal.SIGKILL)
            with suppress(Interrupted):
                child.stop("SIGKILL", 1.0)


def lives(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return procfs.stat_fields(pid)[0] not in "ZX"
    except OSError:
        return False


# --- output ---------------------------------------------------------------------------------------


def test_both_streams_are_read_and_kept(stage: Stage) -> None:
    child = stage.shell("echo out; echo err >&2; printf 'no newline'")
    stage.finish(child)
    assert bytes(child.text["out"]) == b"out\nno newline"
    assert bytes(child.text["err"]) == b"err\n"
    assert sorted(child.lines) == ["err", "no newline", "out"]
    assert sorted(stage.log()) == sorted(b"out\nno newlineerr\n")
    assert child.returncode == 0


def test_each_line_is_announced(stage: Stage) -> None:
    child = stage.shell("read x; echo one; echo two >&2; printf three")
    heard: list[str] = []
    child.on_line = heard.append
    stage.finish(child)
    assert sorted(heard) == ["one", "three", "two"]


def test_json_lines_on_stdout_are_messages(stage: Stage) -> None:
    lines = ['{"event": "attached"}', '{"cut', "[1]", "3", "text", '{"event": "end"}']
    child = stage.python(f"print({chr(10).join(lines)!r})")
    stage.finish(child)
    assert list(child.messages) == [{"event": "attached"}, {"event": "end"}]


def test_json_on_stderr_is_no_message(stage: Stage) -> None:
    child = stage.shell("""echo '{"event": "attached"}' >&2""")
    stage.finish(child)
    assert not child.messages


def test_a_flood_is_given_away_in_blocks_of_whole_lines(stage: Stage) -> None:
    child = stage.shell("read x; i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done")
    blocks: list[bytes] = []
    heard: list[str] = []
    child.on_line = heard.append
    child.drain(blocks.append)
    stage.finish(child)
    assert all(block.endswith(b"\n") for block in blocks)
    assert b"".join(blocks).split() == b"".join(b"line %d\n" % i for i in range(5000)).split()
    assert (heard, len(blocks) < 2500) == ([], True)
    assert child.death() == "exit code 0, last line: line 4999"


def test_what_follows_the_last_line_of_a_flood_is_its_last_line(stage: Stage) -> None:
    child = stage.shell("echo one; sleep 0.1; printf 'cut off'")
    child.drain(lambda _block: None)
    stage.finish(child)
    assert child.death() == "exit code 0, last line: cut off"


def test_a_line_longer_than_any_block_is_whole(stage: Stage) -> None:
    child = stage.python("import sys; sys.stdout.write('x' * 3000000 + chr(10))")
    blocks: list[bytes] = []
    child.drain(blocks.append)
    stage.finish(child)
    assert [len(block) for block in blocks] == [3_000_001]


def test_a_program_that_has_ended_has_nothing_to_drain(stage: Stage) -> None:
    child = stage.shell("echo gone")
    stage.finish(child)
    child.drain(lambda _block: None)
    assert child.death() == "exit code 0, last line: gone"


def test_a_flood_can_be_stopped(stage: Stage) -> None:
    child = stage.shell("while :; do echo flood; done")
    child.drain(lambda _block: None)
    assert stage.loop.until(lambda: child.output_bytes > 1 << 16, LIMIT_S)
    assert child.stop("SIGTERM", 2.0) < 2.0
    stage.loop.pump(0.0)


def test_a_line_that_comes_in_pieces_is_one_line(stage: Stage) -> None:
    child = stage.python(
        "import os, time\n"
        "for part in (b'{\"eve', b'nt\": 1', b'}\\n'):\n"
        "    os.write(1, part); time.sleep(0.01)\n"
    )
    stage.finish(child)
    assert list(child.messages) == [{"event": 1}]


def test_a_long_message_is_still_a_message(stage: Stage) -> None:
    """A tracer with thousands of sites says them all in one line."""
    child = stage.python("print('{\"sites\": [' + '1,' * 100_000 + '1]}')")
    stage.finish(child)
    assert [len(message["sites"]) for message in child.messages] == [100_001]


def test_bytes_that_are_no_text_do_no_harm(stage: Stage) -> None:
    child = stage.python("import os; os.write(1, bytes(range(256)) * 10)")
    stage.finish(child)
    assert bytes(child.text["out"]) == bytes(range(256)) * 10
    assert child.returncode == 0


def test_a_flood_of_output_never_stops_the_program_and_is_capped(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "LOG_CAP_BYTES", 100_000)
    monkeypatch.setattr(children, "_TEXT_CAP_BYTES", 200_000)
    program = (
        "import os\nfor _ in range(100): os.write(1, b'x' * 9999 + b'\\n')\nos.write(2, b'end')"
    )
    child = stage.python(program)
    stage.finish(child)
    assert child.returncode == 0
    assert child.output_bytes == 1_000_003
    note = b"\n[uplab: 900003 further bytes were not kept]\n"
    assert stage.log().endswith(note)
    assert len(stage.log()) == 100_000 + len(note)
    assert len(child.text["out"]) < 200_000 + 65_536
    assert bytes(child.text["err"]) == b"end"
    assert max(len(line) for line in child.lines) <= 500


def test_a_flood_without_any_newline_is_capped_too(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "LOG_CAP_BYTES", 1000)
    child = stage.python("import os\nfor _ in range(300): os.write(1, b'x' * 10_000)")
    stage.finish(child)
    assert child.output_bytes == 3_000_000
    assert len(stage.log()) < 2000


def test_a_full_disk_is_noted_and_does_not_save_a_program_from_being_stopped(stage: Stage) -> None:
    child = stage.start("sh", "-c", "echo ready; yes & yes", log=Path("/dev/full"))
    assert stage.loop.until(lambda: child.log_error is not None, LIMIT_S)
    assert child.log_error is not None
    assert child.log_error.errno == errno.ENOSPC
    child.stop("SIGTERM", 1.0)
    assert child.ended
    wait_for(lambda: procfs.session_members(child.pid) == [])


# --- environment ----------------------------------------------------------------------------------


def test_a_program_gets_a_small_environment_and_no_input(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD_OF_THE_USER", "1")
    child = stage.start("sh", "-c", "env; pwd; cat; ps -o sid= -p $$", env={"MINE": "yes"})
    stage.finish(child)
    lines = child.text["out"].decode().split()
    assert {"MINE=yes", "LANG=C.UTF-8"} <= set(lines)
    assert not any(line.startswith("LD_PRELOAD") for line in lines)
    assert "/" in lines
    assert lines[-1] == str(child.pid)


def test_a_program_that_is_not_there_says_so(stage: Stage) -> None:
    child = stage.start("/no/such/program", "argument")
    stage.finish(child)
    assert child.returncode == 127
    assert "/no/such/program" in child.death()
    assert "No such file or directory" in child.death()


def test_no_descriptor_of_ours_is_inherited(stage: Stage) -> None:
    child = stage.start("ls", "/proc/self/fd")
    stage.finish(child)
    # 3 is ls's own, of the directory that it reads.
    assert child.text["out"].split() == [b"0", b"1", b"2", b"3"]


# --- the end --------------------------------------------------------------------------------------


def test_how_a_program_died(stage: Stage) -> None:
    cases = {
        "echo a reason >&2; exit 3": "exit code 3, last line: a reason",
        "exit 0": "exit code 0",
        "kill -SEGV $$": "SIGSEGV",
        "echo 'fatal error: fault\npanic: again\ngs 0x0' >&2; exit 2": (
            "exit code 2, fatal error: fault, last line: gs 0x0"
        ),
        "echo 'panic: no' >&2; exit 2": "exit code 2, last line: panic: no",
    }
    for script, expected in cases.items():
        child = stage.shell(script)
        stage.finish(child)
        assert child.death() == expected


def test_a_program_that_runs_is_running(stage: Stage) -> None:
    child = stage.start("sleep", "60")
    assert child.death() == "is running"
    assert child.returncode is None
    assert not child.ended


def test_a_death_by_a_signal_that_has_no_name(stage: Stage) -> None:
    child = stage.python("import os; os.kill(os.getpid(), 40)")
    stage.finish(child)
    assert "40" in child.death()


def test_stop_sends_the_signal_and_waits(stage: Stage) -> None:
    child = stage.shell("trap 'echo bye; exit 7' USR2; echo ready; while :; do sleep 0.02; done")
    assert stage.loop.until(lambda: "ready" in child.lines, LIMIT_S)
    took_s = child.stop("SIGUSR2", LIMIT_S)
    assert child.returncode == 7
    assert list(child.lines) == ["ready", "bye"]
    assert took_s < LIMIT_S, "it had ended by itself"


def test_a_program_that_ignores_sigterm_is_killed_in_time(stage: Stage) -> None:
    child = stage.shell(STUBBORN)
    assert stage.loop.until(lambda: "ready" in child.lines, LIMIT_S)
    took_s = child.stop("SIGTERM", 0.2)
    assert child.death().startswith("SIGKILL")
    assert took_s >= 0.2
    wait_for(lambda: procfs.session_members(child.pid) == [])


def test_a_program_that_is_stopped_by_sigstop_is_killed(stage: Stage) -> None:
    child = stage.start("sleep", "60")
    child.send("SIGSTOP")
    wait_for(lambda: procfs.stat_fields(child.pid)[0] == "T")
    child.stop("SIGTERM", 0.1)
    assert child.death() == "SIGKILL"


def test_grandchildren_are_ended_with_it(stage: Stage) -> None:
    child = stage.shell("sleep 60 & sleep 61 & echo ready; wait")
    assert stage.loop.until(lambda: "ready" in child.lines, LIMIT_S)
    child.stop("SIGTERM", 1.0)
    assert child.ended
    wait_for(lambda: procfs.session_members(child.pid) == [])


def test_grandchildren_in_a_group_of_their_own_are_ended_too(stage: Stage) -> None:
    """A shell with job control, or a server with workers, makes process groups in its session."""
    child = stage.python(
        "import subprocess\n"
        "worker = subprocess.Popen(['sleep', '60'], process_group=0)\n"
        "print('ready', flush=True); worker.wait()\n"
    )
    assert stage.loop.until(lambda: "ready" in child.lines, LIMIT_S)
    assert len(procfs.session_members(child.pid)) == 2
    child.stop("SIGTERM", 0.5)
    wait_for(lambda: procfs.session_members(child.pid) == [])


def test_grandchildren_of_a_program_that_ended_by_itself_are_ended(stage: Stage) -> None:
    child = stage.shell("sleep 60 > /dev/null 2>&1 & echo ready")
    assert stage.loop.until(lambda: child.ended, LIMIT_S)
    assert len(procfs.session_members(child.pid)) == 1
    child.stop("SIGTERM", 1.0)
    wait_for(lambda: procfs.session_members(child.pid) == [])


def test_a_grandchild_that_holds_the_pipe_does_not_hold_the_stop(stage: Stage) -> None:
    child = stage.shell("setsid sleep 60 & echo $!; sleep 60")
    assert stage.loop.until(lambda: bool(child.lines), LIMIT_S)
    escaped = int(child.lines[0])
    wait_for(lambda: int(procfs.stat_fields(escaped)[3]) == escaped)
    took_s = child.stop("SIGTERM", 0.2)
    os.kill(escaped, signal.SIGKILL)
    assert took_s < 50.0, "it waited for the other one"
    assert child.ended


def test_stopping_twice_is_stopping_once(stage: Stage) -> None:
    child = stage.start("sleep", "60")
    child.stop("SIGTERM", 1.0)
    child.stop("SIGTERM", 1.0)
    child.send("SIGUSR1")
    assert child.death() == "SIGTERM"


def test_an_interruption_does_not_tear_a_stop(stage: Stage) -> None:
    child = stage.shell(STUBBORN)
    assert stage.loop.until(lambda: "ready" in child.lines, LIMIT_S)
    os.kill(os.getpid(), signal.SIGTERM)
    child.stop("SIGTERM", 0.1)
    assert procfs.session_members(child.pid) == []
    with pytest.raises(Interrupted):
        stage.loop.pump(0.0)


def test_no_descriptor_is_left_open(stage: Stage) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    stage.finish(stage.shell("echo done"))
    stage.start("sleep", "60").stop("SIGTERM", 1.0)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_child_that_ended_unnoticed_is_struck_off_when_it_is_stopped(stage: Stage) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    child = stage.python("import os, time; os.close(1); os.close(2); time.sleep(0.1)")
    assert stage.loop.until(lambda: not child._streams, LIMIT_S)
    wait_for(lambda: procfs.stat_fields(child.pid)[0] == "Z")
    child.stop("SIGTERM", 1.0)
    assert json.loads(stage.ledger_file.read_text()) == []
    assert sorted(os.listdir("/proc/self/fd")) == before


# --- the ledger -----------------------------------------------------------------------------------


def test_the_ledger_names_who_lives(stage: Stage) -> None:
    child = stage.start("sleep", "60")
    noted = json.loads(stage.ledger_file.read_text())
    assert noted == [
        {"pid": child.pid, "start_ticks": procfs.start_ticks(child.pid), "name": "child"}
    ]
    child.stop("SIGTERM", 1.0)
    assert json.loads(stage.ledger_file.read_text()) == []


def test_the_kernel_ends_a_child_whose_hostside_was_killed(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from uplab.hostside.children import Child, Ledger\n"
        "from uplab.hostside.loop import Loop\n"
        "folder = Path(sys.argv[1])\n"
        "with Loop() as loop:\n"
        "    argv = ['sh', '-c', 'sleep 60 & echo ready; wait']\n"
        "    child = Child(loop, Ledger(folder / 'l'), 'c', argv, folder / 'log', {})\n"
        "    loop.until(lambda: bool(child.lines), 5)\n"
        "    print(child.pid, flush=True)\n"
        "    loop.pump(60)\n"
    )
    argv = [sys.executable, "-S", "-c", program, str(tmp_path)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as hostside:
        assert hostside.stdout
        pid = int(hostside.stdout.readline())
        assert len(procfs.session_members(pid)) == 2
        hostside.kill()
    # This process stands in for init: whoever loses its parent becomes its child, and is reaped.
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    left = procfs.session_members(pid)
    # What the child had started is left, and only the next start can know of it.
    assert len(left) == 1
    ended = Ledger(tmp_path / "l").end_leftovers()
    try:
        assert ended == [f"c (pid {pid})"]
        wait_for(lambda: not lives(left[0]))
    finally:
        if lives(left[0]):
            os.kill(left[0], signal.SIGKILL)


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        yield process
        process.kill()


def note(path: Path, pid: int, start_ticks: int | None) -> Ledger:
    path.write_text(json.dumps([{"pid": pid, "start_ticks": start_ticks, "name": "server"}]))
    return Ledger(path)


def test_what_an_earlier_run_left_is_ended(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]"
) -> None:
    ledger = note(tmp_path / "l", sleeper.pid, procfs.start_ticks(sleeper.pid))
    assert ledger.end_leftovers() == [f"server (pid {sleeper.pid})"]
    assert sleeper.wait(5) == -signal.SIGKILL
    assert not (tmp_path / "l").exists()
    assert ledger.end_leftovers() == []


@pytest.mark.parametrize("later_ticks", [-1, 1, None])
def test_another_process_of_the_same_number_is_never_ended(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]", later_ticks: int | None
) -> None:
    start = procfs.start_ticks(sleeper.pid)
    assert start is not None
    noted = None if later_ticks is None else start + later_ticks
    assert note(tmp_path / "l", sleeper.pid, noted).end_leftovers() == []
    assert lives(sleeper.pid)
    assert not (tmp_path / "l").exists()


def test_the_session_of_a_leftover_is_ended_with_it(tmp_path: Path) -> None:
    argv = ["sh", "-c", "sleep 60 & echo; wait"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout
        process.stdout.readline()
        assert len(procfs.session_members(process.pid)) == 2
        note(tmp_path / "l", process.pid, procfs.start_ticks(process.pid)).end_leftovers()
        wait_for(lambda: procfs.session_members(process.pid) == [])


@pytest.mark.parametrize(
    ("mark", "later_ticks", "noted_uid", "ends"),
    [
        ("1", 0, True, True),
        ("2", 0, True, False),
        ("1", 1, True, False),
        ("1", 0, False, False),
    ],
)
def test_what_the_server_s_user_runs_is_ended_with_it(
    tmp_path: Path, mark: str, later_ticks: int, *, noted_uid: bool, ends: bool
) -> None:
    user = serveruser.draw()
    argv = ["setpriv", *user.options(None), "--", "sleep", "60"]
    environment = {**os.environ, "UPLAB_CHILD": mark}
    with subprocess.Popen(argv, env=environment, start_new_session=True) as left:
        wait_for(lambda: procfs.of_user(user.uid) == [left.pid])
        start = procfs.start_ticks(left.pid)
        assert start is not None
        gone = {"pid": 1 << 22, "start_ticks": start + later_ticks, "name": "server"}
        entry = {**gone, "uid": user.uid if noted_uid else None}
        (tmp_path / "l").write_text(json.dumps([entry]))
        ended = Ledger(tmp_path / "l").end_leftovers()
        assert ended == ([f"server (pid {1 << 22})"] if ends else [])
        if ends:
            assert left.wait(5) == -signal.SIGKILL
        assert lives(left.pid) is not ends
        left.kill()


@pytest.mark.parametrize("text", ["", "{", "null", "[1]", '[{"pid": 1}]', '{"pid": 1}'])
def test_a_damaged_ledger_does_not_keep_a_host_from_measuring(tmp_path: Path, text: str) -> None:
    (tmp_path / "l").write_text(text)
    assert Ledger(tmp_path / "l").end_leftovers() == []
    assert not (tmp_path / "l").exists()
