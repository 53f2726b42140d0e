# SPDX-License-Identifier: Apache-2.0
"""apt-get and dpkg on this host: fetching lists, asking what would happen, installing."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path

from ansible.module_utils.uplab_apt_files import SourceFile
from ansible.module_utils.uplab_apt_plan import Plan, parse_plan
from ansible.module_utils.uplab_host import StoreError, clean_environment, write_atomically

LISTS = Path("/var/lib/apt/lists")
LINES_SHOWN = 12
INSTALL = ("--no-install-recommends", "install")
_URI = re.compile(r"'[^']+' (?P<name>[^_\s]+)_\S+ (?P<bytes>\d+)\b.*")
#: What other programs do with the host's lists is not to be done with lists of our own.
_NO_HOOKS = (
    "#clear APT::Update::Pre-Invoke;",
    "#clear APT::Update::Post-Invoke;",
    "#clear APT::Update::Post-Invoke-Success;",
)
#: Nothing is kept of what apt works out from the lists; the host's own cache stays as it is.
_NO_CACHE = ('Dir::Cache::pkgcache "";', 'Dir::Cache::srcpkgcache "";')


class Apt:
    """apt-get and dpkg on this host.

    Args:
        lock_timeout_s: how long to wait for another apt or dpkg, in seconds.
        lists: where the package lists are.
        configuration: a file of settings that come after the host's.
    """

    def __init__(
        self, lock_timeout_s: int, lists: Path = LISTS, configuration: Path | None = None
    ) -> None:
        self.environment = clean_environment(
            HOME="/root", DEBIAN_FRONTEND="noninteractive", NEEDRESTART_SUSPEND="1"
        )
        self.lists = lists
        self.configuration = [] if configuration is None else ["-c", str(configuration)]
        self.options = [
            "-q",
            *self.configuration,
            "-o",
            f"DPkg::Lock::Timeout={lock_timeout_s}",
            "-o",
            "Dpkg::Options::=--force-confdef",
            "-o",
            "Dpkg::Options::=--force-confold",
        ]

    def run(self, argv: list[str]) -> tuple[int, str]:
        """Run a command; returns its exit code and everything it printed; raises StoreError."""
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=self.environment,
                check=False,
            )
        except OSError as error:
            raise StoreError(f"cannot run {argv[0]}: {error.strerror}") from error
        return done.returncode, done.stdout

    def update(self) -> str:
        """Fetch the package lists; returns what went wrong, or an empty text."""
        code, text = self.run(["apt-get", *self.options, "update"])
        # Where a server cannot be reached, apt uses the older lists and calls it a success.
        failed = code or any(line.startswith("Err:") for line in text.splitlines())
        return complaint(text) if failed else ""

    def lists_age_s(self) -> float | None:
        """The age of the newest package list in seconds; None where there is none at all."""
        return lists_age_s(self.lists, time.time())

    def simulate(self, names: list[str]) -> tuple[Plan, str]:
        """What installing would do, and why it cannot be done (an empty text where it can)."""
        code, text = self.run(["apt-get", *self.options, *INSTALL, *names, "--simulate"])
        return parse_plan(text), complaint(text) if code else ""

    def download_bytes(self, names: list[str]) -> dict[str, int]:
        """How much installing would fetch, by package; one that is in apt's cache is left out."""
        _, text = self.run(["apt-get", *self.options, *INSTALL, *names, "--print-uris"])
        sizes: dict[str, int] = {}
        for line in text.splitlines():
            found = _URI.fullmatch(line)
            if found:
                sizes[found["name"]] = sizes.get(found["name"], 0) + int(found["bytes"])
        return sizes

    def show(self, packages: Iterable[str]) -> str:
        """What the package lists say of packages, each as ``name=version``."""
        names = list(packages)
        if not names:
            return ""
        return self.run(["apt-cache", "-q", *self.configuration, "show", *names])[1]

    def install(self, names: list[str]) -> None:
        """Install packages; raises StoreError with the end of apt's output."""
        code, text = self.run(["apt-get", *self.options, "-y", *INSTALL, *names])
        if code:
            raise StoreError(f"apt-get install failed: {complaint(text)}")

    def configure(self) -> None:
        """Finish what a killed dpkg left half done; raises StoreError."""
        code, text = self.run(["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"])
        if code:
            raise StoreError(f"dpkg --configure -a failed: {complaint(text)}")


def apart(top: Path, files: Iterable[SourceFile], lock_timeout_s: int) -> Apt:
    """An apt with these sources and with lists of its own, all below a directory.

    The host's sources and lists stay as they are; its settings and keys hold.
    """
    parts = top / "sources.list.d"
    for directory in (top, parts, top / "lists" / "partial"):
        directory.mkdir(parents=True, exist_ok=True)
        # apt fetches as a user of its own.
        directory.chmod(0o755)
    wanted = {top / "sources.list": ""}
    for file in files:
        path = parts / file.path.name if file.is_part() else top / "sources.list"
        # Only a comment can hold what is not UTF-8.
        wanted[path] = file.text.encode("utf-8", "replace").decode()
    for path in parts.iterdir():
        if path not in wanted:
            path.unlink()
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text)
    settings = [
        *_NO_HOOKS,
        *_NO_CACHE,
        f'Dir::Etc::SourceList "{top / "sources.list"}";',
        f'Dir::Etc::SourceParts "{parts}";',
        f'Dir::State::Lists "{top / "lists"}";',
    ]
    return Apt(lock_timeout_s, top / "lists", _configuration(top, settings))


def only_looking(top: Path, lock_timeout_s: int) -> Apt:
    """An apt with the host's own sources and lists that keeps nothing on the host.

    Args:
        top: a directory for its settings.
        lock_timeout_s: as for :class:`Apt`.
    """
    return Apt(lock_timeout_s, LISTS, _configuration(top, list(_NO_CACHE)))


def _configuration(top: Path, settings: list[str]) -> Path:
    path = top / "apt.conf"
    write_atomically(path, "".join(f"{line}\n" for line in settings))
    return path


def lists_age_s(lists: Path, now_s: float) -> float | None:
    """The age of the newest package list in seconds; None where there is none at all."""
    times = [path.stat().st_mtime for path in lists.glob("*_Packages*")]
    if not times:
        return None
    # An update that finds nothing new keeps the lists' times but touches the directory.
    return max(0.0, now_s - max(*times, lists.stat().st_mtime))


def complaint(text: str) -> str:
    """The errors in apt's output, or its last lines where it names none."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "Err:", "dpkg: error"))]
    return "\n".join(([*unmet(lines), *errors] or lines)[-LINES_SHOWN:])


def unmet(lines: list[str]) -> list[str]:
    """The lines in which apt says which dependencies it cannot meet."""
    heading = "The following packages have unmet dependencies:"
    below = lines[lines.index(heading) + 1 :] if heading in lines else []
    return list(takewhile(lambda line: line.startswith(" "), below))
