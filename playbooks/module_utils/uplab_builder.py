# SPDX-License-Identifier: Apache-2.0
"""One build: from its sources into the store, whole or not at all."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import io
import lzma
import os
import shlex
import shutil
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.uplab_commands import Commands
from ansible.module_utils.uplab_host import (
    SCHEMA,
    Place,
    Probe,
    StoreError,
    artifact,
    clean_environment,
    differences,
    expand,
    link_atomically,
    pretty,
    probe,
    sync_directory,
    utc_now,
    write_atomically,
)
from ansible.module_utils.uplab_sources import Fetcher
from ansible.module_utils.uplab_together import Slots

LOG_LINES_SHOWN = 20
#: With less than this a compiler's own words may not have fit into the log any more.
FULL_DISK_BYTES = 4 << 20


@dataclass(frozen=True)
class Builder:
    """Builds components on one host; one for all builds of a run.

    ``rebuild`` is empty, ``replace`` (build what is there already again) or ``verify`` (build it
    again, compare, and leave the store as it is).
    """

    root: Path
    rebuild: str
    check: bool
    commands: Commands
    slots: Slots

    def log_of(self, component: str) -> Path:
        """Where the output of a component's commands is kept."""
        kind = ".verify" if self.rebuild == "verify" else ""
        return self.root / "log" / f"{component}{kind}.log"

    def build(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Build one component as far as that is needed.

        Args:
            wanted: ``component``, ``recipe`` and where they apply ``source_sha256``, ``archive``
                and ``site``, as the module takes them.

        Returns:
            What the module says about the component.

        Raises:
            StoreError: with what the user has to mend.
            Stopped: all commands were ended meanwhile.
            OSError: the store cannot be written.
        """
        component, digest = wanted["component"], wanted.get("source_sha256")
        found = probe(self.root, component, digest, wanted["recipe"])
        place = found.place
        if found.missing and (not self.check or self.rebuild == "verify"):
            raise StoreError(
                f"{component}: this host lacks what builds it: {', '.join(found.missing)}. "
                "Run: ansible-playbook playbooks/setup.yml"
            )
        if self.rebuild == "verify":
            return self.verify(found, wanted)
        needed = not found.intact or self.rebuild == "replace"
        # Without its tools the hash, and so the name of the build, is not known yet.
        name = component if found.missing else str(place.prefix)
        result = {
            "changed": needed or not found.linked,
            "hash": None if found.missing else place.hash12,
            "after": name,
        }
        if self.check:
            return result
        if needed:
            record = self.make(found, wanted)
            result["build_s"] = record["build_s"]
        if result["changed"]:
            link_atomically(place.current, place.prefix)
        return result

    def make(self, found: Probe, wanted: dict[str, Any]) -> dict[str, Any]:
        """Build the component and finish it; returns its record."""
        place, recipe = found.place, wanted["recipe"]
        with only_build(place) as lock:
            started_ns = time.monotonic_ns()
            artifacts = Run(self, place, lock).artifacts(wanted)
            record = {
                "schema": SCHEMA,
                "component": place.component,
                "hash": place.hash12,
                "source": recipe.get("source", "build"),
                "version": recipe["version"],
                "prefix": str(place.prefix),
                "inputs": found.inputs,
                "artifacts": artifacts,
                "built_utc": utc_now(),
                "build_s": elapsed_s(started_ns),
            }
            finalise(place, record)
        return record

    def verify(self, found: Probe, wanted: dict[str, Any]) -> dict[str, Any]:
        """Build the component once more and compare it with its record; changes nothing."""
        place = found.place
        if found.record is None:
            raise StoreError(
                f"{place.component}: there is no finished build of today's pins and sources, so "
                "nothing to compare with. Run: invoke lab.setup"
            )
        with only_build(place) as lock:
            started_ns = time.monotonic_ns()
            artifacts = Run(self, place, lock).artifacts(wanted)
        differs = differences(found.record["artifacts"], artifacts)
        return {
            "changed": False,
            "hash": place.hash12,
            "compared": {"files": len(artifacts), "differs": differs, "damaged": found.damaged},
            "build_s": elapsed_s(started_ns),
        }


@dataclass(frozen=True)
class Run:
    """One run of a recipe in the component's own directory beside the store's entries.

    The directory has the same name every time, so that what writes its own path down writes the
    same one.
    """

    builder: Builder
    place: Place
    lock: int

    @property
    def log(self) -> Path:
        """Where the commands' output goes."""
        return self.builder.log_of(self.place.component)

    def artifacts(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Run the recipe; returns the files of the prefix, which lies where ``place.part`` says."""
        recipe, archive = wanted["recipe"], wanted.get("archive")
        if archive:
            unpack(archive, wanted["source_sha256"], self.place.part / "source")
        site = {"git": {}, "archives": None, "files": {}, **(wanted.get("site") or {})}
        self.execute(recipe, site)
        found = collect(self.place, self.log, recipe["artifacts"], recipe.get("recorded", "all"))
        self.builder.commands.check()
        return found

    def places(self) -> dict[str, Path]:
        """The paths that a recipe names; the directories of this build are made."""
        part = self.place.part
        places = {name: part / name for name in ("source", "build", "prefix", "home")}
        for path in places.values():
            path.mkdir(parents=True, exist_ok=True)
        jobs = Path(str(self.builder.slots.total))
        return {**places, "root": self.place.root, "cache": self.place.cache, "jobs": jobs}

    def environment(self, recipe: dict[str, Any], places: dict[str, Path]) -> dict[str, str]:
        """The environment of the recipe's commands."""
        given = {key: expand(str(text), places) for key, text in recipe["environment"].items()}
        if self.builder.rebuild:
            # A cache of compilers would give back the bytes that are to be made again.
            given["CCACHE_DISABLE"] = "1"
        makeflags = self.builder.slots.makeflags
        return clean_environment(**{"HOME": str(places["home"]), "MAKEFLAGS": makeflags, **given})

    def execute(self, recipe: dict[str, Any], site: dict[str, Any]) -> None:
        """Fetch the sources, run the commands; raises StoreError with the end of the log."""
        places = self.places()
        environment = self.environment(recipe, places)
        keep = (self.lock, *self.builder.slots.descriptors)
        with self.log.open("wb") as log:

            def logged(argv: list[str], chdir: Path, environment: dict[str, str]) -> str:
                # A program of several lines says less about itself than its arguments do.
                words = ["..." if "\n" in word else word for word in argv]
                log.write(f"$ cd {chdir} && {shlex.join(words)}\n".encode())
                log.flush()
                return self.builder.commands.run(argv, chdir, environment, log.fileno(), keep)

            fetcher = Fetcher(self.place.component, self.place.cache, site, logged, self.log)
            fetcher.fetch(recipe.get("sources", []), places["source"])
            for name, content in site["files"].items():
                path = Path(expand(name, places))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content, encoding="utf-8")
            for command in recipe["commands"]:
                argv = [expand(word, places) for word in command["argv"]]
                chdir = Path(expand(command.get("chdir", "{source}"), places))
                why = logged(argv, chdir, environment)
                if why:
                    raise StoreError(failure(self.place, self.log, argv, why))


def elapsed_s(started_ns: int) -> float:
    """Seconds since a moment, with one decimal."""
    return round((time.monotonic_ns() - started_ns) / 1e9, 1)


@contextmanager
def only_build(place: Place) -> Iterator[int]:
    """Hold the component's lock, with nothing left of builds before and after.

    Yields the lock's descriptor; raises StoreError where it is taken.
    """
    path = place.store / f".lock-{place.component}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"{place.component}: another build of it is running on this host "
                f"(its output: {place.log}). Wait for its end and run this again"
            ) from error
        remove_leftovers(place)
        try:
            yield descriptor
        finally:
            remove_leftovers(place)
    finally:
        os.close(descriptor)


