"""Boxes that have a network of their own: the same port twice, each other, and what is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.system.lab import ROOT
from tests.waiting import wait_for
from uplab import box
from uplab.box import network, record
from uplab.box.record import Box
from uplab.errors import HostError, UsageError

# The first test may have to make the image that boxes stand on, which takes a minute and more.
pytestmark = pytest.mark.timeout(300)

LIMIT_S = 60.0
BOXES = ROOT / ".uplab" / "boxes"
#: In a box: answers each connection with the box's name, from all addresses.
LISTEN = """
import socket
with socket.create_server(("0.0.0.0", 4460)) as server:
    print("ready", flush=True)
    while True:
        with server.accept()[0] as connection:
            connection.sendall(socket.gethostname().encode())
"""
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], 4460), timeout=float(sys.argv[2])) as connection:
    print(connection.makefile().read())
"""


@dataclass(frozen=True)
class Traces:
    """Everything on the machine that such a box could leave, or could have altered."""

    devices: frozenset[str]
    routes: str
    mounts: str
    cgroups: frozenset[str]
    forwarding: str
    record: bool

    @classmethod
    def now(cls) -> Traces:
        folders = (folder for folder, _, _ in os.walk("/sys/fs/cgroup"))
        routes = subprocess.run(["ip", "route", "show", "table", "all"], capture_output=True)
        return cls(
            devices=frozenset(os.listdir("/sys/class/net")),
            routes=routes.stdout.decode(),
            mounts=Path("/proc/mounts").read_text(),
            cgroups=frozenset(path for path in folders if re.search("uplab-(box|switch)", path)),
            forwarding=Path("/proc/sys/net/ipv4/ip_forward").read_text(),
            record=(BOXES / "switch.json").exists(),
        )


def namespaces() -> dict[int, str]:
    """The network namespace of each process that lives now."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        with suppress(OSError):
            found[int(path.parts[2])] = str(path.readlink())
    return found


def ask(argv: list[str]) -> str:
    """What answers at the end of a command that has the script ASK after it."""
    done = subprocess.run(
        argv, input=ASK, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def ask_from(asking: Box, address: str, timeout_s: float = 5.0) -> str:
    return ask(box.ssh_argv(asking, "python3", "-", address, str(timeout_s)))


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Box, Box]]:
    """Two boxes that listen on the same port."""
    with ExitStack() as stack:
        both = [stack.enter_context(box.running(ROOT, network="own")) for _ in range(2)]
        for each in both:
            argv = box.ssh_argv(each, "python3", "-u", "-c", f"'{LISTEN}'")
            process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield both[0], both[1]


@pytest.fixture
def name() -> Iterator[str]:
    """The name of a box that is gone after the test."""
    taken = {path.name for path in BOXES.glob("box*")}
    free = next(f"box{number}" for number in range(254, 199, -1) if f"box{number}" not in taken)
    yield free
    box.down(ROOT, free)


def test_both_have_the_same_port_and_all_reach_each_other(pair: tuple[Box, Box]) -> None:
    first, second = pair
    assert first.address != second.address
    for each, other in ((first, second), (second, first)):
        assert ask_from(each, other.address) == other.name
        assert ask_from(each, each.address) == each.name
        assert ask([sys.executable, "-", each.address, "5"]) == each.name


def test_it_reaches_nothing_beyond_and_sees_its_own_devices(pair: tuple[Box, Box]) -> None:
    done = subprocess.run(
        box.ssh_argv(pair[0], "ls /sys/class/net; ip -4 -brief route"),
        capture_output=True,
        text=True,
        check=True,
    )
    devices, routes = done.stdout.splitlines()[:2], done.stdout.splitlines()[2:]
    assert devices == ["eth0", "lo"]
    assert [route.split()[0] for route in routes] == ["198.18.0.0/23"]
    # An address that is kept for documentation: nobody answers, and nothing is sent there.
    assert "Network is unreachable" in ask_from(pair[0], "203.0.113.1")


@pytest.mark.usefixtures("pair")
def test_the_machine_gets_one_device_and_nothing_else() -> None:
    ours = {path for path in os.listdir("/sys/class/net") if path.startswith("uplab-")}
    (noted,) = [switch.device for switch in [network.read(BOXES)] if switch is not None]
    assert ours == {noted}
    assert "uplab" not in Path("/proc/mounts").read_text()


def test_cut_and_mended_without_a_word_to_either_end(pair: tuple[Box, Box]) -> None:
    first, second = pair
    box.cut(second)
    try:
        # Not refused and not unreachable at once: nothing comes back.
        said = ask_from(first, second.address, timeout_s=0.5)
        assert "timed out" in said
        carrier = box.outside_argv(second, "cat", "/sys/class/net/eth0/carrier")
        assert subprocess.run(carrier, capture_output=True, check=True).stdout == b"1\n"
    finally:
        box.mend(second)
    wait_for(lambda: ask_from(first, second.address) == second.name)


def test_packages_come_in_with_the_machine_s_network(pair: tuple[Box, Box]) -> None:
    def namespace(argv: list[str]) -> str:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

    link = ("readlink", "/proc/self/ns/net")
    ours = str(Path("/proc/self/ns/net").readlink())
    assert namespace(box.outside_argv(pair[0], *link)) == ours
    assert namespace(box.ssh_argv(pair[0], *link)) != ours
    assert namespace(box.outside_argv(pair[0], "hostname")) == pair[0].name


def test_reset_keeps_network_and_address(name: str, pair: tuple[Box, Box]) -> None:
    host = box.up(ROOT, name, network="own")
    with pytest.raises(UsageError, match=rf"{name} is up with its network own\. Run: .* down"):
        box.up(ROOT, name, network="shared")
    fresh = box.reset(ROOT, name)
    assert (fresh.address, fresh.network) == (host.address, "own")
    assert ask_from(fresh, pair[0].address) == pair[0].name


def test_nothing_is_left_after_the_last_of_them(name: str, pair: tuple[Box, Box]) -> None:
    """One more and one less alters nothing; that of a project of its own ends with its last."""
    before = Traces.now()
    box.up(ROOT, name, network="own")
    during = Traces.now()
    assert (during.devices, during.routes) == (before.devices, before.routes)
    box.down(ROOT, name)
    assert Traces.now() == before
    assert ask_from(pair[0], pair[1].address) == pair[1].name


#: A machine of its own: no network but what is made there. The boxes' folder is a test's.
ALONE = ("unshare", "--net", "--")
MAKE = """
import os, subprocess, sys
from pathlib import Path
from uplab.box import network
boxes = Path(sys.argv[1])
subprocess.run(["sh", "-euc", sys.argv[2]], check=True)
switch = network.ensure(boxes)
assert network.ensure(boxes) == switch
print(switch.network, switch.device, *sorted(os.listdir("/proc/sys/net/ipv4/conf")), flush=True)
if sys.argv[3:] == ["die"]:
    os.kill(os.getpid(), 9)
