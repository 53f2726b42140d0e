"""The module uplab_build: a build is in the store whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.roles.plays import PLAYBOOKS, alive, poll

GREET = {"argv": ["sh", "-c", "mkdir -p {prefix}/bin && cp main.txt {prefix}/bin/greet"]}
DEADLINE_S = 30.0


class Component:
    """A component with one source file, and the arguments that build it."""

    def __init__(self, build: ModuleType, source: ModuleType, root: Path) -> None:
        self.build, self.source, self.root = build, source, root
        self.tree = root.parent / "tree"
        self.tree.mkdir()
        (self.tree / "main.txt").write_text("hello\n")
        self.commands: list[dict[str, Any]] = [GREET]

    def arguments(self) -> dict[str, Any]:
        data = self.source.pack(self.source.source_files(self.tree, ["*"], []))
        return {
            "root": str(self.root),
            "component": "greet",
            "source_sha256": hashlib.sha256(data).hexdigest(),
            "archive": self.source.encode(data),
            "recipe": {
                "version": "1",
                "commands": [{"chdir": "{source}", **command} for command in self.commands],
                "environment": {"GREETING": "{source}"},
                "artifacts": ["bin/greet"],
                "tools": {"cat": ["cat", "--version"]},
                "packages": ["dash"],
                "kernel_btf": False,
            },
        }

    def act(self, check: bool = False, **changes: Any) -> dict[str, Any]:
        result = self.build.act({**self.arguments(), **changes}, check)
        assert isinstance(result, dict)
        return result

    def entries(self) -> list[str]:
        """What the store holds, locks aside."""
        names = [path.name for path in (self.root / "store").iterdir()]
        return sorted(name for name in names if not name.startswith(".lock-"))


@pytest.fixture
def component(uplab_build: ModuleType, uplab_source: ModuleType, root: Path) -> Component:
    return Component(uplab_build, uplab_source, root)


def test_a_build_is_recorded_and_linked(component: Component) -> None:
    result = component.act()
    name = f"greet-{result['hash']}"
    assert component.entries() == [name, f"{name}.json"]
    record = json.loads((component.root / "store" / f"{name}.json").read_text())
    assert record == result["record"]
    digest = hashlib.sha256(b"hello\n").hexdigest()
    assert record["artifacts"] == {"bin/greet": {"sha256": digest, "bytes": 6}}
    assert record["source"] == "build"
    assert record["inputs"]["toolchain"]["cat"].startswith("cat (GNU coreutils)")
    current = component.root / "current" / "greet"
    assert current.readlink() == Path(record["prefix"])
    assert (current / "bin" / "greet").read_text() == "hello\n"
    assert not component.act()["changed"]


def test_check_mode_predicts_and_writes_nothing(component: Component) -> None:
    assert component.act(check=True)["changed"]
    assert component.entries() == []
    component.act()
    assert not component.act(check=True)["changed"]


def test_old_builds_stay_and_the_link_moves_back(component: Component) -> None:
    first = component.act()
    (component.tree / "main.txt").write_text("bye\n")
    second = component.act()
    assert second["hash"] != first["hash"]
    assert len(component.entries()) == 4
    (component.tree / "main.txt").write_text("hello\n")
    back = component.act()
    assert back["changed"]
    assert back["record"] == first["record"]
    assert (component.root / "current" / "greet" / "bin" / "greet").read_text() == "hello\n"


@pytest.mark.parametrize("change", ["source", "command", "environment", "version"])
def test_every_input_gives_another_hash(component: Component, change: str) -> None:
    before = component.act(check=True)["hash"]
    arguments = component.arguments()
    if change == "source":
        arguments["source_sha256"] = "0" * 64
    elif change == "command":
        arguments["recipe"]["commands"].append({"argv": ["true"], "chdir": "{source}"})
    elif change == "environment":
        arguments["recipe"]["environment"]["X"] = "1"
    else:
        arguments["recipe"]["version"] = "2"
    assert component.build.act(arguments, True)["hash"] != before


def test_the_place_of_the_store_does_not_change_the_hash(
    component: Component, tmp_path: Path
) -> None:
    here = component.act(check=True)["hash"]
    assert component.act(check=True, root=str(tmp_path / "elsewhere"))["hash"] == here


@pytest.mark.parametrize("tampering", ["altered", "removed"])
def test_a_damaged_artifact_is_built_again(component: Component, tampering: str) -> None:
    first = component.act()
    path = Path(first["record"]["prefix"]) / "bin" / "greet"
    if tampering == "altered":
        path.write_text("evil\n")
    else:
        path.unlink()
    again = component.act()
    assert again["changed"]
    assert again["record"]["artifacts"] == first["record"]["artifacts"]
    assert path.read_text() == "hello\n"
    assert len(component.entries()) == 2


def test_a_build_without_a_record_is_built_again(component: Component) -> None:
    first = component.act()
    (component.root / "store" / f"greet-{first['hash']}.json").unlink()
    assert component.act()["changed"]
    assert len(component.entries()) == 2


def test_a_failed_build_says_what_and_where(component: Component) -> None:
    script = "for i in $(seq 40); do echo line $i; done; echo main.c:3: no such type >&2; exit 2"
    component.commands = [{"argv": ["sh", "-c", script]}]
    with pytest.raises(component.build.StoreError) as caught:
        component.act()
    message = str(caught.value)
    log = component.root / "log" / "greet.log"
    assert message.startswith("greet: the build failed: sh -c")
    assert "ended with exit code 2" in message
    assert str(log) in message
    assert message.endswith("main.c:3: no such type")
    assert "line 40\n" in message
    assert "line 5\n" not in message
    assert "line 5\n" in log.read_text()
    assert component.entries() == []
    assert not (component.root / "current" / "greet").exists()


def test_a_failed_build_leaves_the_last_good_one(component: Component) -> None:
    first = component.act()
    component.commands = [{"argv": ["false"]}]
    with pytest.raises(component.build.StoreError, match="ended with exit code 1"):
        component.act()
    assert (component.root / "current" / "greet").readlink() == Path(first["record"]["prefix"])
    assert len(component.entries()) == 2


def test_a_missing_compiler_is_named(component: Component) -> None:
    component.commands = [{"argv": ["no-such-compiler", "main.c"]}]
    with pytest.raises(component.build.StoreError, match="cannot be run: No such file"):
        component.act()
    arguments = component.arguments()
    arguments["recipe"]["tools"] = {"cc": ["no-such-compiler", "--version"]}
    arguments["recipe"]["packages"] = ["no-such-package"]
    with pytest.raises(component.build.StoreError) as caught:
        component.build.act(arguments, False)
    assert "command no-such-compiler, Debian package no-such-package" in str(caught.value)
    predicted = component.build.act(arguments, True)
    assert predicted["changed"]
    assert predicted["hash"] is None


def test_a_build_that_makes_nothing_is_refused(component: Component) -> None:
    component.commands = [{"argv": ["true"]}]
    with pytest.raises(component.build.StoreError, match="did not make bin/greet"):
        component.act()
    assert component.entries() == []


def test_sources_that_changed_meanwhile_are_refused(component: Component) -> None:
    with pytest.raises(component.build.StoreError, match="changed while Ansible ran"):
        component.act(source_sha256="0" * 64)
    assert component.entries() == []


@pytest.mark.parametrize("kind", ["escape", "absolute", "link"])
def test_an_archive_cannot_write_elsewhere(component: Component, kind: str) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        names = {"escape": "../../evil", "absolute": "/tmp/evil", "link": "evil"}
        member = tarfile.TarInfo(names[kind])
        if kind == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(member, io.BytesIO(b""))
    data = stream.getvalue()
    with pytest.raises(component.build.StoreError, match="not a plain file"):
        component.act(
            archive=component.source.encode(data), source_sha256=hashlib.sha256(data).hexdigest()
        )
    assert component.entries() == []


def test_the_environment_is_clean(component: Component, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFLAGS", "-O0")
    monkeypatch.setenv("GOFLAGS", "-race")
    component.commands = [{"argv": ["sh", "-c", "env; umask"]}, GREET]
    component.act()
    lines = (component.root / "log" / "greet.log").read_text().splitlines()
    names = {line.split("=")[0] for line in lines if "=" in line}
    assert names == {"PATH", "HOME", "LC_ALL", "TZ", "GREETING", "PWD"}
    assert "0022" in lines


def test_compilers_get_every_processor(component: Component) -> None:
    component.commands = [{"argv": ["sh", "-c", "echo jobs={jobs}; nproc"]}, GREET]
    everything = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(everything)})
    try:
        component.act()
        assert os.sched_getaffinity(0) == {min(everything)}
    finally:
        os.sched_setaffinity(0, everything)
    lines = (component.root / "log" / "greet.log").read_text().splitlines()
    assert {f"jobs={len(everything)}", str(len(everything))} <= set(lines)


def test_a_second_build_at_the_same_time_is_refused(component: Component) -> None:
    with (component.root / "store" / ".lock-greet").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(component.build.StoreError, match="another build of it is running"):
            component.act()
    assert component.act()["changed"]


def test_what_a_killed_build_left_is_removed(component: Component) -> None:
    leftover = component.root / "store" / ".part-greet-000000000000"
    (leftover / "prefix").mkdir(parents=True)
    other = component.root / "store" / ".part-other-000000000000"
    other.mkdir()
    component.act()
    assert not leftover.exists()
    assert other.exists()


def start_slow_build(component: Component) -> tuple[subprocess.Popen[str], int]:
    """A build in a process of its own that waits for ever; returns it and its compiler's PID."""
    pid_file = component.root / "pid"
    waiting = "echo $$ > {root}/pid.part && mv {root}/pid.part {root}/pid && exec sleep 1000"
    component.commands = [{"argv": ["sh", "-c", waiting]}, GREET]
    program = (
        "import json, sys, ansible.module_utils as utils\n"
        f"utils.__path__.append({str(PLAYBOOKS / 'module_utils')!r})\n"
        f"sys.path.insert(0, {str(PLAYBOOKS / 'library')!r})\n"
        "import uplab_build\n"
        "uplab_build.act(json.load(sys.stdin), False)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(component.arguments()))
    process.stdin.close()
    poll(pid_file.exists)
    return process, int(pid_file.read_text())


def test_sigterm_ends_the_compilers_and_leaves_nothing(component: Component) -> None:
    process, compiler = start_slow_build(component)
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) != 0
    assert process.stderr is not None
    assert "SIGTERM" in process.stderr.read()
    process.stderr.close()
    poll(lambda: not alive(compiler))
    assert component.entries() == []


def test_a_killed_build_never_looks_finished(component: Component) -> None:
    process, compiler = start_slow_build(component)
    process.kill()
    process.wait(DEADLINE_S)
    assert process.stderr is not None
    process.stderr.close()
    assert [name[:12] for name in component.entries()] == [".part-greet-"]
    assert not (component.root / "current" / "greet").exists()
    # Its compiler still runs and holds the lock: nothing may build beside it.
    component.commands = [GREET]
    with pytest.raises(component.build.StoreError, match="another build of it is running"):
        component.act()
    os.kill(compiler, signal.SIGKILL)
    poll(lambda: not alive(compiler))
    assert component.act()["changed"]
    assert len(component.entries()) == 2


def test_a_full_disk_is_a_clear_error(
    component: Component, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _text: str, _mode: int = 0o644) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(component.build, "write_atomically", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        component.act()
    assert component.build.reason(caught.value).endswith(".json: No space left on device")
    monkeypatch.undo()
    assert not list((component.root / "store").glob("*.json"))
    assert component.act()["changed"]
