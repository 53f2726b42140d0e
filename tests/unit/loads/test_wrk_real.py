"""loads/wrk with a real wrk: done.lua writes, collect() judges, and wrk's report stays whole."""

import os
import signal
import socketserver
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[3]
DONE_LUA = ROOT / "loads/wrk/done.lua"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nHello,World!"
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"

# Answers one connection until it ends; the event says that the test is over.
Behaviour = Callable[[socketserver.StreamRequestHandler, threading.Event], None]


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128


def answer(response: bytes) -> Behaviour:
    def behave(connection: socketserver.StreamRequestHandler, _over: threading.Event) -> None:
        for line in connection.rfile:
            if line == b"\r\n":
                connection.wfile.write(response)

    return behave


def hang(_connection: socketserver.StreamRequestHandler, over: threading.Event) -> None:
    over.wait(60)


def stall_once() -> Behaviour:
    """Answer at once, but one request in the middle of the run only after 0.3 s."""
    stalled = threading.Lock()
    begin = time.monotonic()

    def behave(connection: socketserver.StreamRequestHandler, over: threading.Event) -> None:
        for line in connection.rfile:
            if line != b"\r\n":
                continue
            if time.monotonic() > begin + 0.3 and stalled.acquire(blocking=False):
                over.wait(0.3)
            connection.wfile.write(OK)

    return behave


def hang_up_after(requests: int) -> Behaviour:
    """Answer some requests of a connection and then close it in the middle of an answer."""

    def behave(connection: socketserver.StreamRequestHandler, _over: threading.Event) -> None:
        answered = 0
        for line in connection.rfile:
            if line == b"\r\n":
                answered += 1
                connection.wfile.write(OK if answered < requests else OK[:-4])
                if answered == requests:
                    return

    return behave


@contextmanager
def serving(behave: Behaviour) -> Iterator[str]:
    over = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                behave(self, over)
            except (BrokenPipeError, ConnectionResetError):
                return  # wrk closes its connections at the end of its run

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            over.set()
            server.shutdown()
            thread.join()


def command(url: str, *options: str, script: Path = DONE_LUA) -> list[str]:
    return ["wrk", "--latency", "-t1", "-c2", "-d1s", *options, "-s", str(script), url]


def environment(scratch: Path | None) -> dict[str, str]:
    variables = {name: value for name, value in os.environ.items() if name != "UPLAB_LOAD_OUT"}
    return variables if scratch is None else variables | {"UPLAB_LOAD_OUT": str(scratch)}