def remove_leftovers(place: Place) -> None:
    """Remove what killed builds of the component left; the lock says that none is running."""
    for pattern in (f".part-{place.component}-*", f".old-{place.component}-*"):
        for path in place.store.glob(pattern):
            shutil.rmtree(path)


def unpack(archive: str, source_sha256: str, target: Path) -> None:
    """Unpack the sources; raises StoreError unless they are what the digest says."""
    try:
        data = lzma.decompress(base64.b64decode(archive, validate=True))
    except (ValueError, lzma.LZMAError) as error:
        raise StoreError(f"the archive of the sources cannot be read: {error}") from error
    seen = hashlib.sha256(data).hexdigest()
    if seen != source_sha256:
        raise StoreError(
            f"the sources changed while Ansible ran: their sha256 is {seen}, "
            f"{source_sha256} was announced. Run it again"
        )
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            unpack_file(tar, member, target)


def unpack_file(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Write one file of the sources; raises StoreError on anything but a file below the target."""
    name = Path(member.name)
    content = tar.extractfile(member) if member.isfile() else None
    if content is None or name.is_absolute() or ".." in name.parts:
        raise StoreError(f"the archive of the sources holds {member.name!r}: not a plain file")
    path = target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.read())
    path.chmod(0o755 if member.mode & 0o100 else 0o644)


def failure(place: Place, log: Path, argv: list[str], why: str) -> str:
    """The message of a failed build: component, command, end of the log, where the log is."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    shown = lines[-LOG_LINES_SHOWN:]
    quoted = "\n".join(f"  {line}" for line in shown)
    free = shutil.disk_usage(place.store).free
    full = f" {place.store} is full ({free >> 10} KiB free)." if free < FULL_DISK_BYTES else ""
    return (
        f"{place.component}: the build failed: {shlex.join(argv)} {why}.{full}\n"
        f"The last {len(shown)} lines of {log} on the host:\n{quoted}"
    )


def collect(place: Place, log: Path, wanted: list[str], recorded: str) -> dict[str, Any]:
    """The files of the finished prefix with their sha256; raises StoreError where one is missing.

    ``recorded`` says whether all of them count or the wanted ones alone.
    """
    prefix = place.part / "prefix"
    for name in wanted:
        if not (prefix / name).is_file():
            raise StoreError(
                f"{place.component}: the build ended well but did not make {name}. "
                f"Its log on the host: {log}"
            )
    if recorded == "named":
        # Tens of thousands of files: one flush of everything is quicker than one for each.
        os.sync()
        return {name: artifact(prefix / name) for name in wanted}
    found: dict[str, Any] = {}
    for path in sorted([prefix, *prefix.rglob("*")]):
        if path.is_symlink():
            continue
        # It has to be on the disk before a record says that it is.
        if path.is_dir():
            sync_directory(path)
        else:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            found[str(path.relative_to(prefix))] = artifact(path)
    return found


def finalise(place: Place, record: dict[str, Any]) -> None:
    """Make the build a finished one; at every moment a record means a whole prefix.

    All that takes space comes first: on a full disk an earlier build stays what it was.
    """
    written = place.part / "record.json"
    write_atomically(written, pretty(record))
    place.record.unlink(missing_ok=True)
    sync_directory(place.store)
    if place.prefix.exists():
        # Damaged, or to be replaced: out of the way by a rename, removed later.
        place.prefix.rename(place.store / f".old-{place.entry}-{os.getpid()}")
    (place.part / "prefix").rename(place.prefix)
    sync_directory(place.store)
    written.rename(place.record)
    sync_directory(place.store)
