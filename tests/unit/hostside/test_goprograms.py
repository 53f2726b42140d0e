"""uplab/hostside/goprograms.py: Go programs among all that run."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from uplab.hostside import goprograms
from uplab.hostside.spec import Adapters, Cell, ModeSpec, TracerAdapter

NAMES = b"\0.text\0.go.buildinfo\0.shstrtab\0"
TRACER = TracerAdapter(
    1,
    "tracer",
    "t",
    "",
    ("/t",),
    modes={
        "as-shipped": ModeSpec(placement="any", touches=("go",)),
        "kernel-uprobe": ModeSpec(placement="kernel"),
    },
    ready_line="ready",
)
ADAPTERS = Adapters({}, {"t": TRACER}, {})
TOUCHING = Cell("c", "s", "as-shipped", "t", 12, "l", {})


def program(names: bytes = NAMES, index: int = 1) -> bytes:
    """An ELF file with nothing but a table of sections' names."""
    offset = 64 + len(names)
    header = b"\x7fELF\x02\x01".ljust(40, b"\0") + struct.pack("<Q", offset)
    header = header.ljust(58, b"\0") + struct.pack("<HHH", 64, 2, index)
    section = struct.pack("<IIQQQQ", 0, 3, 0, 0, 64, len(names)).ljust(64, b"\0")
    return header + names + bytes(64) + section


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (program(), True),
        (program(NAMES.replace(b".go.buildinfo", b".go.buildinf_")), False),
        (program(b"\0.text.go.buildinfo\0"), False),
        (program(index=7), False),
        (program()[:-70], False),
        (b"#!/bin/sh\n", False),
        (b"", False),
    ],
)
def test_a_go_program_has_a_section_of_its_own(
    content: bytes, expected: bool, tmp_path: Path
) -> None:
    path = tmp_path / "program"
    path.write_bytes(content)
    assert goprograms.is_go(path) is expected


def test_the_go_tool_is_one_and_the_shell_is_none() -> None:
    go = shutil.which("go")
    assert go is not None
    assert goprograms.is_go(Path(go))
    assert not goprograms.is_go(Path("/bin/sh"))


@pytest.fixture
def go_process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Somebody's Go program that runs until it is ended."""
    source = tmp_path / "other.go"
    source.write_text(
        'package main\nimport ("fmt"; "os")\n'
        'func main() { fmt.Println("up"); os.Stdin.Read(make([]byte, 1)) }\n'
    )
    binary = tmp_path / "other"
    subprocess.run(["go", "build", "-o", str(binary), str(source)], check=True, cwd=tmp_path)
    with subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_go_process_is_found_with_its_name_and_program(
    go_process: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    found = {process.pid: process for process in goprograms.running()}
    assert found[go_process.pid].name == "other"
    assert found[go_process.pid].exe == str(tmp_path / "other")
    assert os.getpid() not in found
    touched: Any = goprograms.touched([TOUCHING], ADAPTERS)
    assert touched["tracers"] == ["t"]
    text = goprograms.refusal(touched)
    assert text.startswith("t would alter every Go process of this host, and there are others")
    assert f"other (pid {go_process.pid}, {tmp_path}/other)" in text
    assert text.endswith("End them, or measure with --touch-others")


def test_modes_that_touch_nothing_else_do_not_even_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(goprograms, "running", lambda: pytest.fail("it looked"))
    quiet = Cell("c", "s", "kernel-uprobe", "t", 12, "l", {})
    untraced = Cell("c", "s", "none", None, 12, "l", {})
    assert goprograms.touched([quiet, untraced], ADAPTERS) is None


def test_a_host_without_go_programs_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(goprograms, "running", list)
    assert goprograms.touched([TOUCHING], ADAPTERS) is None
