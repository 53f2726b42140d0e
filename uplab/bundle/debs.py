"""The Debian packages of a release, closed from an empty machine, not from this one.

apt itself computes the closure: told of a machine on which nothing is installed, with lists and a
cache of its own, so that this machine's packages neither count nor change. The archives are those
that this machine's apt uses, their signatures are checked as always; what the bundle then vouches
for is the sha256 that Debian's own lists name.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

from uplab.box import sources as archives
from uplab.box.steps import Steps
from uplab.bundle.meter import Meter
from uplab.errors import HostError, UsageError

#: Number and name of the releases that a host may have.
RELEASES = {"bookworm": "12", "trixie": "13"}
#: What a host needs before Ansible can work there, and what the machine that runs uplab needs.
ON_EVERY_HOST = ("python3", "sudo")
ON_THE_CONTROLLER = ("git", "openssh-client", "python3-venv")
PACKAGES = "Packages"
_INSTALL = ("install", "--yes", "--no-install-recommends")
_POLL_S = 0.2
#: Fields that say nothing about the package itself.
_LEFT_OUT = ("Filename:", "Size:", "MD5sum:", "SHA1:", "SHA256:", "SHA512:")


@dataclass(frozen=True)
class Uri:
    """A package that apt would fetch: its file's name in the archive, in apt's cache, its size."""

    name: str
    cached: str
    bytes: int

    @property
    def package(self) -> tuple[str, str]:
        """Name and version, from the file's name in the cache: ``g++_4%3a12.2.0-3_amd64.deb``."""
        name, version, _ = self.cached.removesuffix(".deb").split("_")
        return name, unquote(version)


