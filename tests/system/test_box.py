"""The disposable host: real containers, entered over SSH, and what is left of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.lab import ROOT
from uplab import box, inventory
from uplab.box import cgroups, commands, container, record
from uplab.box.record import Box, Process
from uplab.errors import HostError, UsageError
from uplab.hostside import procfs

# The first test may have to make the image that boxes stand on, which takes a minute and more.
pytestmark = pytest.mark.timeout(300)

INVOKE = str(ROOT / "invoke")
LIMIT_S = 240.0
POLL_S = 0.005
BOXES = ROOT / ".uplab" / "boxes"
#: In a box: opens a uprobe on a function of libc, calls it 7 times, prints the hits; and loads BPF.
UPROBE = r"""
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
address = ctypes.cast(libc.getppid, ctypes.c_void_p).value
for line in open("/proc/self/maps"):
    span, _, offset, _, _, *path = line.split(maxsplit=5)
    begin, end = (int(part, 16) for part in span.split("-"))
    if begin <= address < end:
        file, at = path[0].strip().encode(), address - begin + int(offset, 16)
kind = int(open("/sys/bus/event_source/devices/uprobe/type").read())
name = ctypes.create_string_buffer(file)
attributes = bytearray(128)
struct.pack_into("=II", attributes, 0, kind, 128)
struct.pack_into("=QQ", attributes, 56, ctypes.addressof(name), at)
event = libc.syscall(298, bytes(attributes), 0, -1, -1, 0)
assert event >= 0, os.strerror(ctypes.get_errno())
for _ in range(7):
    libc.getppid()
print("hits", struct.unpack("=Q", os.read(event, 8))[0])
code = ctypes.create_string_buffer(bytes.fromhex("b7000000000000009500000000000000"))
gpl = ctypes.create_string_buffer(b"GPL\0")
where = (ctypes.addressof(code), ctypes.addressof(gpl))
program = libc.syscall(321, 5, struct.pack("=IIQQ", 2, 2, *where) + bytes(48), 72)
print("bpf", "loaded" if program >= 0 else os.strerror(ctypes.get_errno()))
"""


def run_in(host: Box, *command: str, stdin: str = "") -> str:
    """Out: what a command in a box prints; the test fails where the command does."""
    done = subprocess.run(
        box.ssh_argv(host, *command),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def invoke(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [INVOKE, *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        cwd="/",
    )


def free_name() -> str:
    """A name for a test that must know it beforehand; the others count from below."""
    for number in range(254, 199, -1):
        if not (BOXES / f"box{number}").exists():
            return f"box{number}"
    raise AssertionError("all names are taken")


@pytest.fixture
def name() -> Iterator[str]:
    """The name of a box that is gone after the test."""
    name = free_name()
    yield name
    box.down(ROOT, name)


@pytest.fixture(scope="module")
def host() -> Iterator[Box]:
    """A box that is up during these tests."""
    with box.running(ROOT) as running:
        yield running


@dataclass(frozen=True)
class Traces:
    """Everything on the machine that a box could leave."""

    mounts: str
    cgroups: frozenset[str]
    devices: frozenset[str]
    systemd: frozenset[str]

    @classmethod
    def now(cls) -> Traces:
        def below(root: str) -> frozenset[str]:
            return frozenset(folder for folder, _, _ in os.walk(root) if "uplab-box" in folder)

        nspawn = Path("/run/systemd/nspawn")
        return cls(
            mounts=Path("/proc/mounts").read_text(),
            cgroups=below("/sys/fs/cgroup"),
            devices=frozenset(os.listdir("/sys/class/net")),
            systemd=frozenset(str(path) for path in nspawn.rglob("*") if "uplab" in path.name),
        )


def members(host: Box) -> list[Process]:
    """The processes of a box."""
    found = []
    for pid in cgroups.processes(host.cgroups):
        # Some of them end while we look.
        with suppress(HostError):
            found.append(Process.of(pid))
    return found


def still_alive(processes: list[Process]) -> list[Process]:
    return [process for process in processes if process.lives()]


def wait_for(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + LIMIT_S / 2
    while not condition():
        assert time.monotonic() < deadline_s, "it never came true"
        time.sleep(POLL_S)


# --- what a box is --------------------------------------------------------------------------------


def test_it_is_a_debian_with_its_own_systemd(host: Box) -> None:
    assert run_in(host, "cat", "/proc/1/comm") == "systemd"
    assert run_in(host, "systemctl", "is-system-running", "--wait") == "running"
    assert "VERSION_CODENAME=bookworm" in run_in(host, "cat", "/etc/os-release")
    assert run_in(host, "hostname") == host.name
    assert run_in(host, "id", "-un") == "root"
    assert re.fullmatch(r"[0-9a-f]{32}", run_in(host, "cat", "/etc/machine-id"))


def test_it_shares_the_network_and_can_change_no_device(host: Box) -> None:
    """A systemd with both a writable /sys and the machine's network would rename its devices."""
    ours = str(Path("/proc/self/ns/net").readlink())
    assert run_in(host, "readlink", "/proc/self/ns/net") == ours
    options = run_in(host, "findmnt", "--noheadings", "--output", "OPTIONS", "/sys")
    assert options.split(",")[0] == "ro"
    assert run_in(host, "systemctl", "list-units", "--no-legend", "systemd-udev*") == ""
    states = run_in(host, "sh", "-c", "'systemctl is-enabled systemd-networkd || :'")
    assert states == "masked"


