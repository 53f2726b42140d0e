"""The real ./invoke and tools/bootstrap.py in a small checkout, with one small wheel to install."""

import base64
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pip as pip_module
import pytest

from tests.waiting import wait_for
from tools import bootstrap

ROOT = Path(__file__).resolve().parents[2]
PYTHON = bootstrap.interpreter()
TASKS = """
import os, sys, time
from pathlib import Path
print("prefix", sys.prefix)
print("cwd", os.getcwd())
print("words", sys.argv[1:])
try:
    import uplab_probe
    print("probe", uplab_probe.VERSION)
except ImportError:
    print("probe none")
if sys.argv[1:2] == ["wait"]:
    Path(sys.argv[2]).touch()
    while Path(sys.argv[2]).exists():
        time.sleep(0.01)
"""
TIMEOUT_S = 100.0
POLL_INTERVAL_S = 0.01


def make_wheel(folder: Path, name: str, version: str, payload_bytes: int = 0) -> str:
    """Write a wheel with one module and a file of that size; out: the wheel's sha256."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f'VERSION = "{version}"\n',
        f"{name}/payload": "x" * payload_bytes,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()
        record += f"{path},sha256={digest.rstrip('=')},{len(text)}\n"
    folder.mkdir(exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            # A fixed date: the same wheel has the same hash whenever it is made.
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


@dataclass
class Small:
    """A checkout with the real wrapper, whose lock file names one small package."""

    root: Path
    wheels: Path
    environment: dict[str, str] = field(default_factory=dict)

    def pin(
        self,
        version: str,
        lock: str = "runtime",
        *,
        digest: str | None = None,
        payload_bytes: int = 0,
    ) -> None:
        name = {"runtime": "uplab_probe", "dev": "uplab_probe_dev"}[lock]
        made = make_wheel(self.wheels, name, version, payload_bytes)
        text = f"{name}=={version} \\\n    --hash=sha256:{digest or made}\n"
        (self.root / "requirements" / f"{lock}.lock").write_text(text)

    def start(self, *words: str, script: Path | None = None, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(script or self.root / "invoke"), *words],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )

    def run(self, *words: str, **more: Any) -> "Done":
        process = self.start(*words, **more)
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
        return Done(process.returncode, stdout, stderr)

    @property
    def venvs(self) -> list[str]:
        folder = self.root / ".uplab" / "venvs"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    @property
    def venv(self) -> Path:
        return (self.root / ".venv").resolve()


@dataclass
class Done:
    code: int
    stdout: str
    stderr: str

    def said(self, key: str) -> str:
        """What the small tasks.py printed after ``key``."""
        lines = (line.split(" ", 1) for line in self.stdout.splitlines())
        return {words[0]: words[-1] for words in lines}[key]

    def only_line(self) -> str:
        """The one line on stderr that explains a failure; before it may come progress."""
        progress = re.compile("making .venv|; installing$")
        lines = [line for line in self.stderr.splitlines() if not progress.search(line)]
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("invoke: ")
        return lines[0]


def make_small(root: Path, wheels: Path) -> Small:
    (root / "tools").mkdir(parents=True)
    (root / "requirements").mkdir()
    shutil.copy2(ROOT / "invoke", root / "invoke")
    shutil.copy2(ROOT / "tools" / "bootstrap.py", root / "tools" / "bootstrap.py")
    (root / "tasks.py").write_text(TASKS)
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_RETRIES": "0"}
    small = Small(root, wheels, offline)
    small.pin("1.0")
    small.pin("1.0", "dev")
    return small


@pytest.fixture(scope="session")
def quick_ensurepip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensurepip that links the pip that is here, instead of installing one for three seconds.

    Everything else is real, pip included. The tests with ``made`` use the real ensurepip.
    """
    package = tmp_path_factory.mktemp("quick") / "ensurepip"
    package.mkdir()
    pip = Path(pip_module.__file__).parent
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import os, sysconfig\n"
        f"os.symlink({str(pip)!r}, os.path.join(sysconfig.get_path('purelib'), 'pip'))\n"
    )
    return package


