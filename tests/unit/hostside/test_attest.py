"""uplab/hostside/attest.py: a real process whose memory is altered through /proc/PID/mem."""

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.waiting import wait_for
from uplab.hostside import attest, procfs
from uplab.hostside.attest import (
    Evidence,
    ExpectedSite,
    Placement,
    classify,
    differences,
    site_problem,
)
from uplab.hostside.procfs import Mapping

TARGET = """
import mmap, os, sys, time
flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
code = mmap.mmap(-1, 4096, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
data = mmap.mmap(-1, 1 << 20, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
code.write(b"an agent")
if sys.argv[1:]:
    file = os.open(sys.argv[1], os.O_RDONLY)
    mapped = mmap.mmap(file, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
print("ready", flush=True)
time.sleep(60)
"""


@dataclass(frozen=True)
class Target:
    """A process that sleeps while its code is altered, and a place in its libc to alter."""

    pid: int

    @property
    def libc(self) -> Mapping:
        return next(m for m in procfs.maps(self.pid) if m.executable and "/libc.so" in m.path)

    @property
    def agent(self) -> Mapping:
        """The anonymous executable memory."""
        return next(m for m in procfs.maps(self.pid) if m.executable and not m.inode and not m.path)

    @property
    def plain(self) -> Mapping:
        """Anonymous memory in which no code can run."""
        return next(
            m
            for m in procfs.maps(self.pid)
            if not m.executable and not m.path and m.end - m.start >= 1 << 20
        )

    def site(self, placement: Placement, at: int = 0x2000, name: str = "read") -> ExpectedSite:
        return ExpectedSite(
            name, "libc.read", "entry", self.libc.path, self.libc.offset + at, placement
        )

    def address(self, site: ExpectedSite) -> int:
        return self.libc.start + site.offset - self.libc.offset

    def write(self, address: int, data: bytes) -> None:
        with Path(f"/proc/{self.pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(address)
            memory.write(data)

    def jump(self, site: ExpectedSite, target: int, opcode: int = 0xE9) -> bytes:
        """Write a jump (or call) over a site; out: its bytes."""
        code = struct.pack("<Bi", opcode, target - self.address(site) - 5)
        self.write(self.address(site), code)
        return code

    def look(self, *sites: ExpectedSite) -> Evidence:
        return attest.attest([self.pid], sites)


@contextmanager
def sleeping(*argv: str) -> Iterator[int]:
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout
        if argv[0] == sys.executable:
            assert process.stdout.readline() == b"ready\n"
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def target() -> Iterator[Target]:
    with sleeping(sys.executable, "-I", "-S", "-c", TARGET) as pid:
        yield Target(pid)


def test_an_untouched_process_has_no_problems(target: Target) -> None:
    evidence = target.look()
    assert evidence.problems == ()
    assert evidence.sites == ()
    assert evidence.altered_elsewhere == ()
    assert evidence.grade == "proven"
    assert evidence.pids == (target.pid,)
    assert not evidence.uprobes_page
    code = [m for m in procfs.maps(target.pid) if m.executable and m.inode]
    assert evidence.compared_files == tuple(sorted({m.path for m in code}))
    total = sum(m.end - m.start for m in code)
    # The last page of a mapping may lie beyond the end of its file.
    assert total - 4096 * len(code) < evidence.compared_bytes <= total


def test_an_untouched_site_is_original(target: Target) -> None:
    evidence = target.look(target.site("untouched"))
    assert evidence.problems == ()
    (seen,) = evidence.sites
    assert (seen.state, seen.target, seen.pid) == ("original", None, target.pid)
    assert seen.file_bytes == seen.memory_bytes
    assert len(bytes.fromhex(seen.file_bytes)) == attest.SITE_BYTES


def test_a_breakpoint_is_a_kernel_uprobe(target: Target) -> None:
    site = target.site("kernel")
    target.write(target.address(site), b"\xcc")
    evidence = target.look(site)
    assert evidence.problems == ()
    (seen,) = evidence.sites
    assert seen.state == "breakpoint"
    assert seen.memory_bytes == "cc" + seen.file_bytes[2:]
    assert evidence.altered_elsewhere == ()


def test_a_jump_to_anonymous_code_is_a_userspace_uprobe(target: Target) -> None:
    site = target.site("userspace")
    code = target.jump(site, target.agent.start)
    evidence = target.look(site)
    assert evidence.problems == ()
    (seen,) = evidence.sites
    assert (seen.state, seen.target) == ("redirected", "anonymous")
    assert seen.memory_bytes.startswith(code.hex())


@pytest.mark.parametrize("placement", ["kernel", "userspace"])
def test_a_probe_that_is_not_there_is_a_problem(target: Target, placement: Placement) -> None:
    site = target.site(placement)
    evidence = target.look(site)
    assert evidence.problems == (
        f"probe site unchanged: read (libc.read entry, {site.file}+{site.offset:#x}) "
        f"should be in {placement}",
    )
    assert evidence.sites[0].state == "original"


@pytest.mark.parametrize(
    ("placement", "code", "state"),
    [
        ("untouched", b"\xcc", "breakpoint"),
        ("userspace", b"\xcc", "breakpoint"),
        ("kernel", b"\xcc\xcc", "other"),
        ("kernel", b"\x0f\x0b\x0f\x0b\x0f\x0b", "other"),
        ("userspace", b"\x0f\x0b\x0f\x0b\x0f\x0b", "other"),
        ("untouched", b"\x0f\x0b\x0f\x0b\x0f\x0b", "other"),
    ],
)
def test_a_site_in_another_state_is_a_problem(
    target: Target, placement: Placement, code: bytes, state: str
) -> None:
    site = target.site(placement)
    target.write(target.address(site), code)
    evidence = target.look(site)
    (seen,) = evidence.sites
    assert seen.state == state
    assert evidence.problems == (
        f"probe site read (libc.read entry, {site.file}+{site.offset:#x}) should be {placement} "
        f"but is {state}: {seen.file_bytes} is now {seen.memory_bytes}",
    )


def test_a_jump_in_place_of_a_kernel_uprobe_is_a_problem(target: Target) -> None:
    site = target.site("kernel")
    target.jump(site, target.agent.start)
    (problem,) = target.look(site).problems
    assert "should be kernel but is redirected" in problem


def test_a_jump_to_memory_that_cannot_run_is_no_probe(target: Target) -> None:
    site = target.site("userspace")
    target.jump(site, target.plain.start)
    assert target.look(site).sites[0].state == "other"


def test_a_jump_into_the_program_s_own_code_is_no_probe(target: Target) -> None:
    site = target.site("userspace")
    target.jump(site, target.libc.start + 0x8000)
    evidence = target.look(site)
    assert evidence.sites[0].state == "other"
    assert len(evidence.problems) == 1


def test_a_jump_to_nowhere_is_no_probe(target: Target) -> None:
    site = target.site("userspace")
    target.jump(site, target.address(site) - (1 << 30))
    assert target.look(site).sites[0].state == "other"


def test_an_alteration_that_nobody_declared_is_a_problem(target: Target) -> None:
    site = target.site("untouched", 0x4000)
    target.write(target.address(site), b"\xcc")
    evidence = target.look()
    (seen,) = evidence.altered_elsewhere
    assert (seen.offset, seen.state) == (site.offset, "breakpoint")
    assert evidence.sites == ()
    assert evidence.problems == (
        f"{site.file}+{site.offset:#x} was altered (breakpoint: "
        f"{seen.file_bytes} is now {seen.memory_bytes}) and is no declared probe site",
    )


def test_a_declared_probe_does_not_excuse_another_one(target: Target) -> None:
    declared, other = target.site("kernel"), target.site("untouched", 0x3000)
    target.write(target.address(declared), b"\xcc")
    target.write(target.address(other), b"\xcc")
    evidence = target.look(declared)
    assert evidence.sites[0].state == "breakpoint"
    assert [seen.offset for seen in evidence.altered_elsewhere] == [other.offset]
    assert len(evidence.problems) == 1


def test_an_alteration_right_behind_a_probe_is_not_covered_by_it(target: Target) -> None:
    site = target.site("kernel")
    address = target.address(site)
    with Path(f"/proc/{target.pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(address + 9)
        (old,) = memory.read(1)
    target.write(address, b"\xcc")
    target.write(address + 9, bytes([old ^ 1]))
    evidence = target.look(site)
    assert evidence.sites[0].state == "other"
    assert len(evidence.problems) == 1


def test_two_sites_side_by_side_are_judged_apart(target: Target) -> None:
    first, second = target.site("kernel"), target.site("untouched", 0x2003, "other")
    target.write(target.address(first), b"\xcc")
    evidence = target.look(first, second)
    assert evidence.problems == ()
    assert [(seen.name, seen.state) for seen in evidence.sites] == [
        ("read", "breakpoint"),
        ("other", "original"),
    ]
    assert len(bytes.fromhex(evidence.sites[0].memory_bytes)) == 3


def test_a_site_in_no_mapping_is_a_problem(target: Target) -> None:
    elsewhere = ExpectedSite("r", "a.b", "ret", "/no/such/file", 0x1234, "kernel")
    beyond = replace(target.site("kernel"), offset=1 << 40)
    evidence = target.look(elsewhere, beyond)
    assert evidence.sites == ()
    assert evidence.problems == (
        "probe site r (a.b ret, /no/such/file+0x1234) is in no executable mapping of the server",
        f"probe site read (libc.read entry, {beyond.file}+{1 << 40:#x}) "
        "is in no executable mapping of the server",
    )


def test_a_binary_that_was_replaced_cannot_be_compared(tmp_path: Path) -> None:
    program = tmp_path / "server"
    shutil.copy("/bin/sleep", program)
    with sleeping(str(program), "60") as pid:
        # Popen returns while the kernel still maps the program.
        wait_for(lambda: any("/libc.so" in m.path for m in procfs.maps(pid)))
        assert attest.attest([pid], []).problems == ()
        shutil.copy("/bin/sleep", tmp_path / "new")
        (tmp_path / "new").replace(program)
        problems = attest.attest([pid], []).problems
    assert len(problems) == 1
    assert str(program) in problems[0]
    assert "could not be compared" in problems[0]


def test_a_program_that_was_written_over_in_place_is_altered(tmp_path: Path) -> None:
    """Same inode, other bytes: what runs came from the old file where it was altered before."""
    library = tmp_path / "code"
    library.write_bytes(bytes(range(256)) * 64)
    with sleeping(sys.executable, "-I", "-S", "-c", TARGET, str(library)) as pid:
        mapped = next(m for m in procfs.maps(pid) if m.path == str(library))
        # A private copy of the page, as a probe makes it.
        Target(pid).write(mapped.start + 100, b"\xcc")
        Target(pid).write(mapped.start + 100, bytes([100]))
        assert attest.attest([pid], []).problems == ()
        with library.open("r+b") as file:
            file.seek(200)
            file.write(b"\x00")
        (problem,) = attest.attest([pid], []).problems
    assert f"{library}+{200:#x} was altered" in problem


def test_a_page_that_was_altered_as_a_whole_does_not_fill_the_record(tmp_path: Path) -> None:
    library = tmp_path / "code"
    library.write_bytes(bytes(16384))
    with sleeping(sys.executable, "-I", "-S", "-c", TARGET, str(library)) as pid:
        mapped = next(m for m in procfs.maps(pid) if m.path == str(library))
        Target(pid).write(mapped.start, b"\x90" * 16384)
        evidence = attest.attest([pid], [])
    assert len(evidence.altered_elsewhere) == 20
    assert 1 <= len(evidence.problems) <= 22
    assert evidence.problems[0].startswith(f"{library}+0x0 was altered (other: ")


def test_code_of_a_file_that_is_gone_cannot_be_compared(tmp_path: Path) -> None:
    library = tmp_path / "code"
    library.write_bytes(bytes(4096))
    with sleeping(sys.executable, "-I", "-S", "-c", TARGET, str(library)) as pid:
        library.unlink()
        (problem,) = attest.attest([pid], []).problems
    assert problem.startswith(f"{library} (deleted) could not be compared: ")


def test_every_process_of_a_server_is_looked_at() -> None:
    with (
        sleeping(sys.executable, "-I", "-S", "-c", TARGET) as first,
        sleeping(sys.executable, "-I", "-S", "-c", TARGET) as second,
    ):
        site = Target(second).site("kernel")
        Target(second).write(Target(second).address(site), b"\xcc")
        evidence = attest.attest([first, second], [])
        assert [seen.pid for seen in evidence.altered_elsewhere] == [second]
        assert evidence.pids == (first, second)
        # Declared, it must be in both.
        (problem,) = attest.attest([first, second], [site]).problems
        assert problem.startswith("probe site unchanged")


def test_a_process_that_is_gone_is_a_problem() -> None:
    (problem,) = attest.attest([1 << 22], []).problems
    assert problem == f"process {1 << 22} could not be read: No such file or directory"


def test_a_process_that_has_just_died_is_a_problem() -> None:
    """Nothing of a zombie can be compared, and nothing compared is nothing proven."""
    with subprocess.Popen(["true"]) as process:
        wait_for(lambda: procfs.stat_fields(process.pid)[0] == "Z")
        evidence = attest.attest([process.pid], [])
    assert evidence.compared_bytes == 0
    assert len(evidence.problems) == 1
    assert str(process.pid) in evidence.problems[0]


def test_a_process_that_dies_during_the_look_is_a_problem(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = attest._file_bytes

    def read_and_kill(pid: int, mapping: Mapping) -> bytes:
        content = read(pid, mapping)
        os.kill(pid, 9)
        wait_for(lambda: procfs.stat_fields(pid)[0] == "Z")
        return content

    monkeypatch.setattr(attest, "_file_bytes", read_and_kill)
    evidence = target.look()
    assert evidence.problems
    assert str(target.pid) in evidence.problems[0]


def test_the_evidence_is_json() -> None:
    evidence = attest.attest([os.getpid()], [])
    as_json = evidence.as_json()
    assert as_json["pids"] == (os.getpid(),)
    assert set(as_json) == {
        "grade",
        "pids",
        "compared_bytes",
        "compared_files",
        "sites",
        "altered_elsewhere",
        "altered_unlisted",
        "uprobes_page",
        "problems",
        "agents",
    }


# --- the bytes alone ------------------------------------------------------------------------------

NOP5 = bytes.fromhex("0f1f440000") + b"\x90" * 9
PROGRAM = Mapping(0x400000, 0x500000, "r-xp", 0, 7, "/program")
UPROBES = Mapping(0x600000, 0x601000, "r-xp", 0, 0, "[uprobes-trampoline]")
AGENT = Mapping(0x700000, 0x701000, "r-xp", 0, 0, "")
DATA = Mapping(0x800000, 0x801000, "rw-p", 0, 0, "[heap]")
MAPPINGS = [PROGRAM, UPROBES, AGENT, DATA]
AT = 0x410000


def patched(opcode: int, target: int) -> bytes:
    return struct.pack("<Bi", opcode, target - AT - 5) + NOP5[5:]


@pytest.mark.parametrize(
    ("memory", "state", "leads_to"),
    [
        (NOP5, "original", None),
        (b"\xcc" + NOP5[1:], "breakpoint", None),
        (patched(0xE8, UPROBES.start), "kernel-call", "[uprobes-trampoline]"),
        (patched(0xE9, AGENT.start), "redirected", "anonymous"),
        (patched(0xE9, AGENT.end - 1), "redirected", "anonymous"),
        (patched(0xE9, AGENT.end), "other", None),
        (patched(0xE8, AGENT.start), "other", None),
        (patched(0xE9, DATA.start), "other", None),
        (patched(0xE9, 0x10), "other", None),
        (b"\x90" * 14, "other", None),
    ],
)
def test_what_happened_to_an_instruction(memory: bytes, state: str, leads_to: str | None) -> None:
    assert classify(NOP5, memory, AT, MAPPINGS) == (state, leads_to)


def test_an_int3_of_the_program_itself_is_no_probe() -> None:
    assert classify(b"\xcc\x90", b"\xcc\x90", AT, MAPPINGS) == ("original", None)
    assert classify(b"\xcc\x90", b"\xcc\x91", AT, MAPPINGS) == ("other", None)


def test_a_jump_that_is_cut_off_is_no_probe() -> None:
    assert classify(b"\x90" * 3, b"\xe9\x00\x00", AT, MAPPINGS) == ("other", None)


@pytest.mark.parametrize("state", ["breakpoint", "kernel-call"])
def test_both_forms_of_a_kernel_uprobe_are_one_placement(state: attest.State) -> None:
    site = ExpectedSite("n", "s", "entry", "/f", 0, "kernel")
    seen = attest.SeenSite("n", "s", "entry", "/f", 0, 1, "00", "cc", state)
    assert site_problem(site, seen) is None
    assert site_problem(replace(site, placement="userspace"), seen) is not None


def test_differences_are_found_across_chunks() -> None:
    size = 200_000
    changed = [0, 65_535, 65_536, 131_071, size - 1]
    other = bytearray(size)
    for at in changed:
        other[at] = 1
    assert differences(bytes(size), bytes(other)) == changed
    assert differences(bytes(size), bytes(size)) == []
    assert differences(b"", b"") == []