def test_bpf_and_uprobes_work_in_it(
    host: Box, not_measurable: Callable[[str], None], bpf: bool
) -> None:
    if not bpf:
        not_measurable("neither BPF nor uprobes work on this machine")
    assert run_in(host, "python3", "-", stdin=UPROBE).splitlines() == ["hits 7", "bpf loaded"]


@pytest.fixture
def bpf() -> bool:
    from tests.conftest import bpf_works

    return bpf_works()


def test_apt_works_in_it(host: Box) -> None:
    run_in(host, "apt-get", "update", "-qq")
    run_in(host, "apt-get", "install", "-y", "-qq", "--no-install-recommends", "hello")
    assert run_in(host, "hello") == "Hello, world!"


def test_only_its_own_key_is_trusted_and_only_ours_gets_in(host: Box, tmp_path: Path) -> None:
    kind, _, key = host.known_hosts.read_text().partition(" ssh-ed25519 ")
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    stranger = other.with_suffix(".pub").read_text().split()[1]
    known = tmp_path / "known_hosts"
    for hosts, identity, expected in (
        (f"{kind} ssh-ed25519 {stranger}\n", host.key_file, "REMOTE HOST IDENTIFICATION HAS CHANG"),
        ("", host.key_file, "Host key verification failed"),
        (f"{kind} ssh-ed25519 {key}", other, "Permission denied (publickey)"),
    ):
        known.write_text(hosts)
        argv = [
            word.replace(str(host.known_hosts), str(known)).replace(
                str(host.key_file), str(identity)
            )
            for word in box.ssh_argv(host, "true")
        ]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 255
        assert expected in done.stderr


