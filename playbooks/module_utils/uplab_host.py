# SPDX-License-Identifier: Apache-2.0
"""What uplab's Ansible modules share on a host: the store, its records and the state of dpkg.

Standard library only, because the host has nothing else.  The store of a host with the root
``/opt/uplab``::

    store/<component>-<hash12>/        a finished build
    store/<component>-<hash12>.json    its record; a build without a record is not finished
    store/.part-<component>-<hash12>/  a build under way, or what a killed one left
    current/<component>                link to the prefix in use
    log/<component>.log                what the newest build printed
    cache/                             what was fetched and compiled before; may be removed any time
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SCHEMA = 1
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Second letter of dpkg's state: unpacked, half configured, half installed, triggers pending.
UNFINISHED = frozenset("UFHWt")
DPKG_JOURNAL = Path("/var/lib/dpkg/updates")
KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")

FULL_COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")

#: The options that say how a component is built; the hash of a component covers all of them but
#: the addresses of the sources, because a mirror gives the same bytes.
RECIPE_OPTIONS: dict[str, Any] = {
    "component": {"type": "str", "required": True},
    "source_sha256": {"type": "str"},
    "recipe": {
        "type": "dict",
        "required": True,
        "options": {
            "version": {"type": "str", "required": True},
            "commands": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "argv": {"type": "list", "elements": "str", "required": True},
                    "chdir": {"type": "str", "default": "{source}"},
                },
            },
            "environment": {"type": "dict", "default": {}},
            "artifacts": {"type": "list", "elements": "str", "required": True},
            "tools": {"type": "dict", "default": {}},
            "packages": {"type": "list", "elements": "str", "default": []},
            "kernel_btf": {"type": "bool", "default": False},
            "sources": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "url": {"type": "str", "required": True},
                    "commit": {"type": "str"},
                    "sha256": {"type": "str"},
                    "into": {"type": "str", "default": "."},
                    "strip": {"type": "int", "default": 1},
                    "unpack": {"type": "bool", "default": True},
                },
            },
            "recorded": {"type": "str", "choices": ["all", "named"], "default": "all"},
            "source": {"type": "str", "choices": ["build", "upstream"], "default": "build"},
        },
    },
}


class StoreError(Exception):
    """Something about the host or the store that its user has to mend; the text says what."""


@dataclass(frozen=True)
class Place:
    """The paths of one component in the store of one host."""

    root: Path
    component: str
    hash12: str

    @property
    def entry(self) -> str:
        """The name of the component's entry in the store."""
        return f"{self.component}-{self.hash12}"

    @property
    def store(self) -> Path:
        """The directory that holds all entries."""
        return self.root / "store"

    @property
    def prefix(self) -> Path:
        """Where a finished build lies."""
        return self.store / self.entry

    @property
    def record(self) -> Path:
        """The record whose presence makes the build a finished one."""
        return self.store / f"{self.entry}.json"

    @property
    def part(self) -> Path:
        """Where the build happens: on the store's file system, so that one rename finishes it."""
        return self.store / f".part-{self.entry}"

    @property
    def current(self) -> Path:
        """The link that points to the prefix in use."""
        return self.root / "current" / self.component

    @property
    def cache(self) -> Path:
        """What was fetched and compiled before."""
        return self.root / "cache"

    @property
    def log(self) -> Path:
        """What the newest build of the component printed."""
        return self.root / "log" / f"{self.component}.log"


@contextmanager
def reported(module: Any) -> Iterator[None]:
    """End an Ansible module with what went wrong in its block, as every module of uplab's does."""
    try:
        yield
    except StoreError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=reason(error))


def reason(error: OSError) -> str:
    """What an error of the system says, with its path where it has one."""
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename else text


def absolute_root(text: str) -> Path:
    """The store's root as a path; raises StoreError unless it is absolute and not ``/``."""
    path = Path(text)
    if not path.is_absolute() or path == Path("/"):
        raise StoreError(f"root is {text!r}; wanted: an absolute path below /")
    return path


def canonical(value: object) -> bytes:
    """JSON of a value with sorted keys and no spaces: the same bytes for the same value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text.encode("ascii")


def hash12(value: object) -> str:
    """The first 12 hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()[:12]


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex; raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def utc_now() -> str:
    """The time in UTC to the second, as in ``2026-11-22T13:17:51Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no such file or it holds something else.

    A record that cannot be read counts as absent: the component is then built again.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def pretty(value: object) -> str:
    """JSON for people: indented, sorted keys, closing newline."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=True) + "\n"