@dataclass(frozen=True)
class Apt:
    """apt for an empty machine of some release, with everything below a folder.

    Args:
        release: its name.
        folder: of its state; kept, so that nothing is fetched twice.
    """

    release: str
    folder: Path

    @property
    def downloads(self) -> Path:
        """Where apt puts packages."""
        return self.folder / "archives"

    def prepare(self, lines: Iterable[str], settings: Iterable[str]) -> None:
        """Write what apt is told: its sources, the way to them, and that nothing is installed."""
        for name in ("lists/partial", "archives/partial", "state", "log"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").write_bytes(b"")
        (self.folder / "sources.list").write_text("".join(f"{line}\n" for line in lines))
        own = {
            "Dir::State": self.folder / "state",
            "Dir::State::status": self.folder / "status",
            "Dir::State::lists": self.folder / "lists",
            "Dir::Cache": self.folder,
            "Dir::Cache::archives": self.downloads,
            "Dir::Log": self.folder / "log",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::sourcelist": self.folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": "amd64",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
        }
        text = "".join(f'{key} "{value}";\n' for key, value in own.items())
        # Read after what this machine is set to, which may name a way of its own to the archive.
        text += 'APT::Architectures { "amd64"; };\n' + "".join(f"{line}\n" for line in settings)
        (self.folder / "apt.conf").write_text(text)

    def run(self, program: str, *arguments: str) -> str:
        """What one of apt's programs prints; raises HostError with what it says is wrong."""
        done = subprocess.run(
            [program, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode != 0:
            raise HostError(self.complaint(program, done.stdout + done.stderr))
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        """What names the file that apt reads its settings from."""
        return {**os.environ, "APT_CONFIG": str(self.folder / "apt.conf"), "LC_ALL": "C.UTF-8"}

    def complaint(self, program: str, said: str) -> str:
        """The message of a failed run."""
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("E:", "Err:"))] or lines[-3:]
        return f"{program} for {self.release} failed: {'; '.join(errors[:4])}"


def require_release(release: str) -> None:
    """Raise UsageError for a release that no host of uplab's may have."""
    if release not in RELEASES:
        raise UsageError(f"--debs takes {' or '.join(RELEASES)}, not {release!r}")


def names_for(
    release: str, names: Iterable[str], by_release: Mapping[str, Iterable[str]]
) -> list[str]:
    """The packages to close over: those of the components, and those that come before them.

    Args:
        release: its name.
        names: packages of the components.
        by_release: further ones by the number of the release.
    """
    first = (*ON_EVERY_HOST, *ON_THE_CONTROLLER)
    return sorted({*first, *names, *by_release.get(RELEASES[release], ())})


def fetch(apt: Apt, names: Sequence[str], steps: Steps) -> list[Uri]:
    """Bring packages and all that they need into apt's cache.

    Raises:
        HostError: apt cannot be used, cannot reach its archives, or knows no such package.
    """
    apt.prepare(archives.read(apt.release), archives.settings())
    steps.now(f"{apt.release}: reading the lists of packages")
    apt.run("apt-get", "--quiet", "update", "--error-on=any")
    wanted = (*_INSTALL, *names)
    uris = parse_uris(apt.run("apt-get", "--quiet", "--quiet", "--print-uris", *wanted))
    _download(apt, wanted, uris, steps)
    # Those that are in the cache already were not printed.
    return closure(apt, names)


def closure(apt: Apt, names: Sequence[str]) -> list[Uri]:
    """Packages and all that they need, whatever the cache holds; HostError where apt cannot."""
    wanted = (*_INSTALL, *names)
    elsewhere = ("-o", f"Dir::Cache::archives={apt.folder / 'none'}/")
    (apt.folder / "none" / "partial").mkdir(parents=True, exist_ok=True)
    return parse_uris(apt.run("apt-get", "-qq", *elsewhere, "--print-uris", *wanted))


def parse_uris(text: str) -> list[Uri]:
    """Read the lines of ``apt-get --print-uris``: quoted address, name in the cache, size, hash."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 3 and words[0].startswith("'"):
            path = urlparse(words[0].strip("'")).path
            found.append(Uri(unquote(path.rpartition("/")[2]), words[1], int(words[2])))
    return sorted(found, key=lambda uri: uri.name)


def _download(apt: Apt, wanted: Sequence[str], uris: Sequence[Uri], steps: Steps) -> None:
    """Let apt fetch what is not there yet, and say how far it is."""
    meter = Meter(steps, f"{apt.release}: {len(uris)} packages", sum(uri.bytes for uri in uris))
    before = _bytes_in(apt.downloads)
    log = apt.folder / "download.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["apt-get", "--quiet", "--download-only", *wanted],
            env=apt.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            while process.poll() is None:
                meter.show(_bytes_in(apt.downloads) - before)
                time.sleep(_POLL_S)
        finally:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise HostError(apt.complaint("apt-get", log.read_text(errors="replace")))


def _bytes_in(folder: Path) -> int:
    """The bytes of the packages in a folder, those under way included."""
    total = 0
    for path in (*folder.glob("*.deb"), *folder.glob("partial/*")):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def index(apt: Apt, uris: Sequence[Uri], sums: Mapping[str, str]) -> bytes:
    """The ``Packages`` of a folder that holds these packages, for apt on a host.

    Args:
        apt: that fetched them.
        uris: of the packages.
        sums: the sha256 by the file's name.

    Raises:
        HostError: apt does not know one of them any more.
    """
    sizes = {uri.name: uri.bytes for uri in uris}
    exact = sorted({"=".join(uri.package) for uri in uris})
    stanzas: dict[str, str] = {}
    for stanza in apt.run("apt-cache", "show", *exact).split("\n\n"):
        lines = stanza.strip().splitlines()
        name = next((line.rpartition("/")[2] for line in lines if line.startswith("Filename:")), "")
        if name in sums and name not in stanzas:
            kept = [line for line in lines if not line.startswith(_LEFT_OUT)]
            kept += [f"Filename: ./{name}", f"Size: {sizes[name]}", f"SHA256: {sums[name]}"]
            stanzas[name] = "\n".join(kept) + "\n"
    missing = sorted(set(sums) - set(stanzas))
    if missing:
        raise HostError(f"apt does not describe {', '.join(missing[:3])}, which it fetched")
    return "\n".join(stanzas[name] for name in sorted(stanzas)).encode()
