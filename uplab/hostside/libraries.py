"""Where this host has a shared library from: which file the loader takes, which package owns it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from uplab.hostside.errors import HostError

_TIMEOUT_S = 60
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_CACHED = re.compile(r"\s+(?P<name>\S+) \((?P<kind>[^)]*)\) => (?P<path>/.*)")
#: What ldconfig calls 64-bit libraries; others of the same name are for other programs.
_KINDS = ("x86-64", "AArch64")


def cached() -> dict[str, Path]:
    """The libraries in the loader's cache by name, the one that it prefers of each.

    Raises:
        HostError: ldconfig cannot be run.
    """
    return read_cache(_run(["ldconfig", "-p"]))


def read_cache(text: str) -> dict[str, Path]:
    """What ``ldconfig -p`` printed."""
    found: dict[str, Path] = {}
    for line in text.splitlines():
        match = _CACHED.fullmatch(line)
        if match and any(kind in match["kind"] for kind in _KINDS):
            found.setdefault(match["name"], Path(match["path"]))
    return found


def find(name: str, folders: Iterable[str], cache: Mapping[str, Path]) -> Path | None:
    """The file of a library: in the folders that a program names, else in the loader's cache."""
    for folder in folders:
        path = Path(folder, name)
        if path.is_absolute() and path.is_file():
            return path
    return cache.get(name)


def owners(paths: Iterable[Path]) -> dict[Path, str]:
    """The Debian package of each file; files that belong to none are missing.

    Raises:
        HostError: dpkg-query cannot be run.
    """
    asked = {name: path for path in paths for name in _names(path)}
    if not asked:
        return {}
    # Its exit code is 1 as soon as one name of a file is not its package's own.
    text = _run(["dpkg-query", "--search", "--", *sorted(asked)], good=(0, 1))
    return {asked[name]: package for name, package in read_search(text).items() if name in asked}


def read_search(text: str) -> dict[str, str]:
    """What ``dpkg-query --search`` printed: by path its package, the first one of several."""
    found = {}
    for line in text.splitlines():
        packages, separator, path = line.partition(": ")
        if separator and not packages.startswith("diversion by "):
            found[path] = packages.split(",")[0].split(":")[0].strip()
    return found


def _names(path: Path) -> set[str]:
    """The names that a package may list a file under: /lib and /usr/lib are the same folder."""
    names = {str(path), str(path.resolve())}
    return {
        full for name in names for full in (name, name.removeprefix("/usr"), f"/usr{name}") if full
    }


def _run(argv: list[str], good: tuple[int, ...] = (0,)) -> str:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=_ENVIRONMENT,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"cannot run {argv[0]}: {error}") from error
    if done.returncode not in good:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise HostError(f"{argv[0]} failed: {said[-1]}")
    return done.stdout