def test_people_and_ansible_find_it(host: Box) -> None:
    argv = ["ssh", "-F", str(BOXES / "ssh_config"), host.name, "hostname"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == host.name
    variables = inventory.host(ROOT, host.name)
    assert variables["ansible_host"] == host.address
    assert inventory.host(ROOT, "local")["ansible_connection"] == "local"
    ansible = [inventory.program("ansible"), "-i", str(host.inventory_file), host.name]
    done = subprocess.run(
        [*ansible, "--module-name", "ansible.builtin.ping"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        # By ansible.cfg the connection would stay for the next play, and its process with it.
        env={**os.environ, "ANSIBLE_SSH_ARGS": "-o ControlMaster=no"},
    )
    assert done.returncode == 0, done.stdout
    assert '"ping": "pong"' in done.stdout or "ping: pong" in done.stdout


def test_up_changes_nothing_where_it_is_up(host: Box) -> None:
    assert box.up(ROOT, host.name) == host
    with pytest.raises(UsageError, match=f"{host.name} is up with bookworm. Run: .* down --name"):
        box.up(ROOT, host.name, suite="trixie")


def test_reset_makes_it_as_it_was_with_the_same_keys(name: str) -> None:
    host = box.up(ROOT, name)
    run_in(host, "sh", "-c", "'touch /etc/mine /root/mine; rm /bin/ping'")
    key = host.known_hosts.read_text()
    machine_id = run_in(host, "cat", "/etc/machine-id")
    fresh = box.reset(ROOT, host.name)
    # By the old object: address, port and keys are the same.
    assert run_in(host, "sh", "-c", "'ls /etc/mine /root/mine 2>/dev/null || :'") == ""
    assert run_in(host, "ls", "/bin/ping") == "/bin/ping"
    assert host.known_hosts.read_text() == key
    assert run_in(host, "cat", "/etc/machine-id") != machine_id
    assert not host.lives()
    assert fresh.is_up()
    wait_for(lambda: [path for path in host.folder.iterdir() if path.is_dir()] == [host.layers])


def test_restart_boots_it_again_with_all_that_was_in_it(name: str) -> None:
    host = box.up(ROOT, name)
    run_in(host, "sh", "-c", "'touch /etc/mine /run/mine; rm /bin/ping'")
    machine_id = run_in(host, "cat", "/etc/machine-id")
    boot = run_in(host, "cat", "/proc/sys/kernel/random/boot_id")
    # As after a power cut, too, and twice.
    for _ in range(2):
        container.stop(host)
        assert not host.lives()
        host = box.restart(ROOT, name)
    assert host.is_up()
    files = "'ls /etc/mine /run/mine /bin/ping 2>/dev/null || :'"
    assert run_in(host, "sh", "-c", files) == "/etc/mine"
    assert run_in(host, "cat", "/etc/machine-id") == machine_id
    assert run_in(host, "cat", "/proc/sys/kernel/random/boot_id") != boot
    with pytest.raises(UsageError, match=r"there is no box199\. Run: \./invoke lab\.box up --name"):
        box.restart(ROOT, "box199")


def test_several_at_once_do_not_meet(host: Box) -> None:
    with box.running(ROOT) as other:
        assert other.address != host.address
        assert {host.name, other.name} <= set(inventory.hosts(ROOT))
        run_in(other, "touch", "/etc/mine")
        assert run_in(host, "sh", "-c", "'ls /etc/mine 2>/dev/null || :'") == ""
        assert run_in(other, "hostname") == other.name
    assert host.name in inventory.hosts(ROOT)
    assert other.name not in inventory.hosts(ROOT)
    assert run_in(host, "hostname") == host.name


# --- what is left of it ---------------------------------------------------------------------------


def test_down_leaves_nothing(name: str) -> None:
    before = Traces.now()
    running = box.up(ROOT, name)
    during = Traces.now()
    assert during.mounts == before.mounts, "its mounts are its own"
    assert during.cgroups > before.cgroups
    processes = members(running)
    assert len(processes) > 3
    assert box.down(ROOT, name)
    assert Traces.now() == before
    assert still_alive(processes) == []
    assert not running.folder.exists()
    assert not box.down(ROOT, name), "there is nothing left to end"


def test_a_box_whose_creator_was_killed_is_made_anew(name: str) -> None:
    before = Traces.now()
    creator = subprocess.Popen(
        [sys.executable, str(ROOT / "tasks.py"), "lab.box", "up", name],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def is_starting() -> bool:
        known = record.read(ROOT, name)
        return known is not None and known.lives() and len(members(known)) > 1

    wait_for(is_starting)
    creator.kill()
    assert creator.wait() == -signal.SIGKILL
    left = record.read(ROOT, name)
    assert left is not None
    assert left.state == record.STARTING
    assert name not in inventory.hosts(ROOT)
    processes = members(left)

    again = box.up(ROOT, name)
    assert run_in(again, "hostname") == name
    assert still_alive(processes) == []
    assert not [group for group in left.cgroups if Path(group).exists()]
    box.down(ROOT, name)
    assert Traces.now() == before


def test_what_outlives_a_killed_supervisor_is_ended_too(name: str) -> None:
    before = Traces.now()
    running = box.up(ROOT, name)
    processes = members(running)
    assert running.leader is not None
    os.kill(running.leader.pid, signal.SIGKILL)
    wait_for(lambda: not running.lives())
    assert re.search(rf"^{name} +ended ", "\n".join(commands.table(box.list_boxes(ROOT))), re.M)
    assert box.down(ROOT, name)
    assert still_alive(processes) == []
    assert Traces.now() == before


def test_a_leader_that_nobody_noted_ends_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The creator dies between starting it and writing down its PID."""
    seen: list[Process] = []
    write = record.write

    def die(known: Box) -> None:
        if known.leader is not None:
            seen.append(known.leader)
            raise KeyboardInterrupt
        write(known)

    before = Traces.now()
    monkeypatch.setattr(record, "write", die)
    with pytest.raises(KeyboardInterrupt):
        box.up(ROOT, name)
    monkeypatch.undo()
    wait_for(lambda: not seen[0].lives())
    assert Traces.now() == before


def test_one_that_does_not_start_says_why_and_is_gone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = ["sh", "-c", "echo first; echo the reason; exit 1"]
    monkeypatch.setattr(container, "nspawn_argv", lambda *_: script)
    before = Traces.now()
    with pytest.raises(HostError) as caught:
        box.up(ROOT, name)
    log = BOXES / f"{name}-console.log"
    assert caught.value.message == (
        f"{name} ended while it started. Its last words: the reason. Run: less {log}"
    )
    assert log.read_text() == "first\nthe reason\n"
    log.unlink()
    assert Traces.now() == before
    assert not (BOXES / name).exists()


def test_what_a_killed_test_session_left_is_ended_by_the_next(name: str) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from uplab import box\n"
        "with box.running(Path(sys.argv[1]), sys.argv[2]):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    argv = [sys.executable, "-c", program, str(ROOT), name]
    assert subprocess.run(argv, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    left = record.read(ROOT, name)
    assert left is not None
    assert left.is_up()
    with box.running(ROOT):
        assert not left.lives()
        assert not left.folder.exists()


SLOW_BUILD = """
import sys; from pathlib import Path
from uplab.box import base; from uplab.box.steps import Steps
base.mmdebstrap_argv = lambda *_: ["sh", "-c", "mount -t tmpfs none /mnt; sleep 86399 & wait"]
base.ensure(Path(sys.argv[1]), base.Recipe("bookworm", (), (), ()), Steps())
"""


def test_a_build_of_the_base_ends_with_its_creator(tmp_path: Path) -> None:
    before = Traces.now()
    argv = [sys.executable, "-c", SLOW_BUILD, str(tmp_path)]
    with subprocess.Popen(argv, cwd=ROOT) as creator:
        # The creator, unshare, sh and sleep.
        wait_for(lambda: len(procfs.descendants(creator.pid)) == 4)
        started = [Process.of(pid) for pid in procfs.descendants(creator.pid)]
        creator.kill()
    wait_for(lambda: still_alive(started) == [])
    assert Traces.now() == before
    assert not list(tmp_path.glob("base-*/"))


def test_files_are_not_removed_under_a_mount(tmp_path: Path) -> None:
    """Of a box there is none; but what somebody mounted there is not ours to delete."""
    inner = tmp_path / "box 1" / "mnt"
    inner.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(inner)], check=True)
    try:
        (inner / "theirs").touch()
        with pytest.raises(HostError, match=r"is mounted\. Run: umount"):
            container.remove_files(inner.parent)
        assert (inner / "theirs").exists()
    finally:
        subprocess.run(["umount", str(inner)], check=True)
    container.remove_files(inner.parent)
    assert not inner.parent.exists()
    container.remove_files(inner.parent)


# --- on the command line --------------------------------------------------------------------------


def test_the_command_line_makes_lists_resets_and_removes(name: str) -> None:
    done = invoke("lab.box", "up", "--name", name)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^{name} is ready after \d+\.\d s: ssh -F \S+ {name}$", done.stdout, re.M)
    assert f"{name} is up already" in invoke("lab.box", "up", name).stdout
    assert re.search(rf"^{name} +up +bookworm +shared +127", invoke("lab.box", "list").stdout, re.M)
    assert invoke("lab.box", "reset", "--name", name).returncode == 0
    assert invoke("lab.box", "down", name).stdout == f"{name} is gone\n"
    done = invoke("lab.box", "reset", name)
    assert (done.returncode, done.stderr) == (
        2,
        f"lab.box: there is no {name}. Run: ./invoke lab.box up --name {name}\n",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["start"], "lab.box takes up, down, reset, restart, list, not 'start'"),
        (["up", "local"], "'local' is no name of a box: they are box1 to box254"),
        (["up", "box250", "--suite", "sid"], "no box is made of 'sid'; there are bookworm, trixie"),
    ],
)
def test_wrong_usage_is_told(words: list[str], message: str) -> None:
    done = invoke("lab.box", *words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"lab.box: {message}\n")


def test_without_root_it_says_what_to_run() -> None:
    user = ["setpriv", "--reuid=65534", "--clear-groups", "--"]
    argv = [*user, sys.executable, "-B", str(ROOT / "tasks.py"), "lab.box", "up", "box250"]
    # Invoke would look for a configuration in the home of root.
    env = {**os.environ, "HOME": "/nonexistent"}
    done = subprocess.run(argv, capture_output=True, text=True, cwd="/", env=env, check=False)
    assert done.returncode == 4
    assert done.stderr == (
        "lab.box: a box takes root (a container, mounts, control groups). "
        "Run: sudo ./invoke lab.box up\n"
    )


PURE_V2 = """
umount --recursive --lazy /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
"$1" lab.box up "$2"
ssh -F "$3" "$2" stat --file-system --format=%T /sys/fs/cgroup
"$1" lab.box down "$2"
find /sys/fs/cgroup -type d -name "uplab-$2-*"
"""


def test_it_works_where_there_is_only_cgroup_v2(name: str) -> None:
    """As most machines are; this one may be hybrid, which the other tests then show."""
    private = ["unshare", "--mount", "--propagation", "private", "--"]
    words = ["sh", "-euc", PURE_V2, "sh", INVOKE, name, str(BOXES / "ssh_config")]
    done = subprocess.run(
        [*private, *words], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-2:] == ["cgroup2fs", f"{name} is gone"]


def test_the_record_names_all_that_was_started(host: Box) -> None:
    entry = json.loads((host.folder / "box.json").read_text())
    pids = cgroups.processes(entry["cgroups"])
    assert entry["leader"]["pid"] in pids
    known = record.read(ROOT, host.name)
    assert known is not None
    assert known.is_up()
