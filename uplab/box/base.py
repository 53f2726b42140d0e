"""The base that boxes are overlays of: made once by mmdebstrap, kept, and checked at each use.

A base is built aside and renamed when it is whole, with the sha256 of the tar that mmdebstrap wrote
and a digest over its unpacked files. One whose files differ is unpacked again from its tar; one
whose tar differs too is built again. So a base that a crash, a full disk or a hand left damaged is
never what a test stands on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from uplab.box import lock, sources
from uplab.box.steps import Steps
from uplab.box.tree import tree_sha256
from uplab.errors import GateError, HostError, UsageError

SUITES = ("bookworm", "trixie")
#: Raised when what is done to a base changes in a way that the recipe does not show.
_VERSION = 1
#: A small Debian with what a server has that Ansible and a person can log in to.
_PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "openssh-server",
    "python3-minimal",
    "python3-apt",
    "sudo",
    "iproute2",
    "iputils-ping",
    "ca-certificates",
    "procps",
    "netbase",
    "kmod",
    "udev",
)
#: A box shares the machine's network and clock: nothing in it may manage devices, addresses, names
#: or time. And nothing may start by itself in the middle of a measurement.
_MASKED = (
    "systemd-udevd.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udev-trigger.service",
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-network-generator.service",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
    "networking.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
)
_BUILD_LIMIT_S = 1800.0
_POLL_S = 0.1
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a base holds."""

    suite: str
    sources: tuple[str, ...]
    settings: tuple[str, ...]
    certificates: tuple[str, ...]
    packages: tuple[str, ...] = _PACKAGES
    masked: tuple[str, ...] = _MASKED
    version: int = _VERSION

    @property
    def digest(self) -> str:
        """12 hex digits that name the base; a certificate counts with its content."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        for path in self.certificates:
            digest.update(Path(path).read_bytes())
        return digest.hexdigest()[:12]


def recipe(suite: str) -> Recipe:
    """The recipe for a release, with this machine's apt sources and settings.

    Raises:
        UsageError: a release that boxes are not made of.
        HostError: this machine's apt cannot say where Debian's archive is.
    """
    if suite not in SUITES:
        raise UsageError(f"no box is made of {suite!r}; there are {', '.join(SUITES)}")
    return Recipe(
        suite=suite,
        sources=tuple(sources.read(suite)),
        settings=tuple(sources.settings()),
        certificates=tuple(str(path) for path in sources.certificates()),
    )


def ensure(boxes: Path, wanted: Recipe, steps: Steps, in_use: frozenset[str] = frozenset()) -> Path:
    """The folder of a whole base, made if it is missing or damaged.

    Args:
        boxes: the folder of all boxes.
        wanted: what the base is made of.
        steps: told what is going on.
        in_use: names of bases that boxes stand on; others of the same release are removed when a
            new one was built.

    Returns:
        a folder whose ``root`` is the file system of a base.

    Raises:
        GateError: mmdebstrap failed, with its last words.
        HostError: another process works on the base and does not end.
    """
    folder = boxes / f"base-{wanted.digest}"
    with lock.hold(boxes, "base", steps):
        reason = damage(folder)
        if reason is None:
            return folder
        part = boxes / f".part-{folder.name}"
        # Mostly there is none; one that cannot be removed makes the build below fail by name.
        shutil.rmtree(part, ignore_errors=True)
        if folder.exists():
            steps.say(f"the base of {wanted.suite} is damaged: {reason}")
        try:
            _make(folder, part, wanted, steps)
        finally:
            # Mostly renamed by now; after a failure its reason matters more than this.
            shutil.rmtree(part, ignore_errors=True)
        _remove_others(boxes, folder, wanted.suite, in_use)
    return folder


def _make(folder: Path, part: Path, wanted: Recipe, steps: Steps) -> None:
    """Make a base aside, from its tar if that is good, and put it into its place."""
    began_s = time.monotonic()
    part.mkdir(parents=True, mode=0o700)
    tar = _good_tar(folder)
    if tar is not None:
        tar.rename(part / "base.tar")
        how = "unpacked again from its tar"
    else:
        _build_tar(wanted, part, folder.parent / f"base-{wanted.suite}.log", steps)
        how = "built"
    steps.now(f"unpacking the base of {wanted.suite}")
    _unpack(part / "base.tar", part / "root")
    facts = {
        "suite": wanted.suite,
        "recipe": asdict(wanted),
        "tar_sha256": _sha256(part / "base.tar"),
        "tree_sha256": tree_sha256(part / "root"),
        "built_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (part / "base.json").write_text(json.dumps(facts, indent=1))
    # Boxes forgo syncing; the base must not: it is named as whole from here on.
    subprocess.run(["sync", "--file-system", str(part)], check=True)
    # Mostly there is none; the rename below says what is in the way.
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    steps.say(f"the base of {wanted.suite} was {how} in {time.monotonic() - began_s:.1f} s")


def damage(folder: Path) -> str | None:
    """Why a base must not be used; None where it is whole."""
    try:
        facts = json.loads((folder / "base.json").read_text())
        if tree_sha256(folder / "root") != facts["tree_sha256"]:
            return "its files are not those that were unpacked"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _good_tar(folder: Path) -> Path | None:
    """The tar of a base, if it is the one that was built."""
    tar = folder / "base.tar"
    try:
        facts = json.loads((folder / "base.json").read_text())
        return tar if _sha256(tar) == facts["tar_sha256"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(tar: Path, root: Path) -> None:
    root.mkdir(mode=0o755)
    # Devices are made by the container itself.
    argv = ["tar", "--extract", "--file", str(tar), "--directory", str(root), "--exclude=./dev/*"]
    argv += ["--preserve-permissions", "--numeric-owner", "--xattrs", "--xattrs-include=*"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise GateError(f"unpacking the base failed: {said[-1]}")
    root.chmod(0o755)


def _build_tar(wanted: Recipe, part: Path, log: Path, steps: Steps) -> None:
    """Let mmdebstrap write ``part/base.tar``; GateError with its last words where it fails."""
    (part / "tmp").mkdir(mode=0o1777)
    (part / "tmp").chmod(0o1777)
    argv = [*_confined(), *mmdebstrap_argv(wanted, part / "base.tar")]
    environment = {**os.environ, "TMPDIR": str(part / "tmp"), "LC_ALL": "C.UTF-8"}
    steps.say(f"building the base of {wanted.suite}, once; it takes about a minute (log: {log})")
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        )
        try:
            code = _follow(process, log, wanted.suite, steps)
        finally:
            process.kill()
            process.wait()
    if code != 0:
        raise GateError(
            f"building the base of {wanted.suite} failed: {_last_words(log)}. Run: less {log}"
        )
    shutil.rmtree(part / "tmp")


def _follow(process: subprocess.Popen[bytes], log: Path, suite: str, steps: Steps) -> int:
    """Wait for mmdebstrap and show its last line."""
    deadline_s = time.monotonic() + _BUILD_LIMIT_S
    while process.poll() is None:
        if time.monotonic() >= deadline_s:
            raise GateError(f"building the base of {suite} took longer than {_BUILD_LIMIT_S:.0f} s")
        steps.now(f"building the base of {suite}: {_last_words(log)}")
        time.sleep(_POLL_S)
    return process.returncode


def _last_words(log: Path) -> str:
    """The last error of a log, else its last line."""
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - _CHUNK_BYTES, 0))
        lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
    said = [line.strip() for line in lines if line.strip()]
    # mmdebstrap's own summary says less than what it repeats of apt before.
    errors = [line for line in said if line.startswith(("E: ", "Err:"))]
    errors = [line for line in errors if not line.startswith("E: run_chroot")] or errors
    return (errors or said or ["it has said nothing"])[-1]


def _confined() -> list[str]:
    """The beginning of a command whose mounts and processes all end with it.

    And it ends with us, however we end.
    """
    die_with_us = ["setpriv", "--pdeathsig", "KILL", "--"]
    own = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork"]
    return [*die_with_us, *own, "--kill-child=KILL", "--mount-proc", "--"]


def mmdebstrap_argv(wanted: Recipe, tar: Path) -> list[str]:
    """The command that writes the tar of a base."""
    hooks = [
        f'chroot "$1" systemctl mask --quiet {" ".join(wanted.masked)}',
        # Every box gets a key of its own.
        'rm -f "$1"/etc/ssh/ssh_host_*',
    ]
    if wanted.certificates:
        hooks += [
            f"copy-in {' '.join(wanted.certificates)} /usr/local/share/ca-certificates",
            'chroot "$1" update-ca-certificates',
        ]
    argv = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=tar"]
    argv.append(f"--include={','.join(wanted.packages)}")
    # Permanent: what is installed later into a disposable host need not be synced either.
    argv.append("--dpkgopt=force-unsafe-io")
    argv += [f"--aptopt={setting}" for setting in wanted.settings]
    argv += [f"--customize-hook={hook}" for hook in hooks]
    return [*argv, wanted.suite, str(tar), *wanted.sources]


def _remove_others(boxes: Path, kept: Path, suite: str, in_use: frozenset[str]) -> None:
    """Remove bases of a release that the recipe made no more and no box stands on."""
    for folder in boxes.glob("base-*/"):
        if folder == kept or folder.name in in_use:
            continue
        try:
            other = json.loads((folder / "base.json").read_text())["suite"] != suite
        except (OSError, ValueError, KeyError, TypeError):
            other = False
        if not other:
            try:
                shutil.rmtree(folder)
            except OSError as error:
                raise HostError(f"{folder} cannot be removed: {error}") from error
