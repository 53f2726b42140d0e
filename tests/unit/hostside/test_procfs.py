"""uplab/hostside/procfs.py: readings of /proc, of real processes."""

import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import wait_for
from uplab.hostside import procfs

NO_PID = 1 << 22
"""One more than the largest PID that Linux gives out."""


@contextmanager
def running(*argv: str, session: bool = False) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=session) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout
    return process.stdout.readline().decode().strip()


def test_maps_of_this_process() -> None:
    found = procfs.maps(os.getpid())
    programs = [m for m in found if m.path == os.path.realpath("/proc/self/exe")]
    assert any(m.executable for m in programs)
    assert any(not m.executable for m in programs)
    assert {m.inode for m in programs} == {Path("/proc/self/exe").stat().st_ino}
    assert all(m.start < m.end for m in found)
    assert any(m.path == "[stack]" and not m.inode for m in found)


def test_a_path_in_maps_may_hold_blanks_and_more() -> None:
    text = (
        "7f00-7f10 r-xp 00001000 08:01 42                         /a dir/lib x.so (deleted)\n"
        "7f10-7f20 rw-p 00000000 00:00 0 \n"
        "7f20-7f30 --xp 00000000 08:01 7                          /form\x0cfeed\x85.so\n"
    )
    first, second, third = procfs.parse_maps(text)
    assert first == procfs.Mapping(0x7F00, 0x7F10, "r-xp", 0x1000, 42, "/a dir/lib x.so (deleted)")
    assert first.executable
    assert (second.path, second.inode, second.executable) == ("", 0, False)
    assert third.path == "/form\x0cfeed\x85.so"
    assert third.executable


def test_maps_of_nobody() -> None:
    with pytest.raises(OSError, match="No such file"):
        procfs.maps(NO_PID)


def test_a_name_in_brackets_does_not_confuse_stat(tmp_path: Path) -> None:
    program = tmp_path / "a) S 1 (b"
    program.symlink_to("/bin/sleep")
    with running(str(program), "60", session=True) as process:
        fields = procfs.stat_fields(process.pid)
        assert int(fields[1]) == os.getpid()
        assert int(fields[3]) == process.pid
        assert procfs.session_members(process.pid) == [process.pid]


def test_a_process_is_named_by_when_it_started() -> None:
    ticks_before = time.clock_gettime(time.CLOCK_BOOTTIME) * procfs.TICKS_PER_S
    with running("sleep", "60") as process:
        ticks_after = time.clock_gettime(time.CLOCK_BOOTTIME) * procfs.TICKS_PER_S
        start = procfs.start_ticks(process.pid)
        assert start is not None
        assert ticks_before - 1 <= start <= ticks_after
        assert procfs.start_ticks(process.pid) == start
    assert procfs.start_ticks(process.pid) is None
    assert procfs.start_ticks(NO_PID) is None


def test_cpu_time_of_all_threads_also_of_gone_ones() -> None:
    program = (
        "import threading, time\n"
        "def burn():\n"
        "    end = time.thread_time() + 0.1\n"
        "    while time.thread_time() < end: pass\n"
        "thread = threading.Thread(target=burn); thread.start(); thread.join()\n"
        "print(time.process_time(), flush=True)\n"
        "time.sleep(60)\n"
    )
    with running(sys.executable, "-c", program) as process:
        own_s = float(line_of(process))
        times = procfs.process_times(process.pid)
    assert own_s >= 0.1
    assert times.cpu_s == pytest.approx(own_s, abs=0.03)
    assert times.pid == process.pid


def test_context_switches_are_the_kernel_s() -> None:
    program = "import time\nfor _ in range(50): time.sleep(0.0001)\nprint('', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        line_of(process)
        wait_for(lambda: procfs.stat_fields(process.pid)[0] == "S")
        times = procfs.process_times(process.pid)
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.kill()
    assert times.voluntary_switches >= 50
    assert f"\nvoluntary_ctxt_switches:\t{times.voluntary_switches}\n" in status
    assert f"\nnonvoluntary_ctxt_switches:\t{times.involuntary_switches}\n" in status


