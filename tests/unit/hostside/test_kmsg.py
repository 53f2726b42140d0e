"""uplab/hostside/kmsg.py: the kernel's messages since a moment, by what they are about."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from uplab.hostside.kmsg import SHOWN, Kmsg, Messages, kernel_text

#: As kernels 5.10 to 6.18 and their drivers write them.
OOM = "Out of memory: Killed process 4242 (wrk) total-vm:1kB, anon-rss:1kB, file-rss:0kB"
CGROUP_OOM = "Memory cgroup out of memory: Killed process 7 (server) total-vm:9kB, UID:0"
MCE = "mce: [Hardware Error]: Machine check events logged"
EDAC = "EDAC MC0: 1 CE memory read error on CPU_SrcID#0_Ha#0_Chan#0_DIMM#0"
HOT = "mce: CPU3: Core temperature above threshold, cpu clock throttled (total events = 12)"
#: What looks like it and is not: a line of the same event, of the boot, of the end of one.
QUIET = (
    "wrk invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
    "mce: CPU supports 20 MCE banks",
    "mce: CPU3: Core temperature/speed normal",
    "EDAC MC0: Giving out device to module sbridge_edac",
    "usb 1-1: new device",
)


def record(text: str, priority: int = 3) -> str:
    return f"{priority},1234,5678901,-;{text}\n SUBSYSTEM=x\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that stands for the device: what is in it was said before."""
    path = tmp_path / "kmsg"
    path.write_text(record(OOM))
    return path


def said(path: Path, *records: str) -> Messages:
    listening = Kmsg(path)
    with path.open("a") as file:
        file.write("".join(records))
    try:
        return listening.read()
    finally:
        listening.close()


def test_each_kind_is_known_by_its_text(path: Path) -> None:
    texts = (OOM, CGROUP_OOM, MCE, EDAC, HOT, *QUIET)
    found = said(path, *(record(text) for text in texts))
    assert found.counts == {"oom": 2, "mce": 2, "throttle": 1}
    assert found.lines == {"oom": [OOM, CGROUP_OOM], "mce": [MCE, EDAC], "throttle": [HOT]}
    assert not found.lost


def test_what_was_said_before_is_not_told(path: Path) -> None:
    assert said(path).counts == {"oom": 0, "mce": 0, "throttle": 0}


def test_what_a_program_wrote_there_is_not_the_kernel_s_word(path: Path) -> None:
    # Facility 1, user, in the bits above the level.
    assert said(path, record(OOM, priority=1 << 3 | 3)).counts["oom"] == 0


@pytest.mark.parametrize("line", ["", " SUBSYSTEM=pci", "no record", "x,1,2,-;text", "3,1,2,-"])
def test_a_line_that_is_no_record_says_nothing(line: str) -> None:
    assert kernel_text(line) is None


def test_a_flood_is_counted_and_its_first_lines_are_kept(path: Path) -> None:
    found = said(path, *(record(f"{EDAC} {'x' * 1000}") for _ in range(200)))
    # A file gives pieces of several records, the device one record at a time.
    assert found.counts["mce"] >= 180
    assert len(found.lines["mce"]) == SHOWN
    assert max(map(len, found.lines["mce"])) <= 300


def test_records_that_were_overwritten_are_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[bytes | OSError] = [
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        record(OOM).encode(),
        BlockingIOError(),
    ]

    def read(_descriptor: int, _size: int) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    listening = Kmsg(path)
    monkeypatch.setattr(os, "read", read)
    found = listening.read()
    monkeypatch.undo()
    listening.close()
    assert (found.counts["oom"], found.lost) == (1, True)


def test_without_the_device_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Kmsg(tmp_path / "kmsg")


def test_the_real_device_never_makes_us_wait() -> None:
    listening = Kmsg(Path("/dev/kmsg"))
    try:
        assert set(listening.read().counts) == {"oom", "mce", "throttle"}
    finally:
        listening.close()
