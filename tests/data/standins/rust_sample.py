#!/usr/bin/python3
"""A stand-in for DeepFlow's rust_sample: rust_sample.py BEHAVIOUR FOLDER.

It says what it says, looks for Go programs as it does, in /proc, and sets the same kernel uprobes
in those that lie below FOLDER (nobody else's), by perf events with one BPF program for each kind of
site. For each TLS write that the kernel counts it prints two events, in its form.

works     as described
defiant   as works, with a view of its own on all processes, whatever is hidden from it
idle      says that it is ready, and touches nothing
silent    never says that it is ready
flood     as idle, and prints 30 MB in each second
memlock   ends as it does where it cannot raise its limit of locked memory
"""

import ctypes
import fcntl
import os
import platform
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

from uplab.hostside import elf, goprograms

READY = "2026-11-22 20:24:41 [eBPF] INFO tracer_start() finish"
CASGSTATUS = "runtime.casgstatus"
WRITE, READ = "crypto/tls.(*Conn).Write", "crypto/tls.(*Conn).Read"
EVENTS = "".join(
    f"<GO_TLS_HTTP1> RECONFIRM false DIR {direction} TYPE {kind} PID PPP THREAD_ID 1 COMM server\n"
    for direction, kind in ((1, 1), (0, 2))
)
FLOOD = (b"x" * 299 + b"\n") * 100

SYSCALLS = {"x86_64": (321, 298), "aarch64": (280, 241)}[platform.machine()]
BPF_PROG_LOAD, BPF_PROG_TYPE_KPROBE = 5, 2
RETURN_1 = bytes.fromhex("b700000001000000 9500000000000000")
PERF_ATTRIBUTES_BYTES = 72
PERF_SET_BPF, PERF_ENABLE = 0x40042408, 0x2400
UPROBE_PMU = Path("/sys/bus/event_source/devices/uprobe/type")
LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    behaviour, folder = sys.argv[1:]
    say("2026-11-22 20:24:31 [eBPF] INFO check_kernel_version Linux 6.2")
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    say(f"stand-in: sees {pids}, is {os.getpid()}, NO_UPROBE {os.environ.get('NO_UPROBE')}")
    if behaviour == "memlock":
        sys.exit('bpf_tracer_init() file:"/var/log/deepflow-ebpf.log" error')
    if behaviour == "silent":
        wait()
    if behaviour == "defiant":
        subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
    if behaviour in ("works", "defiant"):
        found = [p for p in goprograms.running() if p.exe.startswith(folder)]
        programs = {name: load() for name in ("casgstatus", "write", "writes", "read", "reads")}
        counters = {p.pid: probe(Path(p.exe), programs) for p in found}
        say(READY)
        tell(counters)
    say(READY)
    while behaviour == "flood":
        began_s = time.monotonic()
        for _ in range(10):
            os.write(1, FLOOD)
        time.sleep(max(0.0, began_s + 0.01 - time.monotonic()))
    wait()


def say(text: str) -> None:
    print(text, flush=True)


def wait() -> None:
    while True:
        time.sleep(60)


def probe(path: Path, programs: dict[str, int]) -> list[int]:
    """Set all probes in a program; out: descriptors that count its TLS writes."""
    found = elf.symbols(path, [CASGSTATUS, WRITE, READ])
    attach(path, found[CASGSTATUS].offset, programs["casgstatus"])
    for name, entry, exits in ((WRITE, "write", "writes"), (READ, "read", "reads")):
        if name in found:
            attach(path, found[name].offset, programs[entry])
            for offset in returns(path, found[name]):
                attach(path, offset, programs[exits])
    if WRITE not in found:
        return []
    cpus = range(os.cpu_count() or 1)
    return [perf_event(path, found[WRITE].offset, cpu) for cpu in cpus]


def tell(counters: dict[int, list[int]]) -> None:
    """Print the events of each process as they come, without end."""
    told = dict.fromkeys(counters, 0)
    while True:
        for pid, descriptors in counters.items():
            hits = sum(int.from_bytes(os.read(d, 8), "little") for d in descriptors)
            text = EVENTS.replace("PPP", str(pid)) * (hits - told[pid])
            if text:
                sys.stdout.write(text)
                sys.stdout.flush()
            told[pid] = hits
        time.sleep(0.02)


def returns(path: Path, symbol: elf.Symbol) -> list[int]:
    """The offsets of a function's RETs."""
    command = ["objdump", "-d", f"--start-address={symbol.address}"]
    command += [f"--stop-address={symbol.address + symbol.size_bytes}", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.findall(r"^\s*([0-9a-f]+):\s.*\sret\s*$", text, re.MULTILINE)
    return [int(address, 16) - symbol.address + symbol.offset for address in found]


def load() -> int:
    """A BPF program that only lets the event pass; out: its descriptor."""
    code, licence = ctypes.create_string_buffer(RETURN_1), ctypes.create_string_buffer(b"GPL")
    addresses = ctypes.addressof(code), ctypes.addressof(licence)
    attributes = struct.pack("=IIQQ", BPF_PROG_TYPE_KPROBE, len(RETURN_1) // 8, *addresses)
    return checked(LIBC.syscall(SYSCALLS[0], BPF_PROG_LOAD, attributes.ljust(72, b"\0"), 72))


def attach(path: Path, offset: int, program: int) -> None:
    descriptor = perf_event(path, offset, 0)
    fcntl.ioctl(descriptor, PERF_SET_BPF, program)
    fcntl.ioctl(descriptor, PERF_ENABLE, 0)


def perf_event(path: Path, offset: int, cpu: int) -> int:
    """A uprobe in every process of a program; out: its descriptor, which counts on one CPU."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    kind = int(UPROBE_PMU.read_text())
    head = struct.pack("=IIQQQQQ", kind, PERF_ATTRIBUTES_BYTES, 0, 0, 0, 0, 0)
    attributes = head + struct.pack("=IIQQ", 0, 0, ctypes.addressof(name), offset)
    return checked(LIBC.syscall(SYSCALLS[1], attributes, -1, cpu, -1, 0))


def checked(answer: int) -> int:
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return answer


main()
