"""The way to another machine: its interface, the speed of its link, the time to connect."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path
from typing import Any

_ROUTES = Path("/proc/net/route")
_INTERFACES = Path("/sys/class/net")
_UP = 1


def interface_to(address: str, routes: str) -> str | None:
    """The interface that the kernel's main table sends an IPv4 address to; None without a route.

    Args:
        address: where to.
        routes: the text of ``/proc/net/route``.
    """
    # The kernel prints addresses as numbers in the machine's own byte order.
    (target,) = struct.unpack("=I", socket.inet_aton(address))
    best: tuple[int, int, str] | None = None
    for line in routes.splitlines()[1:]:
        name, destination, _gateway, flags, _, _, metric, mask, *_ = line.split()
        if not int(flags, 16) & _UP or target & int(mask, 16) != int(destination, 16):
            continue
        rank = (int(mask, 16).bit_count(), -int(metric), name)
        if best is None or rank[:2] > best[:2]:
            best = rank
    return best[2] if best is not None else None


def link_to(address: str, interfaces: Path = _INTERFACES) -> dict[str, Any]:
    """The interface that leads to an address, and its speed.

    Returns:
        ``interface`` (None without a route; ``lo`` where the address is this machine's own),
        ``speed_mbit_s`` (None where the interface has none, as a virtual one) and ``mtu_bytes``.
    """
    name = "lo" if is_ours(address) else interface_to(address, _ROUTES.read_text())
    speed = None if name is None else _number(interfaces / name / "speed")
    return {
        "interface": name,
        # A link that is down, or that does not know, says -1.
        "speed_mbit_s": speed if speed is not None and speed > 0 else None,
        "mtu_bytes": None if name is None else _number(interfaces / name / "mtu"),
    }


def is_ours(address: str) -> bool:
    """Whether an address is this machine's own."""
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def connect_us(address: str, port: int, timeout_s: float) -> float:
    """How long a TCP connection to a port takes to be there, in microseconds.

    Raises:
        OSError: it does not come.
    """
    began_ns = time.monotonic_ns()
    with socket.create_connection((address, port), timeout=timeout_s):
        return (time.monotonic_ns() - began_ns) / 1e3


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
