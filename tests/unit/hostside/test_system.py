"""uplab/hostside/system.py and bpfload.py: the readings themselves, on this machine."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from uplab.hostside import bpfload, system
from uplab.hostside.system import System

ROOT = Path(__file__).parents[3]


def test_this_machine_can_be_read() -> None:
    here = System()
    assert here.kernel_release == os.uname().release
    assert here.is_root == (os.geteuid() == 0)
    assert os.getpid() in here.pids()
    assert here.argv(os.getpid())[0]
    assert here.argv(1 << 30) == []
    assert here.start_ticks(os.getpid()) == System().start_ticks(os.getpid())
    assert here.start_ticks(1 << 30) is None
    assert here.text("/proc/no-such-file") is None
    assert here.free(Path("/no/such/folder")) == here.free(Path("/"))
    assert here.synchronised() in (True, False, None)


def test_a_command_that_cannot_answer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert system.command_output(["echo", "a b"]) == "a b\n"
    assert system.command_output(["false"]) is None
    assert system.command_output(["/no/such/program"]) is None
    monkeypatch.setattr(system, "_COMMAND_TIMEOUT_S", 0.05)
    assert system.command_output(["sleep", "60"]) is None


def test_this_kernel_takes_a_program_from_root() -> None:
    """BPF works where these tests run."""
    refused = bpfload.refusal(bpfload.RETURN_0, bpfload.SOCKET_FILTER)
    assert refused == (None if os.geteuid() == 0 else "EPERM")


def test_a_program_that_no_kernel_takes_is_refused_by_name() -> None:
    endless = bytes.fromhex("0500ffff00000000")
    assert bpfload.refusal(endless, bpfload.SOCKET_FILTER) in ("EINVAL", "EPERM")


def test_programs_that_were_tried_are_not_left_loaded() -> None:
    before = set(os.listdir("/proc/self/fd"))
    bpfload.refusal(bpfload.RETURN_0, bpfload.KPROBE)
    bpfload.refusal(bpfload.WRITE_USER, bpfload.KPROBE)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_machine_without_bpf_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert bpfload.refusal(bpfload.RETURN_0, bpfload.KPROBE) == "no bpf() known on riscv64"


def test_without_root_bpf_is_refused() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import json\n"
        "from uplab.hostside import bpfload\n"
        "print(json.dumps(bpfload.refusal(bpfload.RETURN_0, bpfload.KPROBE)))\n"
    )
    argv = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]
    argv += ["/usr/bin/python3", "-I", "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd="/")
    assert json.loads(done.stdout) == "EPERM"