def sync_directory(path: Path) -> None:
    """Make renames and unlinks in a directory survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that it is there whole or not at all, also after a power loss."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def link_atomically(link: Path, target: Path) -> None:
    """Point a symbolic link at a target; readers see the old target or the new one."""
    part = link.with_name(f".{link.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(link)
    sync_directory(link.parent)


def points_to(link: Path, target: Path) -> bool:
    """Whether a symbolic link points at exactly this target."""
    return link.is_symlink() and link.readlink() == target


def damages(record: dict[str, Any]) -> list[str]:
    """Every way in which a record's artifacts differ from what the record says; [] if none do."""
    prefix = Path(str(record.get("prefix", "")))
    artifacts = record.get("artifacts")
    if not isinstance(artifacts, dict) or not artifacts:
        return ["the record names no artifacts"]
    found: list[str] = []
    for name, wanted in sorted(artifacts.items()):
        path = prefix / name
        try:
            seen = sha256_of(path)
        except OSError as error:
            found.append(f"{path}: {error.strerror}")
            continue
        if seen != wanted.get("sha256"):
            found.append(f"{path}: sha256 is {seen}, the record says {wanted.get('sha256')}")
    return found


def artifact(path: Path) -> dict[str, Any]:
    """A file as a record describes it: ``sha256`` and ``bytes``."""
    return {"sha256": sha256_of(path), "bytes": path.stat().st_size}


def differences(known: dict[str, Any], seen: dict[str, Any]) -> list[dict[str, Any]]:
    """Each file that is not the same in two sets of artifacts, with what it was and is.

    A file that one of them lacks has nulls there.
    """
    nothing = {"sha256": None, "bytes": None}
    found = []
    for name in sorted({*known, *seen}):
        old, new = known.get(name, nothing), seen.get(name, nothing)
        if old["sha256"] != new["sha256"]:
            found.append(
                {
                    "file": name,
                    "old_sha256": old["sha256"],
                    "new_sha256": new["sha256"],
                    "old_bytes": old["bytes"],
                    "new_bytes": new["bytes"],
                }
            )
    return found


def dpkg_versions() -> dict[str, str]:
    """The exact version of every fully installed Debian package, also of those on hold.

    Raises StoreError.
    """
    return {name: version for name, version, status in dpkg_status() if status[1:2] == "i"}


def dpkg_status() -> list[tuple[str, str, str]]:
    """Name, version and two-letter state of every package that dpkg knows; raises StoreError."""
    form = "${Package}\t${Version}\t${db:Status-Abbrev}\n"
    lines = run_for_text(["dpkg-query", "--show", "--showformat", form]).splitlines()
    rows = [line.split("\t") for line in lines]
    return [(row[0], row[1], row[2]) for row in rows if len(row) == 3]


def dpkg_unfinished(rows: list[tuple[str, str, str]]) -> bool:
    """Whether a killed dpkg left packages half done, or a journal that apt wants merged first.

    Args:
        rows: from :func:`dpkg_status`.
    """
    half_done = any(status[1:2] in UNFINISHED for _, _, status in rows)
    return half_done or any(path.name.isdigit() for path in DPKG_JOURNAL.glob("*"))


def clean_environment(**more: str) -> dict[str, str]:
    """An environment that owes nothing to who started Ansible: same inputs, same outputs."""
    return {"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", "TZ": "UTC", **more}


def run_for_text(argv: list[str]) -> str:
    """What a command prints on stdout; raises StoreError where it is missing or fails."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=clean_environment(HOME="/nonexistent"),
            check=False,
        )
    except OSError as error:
        raise StoreError(f"cannot run {argv[0]}: {error.strerror}") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise StoreError(f"{argv[0]} ended with exit code {done.returncode}: {said[-1:]}")
    return done.stdout


def find_executable(name: str) -> Path | None:
    """The real file behind a command's name or path, links resolved; None where it is missing."""
    found = shutil.which(name, path=SYSTEM_PATH)
    return Path(found).resolve() if found else None


def kernel_interface() -> dict[str, str]:
    """What ties a BPF program to the running kernel: its BTF, or its release where it has none."""
    if KERNEL_BTF.exists():
        return {"btf_sha256": sha256_of(KERNEL_BTF)}
    return {"release": os.uname().release}


