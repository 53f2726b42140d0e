"""The network of those boxes that have one of their own: a switch, with a cable to each of them.

The switch is a bridge in a network namespace of its own. Of it the machine sees one device, whose
address is the machine's in that network; its routes, its firewall and its forwarding stay as they
are, and the boxes reach each other and the machine, and nothing beyond. The namespaces have no
names: that of the switch lives with one process, its keeper, that of a box with the box's
processes. A cable goes when either end does, so what a crash leaves is at most a keeper, which the
record of the switch names.

Addresses are of 198.18.0.0/15, which is set aside for measurements of networks: the first /23 of it
that this machine has no route to; with 198.18.0.0/23 the machine is 198.18.0.1, boxN 198.18.1.N.
"""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from uplab.box import cgroups, leader, record
from uplab.box.record import Box, Process
from uplab.errors import HostError

RANGE = ipaddress.ip_network("198.18.0.0/15")
_PREFIX_LENGTH = 23
_RECORD = "switch.json"
_SCHEMA = 1
_LIMIT_S = 10.0
_POLL_S = 0.01
#: The states of a bridge's port in which it passes everything, and nothing.
_FORWARDING, _DISABLED = 3, 0

#: Its PID goes out first; it goes on when it has been noted, and ends when the one to note it died.
_KEEPER = """
echo "$$"
read -r go
exec </dev/null >/dev/null 2>&1
for group; do
  echo "$$" >"$group/cgroup.procs"
done
exec sleep infinity
"""

#: In the switch's namespace: the bridge, and a cable to the machine, whose end there is made last.
_SWITCH = """
ip link set lo up
ip link add switch type bridge
ip link set switch up
ip link add machine type veth peer name "$1" netns "$2"
ip link set machine master switch up
"""
_MACHINE = """
ip address add "$2" dev "$1"
ip link set "$1" up
"""
_CABLE = """
ip link show "$1" >/dev/null 2>&1 && ip link delete "$1"
ip link add "$1" type veth peer name eth0 address "$3" netns "$2"
ip link set "$1" master switch up
"""
_BOX = """
ip link set lo up
ip address add "$1" dev eth0
ip link set eth0 up
"""


@dataclass(frozen=True)
class Switch:
    """What all boxes of this checkout that have a network of their own hang on.

    ``network`` is theirs, as ``198.18.0.0/23``; ``device`` the machine's end of its cable;
    ``keeper`` the process whose namespace the bridge is in (None before it was started), in
    ``cgroups`` made for it alone and in the machine's boot ``boot_id``; ``ready`` says that it was
    made to the end.
    """

    network: str
    device: str
    cgroups: tuple[str, ...]
    boot_id: str
    keeper: Process | None = None
    ready: bool = False

    def lives(self) -> bool:
        """Whether its keeper runs."""
        return self.keeper is not None and self.boot_id == record.boot_id() and self.keeper.lives()


def address(switch: Switch, name: str) -> str:
    """The address of a box in its network."""
    return str(ipaddress.ip_network(switch.network)[256 + record.number(name)])


def _machine_address(network: str) -> str:
    """The machine's own address there, with the length of the prefix."""
    return f"{ipaddress.ip_network(network)[1]}/{_PREFIX_LENGTH}"


def ensure(boxes: Path) -> Switch:
    """The switch of this checkout, made where there is none; under the lock ``network``.

    One that died is made again with the addresses it had: there may be boxes that had them.

    Args:
        boxes: the folder of all boxes.

    Raises:
        HostError: no network is free; or it cannot be made.
    """
    known = read(boxes)
    if known is not None and known.ready and known.lives():
        return known
    if known is not None:
        _end(boxes, known)
    last = ""
    for number, network in _networks():
        if known is not None and str(network) != known.network:
            continue
        if taken := _route_into(network):
            last = f"the machine has a route to {taken}"
            continue
        try:
            return _make(boxes, f"uplab-boxes{number}", str(network))
        except _Taken as error:
            last = str(error)
    what = known.network if known is not None else str(RANGE)
    raise HostError(f"there is no free network for boxes in {what}: {last}. Run: ip route")


def _networks() -> list[tuple[int, ipaddress.IPv4Network | ipaddress.IPv6Network]]:
    return list(enumerate(RANGE.subnets(new_prefix=_PREFIX_LENGTH)))


class _Taken(HostError):
    """Another checkout was quicker."""


