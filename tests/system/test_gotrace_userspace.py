"""gotrace as two loaders: each site placed in the kernel or in a part of its own.

Without ``--preload`` that part runs in the kernel as well, so all of it is seen here on real
servers; bpftime's library and program have stand-ins, which only claim to do something. Where a
real bpftime is named (``UPLAB_TEST_BPFTIME_PREFIX``, or the store's), it is measured, too.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from tests.system.tracing import (
    BREAKPOINT,
    CONNECTIONS,
    EXIT_TIMEOUT_S,
    Json,
    Tracer,
    assert_one_line,
    assert_same_hits,
    bytes_in_file,
    bytes_in_memory,
    fails,
    first_bytes,
    hits_by_name,
    load_until_rest,
    run_wrk,
    wrk_in_background,
)
from tests.waiting import wait_for
from uplab.hostside import store

if TYPE_CHECKING:
    from tests.system.conftest import StartServer
    from tests.system.tracing import StartTracer

ENTRIES = ("casgstatus", "tls_write", "tls_read")
RETURNS = ("tls_write_ret", "tls_read_ret")
PLACEMENTS = {
    "hybrid": (("casgstatus",), ("tls_write", "tls_read", *RETURNS)),
    "entries": (ENTRIES, ()),
    "hybrid-entries": (ENTRIES, RETURNS),
}
MAP_KINDS = ("array", "hash", "percpu-array", "percpu-hash")
ALL_ENTRIES = ("--userspace", ",".join(ENTRIES), "--kernel", ",".join(RETURNS))


def placed(name: str) -> list[str]:
    """The arguments for a placement."""
    userspace, kernel = PLACEMENTS[name]
    return ["--userspace", ",".join(userspace), "--kernel", ",".join(kernel)]


def part_of(tracer: Tracer) -> int:
    """The pid of the userspace part."""
    pid = tracer.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    assert len(children) == 1
    return int(children[0])


# --- where the probes are, and what they count


@pytest.mark.parametrize("kind", ["https", "http"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_placement(
    placement: str, kind: str, start_server: StartServer, start_tracer: StartTracer
) -> None:
    server = start_server(kind)
    tracer = start_tracer(server.pid, *placed(placement))
    attached = tracer.read()
    userspace, kernel = PLACEMENTS[placement]
    where = dict.fromkeys(userspace, "userspace") | dict.fromkeys(kernel, "kernel")
    assert attached["userspace"]["map_kind"] == "array"
    assert attached["userspace"]["preload"] is None
    assert attached["userspace"]["attach_ms"] > 0
    assert (attached["attach"] == "none") == (not kernel)
    original = bytes_in_file(attached["exe"], attached)
    found = bytes_in_memory(server.pid, attached)
    for site, was, byte in zip(attached["sites"], original, found, strict=True):
        assert site["placement"] == where.get(site["name"], "untouched")
        assert byte == (was if site["placement"] == "untouched" else BREAKPOINT)
    # A second gotrace, in the kernel alone, sees the same requests.
    whole = start_tracer(server.pid)
    whole.read()
    requests = load_until_rest(server)
    end, whole_end = tracer.stop(), whole.stop()
    hits = hits_by_name(end)
    assert {name for name, count in hits.items() if not count} >= set(hits) - set(where)
    assert_same_hits({name: hits[name] for name in where}, hits_by_name(whole_end))
    assert end["tracepoint_hits"] >= 4 * requests
    assert end["events"]["received"] == end["events"]["emitted"]
    assert end["events"]["lost"] == 0
    assert bytes_in_memory(server.pid, attached) == original


@pytest.mark.parametrize("placement", ["hybrid", "hybrid-entries"])
def test_every_return_is_an_event(
    placement: str, start_server: StartServer, start_tracer: StartTracer
) -> None:
    server = start_server("https")
    tracer = start_tracer(server.pid, *placed(placement))
    tracer.read()
    requests = run_wrk(server.url)
    tracer.process.send_signal(signal.SIGTERM)
    end, code, errors = tracer.finish()
    assert (code, errors) == (0, "")
    hits, events = hits_by_name(end), end["events"]
    assert events["emitted"] == events["received"]
    assert events["lost"] == 0
    returns = hits["tls_write_ret"] + hits["tls_read_ret"]
    # Each request has one return of Write and one of Read, and at least two system calls.
    assert returns >= 2 * requests
    assert events["emitted"] >= returns + 2 * requests


def test_a_return_alone_knows_neither_duration_nor_socket(
    start_server: StartServer, start_tracer: StartTracer, tls_files: tuple[Path, Path]
) -> None:
    server = start_server("https")
    tracer = start_tracer(server.pid, *ALL_ENTRIES, "--print-events", "1000")
    tracer.read()
    command = ["curl", "-sS", "--http1.1", "--cacert", str(tls_files[0]), server.url]
    subprocess.run(command, capture_output=True, check=True)
    tracer.process.send_signal(signal.SIGTERM)
    output, _ = tracer.process.communicate(timeout=EXIT_TIMEOUT_S)
    events = [json.loads(line) for line in output.splitlines()][:-1]
    returns = [event for event in events if event.get("source") in {"tls_read", "tls_write"}]
    assert any(event["source"] == "tls_write" and event["result"] > 0 for event in returns)
    for event in returns:
        assert (event["duration_ns"], event["fd"], event["payload"]) == (0, -1, "")
    # The system calls need no other part.
    assert all(event["duration_ns"] > 0 for event in events if event.get("source") == "syscall")


@pytest.mark.parametrize("map_kind", MAP_KINDS)
def test_every_map_kind_counts_each_hit(
    map_kind: str, start_server: StartServer, start_tracer: StartTracer
) -> None:
    server = start_server("https")
    tracer = start_tracer(server.pid, *ALL_ENTRIES, "--map-kind", map_kind)
    whole = start_tracer(server.pid)
    assert tracer.read()["userspace"]["map_kind"] == map_kind
    whole.read()
    requests = load_until_rest(server)
    hits = hits_by_name(tracer.stop())
    assert_same_hits(hits, hits_by_name(whole.stop()))
    again = 1 + requests // 1000
    assert requests <= hits["tls_write"] <= requests + CONNECTIONS + again
    assert 2 * requests <= hits["tls_read"] <= 2 * requests + 4 * CONNECTIONS + 2 * again
    assert hits["casgstatus"] > 2 * requests


@pytest.mark.parametrize(
    ("map_kind", "on_stack"),
    [("array", False), ("percpu-array", False), ("hash", True), ("percpu-hash", True)],
)
def test_array_kinds_never_touch_the_bpf_stack(
    map_kind: str, on_stack: bool, start_server: StartServer, start_tracer: StartTracer
) -> None:
    # A userspace runtime takes 16 KB of the goroutine's stack for a program that does.
    server = start_server("http")
    tracer = start_tracer(server.pid, *ALL_ENTRIES, "--map-kind", map_kind)
    tracer.read()
    programs = programs_of(part_of(tracer))
    assert len(programs) == len(ENTRIES)
    for number in programs:
        command = ["bpftool", "prog", "dump", "xlated", "id", str(number)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert ("r10" in text) == on_stack, text
    tracer.stop()


def programs_of(pid: int) -> set[int]:
    """The ids of the BPF programs that a process holds."""
    found = set()
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        match = re.search(r"^prog_id:\s+(\d+)$", entry.read_text(encoding="ascii"), re.MULTILINE)
        if match:
            found.add(int(match[1]))
    return found


def test_counters_hold_both_parts(start_server: StartServer, start_tracer: StartTracer) -> None:
    server = start_server("https")
    tracer = start_tracer(server.pid, *ALL_ENTRIES)
    tracer.read()
    before = hits_by_name(tracer.counters())
    requests = run_wrk(server.url)
    after = hits_by_name(tracer.counters())
    assert set(after) == {*ENTRIES, *RETURNS}
    assert after["tls_write"] - before["tls_write"] >= requests
    assert after["tls_write_ret"] - before["tls_write_ret"] >= requests
    end = hits_by_name(tracer.stop(signal.SIGINT))
    assert all(end[name] >= after[name] for name in end)


def test_a_site_in_neither_list_is_untouched(
    start_server: StartServer, start_tracer: StartTracer
) -> None:
    server = start_server("https")
    tracer = start_tracer(server.pid, "--kernel", "tls_write,tls_write_ret")
    attached = tracer.read()
    assert "userspace" not in attached
    original = bytes_in_file(attached["exe"], attached)
    found = bytes_in_memory(server.pid, attached)
    for site, was, byte in zip(attached["sites"], original, found, strict=True):
        assert byte == (BREAKPOINT if site["symbol"].endswith(".Write") else was)
    requests = run_wrk(server.url)
    hits = hits_by_name(tracer.stop())
    assert hits["tls_write"] >= requests
    assert hits["casgstatus"] == hits["tls_read"] == hits["tls_read_ret"] == 0


# --- how it ends


def test_killed_part_fails_the_whole(start_server: StartServer, start_tracer: StartTracer) -> None:
    server = start_server("https")
    tracer = start_tracer(server.pid, *ALL_ENTRIES)
    attached = tracer.read()
    os.kill(part_of(tracer), signal.SIGKILL)
    output, errors = tracer.process.communicate(timeout=EXIT_TIMEOUT_S)
    # No end line: the hits of the userspace sites are not known.
    assert (tracer.process.returncode, output) == (18, "")
    assert_one_line(errors)
    assert "userspace part failed (signal 9)" in errors
    original = bytes_in_file(attached["exe"], attached)
    wait_for(lambda: bytes_in_memory(server.pid, attached) == original)
    assert run_wrk(server.url) > 0


def test_stopped_part_does_not_hang_the_whole(
    start_server: StartServer, start_tracer: StartTracer
) -> None:
    server = start_server("http")
    tracer = start_tracer(server.pid, *ALL_ENTRIES)
    tracer.read()
    os.kill(part_of(tracer), signal.SIGSTOP)
    tracer.process.send_signal(signal.SIGTERM)
    output, errors = tracer.process.communicate(timeout=EXIT_TIMEOUT_S)
    assert (tracer.process.returncode, output) == (18, "")
    assert_one_line(errors)
    assert "no answer within 5 s" in errors
    assert BREAKPOINT not in first_bytes(server)


def test_killed_gotrace_takes_its_part_along(
    start_server: StartServer, start_tracer: StartTracer
) -> None:
    server = start_server("https")
    tracer = start_tracer(server.pid, *ALL_ENTRIES)
    attached = tracer.read()
    part = part_of(tracer)
    tracer.process.kill()
    tracer.process.wait()
    wait_for(lambda: ended(part))
    original = bytes_in_file(attached["exe"], attached)
    wait_for(lambda: bytes_in_memory(server.pid, attached) == original)
    assert run_wrk(server.url) > 0


def ended(pid: int) -> bool:
    """Whether a process is gone, or dead and not yet waited for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("delay_ms", [5, 15, 25, 35, 55])
