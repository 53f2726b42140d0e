"""The two Go servers under test, as real processes on loopback."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.system.conftest import StartServer

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("https", "http")
NAMES = {"https": "go-server", "http": "go-server-http"}
SOURCES = {"go-server": "servers/https", "go-server-http": "servers/http"}
PATTERN = b"Hello,World!"
EXIT_TIMEOUT_S = 5.0
CONNECTIONS = 20
#: The main goroutine, the scavenger's, the one of finalizers and the like: idle under load. Those
#: of the garbage collector, as many as there are processors, are not among them.
RUNTIME_GOROUTINES = 7


def connect(kind: str, port: int, authority: Path) -> http.client.HTTPConnection:
    if kind == "http":
        return http.client.HTTPConnection("127.0.0.1", port, timeout=EXIT_TIMEOUT_S)
    context = ssl.create_default_context(cafile=str(authority))
    # The server is offered HTTP/2 and must not take it.
    context.set_alpn_protocols(["h2", "http/1.1"])
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=EXIT_TIMEOUT_S, context=context)


def fails(command: list[str]) -> tuple[int, str]:
    """Runs a command that must fail: nothing on stdout, one line on stderr."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=EXIT_TIMEOUT_S, check=False
    )
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body_bytes", [0, 1, 12, 13, 1024, 262144])
def test_answers_with_the_pattern_cut_to_the_size(
    kind: str, body_bytes: int, start_server: StartServer, tls_files: tuple[Path, Path]
) -> None:
    server = start_server(kind, "-body-bytes", str(body_bytes))
    # No retry: the line says that the socket listens already.
    connection = connect(kind, server.port, tls_files[0])
    for _ in range(2):
        connection.request("GET", "/")
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200
        assert response.version == 11
        assert response.getheader("Content-Type") == "text/plain"
        assert response.getheader("Content-Length") == str(body_bytes)
        assert body == (PATTERN * (body_bytes // len(PATTERN) + 1))[:body_bytes]
    connection.close()


@pytest.mark.parametrize("kind", KINDS)
def test_ready_line_names_url_body_and_pid(kind: str, start_server: StartServer) -> None:
    server = start_server(kind)
    url = f"{kind}://127.0.0.1:{server.port}/"
    assert server.ready_line == f"ready {url} body_bytes=12 pid={server.pid}\n"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_exits_at_once_with_a_connection_open(
    kind: str, number: signal.Signals, start_server: StartServer, tls_files: tuple[Path, Path]
) -> None:
    server = start_server(kind)
    connection = connect(kind, server.port, tls_files[0])
    connection.request("GET", "/")
    connection.getresponse().read()
    server.process.send_signal(number)
    # The connection stays open: who waited for it would wait for ever.
    assert server.process.wait(EXIT_TIMEOUT_S) == 0
    connection.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["-bogus"], "-bogus"),
        (["-port", "70000"], "-port 70000"),
        (["-port", "x"], "-port"),
        (["-body-bytes", "-1"], "-body-bytes -1"),
        (["-address", "nowhere"], "nowhere"),
        (["-stack-bytes", "3000"], "-stack-bytes 3000 is neither 0 nor a power of two in 2048..10"),
        (["-stack-bytes", "1024"], "-stack-bytes 1024"),
        (["-stack-bytes", "2097152"], "-stack-bytes 2097152"),
        (["-stack-bytes", "-2048"], "-stack-bytes -2048"),
        (["-stack-bytes", "big"], "-stack-bytes"),
        (["leftover"], "leftover"),
    ],
)
def test_bad_flag_is_usage_error(
    kind: str, arguments: list[str], cause: str, server_binaries: Path
) -> None:
    code, line = fails([str(server_binaries / NAMES[kind]), *arguments])
    assert code == 2
    assert line.startswith(f"{NAMES[kind]}: ")
    assert cause in line


def test_https_without_certificate_is_usage_error(server_binaries: Path) -> None:
    code, line = fails([str(server_binaries / "go-server"), "-port", "0"])
    assert code == 2
    assert "-cert and -key" in line


