"""uplab/hostside/netlink.py: which interface leads to an address, and how fast it is."""

import socket
from pathlib import Path

import pytest

from uplab.hostside import netlink

ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
fast\t000200C0\t00000000\t0001\t0\t0\t50\t00FFFFFF\t0\t0\t0
down\t070200C0\t00000000\t0000\t0\t0\t0\tFFFFFFFF\t0\t0\t0
host\t090200C0\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0
"""


@pytest.mark.parametrize(
    ("address", "interface"),
    [
        ("192.0.2.7", "fast"),
        ("192.0.2.9", "host"),
        ("203.0.113.1", "eth0"),
    ],
)
def test_the_narrowest_route_with_the_least_metric(address: str, interface: str) -> None:
    assert netlink.interface_to(address, ROUTES) == interface


def test_without_a_route_there_is_no_interface() -> None:
    assert netlink.interface_to("203.0.113.1", ROUTES.splitlines()[0]) is None


@pytest.mark.parametrize(("text", "speed"), [("10000\n", 10000), ("-1\n", None), ("", None)])
def test_a_speed_that_is_not_known_is_none(tmp_path: Path, text: str, speed: int | None) -> None:
    (tmp_path / "lo").mkdir()
    (tmp_path / "lo" / "speed").write_text(text)
    (tmp_path / "lo" / "mtu").write_text("1500\n")
    found = netlink.link_to("127.0.0.1", tmp_path)
    assert found == {"interface": "lo", "speed_mbit_s": speed, "mtu_bytes": 1500}
    (tmp_path / "lo" / "speed").unlink()
    assert netlink.link_to("127.0.0.1", tmp_path)["speed_mbit_s"] is None


def test_how_long_a_connection_takes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert 0 < netlink.connect_us("127.0.0.1", port, 1.0) < 1e6
    with pytest.raises(OSError, match="refused"):
        netlink.connect_us("127.0.0.1", port, 1.0)
