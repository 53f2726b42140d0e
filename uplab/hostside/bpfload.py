"""Asks the kernel whether it takes a BPF program: its own answer, whatever forbids it."""

from __future__ import annotations

import ctypes
import errno
import os
import platform

_SYS_BPF = {"x86_64": 321, "aarch64": 280}
_BPF_PROG_LOAD = 5
_ATTRIBUTES_BYTES = 72
_INSTRUCTION_BYTES = 8
SOCKET_FILTER = 1
KPROBE = 2

#: r0 = 0; exit
RETURN_0 = bytes.fromhex("b700000000000000 9500000000000000")
#: *(u64 *)(r10 - 8) = 0; bpf_probe_write_user(0, r10 - 8, 8); r0 = 0; exit: never run, only loaded.
WRITE_USER = bytes.fromhex(
    "7a0af8ff00000000 bfa2000000000000 07020000f8ffffff"
    "b701000000000000 b703000008000000 8500000024000000"
    "b700000000000000 9500000000000000"
)


def syscall_number() -> int | None:
    """The number of bpf() on this machine; None where it is not known here."""
    return _SYS_BPF.get(platform.machine())


def refusal(code: bytes, program_type: int) -> str | None:
    """Why the kernel does not take a program, such as ``EPERM``; None when it does.

    Args:
        code: its instructions, 8 bytes each.
        program_type: ``BPF_PROG_TYPE_*``.
    """
    number = syscall_number()
    if number is None:
        return f"no bpf() known on {platform.machine()}"
    program = ctypes.create_string_buffer(code)
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = ctypes.create_string_buffer(128)
    values = [program_type.to_bytes(4, "little")]
    values.append((len(code) // _INSTRUCTION_BYTES).to_bytes(4, "little"))
    values += [ctypes.addressof(b).to_bytes(8, "little") for b in (program, licence)]
    joined = b"".join(values)
    ctypes.memmove(attributes, joined, len(joined))
    libc = ctypes.CDLL(None, use_errno=True)
    size = ctypes.c_uint(_ATTRIBUTES_BYTES)
    descriptor = int(libc.syscall(number, _BPF_PROG_LOAD, attributes, size))
    if descriptor < 0:
        return errno.errorcode[ctypes.get_errno()]
    os.close(descriptor)
    return None