def test_signal_while_the_parts_attach(
    delay_ms: int, start_server: StartServer, start_tracer: StartTracer
) -> None:
    server = start_server("https")
    tracer = start_tracer(server.pid, *placed("hybrid"))
    tracer.wait_for_order()
    # Not a wait for anything: the moment is the case.
    time.sleep(delay_ms / 1000)
    tracer.process.send_signal(signal.SIGTERM)
    end, code, errors = tracer.finish()
    assert (code, errors, end["reason"]) == (0, "", "SIGTERM")
    wait_for(lambda: BREAKPOINT not in first_bytes(server))


def test_target_killed_while_traced(start_server: StartServer, start_tracer: StartTracer) -> None:
    server = start_server("https")
    tracer = start_tracer(server.pid, *ALL_ENTRIES)
    tracer.read()
    with wrk_in_background(server.url):
        wait_for(lambda: hits_by_name(tracer.counters())["tls_write"] > 100)
        server.process.kill()
        end, code, errors = tracer.finish()
    assert code == 17
    assert hits_by_name(end)["tls_write"] > 100
    assert_one_line(errors)


@pytest.mark.parametrize("delay_ms", [0, 10, 20, 30, 40, 60])
def test_target_killed_while_the_parts_attach(
    delay_ms: int, start_server: StartServer, start_tracer: StartTracer
) -> None:
    server = start_server("https")
    tracer = start_tracer(server.pid, *ALL_ENTRIES)
    time.sleep(delay_ms / 1000)
    server.process.kill()
    server.process.wait()
    output, errors = tracer.process.communicate(timeout=EXIT_TIMEOUT_S)
    assert tracer.process.returncode in {10, 17}
    assert_one_line(errors)
    assert bool(output) == (tracer.process.returncode == 17)


