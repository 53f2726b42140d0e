"""The user that a server runs as: a number that nobody else has, drawn anew for each trial.

No user is made for it, so nothing is to be removed. The server is its only process, has no group
beside its own and gains no privilege; it keeps one capability where its port asks for that. What
it must read and only root may is lent to it in memory: a folder that it alone may enter.
"""

from __future__ import annotations

import functools
import grp
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uplab.hostside import procfs
from uplab.hostside.errors import TrialError
from uplab.hostside.leftovers import Leftovers
from uplab.hostside.loop import Loop
from uplab.hostside.spec import ServerAdapter
from uplab.hostside.store import Store

#: Nobody's by systemd's docs/UIDS-GIDS.md (60578 to 61183 is "Unused"), and within the 65536 users
#: that a container has. Not the range of its DynamicUser=, which it hands out without looking
#: whether a process has the number. 60578 to 60705 are left to its greeters.
UIDS = range(60706, 61184)

_MEMORY = Path("/dev/shm")
_FIRST_FREE_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
_PRIVILEGED_PORTS = 1024
_END_TIMEOUT_S = 3.0
_POLL_S = 0.02
_LOW_PORT_RIGHT = "net_bind_service"
#: The capability that a server may have, by its number in the kernel's capability.h; the others
#: are called as setpriv(1) calls those that it does not know.
_CAPABILITIES = {10: _LOW_PORT_RIGHT}


@dataclass(frozen=True)
class ServerUser:
    """A user without name, and its group of the same number."""

    uid: int

    def options(self, port: int | None) -> list[str]:
        """What setpriv(1) is told, so that a program runs as this user.

        Args:
            port: where the server will listen; one that takes a right gets that right.
        """
        rights = f"-all,+{_LOW_PORT_RIGHT}" if is_privileged(port) else "-all"
        return [
            f"--reuid={self.uid}",
            f"--regid={self.uid}",
            "--clear-groups",
            f"--inh-caps={rights}",
            f"--ambient-caps={rights}",
            "--no-new-privs",
        ]

    def stragglers(self, since_ticks: int) -> list[int]:
        """The processes that run as this user here, since a start time in clock ticks.

        Nobody had the number when it was drawn. One of another PID namespace, such as a box's,
        may have drawn the same meanwhile: that one is not ours to end.
        """
        return procfs.since(self.uid, since_ticks)

    def share(self, path: Path, mode: int) -> None:
        """Let its group have a file or folder that stays root's."""
        os.chown(path, -1, self.uid, follow_symlinks=False)
        path.chmod(mode)


def is_privileged(port: int | None) -> bool:
    """Whether listening on a port takes a right here; None is no port of the adapter's."""
    if port is None:
        return False
    try:
        first = int(_FIRST_FREE_PORT.read_text())
    except (OSError, ValueError):
        first = _PRIVILEGED_PORTS
    return port < first


def draw() -> ServerUser:
    """A user that is in no database and that no process has.

    Raises:
        TrialError: ``no-user``, where none is free.
    """
    taken = procfs.users()
    start = secrets.randbelow(len(UIDS))
    for uid in (*UIDS[start:], *UIDS[:start]):
        if uid not in taken and not _is_known(uid):
            return ServerUser(uid)
    raise TrialError("no-user", f"all users from {UIDS[0]} to {UIDS[-1]} are taken")


def _is_known(uid: int) -> bool:
    """Whether a user or a group of this number is in the host's databases."""
    for look in (pwd.getpwuid, grp.getgrgid):
        try:
            look(uid)
        except KeyError:
            continue
        return True
    return False


