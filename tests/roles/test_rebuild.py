"""lab.rebuild on this machine: a store of its own, stand-ins that are reproducible or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.roles.plays import PLAYBOOKS, REPOSITORY, Runner, write_stand_ins
from uplab import rebuild
from uplab.errors import EXIT_GATE, EXIT_OK
from uplab.rebuild import Component, Rebuild

pytestmark = [pytest.mark.usefixtures("debian_packages"), pytest.mark.timeout(300)]

COMPONENTS = ["golang", "gotrace", "servers", "wrk"]
#: The stand-in's programs hold the time of their build.
TIMED = "return 0; }\\nconst char *t = \"'$$(date +%N)'\";"


class Lab:
    """An inventory of one host, which is this machine with a store of its own."""

    def __init__(self, top: Path, run_play: Runner) -> None:
        self.root, self.inventory = top / "uplab", top / "hosts.yml"
        sources = write_stand_ins(top)
        makefile = Path(sources["gotrace_source"]) / "Makefile"
        makefile.write_text(makefile.read_text().replace("return 0; }", TIMED))
        variables: dict[str, Any] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": "/usr/bin/python3",
            "uplab_root": str(self.root),
            **sources,
        }
        hosts = {"uplab": {"hosts": {"here": variables}}}
        self.inventory.write_text(json.dumps(hosts))
        self.variables = {"uplab_root": str(self.root), **sources}
        first = run_play(PLAYBOOKS / "setup.yml", variables=self.variables, mitogen=True)
        assert first.exit_code == 0, first.output

    def run(self, *only: str, verify: bool) -> Rebuild:
        return rebuild.run(REPOSITORY, ["here"], verify=verify, only=only, chosen=self.inventory)

    def tree(self) -> dict[str, int]:
        """Every path but the logs, with when it was changed; not the store, where builds happen."""
        paths = [path for path in self.root.rglob("*") if "log" not in path.parts]
        return {str(p): p.lstat().st_mtime_ns for p in paths if p != self.root / "store"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, run_play: Runner) -> Lab:
    return Lab(tmp_path_factory.mktemp("rebuild"), run_play)


def by_name(found: Rebuild) -> dict[str, Component]:
    return {component.name: component for component in found.hosts["here"]}


def test_verifying_says_what_is_the_same_and_which_file_is_not(
    lab: Lab, capfd: pytest.CaptureFixture[str]
) -> None:
    before = lab.tree()
    found = lab.run(verify=True)
    assert lab.tree() == before
    assert found.problems == (), found.log.read_text()
    assert found.exit_code == EXIT_GATE
    seen = by_name(found)
    assert sorted(seen) == sorted([*COMPONENTS, "hostside"])
    assert [name for name, one in seen.items() if not one.same] == ["gotrace"]
    files = [one.file for one in seen["gotrace"].differs]
    assert files == ["bin/gotrace", "bin/probe-cost"]
    for one in seen["gotrace"].differs:
        assert one.old_sha256 != one.new_sha256
        assert one.old_bytes
    assert (seen["servers"].how, seen["servers"].files) == ("built", 2)
    assert (seen["wrk"].how, seen["wrk"].build_s) == ("read", None)
    # Who waits saw meanwhile what it was; stdout is left to the answer.
    shown = capfd.readouterr()
    assert "here: servers in 0:" in shown.err
    assert shown.out == ""


def test_only_what_was_named_is_built(lab: Lab) -> None:
    found = lab.run("servers", verify=True)
    assert sorted(by_name(found)) == ["servers"]
    assert found.exit_code == EXIT_OK


def test_replacing_takes_the_new_builds(lab: Lab) -> None:
    def artifacts() -> Any:
        manifest = json.loads((lab.root / "manifest.json").read_text())
        return manifest["components"]["gotrace"]["artifacts"]

    before = artifacts()
    found = lab.run("gotrace", verify=False)
    assert found.exit_code == EXIT_OK, rebuild.as_text(found)
    assert by_name(found)["gotrace"].build_s is not None
    assert artifacts() != before
    assert sorted(artifacts()) == sorted(before)


def test_other_sources_than_those_that_were_built_have_nothing_to_compare_with(lab: Lab) -> None:
    before = lab.tree()
    gotrace = Path(lab.variables["gotrace_source"])
    good = (gotrace / "Makefile").read_text()
    try:
        (gotrace / "Makefile").write_text(good + "# changed\n")
        found = lab.run(verify=True)
    finally:
        (gotrace / "Makefile").write_text(good)
    assert found.exit_code == EXIT_GATE
    seen = by_name(found)
    assert [name for name, one in seen.items() if not one.same] == ["gotrace"]
    assert sorted(seen) == sorted([*COMPONENTS, "hostside"])
    (problem,) = seen["gotrace"].problems
    assert "gotrace: there is no finished build of today's pins and sources" in problem
    assert "Run: invoke lab.setup" in problem
    assert lab.tree() == before
