# SPDX-License-Identifier: Apache-2.0
"""Everything of uplab's on a host: whether it is there, and its removal in an order that can stop.

What makes a host one that was set up goes last.  Before the first file goes, the manifest says that
nothing is installed: so a removal that was cut off is seen, by people and by the next setup.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils.uplab_added import added, purge, refuse_more, unfinished
from ansible.module_utils.uplab_apt import stale_files
from ansible.module_utils.uplab_apt_get import Apt
from ansible.module_utils.uplab_apt_journal import restorable, restore
from ansible.module_utils.uplab_host import (
    SCHEMA,
    StoreError,
    pretty,
    read_json,
    utc_now,
    write_atomically,
)
from ansible.module_utils.uplab_tree import Sweep, mount_points, refuse_mounts
from ansible.module_utils.uplab_use import TUNING, alone, left_running, refuse_tuned, users

#: What the roles make below the root, in the order in which it goes: links before their targets.
DIRECTORIES = ("current", "store", "cache", "log", "tls")
#: Originals of apt's files that uplab changed, and their journal.
APT_SOURCES = "apt-sources"
JOURNAL = f"{APT_SOURCES}/journal.json"
#: The list of the packages that setting up added.
MEMORY = "packages.json"
MANIFEST = "manifest.json"
OWN = frozenset({*DIRECTORIES, APT_SOURCES, MEMORY, MANIFEST})
#: A file that was being written when somebody was killed.
PART = ".part"
#: Not uplab's, but at the top of every ext4 file system.
LOST = "lost+found"


@dataclass(frozen=True)
class Places:
    """Where uplab keeps things on a host: the store's root, and hostside's two directories.

    ``host`` is its name in the inventory, for what is said.
    """

    root: Path
    run_state: Path
    spool: Path
    host: str


def is_ours(root: Path) -> bool:
    """Whether a root is uplab's; raises StoreError where it is somebody else's.

    One that is absent or empty is nobody's.  One that holds anything else than what the roles make
    there is refused as a whole: it may be a directory that has other uses.
    """
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        raise StoreError(f"{root} is not a directory; nothing was removed")
    names = set(os.listdir(root)) if root.exists() else set()
    if root in mount_points():
        names.discard(LOST)
    if not names:
        return False
    manifest, memory = read_json(root / MANIFEST) or {}, read_json(root / MEMORY) or {}
    marked = {"schema", "components"} <= manifest.keys() or "added" in memory
    marked = marked or (root / JOURNAL).is_file()
    if not marked and not all((root / name).is_dir() for name in DIRECTORIES):
        raise StoreError(
            f"{root} is not uplab's: it has neither its manifest nor its directories. Nothing was "
            "removed. Where uplab is, says uplab_root in the host's variables"
        )
    links = {name for name in names if (root / name).is_symlink()}
    foreign = sorted(links | {name for name in names - OWN if not name.endswith(PART)})
    if foreign:
        raise StoreError(
            f"{root} holds what uplab did not put there: {', '.join(foreign)}. Nothing was "
            "removed. Move it elsewhere and run this again"
        )
    return True


def is_set_up(root: Path) -> bool:
    """Whether more is there than what a removal leaves on purpose."""
    return any((root / name).exists() for name in (*DIRECTORIES, MANIFEST))


@dataclass
class Removal:
    """The removal of all of it, and what it did so far; with ``check`` what it would do.

    Args:
        places: where everything is.
        check: change nothing.
        packages: whether the packages go that setting up added.
        runs: whether runs go that nobody has collected.
        lock_timeout_s: how long to wait for another apt or dpkg, in seconds.
    """

    places: Places
    check: bool
    packages: bool
    runs: bool
    lock_timeout_s: int
    sweep: Sweep = field(init=False)
    restored: list[str] = field(default_factory=list)
    packages_left: list[str] = field(default_factory=list)
    packages_removed: list[str] = field(default_factory=list)
    runs_left: list[str] = field(default_factory=list)
    kept: list[dict[str, str]] = field(default_factory=list)
    stay: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.sweep = Sweep(self.check)

    def run(self) -> dict[str, Any]:
        """Remove everything; returns the module's result; raises StoreError and OSError.

        A host that uplab did not set up is not touched; runs that were asked for go all the same.
        """
        root = self.places.root
        ours = is_ours(root)
        set_up = ours and is_set_up(root)
        with alone(root, self.places.run_state):
            refuse_tuned(self.places.spool, self.places.host)
            if ours:
                self.refuse_use()
                names = self.packages_there()
                self.files()
                self.changed_files()
                self.remove_packages(names)
            self.remove_runs()
            if ours:
                self.sweep.remove(self.places.run_state)
                self.marks()
        return self.result(set_up)

    def refuse_use(self) -> None:
        """Raise StoreError where something is mounted in the root, or processes use it."""
        refuse_mounts(self.places.root)
        left = left_running(self.places.run_state)
        if left:
            raise StoreError(
                f"a run that did not end by itself left {', '.join(left)}; nothing was removed. "
                "Start a run, which ends them, or end them by their numbers"
            )
        used = users(self.places.root)
        if used:
            processes = sorted({process for found in used.values() for process in found})
            first = sorted(used)[0]
            raise StoreError(
                f"in use by {', '.join(processes)}: {first}; nothing was removed. "
                "End what uses it and run this again"
            )

    def packages_there(self) -> list[str]:
        """The packages that setting up added; where they are to go, seen that apt can do it."""
        names = added(self.places.root / MEMORY)
        if names and self.packages:
            if unfinished() and not self.check:
                self.apt().configure()
            refuse_more(self.apt(), names)
        return names

    def apt(self) -> Apt:
        """apt-get, told how long to wait."""
        return Apt(self.lock_timeout_s)

    def files(self) -> None:
        """Remove what was built, fetched and made, and sources of packages with their keys."""
        root = self.places.root
        there = [root / name for name in DIRECTORIES if (root / name).exists()]
        if there and not self.check:
            begin(root)
        for path in [*there, *stale_files([])]:
            self.sweep.remove(path)

    def changed_files(self) -> None:
        """Put back the files of apt's that uplab changed, unless somebody did since."""
        journal = self.places.root / APT_SOURCES
        if self.check:
            self.restored = [str(file.path) for file in restorable(journal)]
            return
        for file in restore(journal):
            if file.state == "restored":
                self.restored.append(file.path)
            elif file.state == "altered":
                self.stay.add(APT_SOURCES)
                self.keep(file.path, f"changed since; as it was before uplab: {file.original}")

    def remove_packages(self, names: list[str]) -> None:
        """Remove the packages that setting up added, or name them."""
        if not self.packages:
            self.packages_left = names
            return
        if names and not self.check:
            purge(self.apt(), names)
        self.packages_removed = names

    def remove_runs(self) -> None:
        """Remove runs that nobody has collected, or name them."""
        spool = self.places.spool
        runs = sorted(spool.iterdir()) if spool.is_dir() else []
        for path in runs:
            if self.runs:
                self.sweep.remove(path)
            else:
                self.runs_left.append(str(path))
        # Nothing is to be put back any more: it only says what somebody else changed meanwhile.
        notes = [path for path in [spool.parent / TUNING] if self.runs and path.exists()]
        for path in notes:
            self.sweep.remove(path)
        if self.runs or not runs:
            self.sweep.remove_empty(spool, without=frozenset(path.name for path in runs))
            gone = {spool.name, *(path.name for path in notes)}
            self.sweep.remove_empty(spool.parent, without=frozenset(gone))

    def marks(self) -> None:
        """Remove what says that uplab was here, and the root if nothing is left in it."""
        root = self.places.root
        if self.packages_left:
            self.stay.add(MEMORY)
            text = f"the list of the {len(self.packages_left)} packages that setting up added"
            self.keep(str(root / MEMORY), text)
        parts = [name for name in os.listdir(root) if name.endswith(PART)]
        for name in [*parts, APT_SOURCES, MEMORY, MANIFEST]:
            if name not in self.stay:
                self.sweep.remove(root / name)
        if not self.stay and root not in mount_points():
            self.sweep.remove_empty(root, without=OWN | frozenset(parts))

    def keep(self, path: str, why: str) -> None:
        """Note something that stays."""
        self.kept.append({"path": path, "why": why})

    def result(self, set_up: bool) -> dict[str, Any]:
        """The module's result."""
        result = self.sweep.result()
        more = [*self.restored, *(f"package {name}" for name in self.packages_removed)]
        before = result["diff"]["before"] + "".join(f"{line}\n" for line in more)
        return {
            **result,
            "changed": bool(before),
            "diff": {"before": before, "after": ""},
            "set_up": set_up,
            "restored": self.restored,
            "packages": self.packages_left,
            "packages_removed": self.packages_removed,
            "runs": self.runs_left,
            "kept": self.kept,
        }


def begin(root: Path) -> None:
    """Say in the manifest that nothing is installed: what comes next takes it away."""
    known = read_json(root / MANIFEST) or {}
    nothing = {"schema": SCHEMA, "digest": None, "pins": {}, "components": {}}
    more = {"packages_added": known.get("packages_added", []), "removal_begun_utc": utc_now()}
    write_atomically(root / MANIFEST, pretty({**nothing, **more}))
