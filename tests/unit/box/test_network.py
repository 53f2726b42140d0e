"""uplab/box/network.py: what is known of the switch, without one."""

import ipaddress
from pathlib import Path

import pytest

from tests.unit.box import handmade
from uplab import box as boxes
from uplab.box import commands, network, record
from uplab.box.network import Switch
from uplab.box.record import Box, Process
from uplab.errors import HostError, UsageError

SWITCH = Switch("198.19.6.0/23", "uplab-boxes131", ("/sys/fs/cgroup/x",), record.boot_id())


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return handmade.box(tmp_path, "box7")


def test_each_box_has_an_address_of_its_own_in_it() -> None:
    addresses = {network.address(SWITCH, f"box{number}") for number in range(1, 255)}
    assert len(addresses) == 254
    assert "198.19.7.254" in addresses
    inside = ipaddress.IPv4Network(SWITCH.network)
    assert all(ipaddress.ip_address(address) in inside for address in addresses)
    assert inside.subnet_of(ipaddress.IPv4Network("198.18.0.0/15"))


def test_a_switch_is_alive_with_its_keeper_in_this_boot_alone() -> None:
    assert not SWITCH.lives()
    keeper = Process.of(1)
    assert Switch(SWITCH.network, "d", (), record.boot_id(), keeper).lives()
    assert not Switch(SWITCH.network, "d", (), "another boot", keeper).lives()


def test_what_was_noted_is_read_back(tmp_path: Path) -> None:
    assert network.read(tmp_path) is None
    noted = Switch("198.18.0.0/23", "d", ("g",), record.boot_id(), Process(3, 4), ready=True)
    network._write(tmp_path, noted)
    assert network.read(tmp_path) == noted
    assert [path.name for path in tmp_path.iterdir()] == ["switch.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "keeper": 7}'])
def test_a_record_that_cannot_be_read_is_no_missing_one(tmp_path: Path, text: str) -> None:
    """It names a process: to take it for nothing would leave that running."""
    (tmp_path / "switch.json").write_text(text)
    with pytest.raises(HostError, match=r"switch\.json cannot be read"):
        network.read(tmp_path)


def test_the_machine_s_own_network_is_not_cut(box: Box) -> None:
    assert (box.network, box.address) == ("shared", "127.77.0.7")
    with pytest.raises(HostError, match="box7 has the machine's network, which is left alone"):
        boxes.cut(box)


def test_what_a_box_is_made_with_is_held_against_what_it_has(box: Box) -> None:
    assert boxes.Wish().refusal(box) is None
    assert boxes.Wish("bookworm", "shared").refusal(box) is None
    assert boxes.Wish("trixie").refusal(box) == "bookworm"
    assert boxes.Wish(network="own").refusal(box) == "its network shared"


def test_the_words_of_the_command_line() -> None:
    assert commands.wish("trixie", "own") == boxes.Wish("trixie", "own")
    assert commands.wish(None, None) == boxes.Wish()
    with pytest.raises(UsageError, match="a box has the network shared or own, not 'private'"):
        commands.wish(None, "private")
