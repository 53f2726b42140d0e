"""Several builds at once: they share the machine, not each other's failures."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.roles.building import arguments, entries, recipe, start
from tests.roles.plays import alive, poll

DEADLINE_S = 30.0
OUT = "echo built > {prefix}/out"
#: Waits for a file, for half a minute at most.
UNTIL = "n=0; until test -e %s; do n=$((n+1)); test $n -lt 600; sleep 0.05; done"
#: Says who it is and does not end by itself, nor by anything that can be ignored.
STUBBORN = "trap '' HUP INT TERM; echo $$ > {home}/pid; mv {home}/pid {root}/%s; sleep 1000"
MAKEFILE = """\
all: 1 2 3 4 5 6
1 2 3 4 5 6:
	@echo start >> $(LOG); : $$(seq 20000); echo end >> $(LOG)
"""


def built(root: Path, name: str) -> bool:
    """Whether a component is finished and linked."""
    return (root / "current" / name / "out").exists() and len(entries_of(root, name)) == 2


def entries_of(root: Path, name: str) -> list[str]:
    return [entry for entry in entries(root) if entry.startswith((name, f".part-{name}"))]


def most_at_once(path: Path) -> int:
    """The largest number of things that had started and not ended."""
    most = now = 0
    for line in path.read_text().splitlines():
        now += 1 if line == "start" else -1
        most = max(most, now)
    return most


def test_builds_run_at_the_same_time(uplab_build: ModuleType, root: Path) -> None:
    """Each ends only once the other one has begun."""
    recipes = {
        name: recipe(f"touch {{root}}/{name}", UNTIL % f"{{root}}/{other}", OUT)
        for name, other in (("a", "b"), ("b", "a"))
    }
    result = uplab_build.act(arguments(root, recipes, jobs=2), False)
    assert "failed" not in result
    assert result["changed"]
    assert built(root, "a")
    assert built(root, "b")
    assert result["diff"]["after"].splitlines() == [
        str((root / "current" / name).readlink()) for name in ("a", "b")
    ]
    again = uplab_build.act(arguments(root, recipes, jobs=2), False)
    assert not again["changed"]


def test_one_slot_means_one_build_after_the_other(uplab_build: ModuleType, root: Path) -> None:
    work = "echo start >> {root}/seen; echo end >> {root}/seen"
    recipes = {name: recipe(work, OUT) for name in ("a", "b", "c")}
    assert "failed" not in uplab_build.act(arguments(root, recipes, jobs=1), False)
    assert most_at_once(root / "seen") == 1
    assert (root / "seen").read_text().count("start") == 3


def test_all_makes_together_keep_within_the_slots(uplab_build: ModuleType, root: Path) -> None:
    (root / "Makefile").write_text(MAKEFILE)
    make = "make -f {root}/Makefile LOG={root}/seen"
    recipes = {name: recipe(make, make, OUT) for name in ("a", "b")}
    assert "failed" not in uplab_build.act(arguments(root, recipes, jobs=3), False)
    assert most_at_once(root / "seen") <= 3
    assert (root / "seen").read_text().count("start") == 24
    for name in ("a", "b"):
        # Make says so where it cannot share.
        assert "warning" not in (root / "log" / f"{name}.log").read_text()


def test_a_build_that_has_ended_leaves_its_slot_to_the_others(
    uplab_build: ModuleType, root: Path
) -> None:
    """Two compilers of one build wait for each other; one of the slots is the other build's."""
    meet = "all: 1 2\n1:\n\t@touch $(TOP)/1; %s\n2:\n\t@touch $(TOP)/2; %s\n"
    waits = [(UNTIL % f"$(TOP)/{name}").replace("$n", "$$n").replace("$(", "$$(") for name in "21"]
    text = (meet % tuple(waits)).replace("$$(TOP)", "$(TOP)")
    (root / "Makefile").write_text(text.replace("n=0", "set -e; n=0"))
    recipes = {"quick": recipe(OUT), "long": recipe("make -f {root}/Makefile TOP={root}", OUT)}
    assert "failed" not in uplab_build.act(arguments(root, recipes, jobs=2), False)


def test_a_failure_does_not_stop_the_others(uplab_build: ModuleType, root: Path) -> None:
    recipes = {
        "bad": recipe("echo bad.c:3: no such type; touch {root}/failed; exit 3"),
        "good": recipe(UNTIL % "{root}/failed", OUT),
        "worse": recipe("echo worse.c:4: no such header; exit 4"),
    }
    result = uplab_build.act(arguments(root, recipes, jobs=2), False)
    assert result["failed"]
    assert built(root, "good")
    for name, said in (("bad", "bad.c:3: no such type"), ("worse", "worse.c:4: no such header")):
        log = root / "log" / f"{name}.log"
        assert f"{name}: the build failed: sh -ec" in result["msg"]
        assert f"lines of {log} on the host:\n" in result["msg"]
        assert f"  {said}\n" in f"{result['msg']}\n"
        assert result["builds"][name]["log"] == str(log)
        assert entries_of(root, name) == []
    assert "good:" not in result["msg"]
    assert result["builds"]["good"]["build_s"] >= 0


def test_what_a_host_lacks_for_one_build_does_not_stop_the_others(
    uplab_build: ModuleType, root: Path
) -> None:
    lacking = recipe(OUT, tools={"cc": ["no-such-compiler", "--version"]})
    result = uplab_build.act(arguments(root, {"a": lacking, "b": recipe(OUT)}), False)
    assert "a: this host lacks what builds it: command no-such-compiler" in result["msg"]
    assert built(root, "b")


