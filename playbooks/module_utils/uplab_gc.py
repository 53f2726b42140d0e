# SPDX-License-Identifier: Apache-2.0
"""What of a store nothing needs any more: old entries, and what killed builds left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ansible.module_utils.uplab_host import read_json
from ansible.module_utils.uplab_tree import Sweep
from ansible.module_utils.uplab_use import users

SECONDS_PER_DAY = 86400
ENTRY = re.compile(r"(?P<component>[^.].*)-(?P<hash>[0-9a-f]{12})")
#: A build under way, or an entry that was moved out of the way; whole ones have other names.
LEFT = (".part-", ".old-")
#: A file that was being written, by which process.
WRITTEN = re.compile(r"\..+\.(?P<pid>[0-9]+)\.part")


@dataclass(frozen=True)
class Entry:
    """An entry of the store: its prefix, its record, or both; where one is missing it is none."""

    component: str
    name: str
    store: Path

    @property
    def prefix(self) -> Path:
        """Where the build lies."""
        return self.store / self.name

    @property
    def record(self) -> Path:
        """What makes the build a finished one."""
        return self.store / f"{self.name}.json"

    @property
    def paths(self) -> list[Path]:
        """What there is of both; the record is first, because without it the rest is no build."""
        return [path for path in (self.record, self.prefix) if path.exists()]

    def is_current(self, root: Path) -> bool:
        """Whether ``current`` links to it; the prefix of a Debian package's lies elsewhere."""
        try:
            target = (root / "current" / self.component).readlink()
        except OSError:
            return False
        recorded = (read_json(self.record) or {}).get("prefix")
        return target in (self.prefix, Path(str(recorded)))

    def age_s(self, now_s: float) -> float:
        """For how long it has been on this host."""
        return now_s - max(path.lstat().st_ctime for path in self.paths)


def entries(store: Path) -> list[Entry]:
    """All entries by name."""
    found = {}
    for path in store.iterdir():
        named = ENTRY.fullmatch(path.name.removesuffix(".json"))
        if named:
            found[named[0]] = Entry(named["component"], named[0], store)
    return sorted(found.values(), key=lambda entry: entry.name)


def left_behind(root: Path) -> Iterator[Path]:
    """What killed builds and killed writers left; the locks say that no build is running."""
    for path in sorted((root / "store").iterdir()):
        if path.name.startswith(LEFT):
            yield path
    for directory in (root, root / "store", root / "current"):
        for path in sorted(directory.iterdir()):
            written = WRITTEN.fullmatch(path.name)
            if written and not Path("/proc", written["pid"]).exists():
                yield path


@dataclass
class Collection:
    """What is removed, and what stays although nothing links to it."""

    sweep: Sweep
    used: dict[Path, list[str]]
    kept: list[dict[str, str]] = field(default_factory=list)

    def take(self, paths: list[Path]) -> None:
        """Remove what belongs together, unless a process uses some of it."""
        real = [path.parent.resolve() / path.name for path in paths]
        users_of = {
            process
            for file, processes in self.used.items()
            if any(file.is_relative_to(path) for path in real)
            for process in processes
        }
        if users_of:
            self.keep(paths[-1], f"in use by {', '.join(sorted(users_of))}")
            return
        for path in paths:
            self.sweep.remove(path)

    def keep(self, path: Path, why: str) -> None:
        """Note something that stays."""
        self.kept.append({"path": str(path), "why": why})


def collect(root: Path, keep_days: int, *, cache: bool, check: bool, now_s: float) -> Collection:
    """Remove what nothing needs; raises StoreError and OSError.

    Args:
        root: of the store.
        keep_days: entries that came to this host later than so many days ago stay.
        cache: whether what was fetched and compiled before goes, too.
        check: change nothing.
        now_s: the time, in seconds since 1970.
    """
    collection = Collection(Sweep(check), users(root / "store"))
    components = (read_json(root / "manifest.json") or {}).get("components", {})
    for path in left_behind(root):
        collection.take([path])
    for entry in entries(root / "store"):
        named = components.get(entry.component, {}).get("hash")
        if entry.is_current(root) or entry.name == f"{entry.component}-{named}":
            continue
        if entry.age_s(now_s) < keep_days * SECONDS_PER_DAY:
            collection.keep(entry.prefix, f"came here less than {keep_days} days ago")
        else:
            collection.take(entry.paths)
    for path in sorted((root / "cache").iterdir()) if cache else ():
        collection.sweep.remove(path)
    return collection
