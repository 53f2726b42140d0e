"""uplab/rebuild.py: what is said of builds that were made again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from uplab import hostzip, rebuild
from uplab.errors import EXIT_GATE, EXIT_OK
from uplab.outcome import Outcome, Result
from uplab.rebuild import Rebuild

ROOT = Path(__file__).parents[2]
LOG = Path("/checkout/.uplab/log/setup.log")
OLD, NEW = "0" * 64, "1" * 64
DIFFERENCE = {
    "file": "bin/gotrace",
    "old_sha256": OLD,
    "new_sha256": NEW,
    "old_bytes": 10,
    "new_bytes": 12,
}
SAME = {"changed": False, "build_s": 2.0, "compared": {"files": 2, "differs": [], "damaged": []}}


def result(action: str, state: str = "ok", **returned: Any) -> Result:
    return Result("h1", "", "Build", action, state, returned, 1.0)


def judged(
    *results: Result, verify: bool = True, only: tuple[str, ...] = ("servers", "gotrace", "wrk")
) -> Rebuild:
    code = 2 if any(each.state == "failed" for each in results) else 0
    outcome = Outcome(code, list(results), LOG)
    return rebuild.judge(ROOT, ["h1"], outcome, verify=verify, only=only)


def builds(state: str = "ok", **answers: dict[str, Any]) -> Result:
    return result("uplab_build", state, builds=answers)


def test_the_same_bytes_are_the_same() -> None:
    read = result("uplab_store", compared={"wrk": {"files": 1, "differs": []}})
    found = judged(builds(servers=SAME, gotrace=SAME), read)
    assert found.exit_code == EXIT_OK
    assert rebuild.as_text(found).splitlines() == [
        "h1  gotrace  same (2), built in 2.0 s",
        "h1  servers  same (2), built in 2.0 s",
        "h1  wrk      same (1)",
        "all of it is the same, byte for byte",
    ]


def test_a_file_that_differs_is_named_with_both_digests() -> None:
    compared = {"files": 2, "differs": [DIFFERENCE], "damaged": []}
    found = judged(builds(gotrace={**SAME, "compared": compared}, servers=SAME))
    assert found.exit_code == EXIT_GATE
    assert rebuild.as_text(found).splitlines() == [
        "h1  gotrace  1 of 2 files differ, built in 2.0 s",
        f"    bin/gotrace: sha256 was {OLD} (10 bytes), is {NEW} (12 bytes)",
        "h1  servers  same (2), built in 2.0 s",
        f"not the same or failed: gotrace. Ansible's own output: {LOG}",
    ]
    document = json.loads(rebuild.as_json(found))
    gotrace, servers = document["hosts"]["h1"]
    assert gotrace["differs"] == [DIFFERENCE]
    assert (gotrace["same"], servers["same"]) == (False, True)
    assert document["exit_code"] == EXIT_GATE


def test_a_file_that_is_gone_is_named() -> None:
    gone = {**DIFFERENCE, "new_sha256": None, "new_bytes": None}
    found = judged(result("uplab_store", compared={"wrk": {"files": 1, "differs": [gone]}}))
    assert found.exit_code == EXIT_GATE
    assert f"    bin/gotrace: sha256 was {OLD} (10 bytes), is absent" in rebuild.as_text(found)


def test_damage_in_the_store_is_told_from_a_difference() -> None:
    compared = {"files": 2, "differs": [], "damaged": ["/s/x: sha256 is 1, the record says 0"]}
    found = judged(builds(servers={**SAME, "compared": compared}))
    assert found.exit_code == EXIT_GATE
    assert "h1  servers  damaged where it lies, built in 2.0 s\n    /s/x: sha" in rebuild.as_text(
        found
    )


def test_a_build_that_fails_is_said_once_beside_the_others() -> None:
    said = "gotrace: the build failed: make ended with exit code 2.\nThe last lines:\n  x"
    failed = builds("failed", gotrace={"changed": False, "failed": said}, servers=SAME)
    found = judged(failed)
    assert found.exit_code == EXIT_GATE
    text = rebuild.as_text(found)
    assert text.count("the build failed") == 1
    assert "h1  gotrace  failed\n    gotrace: the build failed: make" in text
    assert "h1  servers  same (2)" in text
    assert found.problems == ()


def test_another_failure_is_said_too() -> None:
    found = judged(result("uplab_packages", "failed", msg="apt is broken"))
    assert found.problems == ("h1: Build: apt is broken",)
    assert found.exit_code == EXIT_GATE
    assert "h1: Build: apt is broken" in rebuild.as_text(found)


def test_only_what_was_asked_for_is_said() -> None:
    read = result("uplab_store", compared={"wrk": {"files": 1, "differs": [DIFFERENCE]}})
    found = judged(builds(servers=SAME), read, only=("servers",))
    assert [component.name for component in found.hosts["h1"]] == ["servers"]
    assert found.exit_code == EXIT_OK


def test_replacing_says_what_was_built() -> None:
    found = judged(builds("changed", servers={"changed": True, "build_s": 3.0}), verify=False)
    assert rebuild.as_text(found) == ("h1  servers  built again in 3.0 s\nall of it is built again")
    assert found.exit_code == EXIT_OK


def test_nothing_of_a_host_reaches_the_terminal_as_it_is() -> None:
    evil = {**DIFFERENCE, "file": "bin/\x1b[2Jx"}
    compared = {"files": 1, "differs": [evil], "damaged": []}
    found = judged(builds(servers={**SAME, "compared": compared}))
    assert "\x1b" not in rebuild.as_text(found)


def test_the_zipapp_is_packed_twice() -> None:
    found = rebuild.zipapp(ROOT)
    assert found.same
    assert (found.name, found.files) == ("hostside", 1)
    whole = judged(builds(servers=SAME), only=())
    assert [component.name for component in whole.hosts["h1"]] == ["servers", "hostside"]


def test_a_zipapp_that_differs_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostzip, "pack", lambda _registry: b"another")
    (differs,) = rebuild.zipapp(ROOT).differs
    assert differs.file == "hostside.pyz"
    assert differs.old_bytes == len(b"another")
    assert differs.old_sha256 != differs.new_sha256


def test_the_zipapp_is_the_same_wherever_and_whenever_it_is_packed(tmp_path: Path) -> None:
    packed = []
    for number, name in enumerate(("one", "another-place")):
        copy = tmp_path / name
        for folder in ("uplab", "servers", "tracers", "loads"):
            shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("*.pyc"))
        for path in copy.rglob("*"):
            os.utime(path, (number * 10**8, number * 10**8))
            path.chmod(0o755 if path.is_dir() or number else 0o600)
        script = f"{rebuild._PACK}; assert hostzip.__file__.startswith(sys.argv[1])"
        done = subprocess.run(
            [sys.executable, "-B", "-c", script, str(copy)],
            env={**os.environ, "PYTHONHASHSEED": str(number), "PYTHONPATH": str(copy)},
            capture_output=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr.decode()
        packed.append(done.stdout)
    assert packed[0] == packed[1]
    assert len(packed[0]) > 10_000