@pytest.fixture(scope="session")
def quick_python(tmp_path_factory: pytest.TempPathFactory, quick_ensurepip: Path) -> Path:
    python = lay_out_python(tmp_path_factory.mktemp("python"), quick_ensurepip)
    (python.parent / "python3").symlink_to(python.name)
    return python


@pytest.fixture
def small(tmp_path: Path, quick_python: Path) -> Small:
    small = make_small(tmp_path / "check out", tmp_path / "wheels")
    small.environment["PATH"] = f"{quick_python.parent}:{os.environ['PATH']}"
    return small


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A small checkout whose environment is there; for tests that change nothing in it."""
    folder = tmp_path_factory.mktemp("made")
    small = make_small(folder / "a place with spaces & 'quotes'", folder / "wheels")
    done = small.run("first", "--flag=1 2")
    assert done.code == 0, done.stderr
    assert "making .venv" in done.stderr
    assert ".venv is ready" in done.stderr
    assert done.said("words") == "['first', '--flag=1 2']"
    return small


class SlowIndex:
    """A package index that answers nothing until it is let go: pip hangs in the middle."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.let_go = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.set()
                outer.let_go.wait(TIMEOUT_S)
                self.close_connection = True

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PIP_NO_INDEX": "0",
            "PIP_INDEX_URL": f"http://127.0.0.1:{self.server.server_port}/simple",
            "PIP_FIND_LINKS": "",
            "PIP_EXTRA_INDEX_URL": "",
        }

    def close(self) -> None:
        self.let_go.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def slow_index() -> Iterator[SlowIndex]:
    index = SlowIndex()
    yield index
    index.close()


def test_a_second_call_installs_nothing_and_says_nothing(made: Small) -> None:
    before = (made.venvs, (made.venv / "uplab" / "place").stat().st_mtime_ns)
    done = made.run("again")
    assert (done.code, done.stderr) == (0, "")
    assert done.said("probe") == "1.0"
    assert (made.venvs, (made.venv / "uplab" / "place").stat().st_mtime_ns) == before


def test_it_runs_in_the_real_environment_and_in_the_callers_folder(
    made: Small, tmp_path: Path
) -> None:
    done = made.run(cwd=tmp_path)
    # Not .venv: that link may be changed while this process still imports.
    assert done.said("prefix") == str(made.venv)
    assert done.said("cwd") == str(tmp_path)


@pytest.mark.parametrize("target", ["absolute", "relative"])
def test_it_can_be_called_through_a_link(made: Small, tmp_path: Path, target: str) -> None:
    link = tmp_path / "uplab"
    script = made.root / "invoke"
    link.symlink_to(script if target == "absolute" else os.path.relpath(script, tmp_path))
    second = tmp_path / "other"
    second.symlink_to(link.name)
    done = made.run("x", script=second)
    assert (done.code, done.said("prefix")) == (0, str(made.venv))


def test_it_can_be_called_by_its_bare_name(made: Small) -> None:
    done = subprocess.run(
        ["sh", "invoke", "x"], cwd=made.root, capture_output=True, text=True, check=True
    )
    assert f"prefix {made.venv}" in done.stdout


def test_plain_invoke_in_the_active_environment_is_the_wrapper(made: Small, tmp_path: Path) -> None:
    done = made.run("a b", "c", script=made.venv / "bin" / "invoke", cwd=tmp_path)
    assert done.said("words") == "['a b', 'c']"
    assert done.said("prefix") == str(made.venv)


