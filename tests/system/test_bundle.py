"""A lab without a network: a bundle made here, a host whose ways out are all closed."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tasks
from tests.system.lab import ROOT
from tests.unit.bundle import bundles
from uplab import box
from uplab.box.record import Box
from uplab.box.steps import Steps
from uplab.bundle import index as indexes
from uplab.bundle import use

# Packages of a whole release are fetched once, and kept below .uplab/bundle.
pytestmark = pytest.mark.timeout(300)

LIMIT_S = 280.0
RELEASE = platform.freedesktop_os_release()["VERSION_CODENAME"]
COMPONENTS = "golang,wrk,servers,gotrace"
#: In the box: nothing leads to an archive, an index or a name server any more.
CUT_OFF = """
rm -rf /etc/apt/sources.list.d/* /var/lib/apt/lists/* /etc/resolv.conf
echo 'deb http://127.0.0.1:9/debian nowhere main' > /etc/apt/sources.list
for name in http_proxy https_proxy HTTP_PROXY HTTPS_PROXY; do
    echo "$name=http://127.0.0.1:9" >> /etc/environment
done
"""


def lab(task: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a task of this checkout."""
    env = {**os.environ, "ANSIBLE_SSH_ARGS": "-o ControlMaster=no"}
    return tasks.run(f"lab.{task}", *words, timeout_s=LIMIT_S, env=env)


def in_box(host: Box, command: str, given: Path | None = None) -> str:
    """What a command in a box prints, both outputs together; the test fails where it does."""
    with (given or Path(os.devnull)).open("rb") as stream:
        done = subprocess.run(
            box.ssh_argv(host, command),
            stdin=stream,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_S,
            check=False,
        )
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the default components need, with this machine's release of Debian."""
    out = tmp_path_factory.mktemp("bundle") / "lab.tar.zst"
    flags = ["--components", COMPONENTS, "--no-toolchains", "--debs", RELEASE]
    done = lab("bundle", "--out", str(out), *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("sha256 ")
    return out


@pytest.fixture(scope="module")
def host() -> Iterator[Box]:
    with box.running(ROOT, suite=RELEASE) as made:
        in_box(made, CUT_OFF)
        yield made


def test_a_real_bundle_is_whole_and_names_no_archive_and_no_registry(bundle: Path) -> None:
    with use.opened(ROOT, bundle, Steps()) as found:
        kinds = {part.kind for part in found.index.parts}
        text = (found.folder / indexes.NAME).read_text()
        debs = {part.facts.get("package") for part in found.index.of("deb")}
        listed = (found.folder / "debs" / RELEASE / "Packages").read_text()
    assert kinds == {"wheel", "deb"}
    assert "://" not in text
    # Of an empty machine: what this one has, too.
    assert {"python3-venv", "sudo", "wrk", "golang-go", "libc6", "zlib1g"} <= debs
    assert listed.count("\nFilename: ./") == len(debs - {None})


def test_the_host_has_no_way_out(host: Box) -> None:
    """Otherwise the tests after this one would show nothing."""
    fails = "apt-get -q update 2>&1; apt-get -q -y install wrk 2>&1 || echo it failed"
    said = in_box(host, fails)
    assert "it failed" in said
    assert "127.0.0.1:9" in said


def test_the_environment_is_made_without_a_network_on_a_bare_debian(
    bundle: Path, host: Box, tmp_path: Path
) -> None:
    tree = tmp_path / "tree.tar"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    there = b"\0".join(name for name in names if name and (ROOT / os.fsdecode(name)).is_file())
    argv = ["tar", "--create", "--null", "--files-from=-", f"--file={tree}"]
    subprocess.run(argv, cwd=ROOT, input=there, check=True)
    in_box(host, "mkdir /root/uplab && tar -C /root/uplab -x", tree)
    in_box(host, "cat > /root/lab.tar.zst", bundle)
    # Told by a failure: what is absent.
    absent = in_box(host, "command -v zstd pip git; python3 -c 'import ensurepip' 2>&1 || true")
    assert "No module named" in absent
    assert "/" not in absent.splitlines()[0]
    alone = "cd /root/uplab && UPLAB_BUNDLE=/root/lab.tar.zst unshare --net ./invoke"
    said = in_box(host, f"{alone} --list")
    assert "installing the Debian package python3-venv" in said
    assert "lab.setup" in said
    again = in_box(host, f"{alone} --list")
    assert "making .venv" not in again
    # The host's own sources and lists never hear of the bundle.
    # grep fails where it finds nothing, which is wanted.
    assert in_box(host, "grep -rl bundle /etc/apt /var/lib/apt/lists || true") == ""
    in_box(host, "rm -rf /root/uplab /root/lab.tar.zst")


def test_a_host_is_set_up_from_a_bundle_alone(bundle: Path, host: Box) -> None:
    seen = lab("plan", "--host", host.name, "--bundle", str(bundle))
    assert f"{host.name}: " in seen.stdout
    assert "would be copied from lab.tar.zst" in seen.stdout
    assert "network needed" not in seen.stdout
    # ls fails where there is nothing, which is wanted.
    assert in_box(host, "ls /opt/uplab 2>&1 || true").startswith("ls: cannot access")
    done = lab("setup", "--host", host.name, "--bundle", str(bundle))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"bundle for {host.name}: it lacks" not in done.stdout
    assert "MiB copied, about" in done.stdout
    status = lab("status", "--host", host.name)
    assert "all of it is intact" in status.stdout
    assert in_box(host, "grep -rl bundle /etc/apt /var/lib/apt/lists || true") == ""


def test_a_second_setup_copies_and_changes_nothing(bundle: Path, host: Box) -> None:
    again = lab("setup", "--host", host.name, "--bundle", str(bundle))
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"bundle for {host.name}: 0 files are missing there" in again.stdout
    assert again.stdout.count("changed=0") == 2


# --- what is refused, and how ---------------------------------------------------------------------


def refused(bundle: Path, *words: str) -> str:
    """What setting this machine up with a bundle says; it does not begin."""
    done = lab("setup", "--bundle", str(bundle), *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_bundle_of_other_pins_is_refused_in_one_line(tmp_path: Path) -> None:
    other = bundles.write(tmp_path / "lab.tar.zst")
    said = refused(other)
    assert said.startswith(f"lab.setup: {other} is not used: it was made from another ")
    assert "nothing was changed" in said


def test_a_damaged_bundle_is_refused_in_one_line(tmp_path: Path) -> None:
    here = bundles.index_of(made_from=indexes.made_from(ROOT))
    good = bundles.members(found=here)
    damaged = bundles.forge(tmp_path / "lab.tar.zst", [*good[:-1], (good[-1][0], b"X" * 11000)])
    assert "archives/tiny.tar in it has 11000 bytes and the sha256" in refused(damaged)
    cut = bundles.forge(tmp_path / "cut.tar.zst", good, lambda data: data[: len(data) // 2])
    assert "is not used: " in refused(cut)
    assert "no bundle" in refused(tmp_path / "gone.tar.zst")


def test_a_bundle_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    done = lab("bundle", "--out", str(tmp_path / "b"), "--components", "golnag")
    assert done.returncode == 2
    assert done.stderr.startswith("lab.bundle: no component 'golnag'; did you mean golang?")
    assert list(tmp_path.iterdir()) == []
