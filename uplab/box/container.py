"""The container of a box: its file system, its start, and its end without a trace.

A process detached from us enters the box's control groups and a mount namespace of its own, mounts
the overlay there and becomes systemd-nspawn. So every mount ends with the last process of the box,
and nothing of it is ever seen in the machine's own mount table.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from uplab.box import access, cgroups, leader, network, record
from uplab.box.record import Box
from uplab.errors import HostError

_POLL_S = 0.01
#: systemd-nspawn needs some milliseconds to clean up once its container is gone.
_GRACE_S = 3.0
_LIMIT_S = 10.0
#: The first release whose systemd refuses to start on control groups v1.
_V2_ONLY = frozenset({"trixie"})

#: Its PID goes out first; it goes on when it has been noted, and ends when the one to note it died.
#: What a reset put aside is deleted by a child that ends with it: that can take many seconds.
#: /run is covered because systemd-nspawn leaves locks there should it be killed.
_LEADER = """
echo "$$"
read -r go
exec </dev/null >>"$1" 2>&1
options=$2 layers=$3
shift 3
setpriv --pdeathsig KILL -- rm -rf -- "${layers%/*}"/old-* &
while [ "$1" != -- ]; do
  echo "$$" >"$1/cgroup.procs"
  shift
done
shift
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t overlay -o "$options" overlay "$layers/root"
exec "$@"
"""

_SSHD = """\
Port {port}
ListenAddress {address}
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
"""


def make_layers(box: Box, base: Path) -> None:
    """Make an empty overlay with what tells this box from the others.

    Args:
        box: its folder holds the keys already; it has no layers.
        base: the file system below, only read.
    """
    box.layers.mkdir(mode=0o700)
    for name in ("upper", "work", "root"):
        (box.layers / name).mkdir(mode=0o755)
    upper = box.layers / "upper"
    upper.chmod(0o755)
    texts = {
        # Without one systemd takes this for a first boot, and enables what its presets name.
        "etc/machine-id": f"{uuid.uuid4().hex}\n",
        "etc/hostname": f"{box.name}\n",
        "etc/hosts": f"127.0.0.1 localhost\n::1 localhost\n{box.address} {box.name}\n",
        "etc/ssh/sshd_config.d/uplab.conf": _SSHD.format(port=box.port, address=box.address),
        "root/.ssh/authorized_keys": box.key_file.with_suffix(".pub").read_text(),
    }
    with suppress(FileNotFoundError):
        texts["etc/resolv.conf"] = Path("/etc/resolv.conf").read_text()
    for name, text in texts.items():
        _make_folders(upper, base, Path(name).parent)
        (upper / name).write_text(text)
        (upper / name).chmod(0o644)
    (upper / "root/.ssh").chmod(0o700)
    access.copy_keys(box, upper / "etc" / "ssh")


def renew_layers(box: Box) -> None:
    """Let the layers of a box that was stopped be mounted again, with all that is in them.

    The kernel refuses a volatile overlay that was in use, because a power cut may have cost what
    was not synced; this machine has been running all the while.
    """
    work = box.layers / "work"
    shutil.rmtree(work)
    work.mkdir(mode=0o755)


def _make_folders(upper: Path, base: Path, folder: Path) -> None:
    """Make folders that keep the base's modes: in an overlay the upper one's count."""
    for part in reversed([folder, *folder.parents][:-1]):
        (upper / part).mkdir(exist_ok=True)
        mode = (base / part).stat().st_mode & 0o7777 if (base / part).is_dir() else 0o755
        (upper / part).chmod(mode)


def start(box: Box) -> Box:
    """Start a box that has layers, detached from us.

    Out: the box with its leader, noted.

    Raises:
        HostError: it cannot be started.
    """
    record.write(box)
    cgroups.make(box.cgroups)
    # Relative paths: commas, colons and backslashes mean something in the options of an overlay.
    layers = f"{box.name}/{box.layers.name}"
    options = f"lowerdir={box.base}/root,upperdir={layers}/upper,workdir={layers}/work,volatile"
    argv = ["setsid", "--fork", "unshare", "--mount", "--propagation", "private"]
    argv += ["--"] if box.own_address is None else ["--net", "--"]
    argv += ["sh", "-euc", _LEADER, "uplab-box", str(box.console), options, layers]
    argv += [*box.cgroups, "--", *nspawn_argv(box, f"{layers}/root")]
    failure = f"{box.name} cannot be started"
    with leader.started(argv, box.folder.parent, failure, _environment(box)) as process:
        started = replace(box, leader=process)
        record.write(started)
        if started.own_address is not None:
            network.plug(box.folder.parent, started)
    return started


def nspawn_argv(box: Box, root: str) -> list[str]:
    """The command that boots a box's root.

    It has the network of whoever starts it and all capabilities, so that BPF and uprobes work as on
    the machine; for that very reason /sys stays read-only: a udev that can write it renames the
    machine's network devices.
    """
    argv = ["systemd-nspawn", "--quiet", "--settings=no", "--register=no", "--keep-unit"]
    argv += [f"--directory={root}", f"--machine={box.machine}", f"--hostname={box.name}"]
    argv += ["--console=pipe", "--link-journal=no", "--resolv-conf=off", "--timezone=off"]
    argv += ["--capability=all", "--system-call-filter=bpf perf_event_open"]
    return [*argv, "--boot"]


def _environment(box: Box) -> dict[str, str]:
    """Nothing of ours: a variable could make /sys writable."""
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        # As on a server, /tmp is on the disk: builds fill it.
        "SYSTEMD_NSPAWN_TMPFS_TMP": "0",
    }
    if box.suite in _V2_ONLY:
        environment["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] = "1"
    return environment


def stop(box: Box) -> None:
    """End all processes of a box and remove its control groups; its files stay.

    Nothing happens to what is already gone, so it can be called again after a crash.

    Raises:
        HostError: a process does not end, or a group cannot be removed.
    """
    if box.boot_id != record.boot_id():
        return
    leader = box.leader
    # First the container alone: its supervisor then ends by itself and cleans up.
    _until(lambda: not _kill(box, spare=leader.pid if leader else None), _LIMIT_S)
    if leader is not None:
        _until(lambda: not leader.lives(), _GRACE_S)
    if not _until(lambda: not _kill(box, spare=None), _LIMIT_S):
        left = ", ".join(str(pid) for pid in sorted(_members(box)))
        raise HostError(f"processes of {box.name} do not end: {left}")
    if box.own_address is not None:
        # Now: the kernel takes its time with what is in a namespace that ended.
        network.unplug(box.folder.parent, box)
    cgroups.remove(box.cgroups)


def first_process(box: Box) -> int:
    """The PID, as the machine counts, of a box's own process 1.

    Raises:
        HostError: there is none: the box does not run.
    """
    for pid in _members(box):
        with suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            seen = next(line for line in status.splitlines() if line.startswith("NSpid:"))
            # Its number here, and within.
            if seen.split()[2:] == ["1"]:
                return pid
    raise HostError(f"{box.name} does not run. Run: ./invoke lab.box reset --name {box.name}")


def _members(box: Box) -> set[int]:
    """The living processes of a box."""
    members = cgroups.processes(box.cgroups)
    if box.leader is not None and box.leader.lives():
        members.add(box.leader.pid)
    return members


def _kill(box: Box, spare: int | None) -> set[int]:
    """Send SIGKILL to the processes of a box but one; out: those it was sent to."""
    members = _members(box) - {spare}
    for pid in members:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return members


def _until(condition: Callable[[], bool], limit_s: float) -> bool:
    """Poll a condition; out: whether it came true."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(_POLL_S)
    return True


def remove_files(folder: Path) -> None:
    """Remove the files of a box that was stopped.

    Raises:
        HostError: something is mounted there, or cannot be removed.
    """
    mounted = [
        line.split()[4]
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if line.split()[4].startswith(f"{_escaped(folder)}/")
    ]
    if mounted:
        raise HostError(f"{mounted[-1]} is mounted. Run: umount {mounted[-1]}")
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            # The leader's child deleted it before us.
            continue
        except OSError as error:
            raise HostError(f"{folder} cannot be removed: {error}") from error


def _escaped(path: Path) -> str:
    """As the kernel writes a path in mountinfo."""
    return str(path.resolve()).replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011")


def last_words(box: Box) -> str:
    """The last line of a box's console; empty where there is none."""
    try:
        text = box.console.read_text(errors="replace")
    except OSError:
        return ""
    said = [line.strip() for line in text.splitlines() if line.strip()]
    return said[-1] if said else ""