def test_no_python_is_started_to_find_out_that_nothing_changed(made: Small, tmp_path: Path) -> None:
    # A python3 that would be noticed comes first in PATH.
    seen = tmp_path / "seen"
    fake = tmp_path / "bin" / "python3"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ntouch '{seen}'\nexit 1\n")
    fake.chmod(0o755)
    process = subprocess.run(
        [str(made.root / "invoke")],
        env={**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"},
        capture_output=True,
        check=True,
    )
    assert process.stderr == b""
    assert not seen.exists()


def test_a_changed_lock_file_makes_a_new_environment_and_keeps_the_one_before(
    small: Small,
) -> None:
    small.run()
    first = small.venv
    small.pin("2.0")
    assert small.run().said("probe") == "2.0"
    second = small.venv
    assert small.venvs == sorted([first.name, second.name])

    small.pin("3.0")
    assert small.run().said("probe") == "3.0"
    assert small.venvs == sorted([second.name, small.venv.name])

    # Back to a lock file whose environment is still there: nothing to install.
    small.pin("2.0")
    done = small.run()
    assert (done.said("probe"), done.stderr) == ("2.0", "")
    assert small.venv == second


def test_an_environment_in_use_outlives_two_changes_of_the_lock_file(
    small: Small, tmp_path: Path
) -> None:
    flag = tmp_path / "running"
    running = small.start("wait", str(flag))
    wait_for(flag.exists)
    first = small.venv
    for version in ("2.0", "3.0"):
        small.pin(version)
        small.run()
    assert first.exists()
    flag.unlink()
    running.communicate(timeout=TIMEOUT_S)
    small.pin("4.0")
    small.run()
    assert not first.exists()


def test_two_at_once_make_one_environment(small: Small) -> None:
    first = small.start("one")
    second = small.start("two")
    results = [process.communicate(timeout=TIMEOUT_S) for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), results
    said = "".join(stderr for _, stderr in results)
    assert said.count("making .venv") == 1
    assert all("probe 1.0" in stdout for stdout, _ in results)
    assert len(small.venvs) == 1


def test_the_second_one_says_for_whom_it_waits(small: Small, slow_index: SlowIndex) -> None:
    offline = dict(small.environment)
    small.environment.update(slow_index.environment)
    first = small.start("one")
    assert slow_index.asked.wait(TIMEOUT_S)
    small.environment = offline
    second = small.start("two")
    assert second.stderr is not None
    line = second.stderr.readline()
    assert line == f"invoke: waiting for another ./invoke (pid {first.pid}) that makes .venv\n"
    slow_index.let_go.set()
    first.communicate(timeout=TIMEOUT_S)
    stdout, _ = second.communicate(timeout=TIMEOUT_S)
    assert (first.returncode, second.returncode) == (4, 0)
    assert "probe 1.0" in stdout


def test_killed_in_the_middle_it_never_looks_finished(small: Small, slow_index: SlowIndex) -> None:
    offline = dict(small.environment)
    small.environment.update(slow_index.environment)
    process = small.start("one")
    assert slow_index.asked.wait(TIMEOUT_S)
    process.kill()
    process.communicate(timeout=TIMEOUT_S)
    # The half-made one is there, and is not taken for a finished one.
    assert len(small.venvs) == 1
    assert not (small.root / ".venv").exists()
    slow_index.let_go.set()
    small.environment = offline
    done = small.run("two")
    assert (done.code, done.said("probe")) == (0, "1.0")
    assert len(small.venvs) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_middle_it_leaves_nothing(
    small: Small, slow_index: SlowIndex, number: signal.Signals
) -> None:
    small.environment.update(slow_index.environment)
    process = small.start("one")
    assert slow_index.asked.wait(TIMEOUT_S)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "invoke: interrupted; no half-made .venv is left"
    assert small.venvs == []
    assert not os.path.lexists(small.root / ".venv")


def test_a_failed_change_leaves_the_old_environment_and_its_link(small: Small) -> None:
    small.run()
    first = small.venv
    small.pin("2.0", digest="0" * 64)
    assert small.run().code == 2
    assert small.venv == first
    assert small.venvs == [first.name]


def test_a_wrong_hash_is_refused_by_name(small: Small) -> None:
    small.pin("1.0", digest="0" * 64)
    done = small.run()
    assert done.code == 2
    line = done.only_line()
    assert "uplab_probe" in line.replace("-", "_")
    assert "hash differs" in line
    assert str(small.root / ".uplab" / "bootstrap.log") in line
    assert "Run: git checkout requirements" in line
    assert small.venvs == []


def test_no_network_is_said_in_one_line(small: Small) -> None:
    # A port on which nothing listens: taken, and given back.
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    port = server.server_port
    server.server_close()
    small.environment |= {
        "PIP_NO_INDEX": "0",
        "PIP_FIND_LINKS": "",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_INDEX_URL": f"http://127.0.0.1:{port}/simple",
        "PIP_RETRIES": "1",
    }
    done = small.run("lab.setup", "--host", "a b")
    assert done.code == 4
    line = done.only_line()
    assert "package index cannot be reached" in line
    assert "Run: ./invoke lab.setup --host 'a b' when the network is back" in line
    assert small.venvs == []


@pytest.mark.parametrize(
    ("left", "expected"), [("2.0", "has no such file"), (None, "knows no version of it")]
)
def test_a_version_that_the_index_lacks_is_named(
    small: Small, left: str | None, expected: str
) -> None:
    for wheel in small.wheels.iterdir():
        wheel.unlink()
    if left:
        make_wheel(small.wheels, "uplab_probe", left)
    done = small.run()
    assert done.code == 4
    line = done.only_line().replace("-", "_")
    assert f"{expected}, or cannot be reached: uplab_probe==1.0 for Python 3." in line


def test_a_full_disk_is_said_in_one_line(small: Small, tmp_path: Path) -> None:
    small.pin("1.0", payload_bytes=2_000_000)
    place = tmp_path / "small disk"
    place.mkdir()
    script = 'mount -t tmpfs -o size=1m none "$1" && cp -a "$2/." "$1" && cd "$1" && exec ./invoke'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    process = subprocess.run(
        [*command, str(place), str(small.root)],
        env={**os.environ, **small.environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    done = Done(process.returncode, process.stdout, process.stderr)
    assert done.code == 4, done.stderr
    assert "disk is full" in done.only_line()
    assert "Run: df -h" in done.only_line()


@pytest.mark.parametrize("kind", ["folder", "link", "dangling link"])
def test_an_environment_of_somebody_else_is_left_alone(small: Small, kind: str) -> None:
    venv = small.root / ".venv"
    if kind == "folder":
        (venv / "bin").mkdir(parents=True)
    else:
        venv.symlink_to("/usr" if kind == "link" else "/nonexistent/uplab")
    done = small.run("bench.all")
    assert done.code == 2
    line = done.only_line()
    assert "was not made by ./invoke and is left alone" in line
    assert f"Run: mv '{venv}' '{venv}-mine' && ./invoke bench.all" in line
    assert os.path.lexists(venv)
    assert small.venvs == []


def test_a_moved_checkout_gets_an_environment_of_its_own(small: Small, tmp_path: Path) -> None:
    small.run()
    first = small.venv.name
    moved = Small(tmp_path / "moved", small.wheels, small.environment)
    small.root.rename(moved.root)
    done = moved.run()
    assert done.code == 0
    assert done.said("prefix") == str(moved.venv)
    assert moved.venv.name != first
    assert str(moved.root) in (moved.venv / "bin" / "activate").read_text()


def test_another_python_makes_another_environment(
    small: Small, tmp_path: Path, quick_ensurepip: Path
) -> None:
    small.run()
    first = small.venv
    other = lay_out_python(tmp_path / "other", quick_ensurepip)
    small.environment["UPLAB_PYTHON"] = str(other)
    assert small.run().code == 0
    assert small.venv != first
    assert (small.venv / "bin" / "python").resolve() == other
    # And when that Python is gone, the environment does not count any more.
    del small.environment["UPLAB_PYTHON"]
    assert small.run().said("prefix") != str(first)
    shutil.rmtree(tmp_path / "other")
    done = small.run()
    assert (done.code, done.said("prefix")) == (0, str(first))


def test_an_old_python_is_refused_with_what_to_do(small: Small, tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" != --version ] || { echo Python 3.9.2; exit 0; }\nexit 1\n')
    old.chmod(0o755)
    small.environment["UPLAB_PYTHON"] = str(old)
    done = small.run()
    assert done.code == 2
    assert "needs Python 3.11 or newer" in done.only_line()
    assert "3.9.2" in done.only_line()


def test_tests_get_the_dev_packages_too_and_other_tasks_then_use_the_same(small: Small) -> None:
    done = small.run("test")
    assert done.code == 0
    assert "2 packages from requirements/runtime.lock and requirements/dev.lock" in done.stderr
    assert (small.venv / "bin" / "python").exists()
    site = next((small.venv / "lib").glob("python*/site-packages"))
    assert (site / "uplab_probe_dev").exists()
    later = small.run("lab.setup")
    assert (later.stderr, later.said("prefix")) == ("", str(small.venv))
    # A change of the dev packages alone matters to the tests alone.
    small.pin("2.0", "dev")
    assert small.run("lab.setup").stderr == ""
    assert "making .venv" in small.run("test").stderr


def test_variables_that_install_elsewhere_do_not_lead_pip_astray(
    small: Small, tmp_path: Path
) -> None:
    small.environment |= {"PIP_USER": "1", "PIP_TARGET": str(tmp_path / "elsewhere")}
    assert small.run().said("probe") == "1.0"
    assert not (tmp_path / "elsewhere").exists()


def lay_out_python(prefix: Path, ensurepip: Path | None) -> Path:
    """A Python of its own, with this ensurepip: the binary copied, its library linked."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = prefix / "lib" / version
    library.mkdir(parents=True)
    for entry in Path(os.__file__).parent.iterdir():
        if entry.name not in ("ensurepip", "site-packages", "dist-packages"):
            (library / entry.name).symlink_to(entry)
    if ensurepip:
        (library / "ensurepip").symlink_to(ensurepip)
    python = prefix / "bin" / version
    python.parent.mkdir()
    shutil.copy2(PYTHON, python)
    return python


@dataclass
class Debian:
    """A Python without ensurepip, and stand-ins for the commands that could install it."""

    small: Small
    python: Path
    tools: Path
    asked: Path
    ensurepip: Path

    def tool(self, name: str, script: str) -> None:
        path = self.tools / name
        path.write_text(f'#!/bin/sh\necho {name} "$@" >>"{self.asked}"\n{script}\n')
        path.chmod(0o755)

    @property
    def installs(self) -> str:
        """What a stand-in for apt-get does to install the missing module."""
        library = next((self.python.parents[1] / "lib").iterdir())
        return f'case "$*" in *install*) ln -s "{self.ensurepip}" "{library}/" ;; esac'


@pytest.fixture
def debian(small: Small, tmp_path: Path, quick_ensurepip: Path) -> Debian:
    tools = tmp_path / "tools"
    tools.mkdir()
    python = lay_out_python(tmp_path / "os", None)
    made = Debian(small, python, tools, tmp_path / "asked", quick_ensurepip)
    small.environment |= {
        "UPLAB_PYTHON": str(made.python),
        "PATH": f"{tools}:{os.environ['PATH']}",
    }
    made.tool("dpkg-query", "exit 0")
    return made


def test_the_missing_debian_package_is_installed(debian: Debian) -> None:
    debian.tool("apt-get", debian.installs)
    done = debian.small.run()
    assert (done.code, done.said("probe")) == (0, "1.0")
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    assert f"installing the Debian package {package}" in done.stderr
    asked = [line for line in debian.asked.read_text().splitlines() if "apt-get" in line]
    assert len(asked) == 1
    assert f"install --yes --no-install-recommends {package}" in asked[0]
    assert "DPkg::Lock::Timeout=" in asked[0]


def test_empty_package_lists_are_fetched_first(debian: Debian) -> None:
    lists = debian.tools / "lists"
    debian.tool(
        "apt-get",
        f'case "$*" in *update*) touch "{lists}"; exit 0 ;; esac\n'
        f'[ -e "{lists}" ] || {{ echo "E: Unable to locate package" >&2; exit 100; }}\n'
        + debian.installs,
    )
    done = debian.small.run()
    assert (done.code, done.said("probe")) == (0, "1.0")


def test_a_package_that_cannot_be_installed_is_said_with_apts_reason(debian: Debian) -> None:
    debian.tool("apt-get", 'echo "E: Could not resolve the mirror" >&2; exit 100')
    done = debian.small.run()
    assert done.code == 4
    last = done.stderr.splitlines()[-1]
    assert "E: Could not resolve the mirror" in last
    assert "Run: apt-get update && apt-get install python3" in last
    assert debian.small.venvs == []


def test_a_python_that_no_package_owns_is_said_to_be_so(debian: Debian) -> None:
    debian.tool("dpkg-query", "exit 1")
    debian.tool("apt-get", "exit 0")
    done = debian.small.run("bench.all")
    assert done.code == 2
    line = done.only_line()
    assert f"{debian.python} has no module venv or ensurepip" in line
    assert "Run: UPLAB_PYTHON=/usr/bin/python3 ./invoke bench.all" in line
    assert "apt-get" not in debian.asked.read_text()


def test_without_root_and_sudo_the_command_to_type_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(bootstrap, "_has_venv_modules", lambda _python: False)
    monkeypatch.setattr(bootstrap, "_belongs_to_dpkg", lambda _python: True)
    (tmp_path / "sudo").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "sudo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    python = Path("/usr/bin/python3").resolve()
    with pytest.raises(bootstrap.BootstrapError, match=r"Run: sudo apt-get install python3-venv$"):
        bootstrap.require_venv_modules(
            python, bootstrap.Checkout(tmp_path), bootstrap.Reporter(rewrites=False)
        )


def test_with_sudo_that_asks_nothing_sudo_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tmp_path / "sudo").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "sudo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bootstrap._root_prefix() == ["sudo", "-n"]


@pytest.mark.parametrize(
    ("said", "code", "expected"),
    [
        ("OSError: [Errno 28] No space left on device\n", 4, "disk is full"),
        ("WARNING: Retrying ... NewConnectionError('...')\nERROR: x\n", 4, "cannot be reached"),
        ("SSLError(CERTIFICATE_VERIFY_FAILED)\n", 4, "cannot be reached"),
        ("ERROR: something new\n\n", 2, "pip failed: ERROR: something new"),
        ("", 2, "pip failed: no output"),
    ],
)
def test_every_failure_is_one_line_with_its_code(said: str, code: int, expected: str) -> None:
    error = bootstrap.explain(said, bootstrap.Checkout(Path("/x"), "./invoke y"), "pip")
    assert expected in str(error)
    assert "\n" not in str(error)
    assert "Run: " in str(error)
    assert error.exit_code == code


def test_a_folder_that_cannot_be_written_is_named() -> None:
    error = PermissionError(13, "Permission denied", "/x/.uplab")
    line = bootstrap._explain_os_error(error, bootstrap.Checkout(Path("/x")))
    assert line.startswith("/x/.uplab cannot be written by this user. Run: sudo chown")


def test_progress_rewrites_one_line_on_a_terminal_only(capsys: pytest.CaptureFixture[str]) -> None:
    for rewrites, expected in ((True, "fetching 1 of 2: a==1"), (False, "")):
        reporter = bootstrap.Reporter(rewrites=rewrites)
        bootstrap.PipProgress(2, reporter).line("Collecting a==1 (from -r x)\n")
        assert capsys.readouterr().err.removeprefix("invoke: ") == expected
        reporter.say("done")
        assert capsys.readouterr().err.endswith("invoke: done\n")


def test_a_system_wide_invoke_is_told_what_to_type(tmp_path: Path) -> None:
    # An environment that has Invoke and nothing else that uplab needs.
    subprocess.run([str(PYTHON), "-m", "venv", "--without-pip", str(tmp_path / "v")], check=True)
    site = next((tmp_path / "v" / "lib").glob("python*/site-packages"))
    import invoke

    (site / "invoke").symlink_to(Path(invoke.__file__).parent)
    done = subprocess.run(
        [str(tmp_path / "v" / "bin" / "python"), "-m", "invoke", "lab.setup", "--host", "local"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert f"Run: {ROOT}/invoke lab.setup --host local" in lines[0]
    assert f". {ROOT}/.venv/bin/activate" in lines[0]