def _route_into(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str | None:
    """A route of the machine that leads into a network, the default route aside."""
    shown = _run(["ip", "-json", "-4", "route", "show", "table", "all"])
    for route in json.loads(shown or "[]"):
        target = route["dst"]
        if target != "default" and network.overlaps(ipaddress.ip_network(target, strict=False)):
            return str(target)
    return None


def _make(boxes: Path, device: str, network: str) -> Switch:
    """Make a switch; noted before anything of it is there.

    Raises:
        _Taken: somebody has a device of that name.
        HostError: it cannot be made.
    """
    name = f"uplab-switch-{uuid.uuid4().hex[:12]}"
    groups = tuple(str(folder / name) for folder in cgroups.hierarchies())
    switch = Switch(network, device, groups, record.boot_id())
    _write(boxes, switch)
    try:
        if Path("/sys/class/net", device).exists():
            raise _Taken(f"there is a device {device}")
        cgroups.make(groups)
        switch = _start_keeper(boxes, switch)
        # By PID: the machine's namespace has no name.
        inside(switch, _SWITCH, device, str(os.getpid()))
        _run(["sh", "-euc", _MACHINE, "sh", device, _machine_address(network)])
        switch = replace(switch, ready=True)
        _write(boxes, switch)
    except BaseException:
        _end(boxes, switch)
        raise
    return switch


def _start_keeper(boxes: Path, switch: Switch) -> Switch:
    """Start the process that holds the namespace, detached from us; out: the switch, noted."""
    argv = ["setsid", "--fork", "unshare", "--net", "--", "sh", "-euc", _KEEPER, "uplab-switch"]
    failure = "the network of boxes cannot be made"
    with leader.started([*argv, *switch.cgroups], Path("/"), failure) as process:
        started = replace(switch, keeper=process)
        _write(boxes, started)
    return started


def plug(boxes: Path, box: Box) -> None:
    """Lay the cable to a box whose leader waits in a namespace of its own.

    Raises:
        HostError: there is no switch, or the kernel refuses.
    """
    if box.leader is None or box.own_address is None:
        raise AssertionError("it was started, with a network of its own")
    # A fixed one: after a reset, neighbours would for long ask for the one of before.
    hardware_address = f"02:00:{ipaddress.ip_address(box.own_address).packed.hex(':')}"
    inside(_living(boxes), _CABLE, box.name, str(box.leader.pid), hardware_address)
    _enter(box.leader, _BOX, f"{box.own_address}/{_PREFIX_LENGTH}")


def unplug(boxes: Path, box: Box) -> None:
    """Remove the cable to a box, where there is one."""
    switch = read(boxes)
    if switch is not None and switch.lives():
        inside(switch, 'ip link delete "$1" 2>/dev/null || :', box.name)


def set_passing(box: Box, *, passing: bool) -> None:
    """Let everything through to a box, or nothing.

    Raises:
        HostError: it has no network of its own, or that is gone.
    """
    if box.own_address is None:
        raise HostError(f"{box.name} has the machine's network, which is left alone")
    state = _FORWARDING if passing else _DISABLED
    # `ip link set type bridge_slave state` says it did, and does not.
    script = 'bridge link set dev "$1" state "$2"'
    inside(_living(box.folder.parent), script, box.name, str(state))


def release(boxes: Path) -> None:
    """Remove the switch where no box hangs on it any more; under the lock ``network``.

    Raises:
        HostError: it does not end.
    """
    switch = read(boxes)
    if switch is None:
        return
    if any(box.own_address is not None for box in record.read_all(boxes.parent.parent)):
        return
    _end(boxes, switch)


def _end(boxes: Path, switch: Switch) -> None:
    """End a switch and all that is its; nothing happens to what is gone already."""
    if switch.boot_id == record.boot_id():
        if switch.lives():
            # Now, because the kernel takes its time with what is in a namespace that ended.
            inside(switch, "ip link delete machine 2>/dev/null || :")
        deadline_s = time.monotonic() + _LIMIT_S
        while left := _members(switch):
            if time.monotonic() >= deadline_s:
                raise HostError(f"process {min(left)} of the network of boxes does not end")
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_POLL_S)
        cgroups.remove(switch.cgroups)
    (boxes / _RECORD).unlink(missing_ok=True)


def _members(switch: Switch) -> set[int]:
    members = cgroups.processes(switch.cgroups)
    if switch.keeper is not None and switch.keeper.lives():
        members.add(switch.keeper.pid)
    return members


def _living(boxes: Path) -> Switch:
    switch = read(boxes)
    if switch is None or not switch.lives():
        raise HostError("the network of the boxes is gone. Run: ./invoke lab.box reset --name boxN")
    return switch


def inside(switch: Switch, script: str, *words: str) -> str:
    """Run a script of the shell where the switch is; out: what it printed; raises HostError."""
    if switch.keeper is None:
        raise AssertionError("it was started")
    return _enter(switch.keeper, script, *words)


def _enter(process: Process, script: str, *words: str) -> str:
    argv = ["nsenter", f"--net=/proc/{process.pid}/ns/net", "--"]
    return _run([*argv, "sh", "-euc", script, "sh", *words])


def _run(argv: Sequence[str]) -> str:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        if "File exists" in said[-1]:
            raise _Taken(said[-1])
        raise HostError(f"the network of boxes cannot be made: {said[-1]}")
    return done.stdout


def _write(boxes: Path, switch: Switch) -> None:
    """Note a switch; the file is whole or not there."""
    part = boxes / f".{_RECORD}.{os.getpid()}"
    part.write_text(json.dumps({"schema": _SCHEMA, **asdict(switch)}, indent=1))
    part.replace(boxes / _RECORD)


def read(boxes: Path) -> Switch | None:
    """The switch of this checkout; None where there is none.

    Raises:
        HostError: its record cannot be read.
    """
    path = boxes / _RECORD
    try:
        entry = json.loads(path.read_text())
        if entry.pop("schema") != _SCHEMA:
            raise ValueError("another schema")
        keeper = entry.pop("keeper")
        entry["cgroups"] = tuple(entry["cgroups"])
        return Switch(**entry, keeper=None if keeper is None else Process(**keeper))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HostError(
            f"{path} cannot be read ({error}), so what was started for the network of the boxes "
            "is not known"
        ) from error
