"""playbooks/setup.yml on this machine, into a store of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.roles.plays import (
    PLAYBOOKS,
    REPOSITORY,
    Play,
    Runner,
    alive,
    play_argv,
    play_environment,
    poll,
    write_stand_ins,
)

pytestmark = pytest.mark.usefixtures("debian_packages")

SETUP = PLAYBOOKS / "setup.yml"
COMPONENTS = ["golang", "gotrace", "servers", "wrk"]
DEADLINE_S = 60.0
INTERRUPTIONS = [
    (False, signal.SIGINT),
    (False, signal.SIGTERM),
    (True, signal.SIGINT),
    (True, signal.SIGTERM),
]


@dataclass(frozen=True)
class Lab:
    """A store, the sources that go into it, and the way to run the playbook on it."""

    root: Path
    variables: dict[str, Any]
    run_play: Runner

    def setup(self, *words: str, mitogen: bool = False, **more: Any) -> Play:
        variables = {"uplab_root": str(self.root), **self.variables, **more}
        return self.run_play(SETUP, *words, variables=variables, mitogen=mitogen)

    def manifest(self) -> dict[str, Any]:
        value = json.loads((self.root / "manifest.json").read_text())
        assert isinstance(value, dict)
        return value

    def tree(self) -> dict[str, int]:
        """Every path but the logs, with when it was changed; not the store, where builds happen."""
        paths = [path for path in self.root.rglob("*") if "log" not in path.parts]
        store = self.root / "store"
        return {str(p): p.lstat().st_mtime_ns for p in paths if p != store}

    def unfinished(self) -> list[str]:
        """What lies in the store without being a finished build."""
        names = [path.name for path in (self.root / "store").iterdir()]
        return [name for name in names if name.startswith((".part-", ".old-"))]


@pytest.fixture(scope="module")
def converged(tmp_path_factory: pytest.TempPathFactory, run_play: Runner) -> Lab:
    """A lab of stand-ins, set up once; the tests leave it converged."""
    top = tmp_path_factory.mktemp("lab")
    lab = Lab(top / "uplab", write_stand_ins(top), run_play)
    first = lab.setup()
    assert first.exit_code == 0, first.output
    assert first.recap()["changed"] == 6, first.output
    return lab


def test_check_mode_on_a_fresh_host_predicts_and_writes_nothing(
    tmp_path: Path, run_play: Runner
) -> None:
    lab = Lab(tmp_path / "uplab", write_stand_ins(tmp_path), run_play)
    done = lab.setup("--check", "--diff")
    assert done.exit_code == 0, done.output
    # Directories, two records, the builds, the certificate, the manifest.
    assert done.recap()["changed"] == 6
    assert f"+{lab.root}/store 0755" in done.output
    assert not lab.root.exists()


@pytest.mark.parametrize("mitogen", [False, True], ids=["stock", "mitogen"])
@pytest.mark.parametrize("words", [[], ["--check", "--diff"]], ids=["run", "check"])
def test_a_second_run_changes_nothing(converged: Lab, words: list[str], mitogen: bool) -> None:
    done = converged.setup(*words, mitogen=mitogen)
    assert done.exit_code == 0, done.output
    recap = done.recap()
    assert recap["changed"] == recap["failed"] == 0


def test_first_run_under_mitogen(tmp_path: Path, run_play: Runner) -> None:
    lab = Lab(tmp_path / "uplab", write_stand_ins(tmp_path), run_play)
    first = lab.setup(mitogen=True)
    assert first.exit_code == 0, first.output
    assert first.recap()["changed"] == 6
    assert sorted(lab.manifest()["components"]) == COMPONENTS


def test_the_manifest_agrees_with_the_store(converged: Lab) -> None:
    manifest = converged.manifest()
    assert sorted(manifest["components"]) == COMPONENTS
    assert sorted(manifest["pins"]) == COMPONENTS
    assert manifest["digest"] is None
    for name, record in manifest["components"].items():
        prefix = Path(record["prefix"])
        assert (converged.root / "current" / name).readlink() == prefix
        beside = converged.root / "store" / f"{name}-{record['hash']}.json"
        assert json.loads(beside.read_text()) == record
        for artifact, wanted in record["artifacts"].items():
            assert (prefix / artifact).stat().st_size == wanted["bytes"]


def test_the_digest_goes_into_the_manifest(converged: Lab) -> None:
    assert converged.setup(uplab_digests={"local": "abc"}).recap()["changed"] == 1
    assert converged.manifest()["digest"] == "abc"
    assert converged.setup(uplab_digests={"local": "abc"}).recap()["changed"] == 0
    assert converged.setup().recap()["changed"] == 1
    assert converged.manifest()["digest"] is None


def test_the_key_is_private(converged: Lab) -> None:
    assert (converged.root / "tls" / "key.pem").stat().st_mode & 0o777 == 0o600
    assert (converged.root / "tls" / "cert.pem").stat().st_mode & 0o777 == 0o644
    assert (converged.root / "tls").stat().st_mode & 0o777 == 0o755


def test_tags_run_one_role_on_its_ground(converged: Lab) -> None:
    listed = converged.setup("--tags", "servers", "--list-tasks").output
    assert "servers : Keep the certificate" in listed
    assert "base : Make the directories" in listed
    assert "Write the manifest" in listed
    assert "gotrace : Look for" not in listed
    assert converged.setup("--tags", "servers").recap()["changed"] == 0


def test_a_tampered_artifact_is_built_again(converged: Lab) -> None:
    path = converged.root / "current" / "servers" / "bin" / "go-server"
    before = path.read_bytes()
    path.write_bytes(before + b"x")
    # The build, and the manifest with the record of it.
    assert converged.setup().recap()["changed"] == 2
    assert path.read_bytes() == before
    assert converged.setup().recap()["changed"] == 0


def test_changed_sources_rebuild_that_component_alone(tmp_path: Path, converged: Lab) -> None:
    shutil.copytree(converged.variables["gotrace_source"], tmp_path / "gotrace")
    with (tmp_path / "gotrace" / "Makefile").open("a") as stream:
        stream.write("# changed\n")
    before = converged.manifest()["components"]
    done = converged.setup(gotrace_source=str(tmp_path / "gotrace"))
    assert done.recap()["changed"] == 2
    after = converged.manifest()["components"]
    assert [name for name in COMPONENTS if before[name] != after[name]] == ["gotrace"]
    # And back: the old build is still there, so only the link and the manifest change.
    assert converged.setup().recap()["changed"] == 2
    assert converged.manifest()["components"] == before


def test_a_compiler_error_ends_with_the_log(tmp_path: Path, run_play: Runner) -> None:
    lab = Lab(tmp_path / "uplab", write_stand_ins(tmp_path), run_play)
    (tmp_path / "gotrace" / "Makefile").write_text(
        "all:\n\tprintf 'int main(void) { return nonsense; }' | gcc -x c -o $(BUILD)/x -\n"
    )
    done = lab.setup("--tags", "gotrace")
    assert done.exit_code == 2
    log = lab.root / "log" / "gotrace.log"
    assert "gotrace: the build failed: make" in done.text
    assert f"lines of {log} on the host" in done.text
    assert "nonsense" in done.text
    assert "undeclared" in log.read_text()
    assert lab.unfinished() == []
    assert not list((lab.root / "store").glob("gotrace-*"))
    assert not (lab.root / "manifest.json").exists()


@pytest.mark.parametrize("mitogen", [False, True], ids=["stock", "mitogen"])
def test_a_failed_build_lets_the_others_finish(
    tmp_path: Path, run_play: Runner, mitogen: bool
) -> None:
    """The tracer's build fails; the servers', which waits for that, is finished nevertheless."""
    lab = Lab(tmp_path / "uplab", write_stand_ins(tmp_path), run_play)
    failed = tmp_path / "failed"
    (tmp_path / "gotrace" / "Makefile").write_text(f"all:\n\ttouch {failed}; exit 3\n")
    recipe = {
        "version": "1",
        "commands": [
            {"argv": ["sh", "-c", f"until test -e {failed}; do sleep 0.05; done"]},
            {"argv": ["sh", "-c", "mkdir {prefix}/bin; cp go.mod {prefix}/bin/go-server"]},
        ],
        "artifacts": ["bin/go-server"],
    }
    done = lab.setup("--tags", "servers,gotrace", mitogen=mitogen, servers_recipe=recipe)
    assert done.exit_code == 2
    assert "gotrace: the build failed: make" in done.text
    assert "servers: the build failed" not in done.text
    assert (lab.root / "current" / "servers" / "bin" / "go-server").exists()
    assert not (lab.root / "current" / "gotrace").exists()
    assert lab.unfinished() == []
    assert not (lab.root / "manifest.json").exists()


@pytest.mark.parametrize("mitogen", [False, True], ids=["stock", "mitogen"])
def test_verifying_by_hand_changes_nothing(converged: Lab, mitogen: bool) -> None:
    before = converged.tree()
    done = converged.setup("--check", uplab_rebuild="verify", mitogen=mitogen)
    assert done.exit_code == 0, done.output
    assert done.recap()["changed"] == 0
    assert converged.tree() == before
    assert "is not the same" not in done.text
    logs = sorted(path.name for path in (converged.root / "log").glob("*.verify.log"))
    assert logs == ["gotrace.verify.log", "servers.verify.log"]


def test_verifying_names_what_is_not_reproducible(tmp_path: Path, run_play: Runner) -> None:
    """A stand-in that embeds the time of its build."""
    lab = Lab(tmp_path / "uplab", write_stand_ins(tmp_path), run_play)
    makefile = tmp_path / "gotrace" / "Makefile"
    timed = "return 0; }\\nconst char *t = \"'$$(date +%N)'\";"
    makefile.write_text(makefile.read_text().replace("return 0; }", timed))
    assert lab.setup("--tags", "gotrace").exit_code == 0
    done = lab.setup("--tags", "gotrace", "--check", uplab_rebuild="verify")
    assert done.exit_code == 0, done.output
    for name in ("gotrace", "probe-cost"):
        assert f"gotrace: built again, bin/{name} is not the same: sha256" in done.text


def test_replacing_builds_again_what_is_there(converged: Lab) -> None:
    before = converged.manifest()["components"]
    links = {name: (converged.root / "current" / name).readlink() for name in COMPONENTS}
    inode = (links["gotrace"] / "bin" / "gotrace").stat().st_ino
    done = converged.setup("--tags", "gotrace", uplab_rebuild="replace")
    # The build, and the manifest with its record.
    assert done.recap()["changed"] == 2, done.output
    after = converged.manifest()["components"]
    assert after["gotrace"]["artifacts"] == before["gotrace"]["artifacts"]
    assert (links["gotrace"] / "bin" / "gotrace").stat().st_ino != inode
    assert {name: (converged.root / "current" / name).readlink() for name in COMPONENTS} == links
    assert converged.setup().recap()["changed"] == 0


@pytest.mark.parametrize(("mitogen", "number"), INTERRUPTIONS)
def test_an_interrupted_run_leaves_nothing_that_looks_finished(
    tmp_path: Path, run_play: Runner, mitogen: bool, number: int
) -> None:
    lab = Lab(tmp_path / "uplab", write_stand_ins(tmp_path), run_play)
    makefile = tmp_path / "gotrace" / "Makefile"
    good, pid_file = makefile.read_text(), tmp_path / "pid"
    makefile.write_text(
        f"all:\n\techo $$$$ > {pid_file}.part; mv {pid_file}.part {pid_file}; exec sleep 1000\n"
    )
    variables = {"uplab_root": str(lab.root), **lab.variables}
    process = subprocess.Popen(
        play_argv(SETUP, "--tags", "gotrace", variables=variables),
        cwd=REPOSITORY,
        env=play_environment(mitogen),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    poll(pid_file.exists)
    compiler = int(pid_file.read_text())
    os.killpg(process.pid, number)
    assert process.wait(DEADLINE_S) != 0
    poll(lambda: not alive(compiler))
    assert not list((lab.root / "store").glob("gotrace-*"))
    assert not (lab.root / "current" / "gotrace").exists()
    assert not (lab.root / "manifest.json").exists()
    makefile.write_text(good)
    again = lab.setup("--tags", "gotrace", mitogen=mitogen)
    assert again.exit_code == 0, again.output
    assert lab.unfinished() == []
    assert sorted(lab.manifest()["components"]) == ["gotrace"]


@pytest.mark.timeout(600)
def test_our_own_sources_build_to_the_same_bytes_anywhere(tmp_path: Path, run_play: Runner) -> None:
    labs = [Lab(tmp_path / name, {}, run_play) for name in ("one", "another-place")]
    for lab in labs:
        done = lab.setup()
        assert done.exit_code == 0, done.output
    first, second = (lab.manifest()["components"] for lab in labs)
    assert set(first["servers"]["artifacts"]) == {"bin/go-server", "bin/go-server-http"}
    assert set(first["gotrace"]["artifacts"]) == {"bin/gotrace", "bin/probe-cost"}
    for name in ("servers", "gotrace"):
        assert first[name]["hash"] == second[name]["hash"]
        assert first[name]["artifacts"] == second[name]["artifacts"]