def run_wrk(
    url: str, scratch: Path | None, *options: str, script: Path = DONE_LUA
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(url, *options, script=script),
        env=environment(scratch),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def collect(
    wrk: ModuleType, scratch: Path, done: subprocess.CompletedProcess[str]
) -> dict[str, Any]:
    result: dict[str, Any] = wrk.collect(scratch, done.returncode, done.stdout, done.stderr)
    return result


# --- through done.lua and collect ---------------------------------------------------------------


def test_a_run_that_counts(wrk: ModuleType, tmp_path: Path) -> None:
    with serving(answer(OK)) as url:
        done = run_wrk(url, tmp_path)
    result = collect(wrk, tmp_path, done)
    [printed] = wrk.parse(done.stdout, "text")
    assert done.stderr == ""
    assert result["problems"] == []
    assert result["requests"] == printed["requests"] > 0
    assert result["elapsed_s"] >= 1
    assert result["requests_per_s"] == result["requests"] / result["elapsed_s"]
    assert result["histogram_count"] == sum(result["histogram"]["counts"]) >= result["requests"]
    latency = result["latency_us"]
    ascending = [latency[name] for name in ("min", "p50", "p75", "p90", "p99", "p99_9", "p99_99")]
    assert ascending == sorted(ascending)
    assert latency["max"] == result["histogram"]["values_us"][-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "wrk-histogram.u4",
        "wrk-summary.json",
    ]


def test_the_correction_of_wrk_adds_latencies(wrk: ModuleType, tmp_path: Path) -> None:
    with serving(stall_once()) as url:
        done = run_wrk(url, tmp_path)
    result = collect(wrk, tmp_path, done)
    assert result["problems"] == []
    assert result["latency_us"]["max"] > 250_000
    assert result["histogram_count"] > result["requests"]


def test_percentiles_and_buckets_are_those_of_wrk(wrk: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "also-ask-wrk.lua"
    script.write_text(
        f"""
        dofile("{DONE_LUA}")
        local write = done
        function done(summary, latency, requests)
            write(summary, latency, requests)
            local file = io.open("{tmp_path}/asked", "w")
            for _, percent in ipairs({{50, 75, 90, 99, 99.9, 99.99}}) do
                file:write(latency:percentile(percent), "\\n")
            end
            for index = 1, #latency do
                local value, count = latency(index)
                file:write(value, " ", count, "\\n")
            end
            file:close()
        end
        """
    )
    with serving(answer(OK)) as url:
        done = run_wrk(url, tmp_path, script=script)
    result = collect(wrk, tmp_path, done)
    asked = (tmp_path / "asked").read_text().splitlines()
    names = ("p50", "p75", "p90", "p99", "p99_9", "p99_99")
    assert [result["latency_us"][name] for name in names] == [int(line) for line in asked[:6]]
    histogram = result["histogram"]
    buckets = zip(histogram["values_us"], histogram["counts"], strict=True)
    assert [f"{value} {count}" for value, count in buckets] == asked[6:]


def test_done_lua_leaves_the_static_request_path(tmp_path: Path) -> None:
    """What wrk's script_is_static(), script_want_response() and script_has_delay() look for."""
    script = tmp_path / "look.lua"
    script.write_text(
        f"""
        local before = {{}}
        for name in pairs(_G) do before[name] = true end
        dofile("{DONE_LUA}")
        local new = {{}}
        for name in pairs(_G) do if not before[name] then new[#new + 1] = name end end
        print("defines: " .. table.concat(new, " "))
        """
    )
    with serving(answer(OK)) as url:
        done = run_wrk(url, tmp_path, script=script)
    assert done.stdout.splitlines()[0] == "defines: done"


# --- what wrk itself does not call a failure ----------------------------------------------------


def test_a_hanging_server(wrk: ModuleType, tmp_path: Path) -> None:
    with serving(hang) as url:
        done = run_wrk(url, tmp_path)
    result = collect(wrk, tmp_path, done)
    assert done.returncode == 0
    assert result["problems"] == ["no request was completed"]
    assert result["requests"] == result["histogram_count"] == 0
    assert set(result["latency_us"].values()) == {None}


def test_a_server_that_closes_its_connections(wrk: ModuleType, tmp_path: Path) -> None:
    with serving(hang_up_after(20)) as url:
        done = run_wrk(url, tmp_path)
    result = collect(wrk, tmp_path, done)
    assert done.returncode == 0
    assert result["socket_errors"]["read"] > 0
    assert [problem.split(":")[0] for problem in result["problems"]] == ["socket errors"]


def test_a_server_that_refuses_to_serve(wrk: ModuleType, tmp_path: Path) -> None:
    with serving(answer(UNAVAILABLE)) as url:
        done = run_wrk(url, tmp_path)
    result = collect(wrk, tmp_path, done)
    assert done.returncode == 0
    assert result["non_2xx_responses"] == result["requests"] > 0
    assert result["problems"] == [f"{result['requests']} responses were not 2xx or 3xx"]


def test_tls_spoken_to_a_plain_port(wrk: ModuleType, tmp_path: Path) -> None:
    with serving(answer(OK)) as url:
        done = run_wrk(url.replace("http:", "https:"), tmp_path)
    result = collect(wrk, tmp_path, done)
    assert done.returncode == 0
    assert "no request was completed" in result["problems"]


def test_an_interrupted_run(wrk: ModuleType, tmp_path: Path) -> None:
    answered = threading.Event()

    def tell(connection: socketserver.StreamRequestHandler, _over: threading.Event) -> None:
        for count, line in enumerate(connection.rfile):
            if line == b"\r\n":
                connection.wfile.write(OK)
            if count > 300:
                answered.set()

    with serving(tell) as url:
        process = subprocess.Popen(
            command(url, "-d30s"),
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                assert answered.wait(30)
                process.send_signal(signal.SIGINT)
                stdout, stderr = process.communicate(timeout=30)
            finally:
                process.kill()
    result = wrk.collect(tmp_path, process.returncode, stdout, stderr)
    assert process.returncode == 0
    [problem] = result["problems"]
    assert problem.startswith("ended after ")
    assert problem.endswith(" s of the announced 30s")


def test_nobody_listens(wrk: ModuleType, tmp_path: Path) -> None:
    done = run_wrk("http://127.0.0.1:1/", tmp_path)
    problems = collect(wrk, tmp_path, done)["problems"]
    assert problems[0] == ("wrk exited with 1: unable to connect to 127.0.0.1:1 Connection refused")


# --- where done.lua cannot write ----------------------------------------------------------------


def assert_only_the_files_are_missing(
    wrk: ModuleType, scratch: Path, done: subprocess.CompletedProcess[str], cause: str
) -> None:
    assert done.returncode == 0
    [report] = wrk.parse(done.stdout, "text")
    assert report["problems"] == []
    [said] = done.stderr.splitlines()
    assert said.startswith("done.lua: no summary and no histogram written: ")
    assert cause in said
    assert not (scratch / "wrk-summary.json").exists()
    [problem] = collect(wrk, scratch, done)["problems"]
    assert problem == f"done.lua left no wrk-summary.json: {said}"


def test_no_directory_is_named(wrk: ModuleType, tmp_path: Path) -> None:
    with serving(answer(OK)) as url:
        done = run_wrk(url, None)
    assert_only_the_files_are_missing(wrk, tmp_path, done, "UPLAB_LOAD_OUT names no directory")


def test_the_directory_is_missing(wrk: ModuleType, tmp_path: Path) -> None:
    with serving(answer(OK)) as url:
        done = run_wrk(url, tmp_path / "nowhere")
    assert_only_the_files_are_missing(wrk, tmp_path, done, "No such file or directory")


def test_the_disk_is_full(wrk: ModuleType, tmp_path: Path) -> None:
    # wrk writes to this name first; /dev/full answers as a full disk does
    (tmp_path / "wrk-histogram.u4.tmp").symlink_to("/dev/full")
    with serving(answer(OK)) as url:
        done = run_wrk(url, tmp_path)
    assert_only_the_files_are_missing(wrk, tmp_path, done, "No space left on device")
    assert list(tmp_path.iterdir()) == []


# --- where done.lua does not believe what it reads ----------------------------------------------

# Gives done() structs that look to it like wrk's userdata, with whatever `min` and number of
# buckets a case wants wrk's own methods to report.
FAKES = """
dofile("{done_lua}")
local ffi = require("ffi")
ffi.cdef("typedef struct {{ uplab_wrk_stats *stats; int case; }} fake_latency;")
local said = {{}}
ffi.metatype("fake_latency", {{
    __index = function(fake, name)
        if name == "min" or name == "max" then
            return said[fake.case][name] or tonumber(fake.stats[name])
        end
        return 1.0
    end,
    __len = function(fake) return said[fake.case].buckets end,
}})
local write = done
function done(summary)
    local function try(methods, head, data)
        local stats = ffi.new("uplab_wrk_stats", 8)
        for name, value in pairs(head) do stats[name] = value end
        for value, count in pairs(data) do stats.data[value] = count end
        said[#said + 1] = methods
        write(summary, ffi.new("fake_latency", stats, #said))
    end
    local sound = {{count = 5, limit = 8, min = 2, max = 3}}
    try({{buckets = 2, min = 1}}, sound, {{[2] = 1, [3] = 4}})
    try({{buckets = 2}}, {{count = 5, limit = 3, min = 2, max = 3}}, {{[2] = 1, [3] = 4}})
    try({{buckets = 1}}, sound, {{[2] = 1, [3] = 4}})
    try({{buckets = 3}}, sound, {{[2] = 1, [3] = 4}})
    try({{buckets = 2}}, sound, {{[2] = 1, [3] = 3}})
    try({{buckets = 2}}, sound, {{[2] = 1, [3] = 2^32}})
    try({{buckets = 1}}, {{count = 1, limit = 2^33, min = 2, max = 2^32}}, {{}})
    io.stderr:write("sound\\n")
    try({{buckets = 2}}, sound, {{[2] = 1, [3] = 4}})
end
"""


def test_figures_that_cannot_be_wrk_s(tmp_path: Path) -> None:
    script = tmp_path / "fakes.lua"
    script.write_text(FAKES.format(done_lua=DONE_LUA))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with serving(answer(OK)) as url:
        done = run_wrk(url, scratch, script=script)
    prefix = "done.lua: no summary and no histogram written: "
    assert [line.removeprefix(prefix) for line in done.stderr.splitlines()] == [
        "the statistics of this wrk are not laid out as in wrk 4.0 to 4.2",
        "the statistics of this wrk are not laid out as in wrk 4.0 to 4.2",
        "the histogram changed while it was read",
        "the histogram's counts do not add up to wrk's own",
        "the histogram's counts do not add up to wrk's own",
        "the count of 3 us does not fit 32 bits",
        "a latency of 4294967296 us does not fit 32 bits",
        "sound",
    ]
    assert (scratch / "wrk-histogram.u4").read_bytes() == struct.pack("<IIII", 2, 1, 3, 4)
