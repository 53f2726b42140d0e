"""What the tests of gotrace share: a gotrace that runs, loads, and the bytes of its sites."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.system.conftest import Server

ATTACH_MODES = ("uprobe_multi", "perf_event")
CONNECTIONS = 8
EXIT_TIMEOUT_S = 20.0
POLL_INTERVAL_S = 0.005
# An instruction that is begun anew (a page fault or a signal while the kernel steps it) hits its
# probe again: seen once in some ten thousand hits of a busy machine.
AGAIN_SHARE = 1 / 1000
BREAKPOINT = b"\xcc"
SITE_NAMES = {"casgstatus", "tls_write", "tls_write_ret", "tls_read", "tls_read_ret"}
PROBED = {
    "runtime.casgstatus": ("casgstatus", None),
    "crypto/tls.(*Conn).Write": ("tls_write", "tls_write_ret"),
    "crypto/tls.(*Conn).Read": ("tls_read", "tls_read_ret"),
}

Json = dict[str, Any]


class Tracer:
    """A gotrace that runs, and what it prints."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def wait_for_order(self) -> None:
        """Returns once a signal ends it in order: the first thing that it does is to say so."""
        status = Path(f"/proc/{self.process.pid}/status")
        wait_for(lambda: signal.SIGTERM in signals(status, "SigBlk"))

    def read(self) -> Json:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"gotrace ended: {self.process.communicate()[1]}"
        event: Json = json.loads(line)
        return event

    def counters(self) -> Json:
        self.process.send_signal(signal.SIGUSR1)
        counters = self.read()
        assert counters["event"] == "counters"
        return counters

    def finish(self) -> tuple[Json, int, str]:
        """The end line, the exit code and stderr of a gotrace that is about to exit."""
        output, errors = self.process.communicate(timeout=EXIT_TIMEOUT_S)
        end: Json = json.loads(output.splitlines()[-1])
        assert end["event"] == "end"
        return end, self.process.returncode, errors

    def stop(self, number: signal.Signals = signal.SIGTERM) -> Json:
        self.process.send_signal(number)
        end, code, errors = self.finish()
        assert (code, errors) == (0, "")
        assert end["reason"] == number.name
        return end


StartTracer = Callable[..., Tracer]


def signals(status: Path, name: str) -> set[int]:
    """The signals in a set of a process: ``SigBlk`` holds those that it has blocked."""
    line = re.search(rf"^{name}:\s+(\w+)$", status.read_text(encoding="utf-8"), re.MULTILINE)
    assert line, name
    return {number for number in range(1, 65) if int(line[1], 16) >> (number - 1) & 1}


def run_wrk(url: str, duration_s: int = 1) -> int:
    """Loads the server; returns how many requests were answered, all without an error."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{duration_s}s", url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Socket errors" not in text, text
    assert "Non-2xx" not in text, text
    found = re.search(r"(\d+) requests in", text)
    assert found, text
    return int(found[1])


def load_until_rest(server: Server) -> int:
    """Loads the server and waits until it has closed every connection; returns the requests."""
    before = sockets_of(server.pid)
    requests = run_wrk(server.url)
    wait_for(lambda: sockets_of(server.pid) <= before)
    return requests


def sockets_of(pid: int) -> int:
    """How many sockets a process has open."""
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        # One may be closed just now.
        with suppress(FileNotFoundError):
            found += str(link.readlink()).startswith("socket:")
    return found


def assert_same_hits(first: dict[str, int], second: dict[str, int]) -> None:
    """Both counted the same load: TLS rests between the two ends, the runtime does not."""
    for name in first.keys() & second.keys() - {"casgstatus"}:
        assert abs(first[name] - second[name]) <= 1 + first[name] * AGAIN_SHARE, name
    assert first["casgstatus"] == pytest.approx(second["casgstatus"], rel=0.05)


@contextmanager
def wrk_in_background(url: str) -> Iterator[None]:
    """A load that runs while the body of the with statement does."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", "-d60s", url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def hits_by_name(counters: Json) -> dict[str, int]:
    hits: Counter[str] = Counter()
    for site in counters["sites"]:
        hits[site["name"]] += site["hits"]
    return dict(hits)


def bytes_in_memory(pid: int, attached: Json) -> list[bytes]:
    """The first byte of every site, in the process (the servers are linked to fixed addresses)."""
    found = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for site in attached["sites"]:
            memory.seek(site["address"])
            found.append(memory.read(1))
    return found


def bytes_in_file(path: str, attached: Json) -> list[bytes]:
    content = Path(path).read_bytes()
    return [content[site["offset"] : site["offset"] + 1] for site in attached["sites"]]


def sites_by_objdump(binary: Path) -> set[tuple[str, int]]:
    """Name and address of every site, found without any code of gotrace's."""
    sites = set()
    for symbol, (entry_name, ret_name) in PROBED.items():
        command = ["objdump", f"--disassemble={symbol}", "--no-show-raw-insn", str(binary)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        lines = re.findall(r"^ +([0-9a-f]+):\s+(\S+)", text, re.MULTILINE)
        sites.add((entry_name, int(lines[0][0], 16)))
        if ret_name:
            sites |= {(ret_name, int(at, 16)) for at, name in lines if name.startswith("ret")}
    return sites


def fails(command: Sequence[str]) -> tuple[int, str]:
    """Runs a command that must fail: nothing on stdout, one line "program: cause: what to do"."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=EXIT_TIMEOUT_S, check=False
    )
    assert done.stdout == ""
    assert_one_line(done.stderr)
    return done.returncode, done.stderr


def assert_one_line(errors: str) -> None:
    assert errors.count("\n") == 1, errors
    assert re.fullmatch(r"(gotrace|probe-cost): \S.*: \S.*\n", errors), errors


def first_bytes(server: Server) -> bytes:
    """The first byte of runtime.casgstatus in the server."""
    executable = Path(f"/proc/{server.pid}/exe").resolve()
    address = next(at for name, at in sites_by_objdump(executable) if name == "casgstatus")
    with Path(f"/proc/{server.pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(1)
