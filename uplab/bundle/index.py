"""The first member of a bundle: what lies in it, for what, and what it was made from.

Standard library only: ``tools/bootstrap.py`` reads it before anything is installed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uplab.errors import UsageError

SCHEMA = 1
KIND = "uplab-bundle"
NAME = "index.json"
PINS = "playbooks/group_vars/all/pins.yml"
LOCKS = {name: f"requirements/{name}.lock" for name in ("runtime", "dev")}

#: Kinds of parts in the order in which they lie in a bundle: what a machine needs first comes
#: first, so that making the environment need not read what only hosts want.
KINDS = ("wheel", "deb", "archive", "crates", "git")

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: Of a component or a release; folders on a host are named by them.
_WORD = re.compile(r"[a-z0-9][a-z0-9_-]*")
#: Names that need no quoting anywhere, below the bundle's own folders.
_PATH = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_+.~=@:-]*(/[A-Za-z0-9_+][A-Za-z0-9_+.~=@:-]*)+")


class Refused(UsageError):
    """A bundle that is not used, and why; nothing was changed on its account."""


@dataclass(frozen=True)
class Part:
    """One file of a bundle.

    Args:
        path: below the bundle.
        sha256: of its content.
        bytes: of its content.
        kind: one of :data:`KINDS`.
        components: that it is for; ``controller`` runs uplab, ``host`` is any host.
        facts: what its kind says of it further: ``url`` and ``commit`` of a git part; ``release``
            of a Debian part, with ``package`` and ``version`` of a package; ``lock`` and ``python``
            of a wheel; ``commit`` of crates.
    """

    path: str
    sha256: str
    bytes: int
    kind: str
    components: tuple[str, ...]
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def order(self) -> tuple[int, str]:
        """Where it lies in a bundle."""
        return KINDS.index(self.kind), self.path


@dataclass(frozen=True)
class Index:
    """What a bundle says of itself.

    Args:
        made_from: the sha256 of the pins and the lock files that it was made from, by their paths.
        components: that it was made for.
        releases: of Debian whose packages are in it, by their names.
        parts: all of them, in order.
    """

    made_from: Mapping[str, str]
    components: tuple[str, ...]
    releases: tuple[str, ...]
    parts: tuple[Part, ...]

    def of(self, *kinds: str) -> list[Part]:
        """The parts of some kinds."""
        return [part for part in self.parts if part.kind in kinds]


def made_from(project: Path, names: Iterable[str] = (PINS, *LOCKS.values())) -> dict[str, str]:
    """The sha256 of the pins and the lock files of a checkout, by their paths."""
    return {name: hashlib.sha256((project / name).read_bytes()).hexdigest() for name in names}


def require_same(index: Index, project: Path, names: Iterable[str]) -> None:
    """See that a bundle was made from the same files as lie in a checkout.

    Raises:
        Refused: one of the files differs.
    """
    here = made_from(project, names)
    other = [name for name in here if index.made_from.get(name) != here[name]]
    if other:
        raise Refused(f"it was made from another {' and '.join(other)} than this checkout has")


def as_json(index: Index) -> bytes:
    """The index as it lies in a bundle: the same bytes for the same index."""
    parts = [
        {
            "path": part.path,
            "sha256": part.sha256,
            "bytes": part.bytes,
            "kind": part.kind,
            "for": list(part.components),
            **part.facts,
        }
        for part in index.parts
    ]
    document = {
        "kind": KIND,
        "schema": SCHEMA,
        "made_from": dict(index.made_from),
        "components": list(index.components),
        "releases": list(index.releases),
        "parts": parts,
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode("ascii")


def parse(data: bytes) -> Index:
    """Read an index.

    Raises:
        Refused: it is none, of a later uplab, or names a part that no bundle of ours has.
    """
    try:
        document = json.loads(data)
    except ValueError as error:
        raise Refused(f"its {NAME} cannot be read: {error}") from error
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise Refused(f"its {NAME} is not that of a bundle of uplab")
    if document.get("schema") != SCHEMA:
        raise Refused(f"it has the schema {document.get('schema')!r}, this uplab reads {SCHEMA}")
    try:
        index = Index(
            made_from=_texts(document["made_from"]),
            components=tuple(map(str, document["components"])),
            releases=tuple(map(str, document["releases"])),
            parts=tuple(_part(entry) for entry in document["parts"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"its {NAME} is not whole ({type(error).__name__}: {error})") from error
    counted = Counter(part.path for part in index.parts)
    twice = [path for path, times in counted.items() if times > 1]
    if twice:
        raise Refused(f"its {NAME} names {twice[0]} twice")
    return index


def _texts(value: Any) -> dict[str, str]:
    return {str(key): str(text) for key, text in dict(value).items()}


def _part(entry: Mapping[str, Any]) -> Part:
    """A part as the index names it; Refused where a field is none of ours."""
    known = {"path", "sha256", "bytes", "kind", "for"}
    part = Part(
        path=str(entry["path"]),
        sha256=str(entry["sha256"]),
        bytes=int(entry["bytes"]),
        kind=str(entry["kind"]),
        components=tuple(map(str, entry["for"])),
        facts={key: str(value) for key, value in entry.items() if key not in known},
    )
    # The host and a shell see this name: it stays below the bundle and needs no quoting.
    if not _PATH.fullmatch(part.path):
        raise Refused(f"its {NAME} names a part outside of it: {part.path!r}")
    wrong = _wrong(part)
    if wrong:
        raise Refused(f"its {NAME} says of {part.path}: {wrong}")
    return part


def _wrong(part: Part) -> str | None:
    """What is wrong with the fields of a part; None where nothing is."""
    if part.kind not in KINDS:
        return f"kind {part.kind!r}, wanted one of {', '.join(KINDS)}"
    if not _SHA256.fullmatch(part.sha256) or part.bytes < 0:
        return "no sha256, or no size"
    if part.kind in ("git", "crates") and not _COMMIT.fullmatch(part.facts.get("commit", "")):
        return "no full commit"
    words = [*part.components, *([part.facts.get("release", "")] if part.kind == "deb" else [])]
    if not part.components or not all(_WORD.fullmatch(word) for word in words):
        return f"it is for {', '.join(map(repr, words)) or 'nothing'}"
    return None
