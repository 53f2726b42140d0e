# SPDX-License-Identifier: Apache-2.0
"""A bundle's parts on a host: which are missing, what the bundle lacks, where each one goes.

An item is one source, one set of crates or one Debian package of a bundle, with the files that it
consists of. The controller has checked them all and says for each file where below the store's root
it goes::

    cache/git/<name>-<hash of the URL>.git     as a build itself keeps repositories
    cache/archives/<sha256>-<name>             as it keeps archives
    cache/bundle/crates/<component>/           a directory that cargo takes crates from
    cache/bundle/debs/<release>/               a repository for apt
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from ansible.module_utils.uplab_host import StoreError, sha256_of, sync_directory
from ansible.module_utils.uplab_sources import has_commit, locked

BUNDLE = Path("cache") / "bundle"
GIT_CONFIG = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"
CHUNK_BYTES = 1 << 20
#: The number of a release by its name.
RELEASES = {"12": "bookworm", "13": "trixie"}

Item = dict[str, Any]


def place_of(root: Path, name: str) -> Path:
    """The path of a file below the root; raises StoreError for one elsewhere."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or path.parts[:1] != ("cache",):
        raise StoreError(f"the bundle names a file outside of the cache: {name!r}")
    return root / path


# --- what is needed -------------------------------------------------------------------------------


def chosen(items: Iterable[Item], need: dict[str, str]) -> list[Item]:
    """The items that a source of the pins consists of; [] where the bundle does not have it."""
    kind, component = need["kind"], need["component"]
    mine = [item for item in items if component in item["for"]]
    if kind == "archive":
        return [item for item in mine if item.get("sha256") == need["sha256"]]
    if kind == "crates":
        return [item for item in mine if item["kind"] == kind and item["commit"] == need["commit"]]
    repositories = [item for item in mine if item["kind"] == "git"]
    if any(item["commit"] == need["commit"] for item in repositories):
        # Its submodules came with it.
        return repositories
    return []


def described(need: dict[str, str]) -> str:
    """A source of the pins, for a person."""
    if need["kind"] == "archive":
        return f"{need['component']}: {need['url']}"
    what = "the crates of " if need["kind"] == "crates" else ""
    return f"{need['component']}: {what}{need['url']} at {need['commit']}"


def packages_of(
    items: Iterable[Item], release: str, names: Iterable[str], installed: dict[str, str]
) -> tuple[list[Item], list[str]]:
    """The items for apt, and the names of packages that are neither there nor in the bundle.

    Nothing is chosen where the host has all packages already. What it has in the bundle's very
    version is left out.
    """
    missing = [name for name in names if name not in installed]
    here = [item for item in items if item["kind"] == "deb" and item["release"] == release]
    known = {item.get("package") for item in here}
    lacking = sorted(name for name in missing if name not in known)
    if not missing or not here:
        return [], lacking
    wanted = [
        item
        for item in here
        if "package" not in item or installed.get(item["package"]) != item["version"]
    ]
    return wanted, lacking


# --- what is there --------------------------------------------------------------------------------


def missing_files(root: Path, item: Item) -> list[dict[str, Any]]:
    """The files of an item that have to come; [] where the host has it already."""
    if item["kind"] == "git" and has_repository(root, item):
        return []
    if item["kind"] == "crates" and has_crates(root, item):
        return []
    return [file for file in item["files"] if not is_there(place_of(root, file["to"]), file)]


def is_there(path: Path, file: dict[str, Any]) -> bool:
    """Whether a file is what the bundle has."""
    try:
        return path.stat().st_size == file["bytes"] and sha256_of(path) == file["sha256"]
    except OSError:
        return False


def repository_of(root: Path, item: Item) -> Path:
    """The bare clone that a repository's item belongs to."""
    return place_of(root, f"cache/git/{item['repository']}")


def has_repository(root: Path, item: Item) -> bool:
    """Whether the cache holds a repository's commit; without git only what a bundle brought."""
    repository = repository_of(root, item)
    if not (repository / "HEAD").exists():
        return False
    if shutil.which("git"):
        return has_commit(repository, item["commit"])
    return (repository / "refs" / "heads" / f"uplab-{item['commit']}").exists()


def crates_of(root: Path, item: Item) -> tuple[Path, Path]:
    """The directory of a component's crates, and the file that says which ones they are."""
    folder = root / BUNDLE / "crates" / str(item["for"][0])
    return folder, folder.with_name(f"{folder.name}.sha256")