def test_times_of_a_process_that_is_gone() -> None:
    with pytest.raises(OSError, match="No such file"):
        procfs.process_times(NO_PID)


def test_the_host_s_times_only_grow_and_count_what_runs() -> None:
    before = procfs.host_times()
    end_s = time.process_time() + 0.1
    while time.process_time() < end_s:
        pass
    after = procfs.host_times()
    # One tick of 10 ms on each core is lost to rounding at both ends.
    assert after.busy_s - before.busy_s >= 0.05
    assert after.steal_s >= before.steal_s
    assert after.context_switches > before.context_switches


def test_the_members_of_a_session_are_what_its_leader_started() -> None:
    program = "sleep 60 & sleep 61 & echo $!; wait"
    with running("sh", "-c", program, session=True) as process:
        last = int(line_of(process))
        wait_for(lambda: len(procfs.session_members(process.pid)) == 3)
        members = procfs.session_members(process.pid)
        assert members[0] == process.pid
        assert last in members
        assert os.getpid() not in members
        tree = procfs.descendants(process.pid)
        assert tree[0] == process.pid
        assert set(tree) == set(members)
        for pid in members[1:]:
            os.kill(pid, signal.SIGKILL)
        # The shell may not have reaped them yet: an ended process is no member.
        wait_for(lambda: procfs.session_members(process.pid) in ([process.pid], []))


def test_descendants_reach_through_generations_and_threads() -> None:
    program = (
        "import subprocess, threading, time\n"
        "def start(): print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)\n"
        "threading.Thread(target=start).start()\n"
    )
    shell = f'{sys.executable} -c "{program}"; :'
    with running("sh", "-c", shell) as process:
        grandchild = int(line_of(process))
        tree = procfs.descendants(process.pid)
        for pid in reversed(tree):
            os.kill(pid, signal.SIGKILL)
    assert len(tree) == 3
    assert tree[0] == process.pid
    assert tree[2] == grandchild


def test_descendants_of_nobody_are_itself() -> None:
    assert procfs.descendants(NO_PID) == [NO_PID]


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_who_listens_on_a_port_is_named(family: socket.AddressFamily, address: str) -> None:
    with socket.socket(family) as listening:
        listening.bind((address, 0))
        port = listening.getsockname()[1]
        assert procfs.listeners(port) == []
        listening.listen()
        name = Path("/proc/self/comm").read_text().strip()
        assert procfs.listeners(port) == [f"{name} (pid {os.getpid()})"]
    assert procfs.listeners(port) == []


def test_a_connection_is_no_listener() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as connection,
    ):
        assert procfs.listeners(connection.getsockname()[1]) == []


def test_who_has_a_file_mapped(tmp_path: Path) -> None:
    path = tmp_path / "shared memory"
    path.write_bytes(bytes(4096))
    assert procfs.mapped_by(str(path)) == []
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        assert procfs.mapped_by(str(path)) == [os.getpid()]
    assert procfs.mapped_by(str(path)) == []


def test_a_process_has_a_name_for_people() -> None:
    name = Path("/proc/self/comm").read_text().strip()
    assert procfs.named(os.getpid()) == f"{name} (pid {os.getpid()})"
    with pytest.raises(OSError, match="No such file"):
        procfs.named(NO_PID)


def test_who_runs_as_a_user(tmp_path: Path) -> None:
    free = next(uid for uid in range(60706, 61184) if uid not in procfs.users())
    assert procfs.of_user(free) == []
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    script = f"import os; os.setresuid({free}, 0, 0); open({str(ready)!r}, 'w').close(); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as process:
        ready.read_bytes()
        assert procfs.of_user(free) == [process.pid]
        assert free in procfs.users()
        assert procfs.status(process.pid)["Uid"].split()[:3] == [str(free), "0", "0"]
        assert procfs.in_our_namespace(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert procfs.of_user(free) == []
    assert not procfs.in_our_namespace(process.pid)