network.release(boxes)
network.release(boxes)
print(*sorted(os.listdir("/proc/sys/net/ipv4/conf")), flush=True)
"""


def make_alone(project: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    boxes = record.boxes_folder(project)
    boxes.mkdir(parents=True, exist_ok=True)
    argv = [*ALONE, sys.executable, "-c", MAKE, str(boxes), script, *words]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_network_that_the_machine_has_is_left_alone(tmp_path: Path) -> None:
    before = Traces.now()
    busy = "ip link add d0 type veth peer name d1; ip address add 198.18.1.7/24 dev d0; "
    busy += "ip link set d0 up; ip link set lo up; ip route add 198.18.2.0/24 dev lo"
    done = make_alone(tmp_path, busy)
    assert done.returncode == 0, done.stderr
    during, after = done.stdout.splitlines()
    assert during.split()[:2] == ["198.18.4.0/23", "uplab-boxes2"]
    assert "uplab-boxes2" in during.split()[2:]
    assert not re.search("uplab", after)
    assert Traces.now() == before
    everything = "ip link set lo up; ip route add 198.18.0.0/15 dev lo"
    done = make_alone(tmp_path, everything)
    assert "there is no free network for boxes in 198.18.0.0/15: the machine has a" in done.stderr
    assert Traces.now() == before


def test_what_a_killed_maker_left_is_found_and_ended(tmp_path: Path) -> None:
    before = Traces.now()
    boxes = record.boxes_folder(tmp_path)
    done = make_alone(tmp_path, ":", "die")
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = network.read(boxes)
    assert left is not None
    assert left.lives()
    # One that was killed half way is not taken for whole.
    network._write(boxes, replace(left, ready=False))
    namespace = namespaces()[left.keeper.pid] if left.keeper else ""
    network.release(boxes)
    assert namespace not in namespaces().values()
    assert not left.lives()
    assert network.read(boxes) is None
    assert Traces.now() == before


def test_a_box_whose_maker_was_killed_leaves_nothing_after_down(name: str) -> None:
    before = Traces.now()
    argv = [sys.executable, str(ROOT / "tasks.py"), "lab.box", "up", name, "--network", "own"]
    maker = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def is_starting() -> bool:
        known = record.read(ROOT, name)
        return known is not None and known.lives()

    wait_for(is_starting)
    maker.kill()
    assert maker.wait() == -signal.SIGKILL
    left = record.read(ROOT, name)
    assert left is not None
    assert left.network == "own"
    assert box.down(ROOT, name)
    assert Traces.now() == before


def test_a_switch_that_was_killed_is_made_again_for_the_same_addresses(tmp_path: Path) -> None:
    boxes = record.boxes_folder(tmp_path)
    boxes.mkdir(parents=True)
    switch = network.ensure(boxes)
    try:
        assert switch.keeper is not None
        os.kill(switch.keeper.pid, signal.SIGKILL)
        # The device goes when the kernel comes to it.
        wait_for(lambda: not Path("/sys/class/net", switch.device).exists())
        with pytest.raises(HostError, match=r"the network of the boxes is gone\. Run: .* reset"):
            network._living(boxes)
        again = network.ensure(boxes)
        assert (again.network, again.lives()) == (switch.network, True)
        assert again.keeper != switch.keeper
    finally:
        network.release(boxes)


def test_the_record_and_the_list_say_it(pair: tuple[Box, Box]) -> None:
    entry = json.loads((pair[0].folder / "box.json").read_text())
    assert entry["own_address"] == pair[0].address
    done = subprocess.run(
        [sys.executable, str(ROOT / "tasks.py"), "lab.box", "list"],
        capture_output=True,
        text=True,
        check=True,
    )
    line = rf"^{pair[0].name} +up +bookworm +own +{re.escape(pair[0].address)} +22 "
    assert re.search(line, done.stdout, re.M)
