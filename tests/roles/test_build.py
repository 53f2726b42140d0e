"""The module uplab_build: a build is in the store whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.roles.building import entries

GREET = {"argv": ["sh", "-c", "mkdir -p {prefix}/bin && cp main.txt {prefix}/bin/greet"]}


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
        build = {
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
        return {"root": str(self.root), "builds": [build]}

    def run(self, arguments: dict[str, Any], check: bool = False) -> dict[str, Any]:
        """What the module says of the component, and the record that it wrote."""
        result = self.build.act(arguments, check)
        assert isinstance(result, dict)
        found: dict[str, Any] = result["builds"]["greet"]
        assert found["changed"] == result["changed"]
        assert ("failed" in found) == bool(result.get("failed"))
        assert found.get("failed") == result.get("msg")
        record = self.root / "store" / f"greet-{found.get('hash')}.json"
        return {**found, "record": json.loads(record.read_text()) if record.exists() else None}

    def act(self, check: bool = False, **changes: Any) -> dict[str, Any]:
        """Build it; changes are those of its own arguments."""
        arguments = self.arguments()
        arguments["root"] = changes.pop("root", arguments["root"])
        arguments["rebuild"] = changes.pop("rebuild", "")
        arguments["builds"][0] |= changes
        found = self.run(arguments, check)
        assert "failed" not in found, found["failed"]
        return found

    def refused(self, message: str, **changes: Any) -> str:
        """Try to build it; why it did not work, which fits a pattern."""
        arguments = self.arguments()
        arguments["builds"][0] |= changes
        why = str(self.run(arguments)["failed"])
        assert re.search(message, why), why
        return why

    def entries(self) -> list[str]:
        return entries(self.root)


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
    build = arguments["builds"][0]
    if change == "source":
        build["source_sha256"] = "0" * 64
    elif change == "command":
        build["recipe"]["commands"].append({"argv": ["true"], "chdir": "{source}"})
    elif change == "environment":
        build["recipe"]["environment"]["X"] = "1"
    else:
        build["recipe"]["version"] = "2"
    assert component.run(arguments, check=True)["hash"] != before


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
    message = component.refused("the build failed")
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
    component.refused("ended with exit code 1")
    assert (component.root / "current" / "greet").readlink() == Path(first["record"]["prefix"])
    assert len(component.entries()) == 2


def test_a_missing_compiler_is_named(component: Component) -> None:
    component.commands = [{"argv": ["no-such-compiler", "main.c"]}]
    component.refused(r"cannot be run: No such file or directory \(no-such-compiler\)")
    arguments = component.arguments()
    arguments["builds"][0]["recipe"]["tools"] = {"cc": ["no-such-compiler", "--version"]}
    arguments["builds"][0]["recipe"]["packages"] = ["no-such-package"]
    why = component.run(arguments)["failed"]
    assert "command no-such-compiler, Debian package no-such-package" in why
    predicted = component.run(arguments, check=True)
    assert predicted["changed"]
    assert predicted["hash"] is None


def test_a_build_that_makes_nothing_is_refused(component: Component) -> None:
    component.commands = [{"argv": ["true"]}]
    component.refused("did not make bin/greet")
    assert component.entries() == []


def test_sources_that_changed_meanwhile_are_refused(component: Component) -> None:
    component.refused("changed while Ansible ran", source_sha256="0" * 64)
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
    component.refused(
        "not a plain file",
        archive=component.source.encode(data),
        source_sha256=hashlib.sha256(data).hexdigest(),
    )
    assert component.entries() == []


def test_the_environment_is_clean(component: Component, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFLAGS", "-O0")
    monkeypatch.setenv("GOFLAGS", "-race")
    component.commands = [{"argv": ["sh", "-c", "env; umask"]}, GREET]
    component.act()
    lines = (component.root / "log" / "greet.log").read_text().splitlines()
    names = {line.split("=")[0] for line in lines if "=" in line}
    assert names == {"PATH", "HOME", "LC_ALL", "TZ", "MAKEFLAGS", "GREETING", "PWD"}
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
        component.refused("greet: another build of it is running on this host")
    assert component.act()["changed"]


def test_what_a_killed_build_left_is_removed(component: Component) -> None:
    leftover = component.root / "store" / ".part-greet-000000000000"
    (leftover / "prefix").mkdir(parents=True)
    other = component.root / "store" / ".part-other-000000000000"
    other.mkdir()
    component.act()
    assert not leftover.exists()
    assert other.exists()


def test_the_caches_of_compilers_are_left_out_where_it_is_built_again(component: Component) -> None:
    component.commands = [{"argv": ["env"]}, GREET]
    log = component.root / "log" / "greet.log"
    component.act()
    assert "CCACHE_DISABLE" not in log.read_text()
    assert component.act(rebuild="replace")["changed"]
    assert "CCACHE_DISABLE=1\n" in log.read_text()


def test_replacing_takes_the_new_build(component: Component) -> None:
    script = "mkdir -p {prefix}/bin && date +%N > {prefix}/bin/greet"
    component.commands = [{"argv": ["sh", "-c", script]}]
    first = component.act()
    again = component.act(rebuild="replace")
    assert again["changed"]
    assert again["hash"] == first["hash"]
    assert again["record"]["artifacts"] != first["record"]["artifacts"]
    seen = (component.root / "current" / "greet" / "bin" / "greet").read_bytes()
    wanted = again["record"]["artifacts"]["bin/greet"]["sha256"]
    assert hashlib.sha256(seen).hexdigest() == wanted
    assert len(component.entries()) == 2
    assert component.act(rebuild="replace", check=True)["changed"]
    assert len(component.entries()) == 2


def test_a_replacement_that_fails_leaves_the_build_that_was_there(component: Component) -> None:
    component.commands = [{"argv": ["sh", "-c", "test ! -e {root}/broken"]}, GREET]
    first = component.act()
    (component.root / "broken").touch()
    arguments = {**component.arguments(), "rebuild": "replace"}
    assert "ended with exit code 1" in component.run(arguments)["failed"]
    assert component.entries() == [f"greet-{first['hash']}", f"greet-{first['hash']}.json"]
    assert not component.act()["changed"]


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    """Every path of a store but its logs, with when it was changed."""
    paths = [path for path in root.rglob("*") if "log" not in path.parts[-2:]]
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in paths}


@pytest.mark.parametrize("check", [False, True], ids=["run", "check"])
def test_verifying_says_what_is_the_same_and_touches_nothing(
    component: Component, check: bool
) -> None:
    component.act()
    before = snapshot(component.root / "store" / next(iter(component.entries())))
    log = (component.root / "log" / "greet.log").read_text()
    found = component.act(rebuild="verify", check=check)
    assert not found["changed"]
    assert found["compared"] == {"files": 1, "differs": [], "damaged": []}
    assert found["log"] == str(component.root / "log" / "greet.verify.log")
    assert Path(found["log"]).read_text() == log
    assert len(component.entries()) == 2
    assert snapshot(component.root / "store" / next(iter(component.entries()))) == before


def test_verifying_names_the_file_that_is_not_reproducible(component: Component) -> None:
    script = (
        "mkdir -p {prefix}/bin && echo {prefix} > {prefix}/place"
        " && cp main.txt {prefix}/bin/greet && date +%N > {prefix}/time && touch {prefix}/empty"
    )
    component.commands = [{"argv": ["sh", "-c", script]}]
    first = component.act()
    (differs,) = (found := component.act(rebuild="verify"))["compared"]["differs"]
    # Its own path is in one of them, and is the same.
    assert found["compared"]["files"] == 4
    assert differs["file"] == "time"
    known = first["record"]["artifacts"]["time"]
    assert (differs["old_sha256"], differs["old_bytes"]) == (known["sha256"], known["bytes"])
    assert differs["new_sha256"] != known["sha256"]
    (warning,) = component.build.warnings_of({"greet": found})
    assert warning.startswith("greet: built again, time is not the same: sha256")


def test_verifying_sees_damage_too(component: Component) -> None:
    record = component.act()["record"]
    path = Path(record["prefix"]) / "bin" / "greet"
    path.write_text("evil\n")
    compared = component.act(rebuild="verify")["compared"]
    assert compared["differs"] == []
    assert [text.split(": ")[0] for text in compared["damaged"]] == [str(path)]
    assert path.read_text() == "evil\n"


def test_there_is_nothing_to_verify_before_the_first_build(component: Component) -> None:
    arguments = {**component.arguments(), "rebuild": "verify"}
    assert "greet: there is no finished build of today's pins" in component.run(arguments)["failed"]
    assert component.entries() == []


def test_the_last_build_of_any_inputs_says_how_long_it_took(
    component: Component, uplab_host: ModuleType
) -> None:
    place = uplab_host.Place(component.root, "greet", "0" * 12)
    assert uplab_host.last_build_s(place) is None
    found = component.act()
    record = component.root / "store" / f"greet-{found['hash']}.json"
    record.write_text(json.dumps({**found["record"], "build_s": 12.5}))
    assert uplab_host.last_build_s(place) == 12.5
    older = {**found["record"], "build_s": 99.0, "built_utc": "2020-01-01T00:00:00Z"}
    record.with_name(f"greet-{'1' * 12}.json").write_text(json.dumps(older))
    record.with_name(f"greet-more-{'1' * 12}.json").write_text(json.dumps(record.read_text()))
    assert uplab_host.last_build_s(place) == 12.5
