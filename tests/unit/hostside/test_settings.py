"""uplab/hostside/settings.py: reading and writing the kernel's small files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.hostside.machines import write
from uplab.hostside.settings import Settings, value_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("performance\n", "performance"),
        ("always [madvise] never\n", "madvise"),
        ("32768\t60999\n", "32768 60999"),
        ("\n", ""),
        ("0-3,8\n", "0-3,8"),
    ],
)
def test_a_value_is_what_can_be_written_again(text: str, value: str) -> None:
    assert value_of(text) == value


def test_what_is_not_there_is_none_and_is_never_made(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    assert settings.get("/proc/sys/kernel/nothing") is None
    with pytest.raises(FileNotFoundError):
        settings.write("/proc/sys/kernel/nothing", "1")
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    with pytest.raises(FileNotFoundError):
        settings.write("/proc/sys/kernel/nothing", "1")
    assert list((tmp_path / "proc/sys/kernel").iterdir()) == []


def test_a_shorter_value_leaves_nothing_of_the_longer_one(tmp_path: Path) -> None:
    write(tmp_path, {"sys/governor": "performance\n"})
    settings = Settings(tmp_path)
    settings.write("/sys/governor", "x")
    assert settings.read("/sys/governor") == "x"


def test_paths_are_found_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    write(tmp_path, {f"sys/cpu{number}/online": "1" for number in (10, 9, 0)})
    found = Settings(tmp_path).find("/sys/cpu[0-9]*/online")
    assert found == ["/sys/cpu0/online", "/sys/cpu9/online", "/sys/cpu10/online"]


def test_the_running_kernel_is_read_too() -> None:
    assert len(Settings().read("/proc/sys/kernel/random/boot_id")) == 36
