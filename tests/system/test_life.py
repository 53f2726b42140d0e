"""The whole life of a host over SSH: nothing, a lab, a bigger lab, nothing again."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml

from tests import tasks
from tests.roles.standins import Upstream
from tests.system.lab import ROOT
from uplab import box
from uplab.box.record import Box

pytestmark = pytest.mark.timeout(300)

LIMIT_S = 280.0
POLL_S = 0.2
COMPONENTS = ["golang", "gotrace", "servers", "wrk"]
STORE = "/opt/uplab/store"
RUN = "/var/lib/uplab/runs/20260101T000000Z-box-seed"
OLD = "0" * 12
#: Where the stand-ins for upstream's repositories and archives lie in the box.
UPSTREAM = "/srv/upstream"
#: In the box: once dpkg has begun to remove, kill it and all that waits for it.
POWER_LOSS = b"""
until pgrep -x dpkg >/dev/null && pgrep -x apt-get >/dev/null; do sleep 0.02; done
pkill -KILL -x 'python3|apt-get|dpkg'
"""
#: In the box: everything that a life may change. What Debian's tools keep for themselves, and what
#: runs there by itself, is left out; so is Ansible's own directory in root's home.
LOOK = r"""
import hashlib, json, os, stat, subprocess
SKIPPED = {"/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/var/cache", "/var/log",
           "/var/lib/apt", "/var/lib/dpkg", "/var/lib/systemd", "/root/.ansible"}