# --- what it refuses


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--userspace", "tls"], "no site 'tls'"),
        (["--kernel", "tls_write,"], "no site ''"),
        (["--kernel", "tls_write tls_read"], "no site 'tls_write tls_read'"),
        (["--userspace", "tls_write", "--kernel", "tls_read,tls_write"], "tls_write is in"),
        (["--userspace", "tls_write_ret"], "one byte"),
        (["--no-uprobes", "--kernel", "tls_write"], "--no-uprobes"),
        (["--userspace", "tls_write", "--map-kind", "queue"], "'queue'"),
        (["--preload", "/etc/hostname"], "--userspace"),
        (["--userspace", "tls_write", "--preload", "/nowhere/a.so"], "/nowhere/a.so"),
    ],
)
def test_usage_errors(arguments: list[str], cause: str, gotrace_binaries: Path) -> None:
    command = [str(gotrace_binaries / "gotrace"), "--pid", "1", *arguments]
    code, line = fails(command)
    assert (code, cause in line) == (2, True), line


def test_the_part_is_for_gotrace_alone(gotrace_binaries: Path) -> None:
    code, line = fails([str(gotrace_binaries / "gotrace"), "--userspace-part"])
    assert (code, "own use" in line) == (2, True)


# --- with a library before the userspace part (stand-ins: none of them is a runtime)


