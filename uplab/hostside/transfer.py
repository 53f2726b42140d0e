"""Give finished builds away: an index that says all of each, and the files as a tar stream.

A build is one that lies in the store as a whole: files of Debian packages, and links to what
somebody put on this host, are not given away. Nothing is written here.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from uplab.hostside import elfneeds, libraries, store
from uplab.hostside.errors import HostError

SCHEMA = 1
KIND = "uplab-entries"
INDEX = "index.json"
#: Comes before the tar: what a login shell prints by itself is not part of it.
MARK = b"--- uplab entries ---\n"
#: The records of builds that lie in the store; the others describe files elsewhere.
_BUILT = ("build", "upstream")
#: Who reads the store is not root; nobody else writes it.
_MODES = 0o755


@dataclass
class _Tree:
    """The files below a prefix, by their names there."""

    folders: list[str] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)


def index(root: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Everything about the builds that are wanted and that this host has.

    Args:
        root: of the store.
        request: ``components`` (names), ``host`` and ``checkout_sha256``, which go into the index.

    Raises:
        HostError: a build is not what its record says, or could not be used elsewhere.
        ValueError: the manifest is damaged.
    """
    wanted = [str(name) for name in request.get("components", [])]
    installed = store.load(root).components
    cache = libraries.cached()
    entries = [
        _entry(installed[name], cache)
        for name in sorted(set(wanted) & set(installed))
        if _is_build(root, installed[name])
    ]
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "host": str(request.get("host", "")),
        "checkout_sha256": str(request.get("checkout_sha256", "")),
        "debian": _debian(),
        "entries": entries,
    }


def write(root: Path, request: Mapping[str, Any], out: IO[bytes]) -> None:
    """Write the mark, then a tar of the index and the files that it names.

    Raises:
        as :func:`index`, and OSError where nobody reads it.
    """
    found = index(root, request)
    out.write(MARK)
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        data = json.dumps(found, sort_keys=True).encode()
        archive.addfile(_member(INDEX, len(data)), io.BytesIO(data))
        for entry in found["entries"]:
            _add(archive, entry)


def _is_build(root: Path, record: Mapping[str, Any]) -> bool:
    place = root / "store" / f"{record.get('component')}-{record.get('hash')}"
    return record.get("source") in _BUILT and record.get("prefix") == str(place)


def _entry(record: dict[str, Any], cache: Mapping[str, Path]) -> dict[str, Any]:
    """One build: its record, its files, and what they need of a host."""
    component, prefix = record["component"], Path(record["prefix"])
    tree = _walk(component, prefix)
    altered = [
        name
        for name, noted in sorted(record["artifacts"].items())
        if tree.files.get(name, {}).get("sha256") != noted["sha256"]
    ]
    if altered:
        raise HostError(
            f"{component}: {prefix / altered[0]} is not what its record says. "
            "Run: invoke lab.setup on that host, which builds it again"
        )
    needed, glibc = _needs(component, prefix, tree, cache)
    return {
        "record": record,
        "glibc": ".".join(map(str, glibc)) or None,
        "libraries": needed,
        "folders": tree.folders,
        "files": tree.files,
        "links": tree.links,
    }


def _walk(component: str, prefix: Path) -> _Tree:
    tree = _Tree()
    for folder, folders, names in os.walk(prefix):
        folders.sort()
        for name in sorted([*folders, *names]):
            path = Path(folder, name)
            inside = str(path.relative_to(prefix))
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                tree.links[inside] = _target(component, path, inside)
            elif stat.S_ISDIR(status.st_mode):
                tree.folders.append(inside)
            elif stat.S_ISREG(status.st_mode):
                tree.files[inside] = {
                    "sha256": _sha256(path),
                    "bytes": status.st_size,
                    "mode": status.st_mode & _MODES,
                }
            else:
                raise HostError(f"{component}: {path} is neither file, folder nor link")
    return tree


def _target(component: str, path: Path, inside: str) -> str:
    """Where a link leads; HostError where that is not below its own prefix."""
    target = str(path.readlink())
    if not stays_inside(inside, target):
        raise HostError(f"{component}: {path} leads to {target}, out of its own build")
    return target


def stays_inside(name: str, target: str) -> bool:
    """Whether a link leads to something below the prefix that it lies in, whatever lies there.

    Steps up come first and are no more than the link lies deep, so that no other link that is
    passed on the way down can make more of them.
    """
    parts = target.split("/")
    ups = next((at for at, part in enumerate(parts) if part != ".."), len(parts))
    depth = len(PurePosixPath(name).parent.parts)
    return bool(target) and "" not in parts and ".." not in parts[ups:] and ups <= depth


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _needs(
    component: str, prefix: Path, tree: _Tree, cache: Mapping[str, Path]
) -> tuple[dict[str, str], elfneeds.Version]:
    """The Debian package of each library that the files name, and the newest glibc they ask for.

    What those libraries need in their turn comes with their packages.
    """
    glibc: elfneeds.Version = ()
    found: dict[str, Path] = {}
    own = {PurePosixPath(name).name for name in (*tree.files, *tree.links)}
    for name in tree.files:
        needs = elfneeds.read(prefix / name)
        if needs is None:
            continue
        glibc = max(glibc, needs.glibc)
        for library in needs.libraries:
            path = libraries.find(library, needs.folders, cache)
            if path is not None:
                found[library] = path
            elif library not in own:
                raise HostError(f"{component}: {prefix / name} needs {library}, which is not here")
    packages = libraries.owners(found.values())
    homeless = [f"{name} ({path})" for name, path in found.items() if path not in packages]
    if homeless:
        raise HostError(
            f"{component}: it needs {homeless[0]}, which belongs to no Debian package, so that no "
            "other host can be given it"
        )
    return {name: packages[path] for name, path in sorted(found.items())}, glibc


def _debian() -> str:
    """The number of this host's Debian release; an empty text where it has none."""
    return platform.freedesktop_os_release().get("VERSION_ID", "")


def _add(archive: tarfile.TarFile, entry: Mapping[str, Any]) -> None:
    record = entry["record"]
    top, prefix = f"{record['component']}-{record['hash']}", Path(record["prefix"])
    for member in _members(top, entry):
        if member.isreg():
            with (prefix / PurePosixPath(member.name).relative_to(top)).open("rb") as file:
                archive.addfile(member, file)
        else:
            archive.addfile(member)


def _members(top: str, entry: Mapping[str, Any]) -> Iterator[tarfile.TarInfo]:
    """Folders, then files, then links: nothing is ever written through a link."""
    for name in entry["folders"]:
        yield _member(f"{top}/{name}", kind=tarfile.DIRTYPE, mode=0o755)
    for name, noted in entry["files"].items():
        yield _member(f"{top}/{name}", noted["bytes"], mode=noted["mode"])
    for name, target in entry["links"].items():
        member = _member(f"{top}/{name}", kind=tarfile.SYMTYPE, mode=0o777)
        member.linkname = target
        yield member


def _member(
    name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, mode: int = 0o644
) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.mode = size, kind, mode
    return member