def expand(text: str, places: dict[str, Path]) -> str:
    """A recipe's text with ``{name}`` replaced by the path of that name."""
    for name, path in places.items():
        text = text.replace("{" + name + "}", str(path))
    return text


def pin_of(source: dict[str, Any]) -> dict[str, Any]:
    """What of a source decides a build: commit or sha256 and where it goes, never its address.

    Raises StoreError unless it has exactly one of both, in full, and stays below the sources.
    """
    commit, digest, url, into = (source[key] for key in ("commit", "sha256", "url", "into"))
    if bool(commit) == bool(digest):
        raise StoreError(f"{url} needs a commit or a sha256, and not both")
    if commit and not FULL_COMMIT.fullmatch(commit):
        raise StoreError(f"{url}: {commit!r} is not a full commit (40 hex digits)")
    if digest and not SHA256.fullmatch(digest):
        raise StoreError(f"{url}: {digest!r} is not a sha256 (64 hex digits)")
    if Path(into).is_absolute() or ".." in Path(into).parts:
        raise StoreError(f"{url}: {into!r} lies outside of the sources")
    if commit:
        return {"commit": commit, "into": into}
    return {"sha256": digest, **{key: source[key] for key in ("into", "strip", "unpack")}}


def inputs_of(
    root: Path, component: str, source_sha256: str | None, recipe: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Everything that decides what a build gives, and what of it this host does not have yet.

    The recipe goes in as written, with its ``{prefix}``-like placeholders, so that a component
    has the same hash under any root.
    """
    missing: list[str] = []
    toolchain: dict[str, str] = {}
    for name, words in sorted(recipe["tools"].items()):
        argv = [expand(word, {"root": root}) for word in words]
        if find_executable(argv[0]) is None:
            missing.append(f"command {argv[0]}")
            continue
        toolchain[name] = run_for_text(argv).strip()
    versions = dpkg_versions() if recipe["packages"] else {}
    packages: dict[str, str] = {}
    for name in sorted(recipe["packages"]):
        if name not in versions:
            missing.append(f"Debian package {name}")
            continue
        packages[name] = versions[name]
    inputs: dict[str, Any] = {
        "component": component,
        "flags": {key: recipe[key] for key in ("version", "commands", "environment", "artifacts")},
        "toolchain": toolchain,
        "packages": packages,
        "architecture": os.uname().machine,
    }
    if source_sha256:
        inputs["source_sha256"] = source_sha256
    if recipe.get("sources"):
        inputs["sources"] = [pin_of(source) for source in recipe["sources"]]
    if recipe["kernel_btf"]:
        inputs["kernel"] = kernel_interface()
    return inputs, missing


@dataclass(frozen=True)
class Probe:
    """What the store of this host holds of one component."""

    place: Place
    inputs: dict[str, Any]
    missing: list[str]
    record: dict[str, Any] | None
    damaged: list[str]
    last_build_s: float | None

    @property
    def intact(self) -> bool:
        """Whether the build is finished and all its artifacts are what the record says."""
        return self.record is not None and not self.damaged and not self.missing

    @property
    def linked(self) -> bool:
        """Whether ``current`` points to this build."""
        return points_to(self.place.current, self.place.prefix)

    def as_result(self) -> dict[str, Any]:
        """The probe as a module returns it."""
        return {
            "hash": None if self.missing else self.place.hash12,
            "prefix": None if self.missing else str(self.place.prefix),
            "ready": self.intact and self.linked,
            "damaged": self.damaged,
            "missing": self.missing,
            "component": self.place.component,
            "last_build_s": self.last_build_s,
        }


def probe(root: Path, component: str, source_sha256: str | None, recipe: dict[str, Any]) -> Probe:
    """Look for the build that these inputs would give; changes nothing; raises StoreError."""
    inputs, missing = inputs_of(root, component, source_sha256, recipe)
    place = Place(root, component, hash12(inputs))
    record = read_json(place.record)
    damaged = damages(record) if record else []
    return Probe(place, inputs, missing, record, damaged, last_build_s(place))


def last_build_s(place: Place) -> float | None:
    """How long the newest build of a component took, of whatever inputs; None if unknown."""
    form = re.compile(re.escape(place.component) + r"-[0-9a-f]{12}\.json")
    paths = [path for path in place.store.glob("*.json") if form.fullmatch(path.name)]
    records = [record for path in paths if (record := read_json(path)) and record.get("build_s")]
    newest = max(records, key=lambda record: str(record.get("built_utc")), default=None)
    return None if newest is None else float(newest["build_s"])