@pytest.fixture
def library(tmp_path: Path) -> Callable[..., Path]:
    """A function that builds a library which does something as soon as it is loaded."""

    def build(on_load: str, more: str = "") -> Path:
        source, path = tmp_path / "stand-in.c", tmp_path / "stand-in.so"
        headers = ("fcntl.h", "stdio.h", "stdlib.h", "string.h", "sys/mman.h", "unistd.h")
        lines = [f"#include <{name}>" for name in headers]
        lines += [more, f"__attribute__((constructor)) static void on_load(void) {{ {on_load} }}"]
        source.write_text("\n".join(lines) + "\n", encoding="ascii")
        command = ["gcc", "-shared", "-fPIC", "-w", "-o", str(path), str(source)]
        subprocess.run(command, check=True)
        return path

    return build


def test_the_library_is_in_the_part_alone(
    library: Callable[..., Path], start_server: StartServer, start_tracer: StartTracer
) -> None:
    preload = library('fprintf(stderr, "a runtime speaks\\n");')
    server = start_server("https")
    tracer = start_tracer(server.pid, *ALL_ENTRIES, "--preload", str(preload))
    assert tracer.read()["userspace"]["preload"] == str(preload)
    assert str(preload) in Path(f"/proc/{part_of(tracer)}/maps").read_text(encoding="utf-8")
    assert str(preload) not in Path(f"/proc/{tracer.process.pid}/maps").read_text(encoding="utf-8")
    requests = run_wrk(server.url)
    tracer.process.send_signal(signal.SIGTERM)
    end, code, errors = tracer.finish()
    assert (code, errors) == (0, "a runtime speaks\n")
    assert hits_by_name(end)["tls_write"] >= requests


