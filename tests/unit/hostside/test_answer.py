"""uplab/hostside/answer.py: one real request to real servers, also to ones that misbehave."""

import http.server
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from uplab.hostside.answer import ask, check
from uplab.hostside.errors import TrialError
from uplab.hostside.spec import Answer

BODY = b"Hello,World!"
SEEN = {"status": 200, "protocol": "HTTP/1.1", "body_bytes": 12}


PATHS: list[str] = []
"""What was asked for, of the server that runs now."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        PATHS.append(self.path)
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: a test's output is for what failed."""

    def log_error(self, *args: object) -> None:
        """Nothing, too."""


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        PATHS.clear()
        try:
            scheme = "https" if context else "http"
            yield f"{scheme}://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def speaking(speak: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that accepts one connection, reads a little, and then does as it likes."""

    def serve() -> None:
        with suppress(OSError):
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                speak(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder = tmp_path_factory.mktemp("tls")
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    argv += ["-nodes", "-subj", "/CN=elsewhere.example", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(argv, cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def refused(url: str, wanted: Answer | None = None, body_bytes: int = 12) -> TrialError:
    with pytest.raises(TrialError) as caught:
        check(url, wanted or Answer(), body_bytes, "before")
    return caught.value


def test_the_right_answer_by_http() -> None:
    with serving() as url:
        assert check(url, Answer(), 12, "before") == SEEN
    assert PATHS == ["/"]


def test_the_right_answer_by_https_with_a_certificate_that_nobody_signed(
    tls: ssl.SSLContext,
) -> None:
    with serving(tls) as url:
        assert check(url, Answer(), 12, "before") == SEEN


def test_path_and_query_are_asked_for() -> None:
    with serving() as url:
        ask(f"{url}a/b?size=12&x=%20")
    assert PATHS == ["/a/b?size=12&x=%20"]


@pytest.mark.parametrize(
    ("path", "wanted", "body_bytes"),
    [
        ("missing", Answer(), 12),
        ("", Answer(status=204), 12),
        ("", Answer(protocol="HTTP/1.0"), 12),
        ("", Answer(), 13),
    ],
)
def test_a_wrong_status_protocol_or_length_is_told_with_what_was_wanted(
    path: str, wanted: Answer, body_bytes: int
) -> None:
    with serving() as url:
        error = refused(url + path, wanted, body_bytes)
    assert error.code == "wrong-answer"
    status = 404 if path else 200
    assert error.text == (
        f"answer before the load was {SEEN | {'status': status}}, wanted "
        f"{ {'status': wanted.status, 'protocol': wanted.protocol, 'body_bytes': body_bytes} }"
    )


def test_a_redirect_is_not_followed() -> None:
    answer = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    with speaking(lambda c: c.sendall(answer)) as url:
        assert ask(url) == {"status": 302, "protocol": "HTTP/1.1", "body_bytes": 0}


def test_nobody_there() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/"
        error = refused(url)
    assert error.code == "no-answer"
    assert error.text.startswith(f"no answer before the load from {url}: ConnectionRefusedError: ")


def close(connection: socket.socket) -> None:
    connection.close()


def babble(connection: socket.socket) -> None:
    connection.sendall(b"this is not HTTP\r\n\r\n")


def cut(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nHello")


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0] + [0] * 4))


@pytest.mark.parametrize("speak", [close, babble, cut, reset])
def test_an_answer_that_is_none(speak: Callable[[socket.socket], None]) -> None:
    with speaking(speak) as url:
        assert refused(url).code == "no-answer"


def test_https_to_a_server_that_speaks_http() -> None:
    with serving() as url:
        error = refused(url.replace("http:", "https:"))
    assert error.code == "no-answer"
    assert "SSL" in error.text


def test_http_to_a_server_that_speaks_https(tls: ssl.SSLContext) -> None:
    with serving(tls) as url:
        assert refused(url.replace("https:", "http:")).code in ("no-answer", "wrong-answer")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uplab.hostside.answer._TIMEOUT_S", 0.2)


@pytest.mark.usefixtures("quick")
def test_a_server_that_never_answers() -> None:
    done = threading.Event()
    with speaking(lambda _: (done.wait(10), None)[1]) as url:
        error = refused(url)
        done.set()
    assert error.code == "no-answer"
    assert "TimeoutError" in error.text


@pytest.mark.usefixtures("quick")
def test_a_server_that_answers_drop_by_drop_is_not_waited_for() -> None:
    """Each wait is bounded, not only each read: an interrupted run must end within seconds."""
    done = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1200):
            connection.sendall(b"x")
            if done.wait(0.05):
                return

    with speaking(drip) as url:
        began_s = time.monotonic()
        error = refused(url)
        took_s = time.monotonic() - began_s
        done.set()
    assert error.code in ("no-answer", "wrong-answer")
    assert took_s < 50.0, "waited for all 60 s of it"


@pytest.mark.usefixtures("quick")
def test_a_body_without_end_is_not_kept() -> None:
    sent = 0

    def pour(connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(64):
            connection.sendall(bytes(1 << 20))
            sent += 1 << 20

    with speaking(pour) as url:
        error = refused(url)
    assert error.code in ("no-answer", "wrong-answer")
    assert sent < 32 << 20, "all of it was read"
