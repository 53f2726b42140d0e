"""uplab/hostzip.py: the same sources give the same zipapp, and it is all that hostside needs."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from uplab import adapters, hostzip
from uplab.adapters import Registry
from uplab.errors import UsageError

ROOT = Path(__file__).parents[2]
ADAPTERS = ROOT / "tests" / "data" / "adapters"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """One load with a second file, and adapters of which nothing travels."""
    shutil.copytree(ADAPTERS, tmp_path / "adapters")
    folder = tmp_path / "adapters" / "loads" / "fetch"
    (folder / "more").mkdir()
    (folder / "more" / "script.lua").write_text("-- a script\n")
    text = (folder / "adapter.yml").read_text()
    text = text.replace("files: [adapter.py]", "files: [adapter.py, more/script.lua]")
    (folder / "adapter.yml").write_text(text)
    return adapters.load([tmp_path / "adapters"])


def names(data: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.namelist()


def test_it_holds_hostside_and_the_files_of_the_adapters(registry: Registry) -> None:
    hostside = [f"uplab/hostside/{p.name}" for p in (ROOT / "uplab/hostside").glob("*.py")]
    assert names(hostzip.pack(registry)) == sorted(
        [
            "__main__.py",
            "uplab/__init__.py",
            "adapters/loads/fetch/adapter.py",
            "adapters/loads/fetch/more/script.lua",
            "adapters/loads/h2load-closed/adapter.py",
            "adapters/loads/h2load/adapter.py",
            "adapters/loads/h2load/start.sh",
            "adapters/servers/nginx/start.sh",
            "adapters/tracers/bpftrace/ssl.bt",
            "adapters/tracers/bpftrace/start.sh",
            *hostside,
        ]
    )


def test_the_same_sources_give_the_same_bytes(registry: Registry) -> None:
    first = hostzip.pack(registry)
    script = registry.folders["loads", "fetch"] / "more" / "script.lua"
    os.utime(script, (1, 1))
    script.chmod(0o700)
    assert hostzip.pack(registry) == first


def test_another_source_gives_another_file(registry: Registry, tmp_path: Path) -> None:
    first = hostzip.write(registry, tmp_path / "zips")
    (registry.folders["loads", "fetch"] / "more" / "script.lua").write_text("-- another\n")
    second = hostzip.write(registry, tmp_path / "zips")
    assert first != second
    assert sorted((tmp_path / "zips").iterdir()) == sorted([first, second])


def test_it_is_written_once_and_named_by_its_digest(registry: Registry, tmp_path: Path) -> None:
    path = hostzip.write(registry, tmp_path / "a" / "b")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f"hostside-{digest[:12]}.pyz"
    before = path.stat()
    assert hostzip.write(registry, tmp_path / "a" / "b") == path
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_many_at_once_write_one_whole_file(registry: Registry, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from uplab import adapters, hostzip\n"
        "registry = adapters.load([Path(sys.argv[1])])\n"
        "for n in range(20):\n"
        "    path = hostzip.write(registry, Path(sys.argv[2]))\n"
        "    path.unlink(missing_ok=True) if n < 19 else print(path)\n"
    )
    folder = registry.folders["loads", "fetch"].parents[1]

    def write(_: int) -> "subprocess.CompletedProcess[str]":
        argv = [sys.executable, "-c", program, str(folder), str(tmp_path / "zips")]
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(write, range(2)))
    assert [process.stderr for process in done] == ["", ""]
    final = hostzip.write(registry, tmp_path / "zips")
    assert final.read_bytes() == hostzip.pack(registry)


def test_a_folder_that_cannot_be_written(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"hostside-.*\.pyz cannot be written: Not a directory"):
        hostzip.write(registry, tmp_path / "file" / "zips")


def test_the_machine_s_own_python_runs_it_isolated(registry: Registry, tmp_path: Path) -> None:
    """No site packages, no user's path, another folder: nothing of this checkout is at hand."""
    zipapp = hostzip.write(registry, tmp_path / "zips")
    argv = ["/usr/bin/python3", "-I", "-S", str(zipapp), "--root", str(tmp_path), "inspect"]
    done = subprocess.run(
        argv, input="{}", cwd="/", capture_output=True, text=True, check=False, env={}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "manifest": {},
        "cells": {},
        "artifacts": {},
        "root": os.geteuid() == 0,
        "untested": [],
        "touched": None,
    }
