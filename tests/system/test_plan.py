"""lab.plan beside what lab.setup then does, on boxes: packages, sources, refusals, nothing else."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import debs
from tests.debs import Deb
from tests.system.lab import ROOT
from uplab import box, inventory
from uplab.box.record import Box

pytestmark = pytest.mark.timeout(300)

LIMIT_S = 280.0
#: Everything that installing a package or fetching a list would change, by name, size and time.
PLACES = "/etc /opt /srv /usr/local /var/lib/dpkg /var/lib/apt /var/cache/apt /tmp"
LOOK = f"find {PLACES} -xdev -mindepth 1 -printf '%p %y %m %u %s %T@ %l\\n' | sort; dpkg-query -W"
REPOSITORY = "deb [trusted=yes] http://upstream.example.invalid/debian ./\n"


class Plays:
    """A box in an inventory of its own, and uplab's tasks on it."""

    def __init__(self, host: Box, folder: Path) -> None:
        self.host, self.folder = host, folder

    def inventory(self, **variables: Any) -> Path:
        """An inventory with the box and with a host that is none of uplab's."""
        known = inventory.host(ROOT, self.host.name)
        ours = {key: value for key, value in known.items() if key.startswith("ansible_")}
        path = self.folder / "their hosts.yml"
        groups = {
            "uplab": {"hosts": {self.host.name: {**ours, **variables}}},
            "others": {"hosts": {"stranger": {"ansible_host": "stranger.example.invalid"}}},
        }
        path.write_text(yaml.safe_dump(groups, width=1000))
        return path

    def lab(self, task: str, *words: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        """Run a task with the host's variables."""
        flags = ["--host", self.host.name, "--inventory", str(self.inventory(**variables))]
        return run(sys.executable, str(ROOT / "tasks.py"), f"lab.{task}", *flags, *words)

    def plan(self, *words: str, **variables: Any) -> tuple[int, dict[str, Any]]:
        """Exit code and plan of the box; the box is the same before and after."""
        before = self.look()
        done = self.lab("plan", "--json", *words, **variables)
        assert self.look() == before
        (found,) = json.loads(done.stdout)["hosts"]
        assert isinstance(found, dict)
        return done.returncode, found

    def setup(self, *words: str, **variables: Any) -> str:
        """Set the box up; out: Ansible's output, in one line."""
        done = self.lab("setup", *words, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return " ".join(done.stdout.split())

    def refused(self, *words: str, **variables: Any) -> str:
        """Setting the box up fails and changes no package; out: what it says."""
        before = self.sh("dpkg-query --show")
        done = self.lab("setup", *words, **variables)
        assert done.returncode == 1, done.stdout + done.stderr
        assert self.sh("dpkg-query --show") == before
        return " ".join(done.stdout.split())

    def look(self) -> str:
        """The state of everything that must not change."""
        return self.sh(LOOK)

    def sh(self, script: str, stdin: bytes = b"") -> str:
        """What a script prints in the box."""
        argv = box.ssh_argv(self.host, "sh", "-euc", f"'{script.replace(chr(39), QUOTE)}'")
        done = subprocess.run(argv, input=stdin, capture_output=True, timeout=LIMIT_S, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def write(self, path: str, text: str) -> None:
        """Write a file in the box."""
        self.sh(f"mkdir -p $(dirname {path}); cat > {path}", text.encode())

    def send(self, folder: Path, target: str) -> None:
        """Copy a folder into the box."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(folder, ".")
        self.sh(f"mkdir -p {target}; tar -x -C {target}", packed.getvalue())


QUOTE = "'\\''"


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        cwd=ROOT,
        # A connection that is kept would outlive the test.
        env={**os.environ, "ANSIBLE_SSH_ARGS": "-o ControlMaster=no"},
    )


@pytest.fixture(scope="module")
def plays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plays]:
    """A box that the tests of this module change one after the other."""
    with box.running(ROOT) as host:
        yield Plays(host, tmp_path_factory.mktemp("plays"))


def names(rows: list[dict[str, Any]]) -> set[str]:
    return {row["name"] for row in rows}


# --- a fresh box ----------------------------------------------------------------------------------


def test_the_plan_of_a_fresh_box_is_what_setup_then_does(plays: Plays) -> None:
    wanted = {"uplab_components": ["wrk"]}
    code, found = plays.plan(**wanted)
    assert code == 0, found
    packages = found["packages"]
    assert packages["upgraded"] == packages["removed"] == packages["held"] == []
    assert packages["download_bytes"] == sum(row["download_bytes"] for row in packages["added"]) > 0
    assert found["registered"] == ["wrk"]
    assert found["builds"] == []
    assert found["reboot"] is False
    plays.setup(**wanted)
    remembered = json.loads(plays.sh("cat /opt/uplab/packages.json"))
    assert names(packages["added"]) == set(remembered["added"])
    versions = dict(line.split("\t") for line in plays.sh("dpkg-query --show").splitlines())
    for row in packages["added"]:
        assert versions.get(row["name"], versions.get(f"{row['name']}:amd64")) == row["version"]
    plays.sh(f"ls -d {' '.join(found['paths'])}")
    code, again = plays.plan(**wanted)
    assert (code, again["packages"]["added"], again["paths"]) == (0, [], [])


def test_builds_are_planned_before_their_tools_are_there(plays: Plays) -> None:
    code, found = plays.plan(uplab_components=["golang", "servers", "wrk"])
    assert code == 0, found
    assert "golang-go" in names(found["packages"]["added"])
    assert found["builds"] == [{"component": "servers", "last_build_s": None}]
    assert found["registered"] == ["golang"]
    assert "/opt/uplab/store/servers-<hash of its inputs>" in found["paths"]
    assert "/opt/uplab/tls/cert.pem" in found["paths"]


def test_an_inventory_of_somebody_s_own_works_with_ansible_alone(plays: Plays) -> None:
    theirs = str(plays.inventory(uplab_components=["wrk"]))
    argv = [inventory.program("ansible-playbook"), "-i", theirs, "playbooks/setup.yml"]
    listed = run(*argv, "--list-hosts")
    assert "stranger" not in listed.stdout
    assert plays.host.name in listed.stdout
    before = plays.look()
    done = run(*argv, "-l", plays.host.name, "--check", "--diff")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"changed=\d+ +unreachable=0 +failed=0", done.stdout)
    assert plays.look() == before


def test_people_read_the_same_plan(plays: Plays) -> None:
    done = plays.lab("plan", uplab_components=["golang", "wrk"])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"{plays.host.name}: lab.setup would"
    assert any(re.match(r"  add packages: \d+, [\d.]+ MiB to download$", line) for line in lines)
    assert any(re.match(r"    golang-go +\S+ +[\d.]+ KiB$", line) for line in lines)
    assert "  reboot: never" in lines
    assert lines[-1].endswith(f"Run: invoke lab.setup --host {plays.host.name}")


# --- refusals -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repository(plays: Plays, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A repository in the box; out: the variables that lead to it, through a mirror."""
    folder = tmp_path_factory.mktemp("repository")
    installed = tmp_path_factory.mktemp("installed")
    service = {"lib/systemd/system/uplab-test.service": "[Service]\nExecStart=/bin/true\n"}
    debs.flat(
        folder,
        [
            Deb("uplab-test-plain"),
            Deb("uplab-test-daemon", fields={"Tag": "interface::daemon"}),
            Deb("uplab-test-kernel", fields={"Depends": "linux-image-uplab-test"}),
            Deb("linux-image-uplab-test"),
            Deb("uplab-test-newer", fields={"Depends": "pve-uplab-test (>= 2)"}),
            Deb("pve-uplab-test", "2"),
            Deb("uplab-test-enemy", fields={"Conflicts": "pve-uplab-test"}),
        ],
    )
    Deb("pve-uplab-test", "1", files=service).build(installed)
    plays.send(folder, "/srv/repository")
    plays.send(installed, "/srv/installed")
    plays.sh("dpkg -i /srv/installed/*.deb")
    plays.write("/etc/apt/sources.list.d/test.list", REPOSITORY)
    mirrors = {"http://upstream.example.invalid/debian": "file:///srv/repository"}
    return {"uplab_components": [], "uplab_mirrors": {"apt": mirrors}}


def test_a_mirror_of_the_host_s_own_sources_leaves_them_alone(
    plays: Plays, repository: dict[str, Any]
) -> None:
    wanted = {**repository, "base_packages": ["uplab-test-plain", "uplab-test-daemon"]}
    code, found = plays.plan(**wanted)
    assert code == 0, found
    assert names(found["packages"]["added"]) == {"uplab-test-plain", "uplab-test-daemon"}
    assert found["packages"]["services"] == ["uplab-test-daemon"]
    own = "find /etc/apt /var/lib/apt/lists -printf '%p %s %T@\\n' | sort"
    before = plays.sh(own)
    plays.setup(**wanted)
    assert plays.sh(own) == before
    assert "http://upstream.example.invalid" in plays.sh("cat /etc/apt/sources.list.d/test.list")
    lists = plays.sh("ls /opt/uplab/cache/apt/lists")
    assert "_srv_repository_._Packages" in lists
    assert "changed=0" in plays.setup(**wanted)


def test_a_kernel_comes_only_where_somebody_insists(
    plays: Plays, repository: dict[str, Any]
) -> None:
    wanted = {**repository, "base_packages": ["uplab-test-kernel"]}
    code, found = plays.plan(**wanted)
    assert code == 1
    assert found["packages"]["protected"] == ["linux-image-uplab-test"]
    assert "linux-image-uplab-test (1), which this host boots" in found["packages"]["refused"]
    assert found["packages"]["refused"] in plays.refused(**wanted)
    plays.setup("--allow-upgrade", **wanted)
    assert "linux-image-uplab-test" in plays.sh("dpkg-query --show")


def test_a_part_of_proxmox_is_upgraded_only_where_somebody_insists(
    plays: Plays, repository: dict[str, Any]
) -> None:
    wanted = {**repository, "base_packages": ["uplab-test-newer"]}
    code, found = plays.plan(**wanted)
    assert code == 1
    (row,) = found["packages"]["upgraded"]
    assert (row["name"], row["before"], row["version"]) == ("pve-uplab-test", "1", "2")
    assert found["packages"]["units"] == {"pve-uplab-test": ["uplab-test.service"]}
    assert "pve-uplab-test (1 -> 2)" in plays.refused(**wanted)
    plays.sh("apt-mark hold pve-uplab-test")
    code, found = plays.plan("--allow-upgrade", **wanted)
    plays.sh("apt-mark unhold pve-uplab-test")
    assert (code, found["packages"]["held"]) == (1, ["pve-uplab-test"])
    problem = found["packages"]["problem"]
    assert "uplab-test-newer : Depends: pve-uplab-test (>= 2)" in problem
    assert "apt-mark unhold pve-uplab-test" in problem


def test_nothing_is_ever_removed(plays: Plays, repository: dict[str, Any]) -> None:
    wanted = {**repository, "base_packages": ["uplab-test-enemy"]}
    code, found = plays.plan("--allow-upgrade", **wanted)
    assert code == 1
    assert names(found["packages"]["removed"]) == {"pve-uplab-test"}
    assert "apt would remove pve-uplab-test (1)" in plays.refused("--allow-upgrade", **wanted)


def test_what_cannot_be_had_is_told_beforehand(plays: Plays, repository: dict[str, Any]) -> None:
    code, found = plays.plan(**{**repository, "base_packages": ["uplab-test-nowhere"]})
    assert code == 1
    assert "Unable to locate package uplab-test-nowhere" in found["packages"]["problem"]


# --- Proxmox VE without a subscription ------------------------------------------------------------


class Archive(SimpleHTTPRequestHandler):
    """Answers as Proxmox's two servers do: one of them wants a subscription."""

    def do_GET(self) -> None:
        if self.headers.get("Host", "").startswith("enterprise.proxmox.com"):
            self.send_error(401)
        else:
            super().do_GET()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing of what was asked."""


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """Serve a folder on the loopback, which a box shares; out: the port."""
    handler = functools.partial(Archive, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


SIGN = """
apt-get update -qq && apt-get install -qq -y --no-install-recommends gpg gpg-agent >/dev/null
export GNUPGHOME=/srv/keys; mkdir -m 700 $GNUPGHOME
gpg --batch --quiet --passphrase '' --quick-generate-key tests@example.invalid rsa2048 sign never
gpg --batch --quiet --export > /etc/apt/trusted.gpg.d/proxmox-release-bookworm.gpg
gpg --batch --quiet --clearsign --output - /srv/release
"""
ENTERPRISE = (
    "# pve's own\ndeb http://enterprise.proxmox.com:PORT/debian/pve bookworm pve-enterprise\n"
)
CEPH = """\
Types: deb
URIs: http://enterprise.proxmox.com:PORT/debian/ceph-quincy
Suites: bookworm
Components: enterprise
Signed-By: /etc/apt/trusted.gpg.d/proxmox-release-bookworm.gpg
"""


@pytest.fixture
def pve(tmp_path: Path) -> Iterator[tuple[Plays, dict[str, Any]]]:
    """A box that looks like a Proxmox VE without a subscription, and the host's variables."""
    folder = debs.suite(
        tmp_path / "pve", "bookworm", "pve-no-subscription", [Deb("uplab-test-pve")]
    )
    manager = tmp_path / "manager"
    manager.mkdir()
    Deb("pve-manager").build(manager)
    with serving(tmp_path) as port, box.running(ROOT) as host:
        plays = Plays(host, tmp_path)
        plays.write("/srv/release", (folder / "Release").read_text())
        (folder / "InRelease").write_text(f"{plays.sh(SIGN)}\n")
        plays.send(manager, "/srv")
        plays.sh("dpkg -i /srv/*.deb; echo 127.0.0.1 enterprise.proxmox.com >> /etc/hosts")
        proxy = 'Acquire::http::Proxy::enterprise.proxmox.com "DIRECT";\n'
        plays.write("/etc/apt/apt.conf.d/99test", proxy)
        sources = {"pve-enterprise.list": ENTERPRISE, "ceph.sources": CEPH}
        for name, text in sources.items():
            plays.write(f"/etc/apt/sources.list.d/{name}", text.replace("PORT", str(port)))
        mirrors = {"http://download.proxmox.com/debian/pve": f"http://127.0.0.1:{port}/pve"}
        yield plays, {"uplab_components": [], "uplab_mirrors": {"apt": mirrors}}


def test_pve_without_a_subscription_is_resolved_and_put_back(
    pve: tuple[Plays, dict[str, Any]],
) -> None:
    plays, without = pve
    update = "apt-get update 2>&1 || echo exit $?"
    said = plays.sh(update)
    assert "401" in said
    assert "exit 100" in said
    line = apt_sources_line(plays, without)
    assert line["state"] == "fail"
    assert "base_pve_no_subscription: true" in line["mend"]
    wanted = {**without, "base_packages": ["uplab-test-pve"]}
    code, found = plays.plan(**wanted)
    assert code == 1
    assert "401" in found["packages"]["problem"]

    parts = "cd /etc/apt/sources.list.d; for f in *; do echo == $f; cat $f; done"
    before = plays.sh(parts)
    resolving = {**wanted, "base_pve_no_subscription": True}
    code, found = plays.plan(**resolving)
    assert code == 0, found
    assert names(found["packages"]["added"]) == {"uplab-test-pve"}
    assert len(found["packages"]["sources_switched_off"]) == 2
    assert len(found["packages"]["sources_added"]) == 1
    plays.setup(**resolving)
    assert "exit" not in plays.sh(update)
    assert apt_sources_line(plays, resolving)["state"] == "ok"
    assert "changed=0" in plays.setup(**resolving)
    assert plays.sh(parts) != before

    plays.setup(**wanted)
    assert plays.sh(parts) == before


def apt_sources_line(plays: Plays, variables: dict[str, Any]) -> dict[str, str]:
    """The preflight's line of the host's sources of packages."""
    lines = json.loads(plays.lab("check", "--json", **variables).stdout)["lines"]
    (found,) = [line for line in lines if line["check"] == "apt-sources"]
    assert isinstance(found, dict)
    return found