def has_crates(root: Path, item: Item) -> bool:
    """Whether a component's crates lie there, unpacked to the end."""
    _, mark = crates_of(root, item)
    return mark.exists() and mark.read_text(encoding="ascii") == item["files"][0]["sha256"]


# --- putting it there -----------------------------------------------------------------------------


def place(root: Path, archive: Path, files: list[dict[str, Any]]) -> None:
    """Lay down the files that came in a tar, each under its name there; raises StoreError."""
    expected = {file["path"]: file for file in files}
    with tarfile.open(archive, "r:") as tar:
        for member in tar:
            file = expected.pop(member.name, None)
            content = tar.extractfile(member) if member.isfile() else None
            if file is None or content is None:
                raise StoreError(f"what came from the controller holds {member.name!r}")
            place_file(place_of(root, file["to"]), content, file)
    if expected:
        raise StoreError(f"what came from the controller lacks {min(expected)}")


def place_file(path: Path, content: IO[bytes], file: dict[str, Any]) -> None:
    """Write one file so that it is there whole or not at all; raises StoreError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            shutil.copyfileobj(content, stream, CHUNK_BYTES)
            os.fsync(stream.fileno())
        if not is_there(part, file):
            raise StoreError(f"{file['path']} was damaged on its way to this host")
        part.chmod(0o644)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def finish(root: Path, items: list[Item]) -> bool:
    """Make of the files what builds and apt use; returns whether something changed."""
    changed = False
    for item in items:
        if item["kind"] == "git" and not has_repository(root, item):
            finish_repository(root, item)
            changed = True
        elif item["kind"] == "crates" and not has_crates(root, item):
            finish_crates(root, item)
            changed = True
    for release in {item["release"] for item in items if item["kind"] == "deb"}:
        changed |= remove_strangers(root / BUNDLE / "debs" / release, items)
    return changed


def finish_repository(root: Path, item: Item) -> None:
    """Make a bare clone of a pack, or let the one that is there have its commit."""
    repository, commit = repository_of(root, item), item["commit"]
    with locked(repository.with_suffix(".lock")):
        for name in ("objects/info", "refs/heads"):
            (repository / name).mkdir(parents=True, exist_ok=True)
        # The history before the commit did not come, and git shall not miss it.
        shallow = repository / "shallow"
        known = shallow.read_text(encoding="ascii").split() if shallow.exists() else []
        lines = "".join(f"{line}\n" for line in sorted({*known, commit}))
        shallow.write_text(lines, encoding="ascii")
        reference = repository / "refs" / "heads" / f"uplab-{commit}"
        reference.write_text(f"{commit}\n", encoding="ascii")
        if not (repository / "HEAD").exists():
            (repository / "config").write_text(GIT_CONFIG, encoding="ascii")
            # Last: with it the directory is a repository.
            (repository / "HEAD").write_text("ref: refs/heads/master\n", encoding="ascii")
        sync_directory(repository)


def finish_crates(root: Path, item: Item) -> None:
    """Unpack a component's crates; raises StoreError on anything but files below its directory."""
    folder, mark = crates_of(root, item)
    packed = place_of(root, item["files"][0]["to"])
    mark.unlink(missing_ok=True)
    # Mostly there is none; one that cannot be removed makes the next line fail by its name.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tarfile.open(packed, "r:") as tar:
        for member in tar:
            name = Path(member.name)
            content = tar.extractfile(member) if member.isfile() else None
            if content is None or name.is_absolute() or ".." in name.parts:
                raise StoreError(f"the crates hold {member.name!r}: not a plain file")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as stream:
                shutil.copyfileobj(content, stream, CHUNK_BYTES)
            path.chmod(0o755 if member.mode & 0o100 else 0o644)
    packed.unlink()
    mark.write_text(item["files"][0]["sha256"], encoding="ascii")
    sync_directory(folder.parent)


def remove_strangers(folder: Path, items: list[Item]) -> bool:
    """Remove what an earlier bundle left for apt; returns whether there was something."""
    kept = {Path(file["to"]).name for item in items for file in item["files"]}
    strangers = [path for path in folder.glob("*") if path.name not in kept]
    for path in strangers:
        path.unlink()
    return bool(strangers)
