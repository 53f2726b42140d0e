"""What ``tools/bootstrap.py`` takes from a bundle: wheels, and Debian's packages for its Python.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from uplab.bundle import index as indexes
from uplab.bundle import reading
from uplab.bundle.index import Index, Part, Refused
from uplab.errors import UsageError

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Supplies:
    """Checked files of a bundle, there for as long as they are needed.

    Args:
        bundle: the file that they come from.
        wheels: the directory of the wheels.
        debs: the directory of a repository of packages; None where the bundle has none for this
            machine's release.
        release: this machine's release.
    """

    bundle: Path
    wheels: Path
    debs: Path | None
    release: str

    def apt_options(self) -> list[str]:
        """The options with which apt sees this repository and nothing else.

        Raises:
            UsageError: there is none.
        """
        if self.debs is None:
            raise UsageError(
                f"{self.bundle} has no packages of Debian {self.release}. On a connected machine, "
                f"run: ./invoke lab.bundle --out lab.tar.zst --debs {self.release}"
            )
        folder = self.debs.parent
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        source = folder / "sources.list"
        source.write_text(f"deb [trusted=yes] file:{self.debs} ./\n")
        settings = {
            "Dir::Etc::SourceList": source,
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State::Lists": folder / "lists",
            "Dir::Cache": folder / "cache",
            # The files are in a directory that only their owner may read.
            "APT::Sandbox::User": "root",
        }
        return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


@contextmanager
def supplies(
    bundle: Path,
    project: Path,
    levels: Iterable[str],
    *,
    debs: bool,
    progress: Callable[[int, int], None],
) -> Iterator[Supplies]:
    """The files of a bundle that make an environment, each checked; removed afterwards.

    Args:
        bundle: the file.
        project: the checkout, whose lock files it must have been made from.
        levels: of the wheels: ``runtime``, ``dev``.
        debs: whether Debian packages are wanted too.
        progress: is told how far it is.

    Raises:
        UsageError: it cannot be read, or must not be used; nothing was installed.
    """
    wanted = frozenset(levels)
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "") if debs else ""

    def accept(found: Index) -> None:
        indexes.require_same(found, project, [indexes.LOCKS[level] for level in sorted(wanted)])
        _require_wheels(found, wanted)

    def take(part: Part) -> bool:
        if part.kind == "wheel":
            return part.facts.get("lock") in wanted
        mine = part.kind == "deb" and part.facts.get("release") == release
        # The list has no package, and names more than those that come along.
        return mine and ("controller" in part.components or "package" not in part.facts)

    if not bundle.is_file():
        raise UsageError(f"there is no bundle {bundle}. Run: unset UPLAB_BUNDLE")
    folder = (project / ".uplab" / "bundle" / "offline").absolute()
    try:
        reading.unpack(bundle, folder, accept=accept, take=take, whole=False, progress=progress)
        repository = folder / "debs" / release
        found = repository if release and (repository / "Packages").exists() else None
        yield Supplies(bundle, folder / "wheels", found, release)
    finally:
        # Scratch: after a failure its reason matters more than what is left of it.
        shutil.rmtree(folder, ignore_errors=True)


def _require_wheels(found: Index, levels: frozenset[str]) -> None:
    """See that there are wheels of every level, and for this Python; Refused otherwise."""
    wheels = [part.facts for part in found.of("wheel")]
    missing = sorted(levels - {facts.get("lock", "") for facts in wheels})
    if missing:
        flag = " --dev" if "dev" in missing else ""
        raise Refused(f"it has no Python packages for {', '.join(missing)} (lab.bundle{flag})")
    pythons = sorted({facts.get("python", "") for facts in wheels})
    if pythons != [_PYTHON]:
        raise Refused(f"its Python packages are for Python {', '.join(pythons)}, this is {_PYTHON}")
