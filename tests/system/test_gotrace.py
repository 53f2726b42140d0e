"""gotrace and probe-cost on real Go servers, real wrk and real kernel uprobes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.tracing import (
    ATTACH_MODES,
    BREAKPOINT,
    CONNECTIONS,
    EXIT_TIMEOUT_S,
    POLL_INTERVAL_S,
    PROBED,
    SITE_NAMES,
    assert_one_line,
    assert_same_hits,
    bytes_in_file,
    bytes_in_memory,
    fails,
    first_bytes,
    hits_by_name,
    load_until_rest,
    run_wrk,
    sites_by_objdump,
    wrk_in_background,
)
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.system.conftest import StartServer
    from tests.system.tracing import StartTracer

ROOT = Path(__file__).resolve().parents[2]
# Another user, so that root's processes are not its own.
UNPRIVILEGED = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


# --- what it says and where it probes


@pytest.mark.parametrize("kind", ["https", "http"])
def test_attached_line(
    kind: str, start_server: StartServer, start_tracer: StartTracer, server_binaries: Path
) -> None:
    server = start_server(kind)
    tracer = start_tracer(server.pid)
    attached = tracer.read()
    binary = server_binaries / {"https": "go-server", "http": "go-server-http"}[kind]
    assert attached["event"] == "attached"
    assert attached["tracer"] == "gotrace"
    assert attached["version"] == "0.1.0"
    assert attached["pid"] == server.pid
    assert attached["exe"] == str(binary)
    assert attached["attach"] in ATTACH_MODES
    assert attached["attach_ms"] > 0
    assert attached["tracepoints"] == ["raw_syscalls/sys_enter", "raw_syscalls/sys_exit"]
    assert {"read", "write", "sendto", "recvmsg", "accept4", "close"} <= set(attached["syscalls"])
    # net/http brings crypto/tls along: the http server has every site, too.
    found = {(site["name"], site["address"]) for site in attached["sites"]}
    assert found == sites_by_objdump(binary)
    assert {site["name"] for site in attached["sites"]} == SITE_NAMES
    for site in attached["sites"]:
        name, ret_name = PROBED[site["symbol"]]
        assert site["name"] == (ret_name if site["at"] == "ret" else name)
        assert site["placement"] == "kernel"
    assert "userspace" not in attached
    tracer.stop()


@pytest.mark.parametrize("attach", ATTACH_MODES)
def test_sites_are_breakpoints_while_attached_only(
    attach: str, start_server: StartServer, start_tracer: StartTracer
) -> None:
    server = start_server("https")
    tracer = start_tracer(server.pid, "--attach", attach)
    attached = tracer.read()
    original = bytes_in_file(attached["exe"], attached)
    assert attached["attach"] == attach
    assert BREAKPOINT not in original
    assert bytes_in_memory(server.pid, attached) == [BREAKPOINT] * len(original)
    tracer.stop()
    assert bytes_in_memory(server.pid, attached) == original


def test_without_uprobes_the_sites_stay_untouched(
    start_server: StartServer, start_tracer: StartTracer
) -> None:
    server = start_server("https")
    tracer = start_tracer(server.pid, "--no-uprobes")
    attached = tracer.read()
    assert attached["attach"] == "none"
    assert {site["name"] for site in attached["sites"]} == SITE_NAMES
    assert {site["placement"] for site in attached["sites"]} == {"untouched"}
    assert bytes_in_memory(server.pid, attached) == bytes_in_file(attached["exe"], attached)
    requests = run_wrk(server.url)
    end = tracer.stop()
    assert set(hits_by_name(end).values()) == {0}
    # At least one read and one write for every request, each seen entering and leaving.
    assert end["tracepoint_hits"] >= 4 * requests
    assert end["events"]["emitted"] >= 2 * requests
    assert end["events"]["received"] == end["events"]["emitted"]
    assert end["events"]["lost"] == 0


# --- what it counts


@pytest.mark.parametrize("attach", ATTACH_MODES)
def test_hits_equal_requests_under_load(
    attach: str, start_server: StartServer, start_tracer: StartTracer
) -> None:
    server = start_server("https")
    tracer = start_tracer(server.pid, "--attach", attach)
    tracer.read()
    requests = run_wrk(server.url)
    end = tracer.stop()
    hits = hits_by_name(end)
    # An instruction that is begun anew (a page fault or a signal while the kernel steps it) hits
    # its probe again: seen once in some ten thousand hits of a busy machine.
    again = 1 + requests // 1000
    # wrk hangs up on requests that are on their way when its time is over.
    assert requests <= hits["tls_write"] <= requests + CONNECTIONS + again
    assert 2 * requests <= hits["tls_read"] <= 2 * requests + 4 * CONNECTIONS + 2 * again
    assert abs(hits["tls_write_ret"] - hits["tls_write"]) <= CONNECTIONS
    assert abs(hits["tls_read_ret"] - hits["tls_read"]) <= CONNECTIONS
    assert hits["casgstatus"] > 2 * requests
    # An answer gives one TLS event each way, besides those of its system calls.
    assert end["events"]["emitted"] >= 4 * requests
    assert end["events"]["received"] == end["events"]["emitted"]
    assert end["events"]["lost"] == 0


def test_both_ways_to_attach_count_the_same(
    start_server: StartServer, start_tracer: StartTracer
) -> None:
    server = start_server("https")
    tracers = [start_tracer(server.pid, "--attach", attach) for attach in ATTACH_MODES]
    multi, perf = (tracer.read() for tracer in tracers)
    assert (multi["attach"], perf["attach"]) == ATTACH_MODES
    assert multi["sites"] == perf["sites"]
    load_until_rest(server)
    first, second = (hits_by_name(tracer.stop()) for tracer in tracers)
    assert set(first) == set(second) == SITE_NAMES
    assert_same_hits(first, second)


def test_plain_http_never_reaches_tls(start_server: StartServer, start_tracer: StartTracer) -> None:
    server = start_server("http")
    tracer = start_tracer(server.pid)
    tracer.read()
    requests = run_wrk(server.url)
    hits = hits_by_name(tracer.stop())
    assert hits.pop("casgstatus") > requests
    assert set(hits.values()) == {0}


def test_another_process_of_the_same_binary_is_not_counted(
    start_server: StartServer, start_tracer: StartTracer
) -> None:
    traced, other = start_server("https"), start_server("https")
    tracers = [start_tracer(traced.pid, "--attach", attach) for attach in ATTACH_MODES]
    attached = [tracer.read() for tracer in tracers]
    assert bytes_in_memory(other.pid, attached[0]) == bytes_in_file(attached[0]["exe"], attached[0])
    run_wrk(other.url)
    for tracer in tracers:
        end = tracer.stop()
        hits = hits_by_name(end)
        hits.pop("casgstatus")
        assert set(hits.values()) == {0}
        assert end["events"]["emitted"] == 0


def test_counters_on_sigusr1(start_server: StartServer, start_tracer: StartTracer) -> None:
    server = start_server("https")
    tracer = start_tracer(server.pid)
    tracer.read()
    before = tracer.counters()
    requests = run_wrk(server.url)
    after = tracer.counters()
    assert set(hits_by_name(before)) == SITE_NAMES
    assert after["monotonic_ns"] - before["monotonic_ns"] >= 1_000_000_000
    assert hits_by_name(after)["tls_write"] - hits_by_name(before)["tls_write"] >= requests
    assert after["tracepoint_hits"] > before["tracepoint_hits"]
    end = tracer.stop()
    assert end["monotonic_ns"] > after["monotonic_ns"]
    assert hits_by_name(end)["tls_write"] >= hits_by_name(after)["tls_write"]


def test_events_carry_plain_text_goroutine_and_socket(
    start_server: StartServer, start_tracer: StartTracer, tls_files: tuple[Path, Path]
) -> None:
    server = start_server("https", "-body-bytes", "600")
    tracer = start_tracer(server.pid, "--print-events", "1000")
    tracer.read()
    command = ["curl", "-sS", "--http1.1", "--cacert", str(tls_files[0]), server.url]
    subprocess.run(command, capture_output=True, check=True)
    tracer.process.send_signal(signal.SIGTERM)
    output, _ = tracer.process.communicate(timeout=EXIT_TIMEOUT_S)
    events = [json.loads(line) for line in output.splitlines()][:-1]
    reads = [event for event in events if event.get("source") == "tls_read"]
    writes = [event for event in events if event.get("source") == "tls_write"]
    assert reads[0]["payload"].startswith("GET / HTTP/1.1\r\n")
    assert writes[0]["payload"].startswith("HTTP/1.1 200 OK\r\n")
    # The whole answer went out; the event keeps its first bytes.
    assert writes[0]["result"] > 600
    assert len(writes[0]["payload"]) == 256
    # One goroutine reads the request and answers it (another one waits for the next request),
    # through one socket, which the system calls name too.
    assert reads[0]["goroutine"] == writes[0]["goroutine"]
    assert 0 < writes[0]["goroutine"] < 10_000
    sockets = {event["fd"] for event in reads + writes}
    system_calls = [event for event in events if event.get("source") == "syscall"]
    assert len(sockets) == 1
    assert sockets <= {event["fd"] for event in system_calls if event["syscall"] == 1}
    assert all(event["duration_ns"] > 0 for event in events)


def test_an_unread_stdout_does_not_stop_the_tracing(
    start_server: StartServer, start_tracer: StartTracer
) -> None:
    server = start_server("https")
    tracer = start_tracer(server.pid)
    tracer.read()
    # More lines than a pipe holds, none of them read while the load runs.
    asked = 0
    with wrk_in_background(server.url):
        deadline_s = time.monotonic() + 1.0
        while time.monotonic() < deadline_s:
            tracer.process.send_signal(signal.SIGUSR1)
            asked += 1
            time.sleep(POLL_INTERVAL_S)
    wrk_requests = run_wrk(server.url)
    tracer.process.send_signal(signal.SIGTERM)
    end, code, errors = tracer.finish()
    assert (code, errors) == (0, "")
    assert asked > 100
    assert hits_by_name(end)["tls_write"] > wrk_requests
    assert end["events"]["received"] == end["events"]["emitted"]
    assert end["events"]["lost"] == 0


def test_events_that_nobody_reads_leave_room_for_the_end(
    start_server: StartServer, start_tracer: StartTracer
) -> None:
    server = start_server("http")
    tracer = start_tracer(server.pid, "--print-events", "1000000")
    tracer.read()
    # Some events of 200 bytes for each request: more than gotrace keeps for a reader, and than a
    # pipe does.
    requests = 0
    while requests < 8_000:
        requests += run_wrk(server.url)
    tracer.process.send_signal(signal.SIGTERM)
    wait_for(lambda: BREAKPOINT not in first_bytes(server))
    end, code, errors = tracer.finish()
    assert (code, errors) == (0, "")
    assert end["events"]["received"] == end["events"]["emitted"]


def test_nobody_ever_reads_and_it_still_ends(
    start_server: StartServer, gotrace_binaries: Path
) -> None:
    server = start_server("http")
    reader, writer = os.pipe()
    fill(writer)
    command = [str(gotrace_binaries / "gotrace"), "--pid", str(server.pid)]
    process = subprocess.Popen(command, stdout=writer)
    wait_for(lambda: BREAKPOINT in first_bytes(server))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=EXIT_TIMEOUT_S) == 0
    assert BREAKPOINT not in first_bytes(server)
    os.close(reader)
    os.close(writer)


def fill(pipe: int) -> None:
    """Writes until the pipe takes no more."""
    os.set_blocking(pipe, False)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, b"\n" * 4096)
    os.set_blocking(pipe, True)


# --- how it ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_under_load_leaves_a_server_that_answers(
    number: signal.Signals, start_server: StartServer, start_tracer: StartTracer
) -> None:
    server = start_server("https")
    tracer = start_tracer(server.pid)
    attached = tracer.read()
    with wrk_in_background(server.url):
        wait_for(lambda: hits_by_name(tracer.counters())["tls_write"] > 100)
        end = tracer.stop(number)
    assert end["detach_ms"] > 0
    assert end["events"]["received"] == end["events"]["emitted"]
    assert bytes_in_memory(server.pid, attached) == bytes_in_file(attached["exe"], attached)
    assert run_wrk(server.url) > 0


@pytest.mark.parametrize("attach", ATTACH_MODES)
@pytest.mark.parametrize("delay_ms", [0, 15, 25, 35, 55])
def test_signal_while_attaching(
    attach: str, delay_ms: int, start_server: StartServer, start_tracer: StartTracer
) -> None:
    server = start_server("https")
    tracer = start_tracer(server.pid, "--attach", attach)
    tracer.wait_for_order()
    # Not a wait for anything: the moment is the case.
    time.sleep(delay_ms / 1000)
    tracer.process.send_signal(signal.SIGTERM)
    end, code, errors = tracer.finish()
    assert (code, errors, end["reason"]) == (0, "", "SIGTERM")
    assert BREAKPOINT not in first_bytes(server)


def test_killed_tracer_leaves_no_probe(
    start_server: StartServer, start_tracer: StartTracer
) -> None:
    server = start_server("https")
    tracer = start_tracer(server.pid)
    attached = tracer.read()
    tracer.process.kill()
    tracer.process.wait()
    original = bytes_in_file(attached["exe"], attached)
    wait_for(lambda: bytes_in_memory(server.pid, attached) == original)
    assert run_wrk(server.url) > 0


@pytest.mark.parametrize("attach", ATTACH_MODES)
def test_target_killed_while_traced(
    attach: str, start_server: StartServer, start_tracer: StartTracer
) -> None:
    server = start_server("https")
    tracer = start_tracer(server.pid, "--attach", attach)
    tracer.read()
    with wrk_in_background(server.url):
        wait_for(lambda: hits_by_name(tracer.counters())["tls_write"] > 100)
        server.process.kill()
        end, code, errors = tracer.finish()
    assert code == 17
    assert end["reason"] == "target exited"
    assert hits_by_name(end)["tls_write"] > 100
    assert end["events"]["received"] == end["events"]["emitted"]
    assert_one_line(errors)
    assert f"process {server.pid} exited" in errors


@pytest.mark.parametrize("attach", ATTACH_MODES)
@pytest.mark.parametrize("delay_ms", [0, 5, 15, 25, 35, 45])
def test_target_killed_while_attaching(
    attach: str, delay_ms: int, start_server: StartServer, start_tracer: StartTracer
) -> None:
    server = start_server("https")
    tracer = start_tracer(server.pid, "--attach", attach)
    time.sleep(delay_ms / 1000)
    server.process.kill()
    server.process.wait()
    output, errors = tracer.process.communicate(timeout=EXIT_TIMEOUT_S)
    assert tracer.process.returncode in {10, 17}
    assert_one_line(errors)
    assert bool(output) == (tracer.process.returncode == 17)


# --- PID namespaces

NAMESPACE_SCRIPT = """
set -eu
server=$1 gotrace=$2 directory=$3
cd "$directory"
"$server" -port 0 >ready &
target=$!
until grep -q ready ready; do sleep 0.01; done
"$gotrace" --pid "$target" >lines &
tracer=$!
until grep -q attached lines; do sleep 0.01; done
wrk -t1 -c8 -d1s "$(cut -d' ' -f2 ready)" >load
kill "$tracer"
wait "$tracer"
kill "$target"
wait "$target"
"""


def test_inside_a_pid_namespace(
    server_binaries: Path, gotrace_binaries: Path, tmp_path: Path
) -> None:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", NAMESPACE_SCRIPT, "sh"]
    command += [str(server_binaries / "go-server-http"), str(gotrace_binaries / "gotrace")]
    subprocess.run([*command, str(tmp_path)], check=True)
    load = (tmp_path / "load").read_text(encoding="utf-8")
    lines = (tmp_path / "lines").read_text(encoding="utf-8").splitlines()
    attached, end = json.loads(lines[0]), json.loads(lines[-1])
    found = re.search(r"(\d+) requests in", load)
    assert found
    assert attached["pid"] < 10
    assert hits_by_name(end)["casgstatus"] > int(found[1]) > 0
    assert end["tracepoint_hits"] >= 4 * int(found[1])


def test_target_in_a_pid_namespace_below(
    start_server: StartServer, start_tracer: StartTracer
) -> None:
    # --kill-child: when the test kills unshare, the server goes with it.
    unshare = start_server("http", prefix=("unshare", "--pid", "--fork", "--kill-child"))
    children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
    target = int(children.read_text(encoding="ascii"))
    assert unshare.ready_line.endswith("pid=1\n")
    tracer = start_tracer(target)
    tracer.read()
    requests = run_wrk(unshare.url)
    end = tracer.stop()
    assert hits_by_name(end)["casgstatus"] > requests
    assert end["tracepoint_hits"] >= 4 * requests


# --- what it refuses


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ([], "--pid"),
        (["--pid"], "--pid"),
        (["--pid", "zero"], "'zero'"),
        (["--pid", "-4"], "'-4'"),
        (["--pid", "0"], "'0'"),
        (["--pid", "1", "--attach", "ptrace"], "'ptrace'"),
        (["--pid", "1", "--print-events", "many"], "'many'"),
        (["--pid", "1", "--bogus"], "--bogus"),
        (["--pid", "1", "leftover"], "'leftover'"),
    ],
)
def test_usage_errors(arguments: list[str], cause: str, gotrace_binaries: Path) -> None:
    code, line = fails([str(gotrace_binaries / "gotrace"), *arguments])
    assert code == 2
    assert cause in line


def test_help_names_every_exit_code(gotrace_binaries: Path) -> None:
    command = [str(gotrace_binaries / "gotrace"), "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    readme = (ROOT / "tracers" / "gotrace" / "README.md").read_text(encoding="utf-8")
    codes = re.findall(r"^  (\d+) ", text, re.MULTILINE)
    assert codes == ["0", "2", *(str(code) for code in range(10, 19))]
    assert re.findall(r"^\| (\d+) \|", readme, re.MULTILINE) == codes


def trace(gotrace_binaries: Path, pid: int, *arguments: str) -> list[str]:
    return [str(gotrace_binaries / "gotrace"), "--pid", str(pid), *arguments]


def test_no_such_process(gotrace_binaries: Path) -> None:
    ended = subprocess.Popen(["true"])
    # A zombie still has its number, but nothing to trace.
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    code, line = fails(trace(gotrace_binaries, ended.pid))
    assert (code, str(ended.pid) in line) == (10, True)
    ended.wait()
    code, line = fails(trace(gotrace_binaries, ended.pid))
    assert (code, f"no process {ended.pid}" in line) == (10, True)


def test_not_a_go_program(gotrace_binaries: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        wait_for(lambda: Path(f"/proc/{process.pid}/exe").resolve().name == "sleep")
        code, line = fails(trace(gotrace_binaries, process.pid))
        process.kill()
    assert code == 11
    assert "not a Go program" in line


def test_unknown_symbol(gotrace_binaries: Path, tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module bare\n\ngo 1.19\n", encoding="ascii")
    source = 'package main\n\nimport "os"\n\nfunc main() { os.Stdin.Read(make([]byte, 1)) }\n'
    (tmp_path / "main.go").write_text(source, encoding="ascii")
    subprocess.run(["go", "build", "-o", "bare", "."], cwd=tmp_path, check=True)
    with subprocess.Popen([str(tmp_path / "bare")], stdin=subprocess.PIPE) as process:
        wait_for(lambda: Path(f"/proc/{process.pid}/exe").resolve().name == "bare")
        code, line = fails(trace(gotrace_binaries, process.pid))
    assert code == 11
    assert "crypto/tls.(*Conn)." in line


def test_stripped_binary(
    gotrace_binaries: Path, server_binaries: Path, start_server: StartServer, tmp_path: Path
) -> None:
    stripped = tmp_path / "go-server-http"
    subprocess.run(
        ["strip", "-o", str(stripped), str(server_binaries / "go-server-http")], check=True
    )
    server = start_server("http", binary=stripped)
    code, line = fails(trace(gotrace_binaries, server.pid))
    assert code == 12
    assert str(stripped) in line


def test_deleted_binary_is_traced_all_the_same(
    server_binaries: Path, start_server: StartServer, start_tracer: StartTracer, tmp_path: Path
) -> None:
    copy = tmp_path / "go-server-http"
    shutil.copy2(server_binaries / "go-server-http", copy)
    server = start_server("http", binary=copy)
    copy.unlink()
    tracer = start_tracer(server.pid)
    assert tracer.read()["exe"] == f"{copy} (deleted)"
    requests = run_wrk(server.url)
    assert hits_by_name(tracer.stop())["casgstatus"] > requests


def test_missing_btf(gotrace_binaries: Path, start_server: StartServer, tmp_path: Path) -> None:
    server = start_server("http")
    nowhere = tmp_path / "none"
    code, line = fails(trace(gotrace_binaries, server.pid, "--btf", str(nowhere)))
    assert (code, str(nowhere) in line) == (13, True)
    nowhere.write_bytes(b"no BTF")
    code, line = fails(trace(gotrace_binaries, server.pid, "--btf", str(nowhere)))
    assert (code, str(nowhere) in line) == (13, True)
    hide = 'mount -t tmpfs none /sys/kernel/btf; exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", hide, "sh"]
    code, line = fails([*command, *trace(gotrace_binaries, server.pid)])
    assert (code, "/sys/kernel/btf/vmlinux" in line) == (13, True)


def test_no_permission(
    gotrace_binaries: Path,
    server_binaries: Path,
    start_server: StartServer,
) -> None:
    # pytest's directories are closed to other users.
    open_directory = Path(os.path.realpath("/tmp")) / f"uplab-open-{os.getpid()}"
    open_directory.mkdir(mode=0o755)
    try:
        gotrace = Path(shutil.copy2(gotrace_binaries / "gotrace", open_directory))
        binary = Path(shutil.copy2(server_binaries / "go-server-http", open_directory))
        foreign = start_server("http")
        own = start_server("http", prefix=UNPRIVILEGED, binary=binary)
        for server in (foreign, own):
            code, line = fails([*UNPRIVILEGED, *trace(gotrace.parent, server.pid)])
            assert code == 14
            assert "no permission" in line
    finally:
        shutil.rmtree(open_directory)


def test_refused_programs(
    gotrace_binaries: Path, start_server: StartServer, tmp_path: Path
) -> None:
    # A BTF that holds nothing but an int: the programs' accesses cannot be placed.
    strings = b"\0int\0"
    types = struct.pack("<IIII", 1, 1 << 24, 4, 1 << 24 | 32)
    sizes = (0, len(types), len(types), len(strings))
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, *sizes)
    btf = tmp_path / "tiny.btf"
    btf.write_bytes(header + types + strings)
    server = start_server("http")
    code, line = fails(trace(gotrace_binaries, server.pid, "--btf", str(btf)))
    assert code == 15
    assert "refused" in line


def test_attaching_fails(gotrace_binaries: Path, start_server: StartServer) -> None:
    server = start_server("http")
    command = trace(gotrace_binaries, server.pid, "--attach", "perf_event")
    code, line = fails(["prlimit", "--nofile=30", *command])
    assert code == 16
    assert "ulimit -n" in line
    assert BREAKPOINT not in first_bytes(server)


# --- probe-cost


@pytest.mark.parametrize("attach", ATTACH_MODES)
def test_probe_cost(attach: str, gotrace_binaries: Path) -> None:
    command = [str(gotrace_binaries / "probe-cost"), "--attach", attach]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["class"], line["instruction"]) for line in lines] == [
        ("emulated", "55"),
        ("nop5", "0f1f440000"),
        ("single-stepped", "493b6610"),
        ("return", "c3"),
    ]
    for line in lines:
        assert line["error"] is None
        assert line["attach"] == attach
        assert line["hits"] == line["calls"] > 0
        assert line["ns_per_hit"] > 50


def test_probe_cost_with_a_number_of_hits(gotrace_binaries: Path) -> None:
    command = [str(gotrace_binaries / "probe-cost"), "--hits", "3000"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in map(json.loads, text.splitlines()):
        # Warm-up comes on top.
        assert 3000 <= line["hits"] <= 3500


def test_probe_cost_marks_a_class_that_cannot_be_measured(gotrace_binaries: Path) -> None:
    # Each probe takes descriptors: the limit lets the first classes in, not the last.
    command = ["prlimit", "--nofile=10", str(gotrace_binaries / "probe-cost")]
    command += ["--attach", "perf_event"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[0]["error"] is None
    assert lines[0]["ns_per_hit"] > 50
    assert "Too many open files" in lines[-1]["error"]
    assert lines[-1]["ns_per_hit"] is None
    assert len(lines) == 4


@pytest.mark.parametrize(
    "arguments", [["--hits"], ["--hits", "0"], ["--hits", "x"], ["--bogus"], ["left"]]
)
def test_probe_cost_usage_errors(arguments: list[str], gotrace_binaries: Path) -> None:
    code, _ = fails([str(gotrace_binaries / "probe-cost"), *arguments])
    assert code == 2


# --- the build


def test_build_depends_on_no_directory(gotrace_binaries: Path, tmp_path: Path) -> None:
    source = tmp_path / "elsewhere" / "source"
    shutil.copytree(ROOT / "tracers" / "gotrace", source)
    prefix, build = tmp_path / "prefix", tmp_path / "a" / "build"
    make = ["make", "-s", "-C", str(source), f"BUILD={build}", f"PREFIX={prefix}"]
    subprocess.run([*make, "install"], check=True)
    for name in ("gotrace", "probe-cost"):
        assert (prefix / "bin" / name).read_bytes() == (gotrace_binaries / name).read_bytes()
    subprocess.run([*make, "clean"], check=True)
    assert list(build.iterdir()) == []