files = {}
for folder, names, others in os.walk("/"):
    names[:] = [name for name in names if os.path.join(folder, name) not in SKIPPED]
    for name in names + others:
        path = os.path.join(folder, name)
        status = os.lstat(path)
        content = ""
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            with open(path, "rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
        files[path] = [oct(status.st_mode), status.st_uid, status.st_gid, content]
def said(*argv):
    return sorted(subprocess.run(argv, stdout=subprocess.PIPE, text=True).stdout.splitlines())
print(json.dumps({
    "files": files,
    "packages": said("dpkg-query", "--show", "-f", "${Package} ${Version} ${db:Status-Abbrev}\n"),
    "manual": said("apt-mark", "showmanual"),
    "unit files": said("systemctl", "list-unit-files", "--no-legend"),
    "failed": said("systemctl", "list-units", "--failed", "--plain", "--no-legend"),
    "mounts": [line.split()[:3] for line in open("/proc/mounts") if "/run/user" not in line],
    "uplab": sorted(name for name in os.listdir("/run") if "uplab" in name),
}))
"""


@dataclass(frozen=True)
class Host:
    """A box, the inventory that names it, and what it was like before uplab."""

    box: Box
    inventory: Path
    before: dict[str, Any]

    def lab(self, task: str, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a task of uplab's on it, without a terminal; the test fails on another exit code."""
        return tasks.ended(
            f"lab.{task}", *self.own(*words), timeout_s=LIMIT_S, code=code, env=environment()
        )

    def argv(self, task: str, *words: str) -> list[str]:
        return tasks.argv(f"lab.{task}", *self.own(*words))

    def own(self, *words: str) -> list[str]:
        return ["--host", self.box.name, "--inventory", str(self.inventory), *words]

    def removed(self, task: str, *words: str) -> dict[str, Any]:
        """What lab.gc or lab.teardown did on it."""
        (host,) = json.loads(self.lab(task, "--json", *words).stdout)["hosts"]
        assert isinstance(host, dict)
        return host

    def run(self, *command: str, stdin: bytes = b"") -> str:
        """What a command there prints."""
        done = subprocess.run(
            box.ssh_argv(self.box, shlex.join(command)),
            input=stdin,
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def has(self, path: str) -> bool:
        return self.run("sh", "-c", f"test -e {path} && echo yes || echo no") == "yes\n"

    def look(self) -> dict[str, Any]:
        value = json.loads(self.run("python3", "-", stdin=LOOK.encode()))
        assert isinstance(value, dict)
        return value

    def write_inventory(self, **variables: Any) -> None:
        """What the box's own inventory says, and more."""
        hosts = yaml.safe_load(self.box.inventory_file.read_text())["uplab"]["hosts"]
        merged = {self.box.name: {**hosts[self.box.name], **variables}}
        self.inventory.write_text(yaml.safe_dump({"uplab": {"hosts": merged}}))


def environment() -> dict[str, str]:
    """No agent, and no connection that outlives a test."""
    kept = {key: value for key, value in os.environ.items() if key != "SSH_AUTH_SOCK"}
    return {**kept, "ANSIBLE_SSH_ARGS": "-o ControlMaster=no"}


def changed(done: subprocess.CompletedProcess[str]) -> int:
    """How many tasks changed something, by Ansible's recap."""
    recap = done.stdout.rpartition("PLAY RECAP")[2]
    return int(recap.partition("changed=")[2].split()[0])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LIMIT_S / 2
    while not condition():
        assert time.monotonic() < deadline_s, "it never came true"
        time.sleep(POLL_S)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A Debian that uplab never saw."""
    with box.running(ROOT) as running:
        inventory = tmp_path_factory.mktemp("life") / "hosts.yml"
        empty = Host(running, inventory, {})
        empty.write_inventory()
        yield Host(running, inventory, empty.look())


@pytest.fixture(scope="module")
def planned(fresh: Host) -> Any:
    """What lab.plan says of it."""
    return json.loads(fresh.lab("plan", "--json").stdout)


@pytest.fixture(scope="module")
def lab(fresh: Host, planned: Any) -> Host:
    """The host after lab.setup with the default components."""
    assert planned["exit_code"] == 0
    assert changed(fresh.lab("setup")) > 0
    return fresh


@pytest.fixture(scope="module")
def there(lab: Host) -> Any:
    """What is there, as testinfra sees it over its own connection."""
    config = lab.box.inventory_file.with_name("ssh_config")
    return testinfra.get_host(f"ssh://{lab.box.name}?controlpersist=0", ssh_config=str(config))


@pytest.fixture(scope="module")
def big_lab(lab: Host, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """The host after lab.setup with all components, bpftime and DeepFlow from stand-ins."""
    upstream = Upstream(tmp_path_factory.mktemp("standins"))
    upstream.make()
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(upstream.top, arcname=".")
    lab.run("mkdir", UPSTREAM)
    unpack = ["tar", "--extract", "--no-same-owner", f"--directory={UPSTREAM}"]
    lab.run(*unpack, stdin=packed.getvalue())
    text = json.dumps(upstream.variables()).replace(str(upstream.top), UPSTREAM)
    components = [*COMPONENTS, "bpftime", "deepflow"]
    lab.write_inventory(uplab_components=components, **json.loads(text))
    assert changed(lab.lab("setup")) > 0
    return lab


# ---- a lab ---------------------------------------------------------------------------------------


def test_a_host_that_was_never_set_up_is_not_touched(fresh: Host) -> None:
    for words in (["--check"], ["--yes", "--packages", "--runs"]):
        done = fresh.lab("teardown", *words)
        said = f"{fresh.box.name}: uplab is not set up there; nothing was changed\n"
        assert done.stdout == said
    assert fresh.lab("gc").stdout == f"{fresh.box.name} is not set up; nothing to remove\n"
    assert "is not set up" in fresh.lab("status", code=1).stdout
    assert fresh.look() == fresh.before


def test_a_check_of_a_fresh_host_writes_nothing(fresh: Host) -> None:
    assert changed(fresh.lab("setup", "--check", "--diff")) > 0
    assert fresh.look()["files"] == fresh.before["files"]


def test_the_plan_names_what_setup_then_added(planned: Any, lab: Host) -> None:
    (plan,) = planned["hosts"]
    added = json.loads(lab.run("cat", "/opt/uplab/packages.json"))["added"]
    assert sorted(row["name"] for row in plan["packages"]["added"]) == added
    assert sorted(build["component"] for build in plan["builds"]) == ["gotrace", "servers"]
    (now,) = json.loads(lab.lab("plan", "--json").stdout)["hosts"]
    assert (now["packages"]["added"], now["builds"], now["paths"]) == ([], [], [])


def test_setup_brings_what_a_run_needs(there: Any) -> None:
    manifest = json.loads(there.file("/opt/uplab/manifest.json").content_string)
    assert sorted(manifest["components"]) == COMPONENTS
    for name, record in manifest["components"].items():
        link = there.file(f"/opt/uplab/current/{name}")
        assert link.is_symlink
        assert link.linked_to == record["prefix"]
        for artifact, noted in record["artifacts"].items():
            file = there.file(f"{record['prefix']}/{artifact}")
            assert (file.size, file.user, file.mode & 0o111) == (noted["bytes"], "root", 0o111)
            assert file.sha256sum == noted["sha256"]
    added = json.loads(there.file("/opt/uplab/packages.json").content_string)["added"]
    assert {"golang-go", "wrk", "bpftool"} <= set(added)
    assert there.package("wrk").version == manifest["components"]["wrk"]["version"]
    key = there.file("/opt/uplab/tls/key.pem")
    assert (key.mode, key.user) == (0o600, "root")
    assert there.run("openssl verify -CAfile %s %s", *["/opt/uplab/tls/cert.pem"] * 2).rc == 0
    servers = "/opt/uplab/current/servers/bin"
    assert "-port" in there.run(f"{servers}/go-server -help").stdout
    # A static one could not be traced from userspace.
    assert "libc.so" in there.check_output(f"ldd {servers}/go-server")
    assert there.run("/opt/uplab/current/gotrace/bin/gotrace --help").rc in (0, 2)


def test_setup_starts_no_service_and_mounts_nothing(lab: Host) -> None:
    now = lab.look()
    for name in ("mounts", "failed", "uplab"):
        assert now[name] == lab.before[name]
    outside = {path for path in now["files"] if path not in lab.before["files"]}
    of_packages = lab.run("sh", "-c", "cat /var/lib/dpkg/info/*.list").splitlines()
    ours = outside - set(of_packages) - {f"/usr{path}" for path in of_packages}
    made = {path for path in ours if not path.startswith(("/opt/uplab", "/etc", "/usr", "/var"))}
    assert made == set()


@pytest.mark.parametrize("words", [[], ["--check", "--diff"]], ids=["run", "check"])
def test_setting_up_again_changes_nothing(lab: Host, words: list[str]) -> None:
    assert changed(lab.lab("setup", *words)) == 0


def test_its_status_is_good(lab: Host) -> None:
    status = json.loads(lab.lab("status", "--json").stdout)
    assert status["up_to_date"]
    assert sorted(part["name"] for part in status["components"]) == COMPONENTS


def test_building_it_again_gives_the_same_bytes(lab: Host) -> None:
    found = json.loads(lab.lab("rebuild", "--verify", "--json").stdout)
    (parts,) = found["hosts"].values()
    same = {part["name"] for part in parts if part["same"] and part["files"]}
    assert same >= {"gotrace", "servers"}
    assert [part for part in parts if part["differs"] or part["problems"]] == []
    assert changed(lab.lab("setup")) == 0


# ---- what it does not need any more --------------------------------------------------------------


def test_gc_frees_what_nothing_uses(lab: Host) -> None:
    old = f"{STORE}/gotrace-{OLD}"
    lab.run("mkdir", "-p", f"{old}/bin", f"{STORE}/.part-gotrace-{OLD}/source")
    lab.run("cp", "/bin/sleep", f"{old}/bin/sleep")
    lab.run("systemd-run", "--quiet", "--unit=uses-it", f"{old}/bin/sleep", "infinity")
    found = lab.removed("gc", "--check")
    assert found["removed"] == [f"{STORE}/.part-gotrace-{OLD}"]
    assert lab.has(f"{STORE}/.part-gotrace-{OLD}")
    first = lab.removed("gc")
    assert first["removed"] == found["removed"]
    (kept,) = first["kept"]
    assert kept["path"] == old
    assert kept["why"].startswith("in use by sleep (pid ")
    lab.run("systemctl", "stop", "uses-it")
    assert lab.removed("gc", "--keep-days", "1")["kept"][0]["why"].startswith("came here less")
    done = lab.lab("gc").stdout
    assert done.splitlines()[0].startswith(f"{lab.box.name}: removed ")
    assert not lab.removed("gc", "--cache")["changed"]
    lab.lab("status")


# ---- a bigger lab, from stand-ins ----------------------------------------------------------------


def test_all_components_are_built_over_ssh(big_lab: Host) -> None:
    status = json.loads(big_lab.lab("status", "--json").stdout)
    names = sorted([*COMPONENTS, "bpftime", "deepflow", "llvm", "rust"])
    assert sorted(part["name"] for part in status["components"]) == names
    assert [part["problems"] for part in status["components"] if part["problems"]] == []
    for program, said in (("bpftime/bpftime", "part"), ("deepflow/bin/rust_sample", "7")):
        assert big_lab.run(f"/opt/uplab/current/{program}") == f"stand-in {said}\n"


def test_setting_all_of_it_up_again_changes_nothing(big_lab: Host) -> None:
    assert changed(big_lab.lab("setup", "--check", "--diff")) == 0
    assert changed(big_lab.lab("setup")) == 0


def test_gc_empties_the_cache_and_nothing_is_built_again(big_lab: Host) -> None:
    done = big_lab.removed("gc", "--cache")
    assert "/opt/uplab/cache/git" in done["removed"]
    assert done["freed_bytes"] > 0
    assert changed(big_lab.lab("setup")) == 0


# ---- and nothing again ---------------------------------------------------------------------------


def test_a_lab_in_use_is_not_removed(big_lab: Host) -> None:
    done = big_lab.lab("teardown", code=2)
    assert "nobody can be asked whether to remove the lab" in done.stderr
    lock = f"{STORE}/.lock-gotrace"
    hold = ["systemd-run", "--quiet", "--unit=builds", "flock", lock, "sleep", "infinity"]
    big_lab.run(*hold)
    wait_for(lambda: lock_is_held(big_lab, lock))
    for task in (["teardown", "--yes"], ["gc"]):
        done = big_lab.lab(*task, code=1)
        assert "a build of gotrace is under way (/opt/uplab/log/gotrace.log)" in done.stderr
        assert "nothing was removed" in done.stderr
    big_lab.run("systemctl", "stop", "builds")
    big_lab.lab("status")


def lock_is_held(host: Host, lock: str) -> bool:
    script = f"flock --nonblock {lock} true && echo free || echo held"
    return host.run("sh", "-c", script) == "held\n"


def test_packages_that_something_else_needs_keep_the_lab_whole(big_lab: Host) -> None:
    """Somebody installs a program of their own that needs one of the packages."""
    big_lab.run("sh", "-c", "mkdir -p /tmp/own/DEBIAN && cat > /tmp/own/DEBIAN/control", stdin=OWN)
    big_lab.run("sh", "-c", "cd /tmp && dpkg-deb --build own >/dev/null && dpkg -i own.deb")
    done = big_lab.lab("teardown", "--yes", "--packages", code=1)
    assert "apt would also remove their-program" in done.stderr
    big_lab.lab("status")
    big_lab.run("dpkg", "--purge", "their-program")


OWN = b"""Package: their-program
Version: 1
Architecture: all
Maintainer: They <they@example.invalid>
Depends: wrk
Description: needs what uplab brought
"""


@pytest.fixture(scope="module")
def taken_down(big_lab: Host) -> Host:
    """The host after lab.teardown, packages aside."""
    big_lab.run("mkdir", "-p", RUN)
    expected = big_lab.removed("teardown", "--check")
    assert big_lab.has(f"{STORE}/.lock-gotrace")
    done = big_lab.removed("teardown", "--yes")
    assert done["removed"] == expected["removed"]
    assert done["packages"] == expected["packages"]
    assert done["runs"] == [RUN]
    return big_lab


def test_the_files_go_and_packages_and_runs_are_named(taken_down: Host) -> None:
    assert taken_down.run("ls", "-A", "/opt/uplab") == "packages.json\n"
    assert "is not set up" in taken_down.lab("status", code=1).stdout
    done = taken_down.lab("teardown", "--yes").stdout
    name = taken_down.box.name
    assert f"{name}: uplab is not set up there; nothing was changed" in done
    assert f"Run: invoke lab.teardown --host {name} --packages" in done
    assert f"stay: {RUN}. Run: invoke lab.teardown --host {name} --runs" in done
    assert taken_down.has("/usr/bin/wrk")


def test_cut_off_among_the_packages_it_is_ended_by_the_next_run(taken_down: Host) -> None:
    words = ["--yes", "--packages", "--runs"]
    # The module, apt and dpkg at once, as where the host loses its power.
    cut_off = subprocess.Popen(box.ssh_argv(taken_down.box, "sh", "-s"), stdin=subprocess.PIPE)
    assert cut_off.stdin is not None
    cut_off.stdin.write(POWER_LOSS)
    cut_off.stdin.close()
    assert taken_down.lab("teardown", *words, code=1).stderr
    assert cut_off.wait(LIMIT_S) == 0
    assert taken_down.has("/opt/uplab/packages.json")
    done = taken_down.removed("teardown", *words)
    assert done["packages_removed"]
    assert not taken_down.removed("teardown", *words)["changed"]
    taken_down.run("rm", "-r", UPSTREAM)
    now = taken_down.look()
    for name, before in taken_down.before.items():
        assert now[name] == before, name