@pytest.fixture
def slow(root: Path) -> Iterator[subprocess.Popen[str]]:
    """A build of two components that do not end; both have begun."""
    recipes = {name: recipe(STUBBORN % name, OUT) for name in ("a", "b")}
    process = start(arguments(root, recipes, jobs=2))
    try:
        poll(lambda: (root / "a").exists() and (root / "b").exists())
        yield process
    finally:
        process.kill()
        process.communicate()


def compilers(root: Path) -> list[int]:
    return [int((root / name).read_text()) for name in ("a", "b")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_builds_and_leaves_nothing(
    root: Path, slow: subprocess.Popen[str], number: signal.Signals
) -> None:
    pids = compilers(root)
    slow.send_signal(number)
    _, said = slow.communicate(timeout=DEADLINE_S)
    assert slow.returncode != 0
    assert number.name in said
    assert not any(alive(pid) for pid in pids)
    assert entries(root) == []


def test_builds_that_nobody_waits_for_any_more_end(root: Path, slow: subprocess.Popen[str]) -> None:
    """A connection that breaks closes the other end of stdout, and says nothing."""
    pids = compilers(root)
    assert slow.stdout is not None
    slow.stdout.close()
    assert slow.wait(DEADLINE_S) != 0
    assert slow.stderr is not None
    assert "the end of its connection" in slow.stderr.read()
    assert not any(alive(pid) for pid in pids)
    assert entries(root) == []


def test_a_killed_module_leaves_no_compiler_and_the_next_one_builds(
    uplab_build: ModuleType, root: Path, slow: subprocess.Popen[str]
) -> None:
    pids = compilers(root)
    slow.kill()
    slow.wait(DEADLINE_S)
    poll(lambda: not any(alive(pid) for pid in pids))
    # Nobody could tidy up, but nothing looks finished.
    assert [entry[:7] for entry in entries(root)] == [".part-a", ".part-b"]
    assert not list((root / "current").iterdir())
    locks = [root / "store" / f".lock-{name}" for name in ("a", "b")]
    poll(lambda: all(is_free(lock) for lock in locks))
    done = uplab_build.act(arguments(root, {"a": recipe(OUT), "b": recipe(OUT)}), False)
    assert "failed" not in done
    assert built(root, "a")
    assert built(root, "b")


def is_free(path: Path) -> bool:
    """Whether nobody holds a lock file."""
    with path.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_two_setups_at_once_share_what_they_can(
    uplab_build: ModuleType, root: Path, slow: subprocess.Popen[str]
) -> None:
    """The second one builds what the first does not, and says which build it would not disturb."""
    recipes = {"a": recipe(OUT), "c": recipe(OUT)}
    result = uplab_build.act(arguments(root, recipes, jobs=2), False)
    log = root / "log" / "a.log"
    assert f"a: another build of it is running on this host (its output: {log})" in result["msg"]
    assert built(root, "c")
    assert all(alive(pid) for pid in compilers(root))
    assert slow.poll() is None


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A store on a file system of two MiB."""
    root = tmp_path / "small"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(root)]
    subprocess.run(mount, check=True)
    try:
        for name in ("store", "current", "log"):
            (root / name).mkdir()
        yield root
    finally:
        subprocess.run(["umount", str(root)], check=True)


FILL = "cat /dev/zero > {%s}/filler"


def test_a_full_disk_is_named_and_leaves_nothing(uplab_build: ModuleType, small: Path) -> None:
    result = uplab_build.act(arguments(small, {"a": recipe(OUT, FILL % "build")}), False)
    assert f"{small}/store is full (0 KiB free)" in result["msg"]
    assert entries(small) == []
    assert "failed" not in uplab_build.act(arguments(small, {"a": recipe(OUT)}), False)
    assert built(small, "a")


def test_a_disk_that_is_full_at_the_last_moment_leaves_the_build_that_was_there(
    uplab_build: ModuleType, small: Path
) -> None:
    """Everything was built, and the record has no room any more."""
    # The build itself succeeds: what is full then is the disk, not the command.
    recipes = {"a": recipe(OUT, f"test ! -e {{root}}/full || {FILL % 'build'} || true")}
    first = uplab_build.act(arguments(small, recipes), False)
    before = entries(small)
    (small / "full").touch()
    again = uplab_build.act(arguments(small, recipes, rebuild="replace"), False)
    assert again["msg"].startswith("a: ")
    assert again["msg"].endswith("No space left on device")
    assert entries(small) == before
    assert not uplab_build.act(arguments(small, recipes), False)["changed"]
    assert first["builds"]["a"]["hash"] in before[0]


def test_a_fault_of_our_own_ends_the_others(
    uplab_build: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody foresaw in one build must not leave the others running behind it."""

    def broken(builder: Any, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["component"] == "b":
            poll(lambda: (root / "a").exists())
            raise ZeroDivisionError
        result: dict[str, Any] = real(builder, wanted)
        return result

    real = uplab_build.attempt
    monkeypatch.setattr(uplab_build, "attempt", broken)
    recipes = {"a": recipe(STUBBORN % "a"), "b": recipe(OUT)}
    with pytest.raises(ZeroDivisionError):
        uplab_build.act(arguments(root, recipes, jobs=2), False)
    assert not alive(int((root / "a").read_text()))
    assert entries(root) == []


def test_slots_are_bounded_by_processors_and_memory(
    uplab_build: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = uplab_build.free_slots.__globals__
    assert 1 <= uplab_build.free_slots() <= len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
    assert uplab_build.free_slots() < 64
    monkeypatch.setitem(together, "MEMORY_PER_JOB_BYTES", 1 << 60)
    assert uplab_build.free_slots() == 1
