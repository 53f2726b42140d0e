"""The sudoers examples of the documentation: they are read by visudo, and they work."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from uplab import remote
from uplab.remote import Facts

DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "least-privilege.md"
PYTHON = "/usr/bin/python3"
#: In a mount namespace of its own: the example is the host's sudoers, and nobody is who it is for.
AS_NOBODY = """
mount --bind "$1" /etc/sudoers
shift
exec setpriv --reuid 65534 --regid 65534 --clear-groups -- "$@"
"""


def examples() -> list[str]:
    """The examples, with the user nobody in the place of theirs."""
    blocks = re.findall(r"^```sudoers\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    return [re.sub(r"\buplab( ALL| !)", r"nobody\1", block) for block in blocks]


def require(program: str) -> None:
    assert shutil.which(program), f"these tests need {program}. Run: apt-get install sudo"


def checked(path: Path) -> subprocess.CompletedProcess[str]:
    require("visudo")
    argv = ["visudo", "-c", "-f", str(path)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.fixture(params=[0, 1], ids=["measuring", "setting-up"])
def sudoers(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """One of the two files, as sudo wants it."""
    path = tmp_path / "sudoers"
    path.write_text(examples()[request.param])
    path.chmod(0o440)
    return path


def run(sudoers: Path, *argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """A command of nobody's on a host with these sudoers."""
    require("sudo")
    unshare = ["unshare", "--mount", "--propagation", "private"]
    whole = [*unshare, "sh", "-ec", AS_NOBODY, "sh", str(sudoers), *argv]
    return subprocess.run(whole, input=stdin, capture_output=True, check=False)


def facts(sudoers: Path) -> Facts:
    """What uplab finds out about such a host."""
    done = run(sudoers, "sh", "-c", remote.PROBE, "uplab", PYTHON)
    return remote.parse_facts(done.stdout.decode(), "")


def test_there_are_two() -> None:
    assert len(examples()) == 2
    assert all("nobody ALL=(root) NOPASSWD: " in example for example in examples())


def test_visudo_reads_them(sudoers: Path) -> None:
    done = checked(sudoers)
    assert (done.returncode, done.stderr) == (0, "")


def test_visudo_refuses_a_wrong_one(sudoers: Path) -> None:
    sudoers.chmod(0o640)
    sudoers.write_text(sudoers.read_text().replace("NOPASSWD:", "NOPASSWORD:"))
    sudoers.chmod(0o440)
    assert checked(sudoers).returncode != 0


def test_they_are_enough_to_send_hostside(sudoers: Path) -> None:
    assert facts(sudoers).become == "sudo"
    program = "import os, sys; print(os.getuid(), len(sys.stdin.buffer.read()))"
    sent = bytes(range(256)) * 1000
    done = run(sudoers, "sudo", "-n", "--", PYTHON, "-I", "-c", program, stdin=sent)
    assert (done.returncode, done.stdout) == (0, b"0 256000\n"), done.stderr


def test_only_setting_up_may_run_other_programs(sudoers: Path) -> None:
    done = run(sudoers, "sudo", "-n", "--", "/usr/bin/id", "-u")
    is_for_setup = ": ALL\n" in sudoers.read_text()
    assert (done.returncode == 0) is is_for_setup, done.stderr
    assert done.stdout == (b"0\n" if is_for_setup else b"")


def test_without_them_uplab_says_what_is_missing(tmp_path: Path) -> None:
    none = tmp_path / "sudoers"
    none.write_text("root ALL=(ALL) ALL\n")
    none.chmod(0o440)
    found = facts(none)
    assert found.become == "sudo-refused"
    assert "There, run: visudo" in str(remote.against_become(found))