@functools.cache
def refusal(*, privileged: bool = False) -> str | None:
    """Why this host gives no server a user of its own; None where it does. It is tried.

    Args:
        privileged: with the right to listen on any port.
    """
    try:
        options = draw().options(1 if privileged else None)
    except TrialError as error:
        return error.text
    try:
        done = subprocess.run(
            ["setpriv", *options, "--", "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        return f"setpriv: {error.strerror}"
    return None if done.returncode == 0 else done.stderr.strip()[-200:] or "setpriv failed"


@dataclass(frozen=True)
class Loan:
    """What a server gets for one trial, in a folder that only root and its user may enter.

    Args:
        user: who gets it.
        folder: where; see :func:`lend`.
        lent: the name of a program in the adapter, and the path of the copy.
    """

    user: ServerUser
    folder: Path
    lent: dict[str, str]

    @property
    def scratch(self) -> Path:
        """Its own, and empty."""
        return self.folder / "scratch"

    @property
    def adapter(self) -> Path:
        """The adapter's files."""
        return self.folder / "adapter"


def lend(
    user: ServerUser, adapter: ServerAdapter, store: Store, files: Path, leftovers: Leftovers
) -> Loan:
    """Make a server's folder in memory: its scratch folder and copies of what it may read.

    Args:
        user: who gets it.
        adapter: ``lent`` names the files; ``files`` are in its folder.
        store: knows where the lent files lie.
        files: the adapter's folder here.
        leftovers: is told before there is anything, and removes it.

    Raises:
        TrialError: ``not-started``, where a file cannot be read or there is no room.
    """
    folder = _MEMORY / f"uplab-server-{secrets.token_hex(8)}"
    leftovers.note_folder(folder)
    loan = Loan(
        user,
        folder,
        {
            name: str(folder / f"{number}-{store.path(adapter.programs[name]).name}")
            for number, name in enumerate(adapter.lent, start=1)
        },
    )
    try:
        folder.mkdir(mode=0o700)
        loan.scratch.mkdir(mode=0o700)
        os.chown(loan.scratch, user.uid, user.uid)
        for name, path in loan.lent.items():
            _copy(user, store.path(adapter.programs[name]), Path(path))
        _copy_folder(user, files, loan.adapter)
        user.share(folder, 0o710)
    except OSError as error:
        raise TrialError("not-started", f"server: {folder} could not be made: {error}") from error
    return loan


def _copy_folder(user: ServerUser, source: Path, target: Path) -> None:
    """Copy a folder's plain files; an adapter without files has none."""
    target.mkdir(mode=0o700)
    for path in sorted(source.iterdir()) if source.is_dir() else []:
        if path.is_dir():
            _copy_folder(user, path, target / path.name)
        else:
            _copy(user, path, target / path.name)
    user.share(target, 0o750)


def _copy(user: ServerUser, source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    user.share(target, 0o440)


def end_stragglers(loop: Loop, user: ServerUser, since_ticks: int) -> str | None:
    """End the processes of a server's user that still live when the server was stopped.

    Args:
        loop: waits until they are gone.
        user: of the server.
        since_ticks: when the server was started, in clock ticks since boot.

    Returns:
        which ones they were, in words; None where there were none.
    """
    left = user.stragglers(since_ticks)
    if not left:
        return None
    names = ", ".join(filter(None, map(_name, left)))

    def none_left() -> bool:
        living = user.stragglers(since_ticks)
        for pid in living:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not living

    ended = loop.until(none_left, _END_TIMEOUT_S, _POLL_S)
    how = "were ended" if ended else "do not end"
    return f"processes of the server outlived it and {how}: {names}"


def _name(pid: int) -> str | None:
    """A process for people; None where it has ended."""
    try:
        return procfs.named(pid)
    except OSError:
        return None


def locked_out(path: Path) -> Path | None:
    """What keeps a user that belongs to nobody from reading a file; None where nothing does."""
    for folder in reversed(path.resolve().parents):
        if not folder.stat().st_mode & 0o001:
            return folder
    return None if is_open(path) else path


def is_open(path: Path) -> bool:
    """Whether everybody may read a file, whatever its folders."""
    return bool(path.stat().st_mode & 0o004)


def seen(pids: Iterable[int]) -> list[dict[str, Any]]:
    """Who processes run as, by the kernel: one entry for all that are alike.

    Returns:
        ``processes`` (how many), ``uids`` and ``gids`` (real, effective, saved, of files),
        ``groups``, ``capabilities`` (that it has or may take; ``all`` that this host gives) and
        ``no_new_privs``.
    """
    found: list[dict[str, Any]] = []
    for pid in pids:
        try:
            status = procfs.status(pid)
        except OSError:
            continue
        entry = _entry(status)
        same = next((e for e in found if {**e, "processes": 0} == entry), None)
        if same is None:
            found.append(same := entry)
        same["processes"] += 1
    return found


def _entry(status: dict[str, str]) -> dict[str, Any]:
    return {
        "processes": 0,
        "uids": _numbers(status["Uid"]),
        "gids": _numbers(status["Gid"]),
        "groups": _numbers(status["Groups"]),
        "capabilities": _named(int(status["CapPrm"], 16), int(status["CapBnd"], 16)),
        "no_new_privs": status.get("NoNewPrivs") == "1",
    }


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def _named(held: int, most: int) -> list[str]:
    """The names of a set of capabilities; ``all`` for as many as a process can have here."""
    if held and held == most:
        return ["all"]
    numbers = [number for number in range(held.bit_length()) if held >> number & 1]
    return [_CAPABILITIES.get(number, f"cap_{number}") for number in numbers]


def flags(asked: str, entries: Sequence[dict[str, Any]]) -> list[str]:
    """What is to be shown of a trial whose server should not have been root's, and was."""
    total = sum(entry["processes"] for entry in entries)
    as_root = sum(entry["processes"] for entry in entries if 0 in entry["uids"])
    if asked == "root" or not as_root:
        return []
    return [f"the server runs as root ({as_root} of {total} processes)"]
