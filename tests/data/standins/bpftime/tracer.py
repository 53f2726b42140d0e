#!/usr/bin/python3
"""A stand-in for a tracer under bpftime, beside the stand-in for bpftime itself.

It takes gotrace's arguments and talks as gotrace does. Its userspace sites it writes into the
shared memory, where the stand-in's trampolines count their hits; its kernel sites a real gotrace
probes. Under the daemon (no --userspace) those of its sites that the daemon listed are userspace's.

flood   prints 40 MB before it is attached, and 4 MB before each of its counters
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from uplab.hostside import elf

SYMBOLS = {
    "casgstatus": "runtime.casgstatus",
    "tls_write": "crypto/tls.(*Conn).Write",
    "tls_read": "crypto/tls.(*Conn).Read",
}
# struct shared of shared.h
HEAD = struct.Struct("=8sII16iIi")
SITE = struct.Struct("=256sQQ")
COUNT_AT = 8
HEAD_BYTES = 64 << 10
FLOOD_BYTES = 40 << 20
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")


class Shared:
    """The shared memory; nothing is in it where nobody made it."""

    def __init__(self) -> None:
        self.data: bytearray | mmap.mmap = bytearray(HEAD_BYTES)
        path = Path("/dev/shm", os.environ.get("BPFTIME_GLOBAL_SHM_NAME", "bpftime_maps_shm"))
        if path.exists():
            with path.open("r+b") as file:
                self.data = mmap.mmap(file.fileno(), HEAD_BYTES)

    def listed_by_daemon(self) -> list[int]:
        """The offsets that the daemon listed for this process."""
        head = HEAD.unpack_from(self.data)
        if not head[-2] or head[-1] != os.getpid():
            return []
        return [offset for _, offset, _ in self.sites(head[1])]

    def sites(self, count: int) -> list[tuple[bytes, int, int]]:
        """File, offset and hits of the first sites."""
        return [
            SITE.unpack_from(self.data, HEAD.size + index * SITE.size) for index in range(count)
        ]

    def write(self, file: str, offsets: list[int]) -> None:
        """Ask for probes."""
        for index, offset in enumerate(offsets):
            SITE.pack_into(self.data, HEAD.size + index * SITE.size, file.encode(), offset, 0)
        struct.pack_into("=I", self.data, COUNT_AT, len(offsets))

    def hits(self) -> dict[int, int]:
        """Hits by offset."""
        return {offset: hits for _, offset, hits in self.sites(HEAD.unpack_from(self.data)[1])}


class UserspacePart:
    """A child with the library before it, which makes the shared memory; none without library."""

    def __init__(self, preload: str | None) -> None:
        self.process = None
        if preload:
            # By env: what starts it must not load the library, too.
            command = [*DIES_WITH_US, "env", f"LD_PRELOAD={preload}", "cat"]
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            # Its answer says that it runs, and the library did before it.
            self.process.stdin.write("ready\n")
            self.process.stdin.flush()
            self.process.stdout.readline()

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.communicate()


class KernelPart:
    """A real gotrace for the sites that stay in the kernel; none where there are none."""

    def __init__(self, program: str, pid: int, names: list[str]) -> None:
        self.attached: dict[str, Any] = {"sites": []}
        self.process = None
        if names:
            command = [*DIES_WITH_US, program, "--pid", str(pid), "--kernel", ",".join(names)]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            self.attached = self.read()

    def read(self) -> dict[str, Any]:
        """Its next line."""
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit("stand-in: its gotrace ended")
        message: dict[str, Any] = json.loads(line)
        return message

    def counters(self) -> list[dict[str, Any]]:
        """Its sites with their hits."""
        if self.process is None:
            return []
        self.process.send_signal(signal.SIGUSR1)
        sites: list[dict[str, Any]] = self.read()["sites"]
        return sites

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.terminate()
            self.process.communicate()


def say(event: str, sites: list[dict[str, Any]]) -> None:
    """A line of the tracers' contract."""
    hits = sum(site.get("hits", 0) for site in sites)
    counts = {"emitted": hits, "received": hits, "lost": 0}
    message = {"event": event, "attach": "bpftime", "sites": sites, "events": counts}
    print(json.dumps(message), flush=True)


def flood(size: int) -> None:
    """Output that nobody wants to read."""
    for _ in range(size // 1024):
        print("x" * 1023)


def arguments() -> argparse.Namespace:
    """The command line: gotrace's, and what only this needs."""

    def names(text: str) -> list[str]:
        return [name for name in text.split(",") if name]

    parser = argparse.ArgumentParser()
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--gotrace", required=True)
    parser.add_argument("--userspace", type=names, default=[])
    parser.add_argument("--kernel", type=names, default=[])
    parser.add_argument("--attach")
    parser.add_argument("--preload")
    parser.add_argument("--map-kind")
    parser.add_argument("--behaviour", default="")
    return parser.parse_args()


def main() -> None:
    """Ask for the probes, say so, and give the counters until the end."""
    known = {signal.SIGUSR1, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, known)
    given = arguments()
    # Not for what it starts: the library is before this program alone.
    os.environ.pop("LD_PRELOAD", None)
    part = UserspacePart(given.preload)
    program = Path(f"/proc/{given.pid}/exe")
    found = elf.symbols(program, SYMBOLS.values())
    offsets = {name: found[symbol].offset for name, symbol in SYMBOLS.items()}
    shared = Shared()
    userspace = {offsets[name]: name for name in given.userspace}
    if userspace:
        shared.write(str(program.readlink()), list(userspace))
    else:
        listed = shared.listed_by_daemon()
        userspace = {offsets[n]: n for n in given.kernel if offsets.get(n) in listed}
    rest = [name for name in given.kernel if name not in userspace.values()]
    kernel = KernelPart(given.gotrace, given.pid, rest)

    def sites(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        hits = shared.hits()
        own = [
            {"name": name, "offset": at, "placement": "userspace", "hits": hits[at]}
            for at, name in userspace.items()
        ]
        # gotrace lists the sites that it leaves alone, too.
        return own + [part for part in parts if part["offset"] not in userspace]

    if given.behaviour == "flood":
        flood(FLOOD_BYTES)
    say("attached", sites(kernel.attached["sites"]))
    while signal.sigwait(known) == signal.SIGUSR1:
        if given.behaviour == "flood":
            flood(FLOOD_BYTES // 10)
        say("counters", sites(kernel.counters()))
    say("end", sites(kernel.counters()))
    kernel.stop()
    part.stop()


main()