def test_a_runtime_that_gives_up_is_quoted(
    library: Callable[..., Path], start_server: StartServer, gotrace_binaries: Path
) -> None:
    preload = library('puts("first"); puts("no room for shared memory"); exit(1);')
    server = start_server("http")
    command = [str(gotrace_binaries / "gotrace"), "--pid", str(server.pid), *ALL_ENTRIES]
    command += ["--preload", str(preload)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (18, "")
    last = done.stderr.splitlines()[-1]
    assert last == "gotrace: the userspace part failed (exit code 1): no room for shared memory"
    assert BREAKPOINT not in first_bytes(server)


def test_a_library_that_the_linker_leaves_out(
    start_server: StartServer, gotrace_binaries: Path, tmp_path: Path
) -> None:
    preload = tmp_path / "text.so"
    preload.write_text("not a library", encoding="ascii")
    server = start_server("http")
    command = [str(gotrace_binaries / "gotrace"), "--pid", str(server.pid), *ALL_ENTRIES]
    command += ["--preload", str(preload)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (18, "")
    assert f"the dynamic linker did not take {preload}" in done.stderr.splitlines()[-1]
    assert BREAKPOINT not in first_bytes(server)


# --- probe-cost --userspace (stand-ins for bpftime's program and library)

# Keeps a runtime's traces as bpftime does: shared memory, and a file in /tmp that stays open.
LEAVES_TRACES = """
const char *name = getenv("BPFTIME_GLOBAL_SHM_NAME");
char path[100];
shm_open(name, O_CREAT | O_RDWR, 0600);
snprintf(path, sizeof(path), "/tmp/bpftime-mock.%s", name);
open(path, O_CREAT | O_RDWR, 0600);
"""
# Sets no probe, wherever it is asked to.
NO_PROBE = """
void *bpf_program__attach_uprobe(void *program, int ret, int pid, const char *exe, size_t offset)
{ return (void *)1; }
"""
# A jump over the two instructions that it would take: the calls work, and nothing counts them.
JUMPS_ONLY = """#!/usr/bin/env python3
import re, sys
pid = sys.argv[-1]
exe = open(f"/proc/{pid}/exe", "rb").read()
offset = exe.index(bytes.fromhex("493b66100f8600000000"))
for line in open(f"/proc/{pid}/maps"):
    found = re.match(r"(\\w+)-(\\w+) r-xp (\\w+) .*/probe-cost$", line)
    if found:
        start, end, at = (int(number, 16) for number in found.groups())
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(start + offset - at)
            memory.write(bytes.fromhex("e905000000"))
"""


@dataclass(frozen=True)
class Cost:
    """How a probe-cost ended: its line, its exit code, what its bpftime was called with."""

    line: Json
    code: int
    arguments: str


@pytest.fixture
def start_cost(
    gotrace_binaries: Path, tmp_path: Path
) -> Iterator[Callable[[Path, str], subprocess.Popen[str]]]:
    """A function that starts probe-cost with a library and a script for bpftime's program.

    After the test nothing that a runtime makes may be left.
    """
    started: list[subprocess.Popen[str]] = []

    def start(preload: Path, script: str) -> subprocess.Popen[str]:
        bpftime = tmp_path / "bpftime"
        bpftime.write_text(script, encoding="ascii")
        bpftime.chmod(0o755)
        command = [str(gotrace_binaries / "probe-cost"), "--userspace", "--hits", "2000"]
        command += ["--preload", str(preload), "--bpftime", str(bpftime)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=EXIT_TIMEOUT_S)
        assert not Path(f"/dev/shm/uplab-cost-{process.pid}").exists()
        assert not Path(f"/tmp/bpftime-mock.uplab-cost-{process.pid}").exists()


@pytest.fixture
def cost(
    start_cost: Callable[[Path, str], subprocess.Popen[str]], tmp_path: Path
) -> Callable[..., Cost]:
    """A function that runs probe-cost so, to its end."""

    def run(preload: Path, script: str = "") -> Cost:
        said = tmp_path / "said"
        say = f'#!/bin/sh\necho "$@" $(ls "/dev/shm/$BPFTIME_GLOBAL_SHM_NAME") >{said}\n'
        process = start_cost(preload, script or say)
        output, _ = process.communicate(timeout=EXIT_TIMEOUT_S)
        line: Json = json.loads(output)
        assert (line["class"], line["attach"]) == ("userspace", "bpftime")
        assert (line["instruction"], line["ns_per_hit"]) == ("493b6610", None)
        arguments = said.read_text(encoding="utf-8") if said.exists() else ""
        return Cost(line, process.returncode, arguments)

    return run


def test_probe_cost_is_not_taken_in_by_the_kernels_probe(
    library: Callable[..., Path], cost: Callable[..., Cost], tmp_path: Path
) -> None:
    # A library that is no runtime: the loader's probe is one of the kernel's.
    done = cost(library(LEAVES_TRACES))
    assert "set in the kernel" in done.line["error"]
    assert done.code == 16
    shared = r"/dev/shm/uplab-cost-\d+"
    assert re.fullmatch(rf"-i {re.escape(str(tmp_path))} attach \d+ {shared}\n", done.arguments)


def test_probe_cost_wants_a_changed_site(
    library: Callable[..., Path], cost: Callable[..., Cost]
) -> None:
    done = cost(library(LEAVES_TRACES, NO_PROBE))
    assert done.line["error"].startswith("probe site unchanged")
    assert done.code == 16


def test_probe_cost_wants_every_call_counted(
    library: Callable[..., Path], cost: Callable[..., Cost]
) -> None:
    done = cost(library(LEAVES_TRACES, NO_PROBE), JUMPS_ONLY)
    assert done.line["hits"] == 0
    assert 2000 <= done.line["calls"] <= 2500
    assert done.line["error"] == f"0 hits counted for {done.line['calls']} calls"
    assert done.code == 16


@pytest.mark.parametrize(
    ("on_load", "script", "error"),
    [
        ('puts("no \\"room\\""); exit(1);', "#!/bin/sh\n", 'the loader failed: no "room"'),
        ("", "#!/bin/sh\necho refused >&2\nexit 3\n", "attach failed (exit code 3): refused"),
        ("", "#!/nowhere\n", "bpftime: No such file or directory"),
    ],
)
def test_probe_cost_quotes_what_failed(
    on_load: str,
    script: str,
    error: str,
    library: Callable[..., Path],
    cost: Callable[..., Cost],
) -> None:
    done = cost(library(LEAVES_TRACES * (not on_load) + on_load, NO_PROBE), script)
    assert error in done.line["error"]
    assert done.code == 16


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_probe_cost_told_to_stop_leaves_nothing(
    number: signal.Signals,
    library: Callable[..., Path],
    start_cost: Callable[[Path, str], subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    started = tmp_path / "started"
    script = f"#!/bin/sh\necho >{started}\nsleep 600\n"
    process = start_cost(library(LEAVES_TRACES, NO_PROBE), script)
    wait_for(started.exists)
    process.send_signal(number)
    output, _ = process.communicate(timeout=EXIT_TIMEOUT_S)
    # That no process is left, the guard in tests/conftest.py sees to.
    assert (process.returncode, output) == (-number, "")


@pytest.mark.parametrize(
    "arguments",
    [["--userspace"], ["--preload", "a"], ["--userspace", "--bpftime", "b"], ["--bpftime", "b"]],
)
def test_probe_cost_usage_errors(arguments: list[str], gotrace_binaries: Path) -> None:
    code, line = fails([str(gotrace_binaries / "probe-cost"), *arguments])
    assert (code, "belong together" in line) == (2, True)


# --- on a real bpftime

JUMP = b"\xe9"
# Enough for what bpftime runs on a goroutine's stack.
STACK_BYTES = 64 << 10


@pytest.fixture
def bpftime(not_provided: Callable[[str], NoReturn]) -> Path:
    """The folder of a real bpftime."""
    named = os.environ.get("UPLAB_TEST_BPFTIME_PREFIX")
    installed = store.load(store.DEFAULT_ROOT).components.get("bpftime", {}).get("prefix")
    if not named and not installed:
        not_provided(
            f"no bpftime: UPLAB_TEST_BPFTIME_PREFIX names none, and {store.DEFAULT_ROOT} has none"
        )
    return Path(str(named or installed))


@pytest.fixture
def shared_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The shared memory that server and tracer are told to use; removed after the test."""
    path = Path(f"/dev/shm/uplab-test-{os.getpid()}")
    monkeypatch.setenv("BPFTIME_GLOBAL_SHM_NAME", path.name)
    monkeypatch.setenv("BPFTIME_LOG_OUTPUT", "console")
    monkeypatch.setenv("BPFTIME_VM_NAME", "llvm")
    yield path
    path.unlink(missing_ok=True)


@pytest.mark.parametrize("map_kind", MAP_KINDS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_placement_in_a_real_bpftime(
    placement: str,
    map_kind: str,
    bpftime: Path,
    shared_memory: Path,
    start_server: StartServer,
    start_tracer: StartTracer,
) -> None:
    server = start_server("https", "-stack-bytes", str(STACK_BYTES))
    preload = bpftime / "libbpftime-syscall-server.so"
    arguments = [*placed(placement), "--map-kind", map_kind, "--preload", str(preload)]
    tracer = start_tracer(server.pid, *arguments)
    attached = tracer.read()
    assert shared_memory.exists()
    looks = {"userspace": {JUMP}, "kernel": {BREAKPOINT}}
    original = bytes_in_file(attached["exe"], attached)
    command = [str(bpftime / "bpftime"), "-i", str(bpftime), "attach", str(server.pid)]
    subprocess.run(command, check=True, capture_output=True, timeout=EXIT_TIMEOUT_S)

    def in_place() -> bool:
        found = zip(attached["sites"], original, bytes_in_memory(server.pid, attached), strict=True)
        return all(byte in looks.get(site["placement"], {was}) for site, was, byte in found)

    wait_for(in_place)
    requests = load_until_rest(server)
    tracer.process.send_signal(signal.SIGTERM)
    end, code, _ = tracer.finish()
    assert (code, end["reason"]) == (0, "SIGTERM")
    hits = hits_by_name(end)
    again = 1 + requests // 1000
    assert requests <= hits["tls_write"] <= requests + CONNECTIONS + again
    assert 2 * requests <= hits["tls_read"] <= 2 * requests + 4 * CONNECTIONS + 2 * again
    assert hits["casgstatus"] > 2 * requests
    assert end["events"]["received"] == end["events"]["emitted"]
    assert end["events"]["lost"] == 0
    assert run_wrk(server.url) > 0


def test_probe_cost_in_a_real_bpftime(bpftime: Path, gotrace_binaries: Path) -> None:
    program = str(gotrace_binaries / "probe-cost")
    command = [program, "--userspace", "--bpftime", str(bpftime / "bpftime")]
    command += ["--preload", str(bpftime / "libbpftime-syscall-server.so")]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (line,) = map(json.loads, text.splitlines())
    assert (line["class"], line["instruction"], line["error"]) == ("userspace", "493b6610", None)
    assert line["hits"] == line["calls"] > 0
    text = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    in_kernel = {kind["class"]: kind["ns_per_hit"] for kind in map(json.loads, text.splitlines())}
    assert 10 < line["ns_per_hit"] < in_kernel["single-stepped"]
