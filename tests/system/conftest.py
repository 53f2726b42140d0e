"""Real servers and real tracers: built once a session, started by each test."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.lab import Lab
from tests.system.tracing import EXIT_TIMEOUT_S, StartTracer, Tracer

ROOT = Path(__file__).resolve().parents[2]
GO_BUILD = ("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-buildid=")
SERVER_SOURCES = {"go-server": "servers/https", "go-server-http": "servers/http"}
STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Server:
    """A server that has said it is ready."""

    process: subprocess.Popen[str]
    url: str
    ready_line: str

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1].rstrip("/"))


StartServer = Callable[..., Server]


@pytest.fixture(scope="session")
def server_binaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that holds go-server and go-server-http, built from servers/."""
    directory = tmp_path_factory.mktemp("servers")
    environment = {**os.environ, "CGO_ENABLED": "1"}
    for name, source in SERVER_SOURCES.items():
        command = [*GO_BUILD, "-o", str(directory / name), "."]
        subprocess.run(command, cwd=ROOT / source, env=environment, check=True)
    return directory


@pytest.fixture(scope="session")
def gotrace_binaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that holds gotrace and probe-cost, built from tracers/gotrace."""
    prefix = tmp_path_factory.mktemp("gotrace")
    source = ROOT / "tracers" / "gotrace"
    command = ["make", "-s", "-C", str(source), f"BUILD={prefix / 'build'}", f"PREFIX={prefix}"]
    subprocess.run([*command, "install"], check=True)
    return prefix / "bin"


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key, both PEM."""
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = directory / "cert.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.fixture
def start_server(server_binaries: Path, tls_files: tuple[Path, Path]) -> Iterator[StartServer]:
    """A function that starts go-server ("https") or go-server-http ("http") on a free port.

    In: the kind, further arguments of the server, ``prefix`` (a command that starts it) and
    ``binary`` (another build of it). Out: the server, ready. All are stopped after the test.
    """
    started: list[subprocess.Popen[str]] = []

    def start(
        kind: str, *arguments: str, prefix: Sequence[str] = (), binary: Path | None = None
    ) -> Server:
        name = {"https": "go-server", "http": "go-server-http"}[kind]
        command = [*prefix, str(binary or server_binaries / name), "-port", "0", *arguments]
        if kind == "https":
            command += ["-cert", str(tls_files[0]), "-key", str(tls_files[1])]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        ready_line = process.stdout.readline()
        assert ready_line.startswith("ready "), f"{name} said {ready_line!r}"
        return Server(process, ready_line.split()[1], ready_line)

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=STOP_TIMEOUT_S)


@pytest.fixture
def start_tracer(gotrace_binaries: Path) -> Iterator[StartTracer]:
    """A function that starts gotrace on a pid; all are killed after the test."""
    started: list[Tracer] = []

    def start(pid: int, *arguments: str, prefix: Sequence[str] = ()) -> Tracer:
        command = [*prefix, str(gotrace_binaries / "gotrace"), "--pid", str(pid), *arguments]
        tracer = Tracer(command)
        started.append(tracer)
        return tracer

    yield start
    for tracer in started:
        tracer.process.kill()
        tracer.process.communicate(timeout=EXIT_TIMEOUT_S)


@pytest.fixture(scope="session")
def programs(server_binaries: Path, gotrace_binaries: Path, readable_folder: Path) -> Path:
    """A prefix whose ``bin`` holds the servers and the tracer, as in the store."""
    prefix = readable_folder / "programs"
    (prefix / "bin").mkdir(parents=True)
    for folder in (server_binaries, gotrace_binaries):
        for program in folder.iterdir():
            if program.is_file():
                shutil.copy(program, prefix / "bin")
    return prefix


@pytest.fixture(scope="session")
def readable_folder() -> Iterator[Path]:
    """A folder that every user may enter, as the store is; pytest's own are for its user alone."""
    with tempfile.TemporaryDirectory(prefix="uplab-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def lab(programs: Path, tls_files: tuple[Path, Path], tmp_path: Path) -> Lab:
    """A whole lab in a temporary directory."""
    return Lab(tmp_path, programs, tls_files)
