"""What a box needs of this machine: root, and a few Debian packages."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from uplab.box.steps import Steps
from uplab.errors import GateError, HostError

#: Programs, and the Debian packages that they come with.
PROGRAMS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "arch-test": "arch-test",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "tar": "tar",
    "mount": "mount",
    "unshare": "util-linux",
    "setsid": "util-linux",
    "setpriv": "util-linux",
    "nsenter": "util-linux",
    "ip": "iproute2",
}
#: Nothing else is touched: neither upgraded nor removed.
_INSTALL = ("apt-get", "install", "--yes", "--no-install-recommends", "--no-upgrade", "--no-remove")
_UPDATE = ("apt-get", "update")


def require_root() -> None:
    """Raise HostError unless we are root."""
    if os.geteuid() != 0:
        raise HostError(
            "a box takes root (a container, mounts, control groups). Run: sudo ./invoke lab.box up"
        )


def missing(programs: Mapping[str, str] = PROGRAMS) -> list[str]:
    """The Debian packages of the programs that are not there."""
    return sorted({package for name, package in programs.items() if shutil.which(name) is None})


def require_programs(
    steps: Steps, programs: Mapping[str, str] = PROGRAMS, user: str = "a box"
) -> None:
    """Install with apt what is missing, after saying so; package lists are fetched where it fails.

    Args:
        steps: where it is said.
        programs: programs and the Debian packages that they come with.
        user: who needs them, for the messages.

    Raises:
        GateError: apt failed, with its last words.
    """
    packages = missing(programs)
    if not packages:
        return
    argv = [*_INSTALL, *packages]
    steps.say(f"installing what {user} needs: {shlex.join(argv)}")
    done = _apt(argv, f"{user} lacks {', '.join(packages)}, and there is no apt-get here")
    if done.returncode != 0:
        # A machine that was just made has no lists, an old one has lists of what is gone.
        _apt(_UPDATE, user)
        done = _apt(argv, user)
    still = missing(programs)
    if done.returncode != 0 or still:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise GateError(
            f"apt could not install {', '.join(packages)}: {said[-1]}. "
            f"Run: {shlex.join(_UPDATE)} && {shlex.join(argv)}"
        )


def _apt(argv: Sequence[str], without: str) -> subprocess.CompletedProcess[str]:
    """Run apt-get; raises GateError with the text ``without`` where there is none."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    try:
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise GateError(without) from None