@pytest.mark.parametrize("kind", KINDS)
def test_port_in_use(kind: str, server_binaries: Path, tls_files: tuple[Path, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [str(server_binaries / NAMES[kind]), "-port", str(port)]
        if kind == "https":
            command += ["-cert", str(tls_files[0]), "-key", str(tls_files[1])]
        code, line = fails(command)
    assert code == 1
    assert f"127.0.0.1:{port}" in line
    assert "address already in use" in line


def test_bad_certificate(
    server_binaries: Path, tls_files: tuple[Path, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "cert.pem"
    broken.write_text("not a certificate\n", encoding="ascii")
    command = [str(server_binaries / "go-server"), "-port", "0"]
    code, line = fails([*command, "-cert", str(broken), "-key", str(tls_files[1])])
    assert code == 1
    assert str(broken) in line
    code, line = fails([*command, "-cert", str(tls_files[0]), "-key", str(tmp_path / "none")])
    assert code == 1
    assert str(tmp_path / "none") in line


def stacks(binary: Path, pid: int) -> list[int]:
    """The bytes of stack that each living goroutine has, from the runtime's own list of them."""
    symbols = subprocess.run(["nm", str(binary)], capture_output=True, text=True, check=True)
    lines = (line.split() for line in symbols.stdout.splitlines())
    address = next(int(line[0], 16) for line in lines if line[-1] == "runtime.allgs")
    found = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:

        def words(at: int, number: int) -> tuple[int, ...]:
            memory.seek(at)
            return struct.unpack(f"{number}Q", memory.read(8 * number))

        goroutines, number, _ = words(address, 3)
        # A goroutine's description begins with the bounds of its stack; one that ended has none.
        for goroutine in words(goroutines, number):
            low, high = words(goroutine, 2)
            found += [high - low] if low else []
    return found


def ask_on_many(kind: str, port: int, authority: Path) -> list[http.client.HTTPConnection]:
    """Connections that the server has answered a request on and that stay open."""
    connections = [connect(kind, port, authority) for _ in range(CONNECTIONS)]
    for connection in connections:
        connection.request("GET", "/")
        connection.getresponse().read()
    return connections


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stack_bytes", [32768, 65536])
def test_goroutines_begin_with_the_stack_that_was_asked_for(
    kind: str,
    stack_bytes: int,
    start_server: StartServer,
    server_binaries: Path,
    tls_files: tuple[Path, Path],
) -> None:
    server = start_server(kind, "-stack-bytes", str(stack_bytes))
    binary = server_binaries / NAMES[kind]
    connections = ask_on_many(kind, server.port, tls_files[0])
    assert stacks(binary, server.pid).count(stack_bytes) >= CONNECTIONS
    # And they keep it: a garbage collector that runs all the time halves no stack.
    command = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", "1s", server.url]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    seen = stacks(binary, server.pid)
    assert seen.count(stack_bytes) >= CONNECTIONS
    # All others are the runtime's own, and the main goroutine.
    assert len(seen) - seen.count(stack_bytes) <= RUNTIME_GOROUTINES
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("kind", KINDS)
def test_by_itself_a_server_has_go_s_own_stacks(
    kind: str, start_server: StartServer, server_binaries: Path, tls_files: tuple[Path, Path]
) -> None:
    server = start_server(kind)
    connections = ask_on_many(kind, server.port, tls_files[0])
    assert max(stacks(server_binaries / NAMES[kind], server.pid)) < 32768
    assert b"adaptivestackstart" not in Path(f"/proc/{server.pid}/environ").read_bytes()
    for connection in connections:
        connection.close()


def test_settings_of_the_go_runtime_are_kept(start_server: StartServer) -> None:
    prefix = ("env", "GODEBUG=madvdontneed=1")
    server = start_server("http", "-stack-bytes", "32768", prefix=prefix)
    environment = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
    assert b"GODEBUG=madvdontneed=1,adaptivestackstart=0,gcshrinkstackoff=1" in environment


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_symbols_a_server_cannot_choose_the_stack(
    kind: str, start_server: StartServer, tls_files: tuple[Path, Path], tmp_path: Path
) -> None:
    binary = tmp_path / NAMES[kind]
    argv = ["go", "build", "-ldflags=-s", "-o", str(binary), "."]
    subprocess.run(argv, cwd=ROOT / "servers" / kind, check=True)
    certificate, key = map(str, tls_files)
    tls = ["-cert", certificate, "-key", key] if kind == "https" else []
    code, line = fails([str(binary), "-port", "0", "-stack-bytes", "32768", *tls])
    assert code == 2
    assert "-stack-bytes takes a program with its symbol table: no symbol section" in line
    assert start_server(kind, "-stack-bytes", "0", binary=binary).ready_line.startswith("ready ")


@pytest.mark.parametrize("name", SOURCES)
def test_is_dynamic_and_keeps_the_probed_symbols(name: str, server_binaries: Path) -> None:
    binary = str(server_binaries / name)
    segments = subprocess.run(
        ["readelf", "-lW", binary], capture_output=True, text=True, check=True
    )
    assert "INTERP" in segments.stdout
    symbols = subprocess.run(
        ["nm", "--just-symbols", binary], capture_output=True, text=True, check=True
    )
    names = set(symbols.stdout.splitlines())
    assert {
        "runtime.casgstatus",
        "crypto/tls.(*Conn).Read",
        "crypto/tls.(*Conn).Write",
    } <= names


def test_build_depends_on_neither_directory_nor_cache(
    server_binaries: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "GOCACHE": str(tmp_path / "cache"), "CGO_ENABLED": "1"}
    command = ["go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-buildid="]
    copy = tmp_path / "elsewhere"
    shutil.copytree(ROOT / "servers", copy / "servers")
    for name, source in SOURCES.items():
        built = tmp_path / name
        argv = [*command, "-o", str(built), "."]
        subprocess.run(argv, cwd=copy / source, env=environment, check=True)
        assert built.read_bytes() == (server_binaries / name).read_bytes()
