"""The index of a transfer: what finished builds it holds, and everything about each.

It comes from another host or out of a file, so nothing of it is believed: each name stays below the
build that it belongs to, and a record counts only if it is of the inputs that its hash names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from uplab.hostside.transfer import INDEX, KIND, stays_inside

#: More than any build of ours has; what comes beyond it is refused.
MAX_FILES = 200_000
MAX_BYTES = 16 << 30
INDEX_MAX_BYTES = 64 << 20
_NAME_MAX_LENGTH = 1024

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, le=MAX_BYTES)]
Component = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
#: Names reach apt and texts for people: no options, no escapes of terminals.
Package = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]{1,100}$")]
Library = Annotated[str, Field(pattern=r"^[A-Za-z0-9_+.-]{1,200}$")]
Host = Annotated[str, Field(pattern=r"^[!-~]{1,100}$")]
Version = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)*$")]


class Refused(Exception):
    """What came is not taken; the text says why, as the rest of a sentence about it."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Artifact(_Model):
    """A file as a record names it."""

    sha256: Sha256
    bytes: Size


class File(Artifact):
    """A file as it is laid down."""

    mode: Annotated[int, Field(ge=0, le=0o755)]


class Inputs(BaseModel):
    """Of the inputs of a build, what this host must have too."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    component: Component
    architecture: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,20}$")]
    kernel: dict[str, str] | None = None


class Record(BaseModel):
    """The record of a finished build; what is not named here is taken along as it is."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    component: Component
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    source: Literal["build", "upstream"]
    version: Annotated[str, Field(min_length=1, max_length=200)]
    inputs: Inputs
    artifacts: Annotated[dict[str, Artifact], Field(min_length=1)]
    built_utc: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]


class Entry(_Model):
    """One finished build."""

    record: Record
    glibc: Version | None
    libraries: dict[Library, Package]
    folders: list[str]
    files: dict[str, File]
    links: dict[str, str]

    @property
    def name(self) -> str:
        """Of its directory in a store."""
        return f"{self.record.component}-{self.record.hash}"

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(file.bytes for file in self.files.values())

    @model_validator(mode="after")
    def _is_whole(self) -> Entry:
        for problem in _problems(self):
            raise ValueError(f"{self.name}: {problem}")
        return self


class Index(_Model):
    """All builds of a transfer; ``checkout_sha256`` is of what they were made from."""

    schema_version: Annotated[Literal[1], Field(alias="schema")]
    kind: Literal["uplab-entries"]
    host: Host
    checkout_sha256: Sha256
    debian: Version
    entries: list[Entry]

    @property
    def components(self) -> list[str]:
        """The names of the components."""
        return [entry.record.component for entry in self.entries]

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(entry.size_bytes for entry in self.entries)

    @model_validator(mode="after")
    def _has_bounds(self) -> Index:
        if len(set(self.components)) != len(self.components):
            raise ValueError("a component comes twice")
        members = sum(len(e.folders) + len(e.files) + len(e.links) for e in self.entries)
        if members > MAX_FILES or self.size_bytes > MAX_BYTES:
            raise ValueError(f"more than {MAX_FILES} files or {MAX_BYTES} bytes")
        return self


def parse(data: bytes) -> Index:
    """Read an index.

    Raises:
        Refused: it is none, or says what no index of ours says.
    """
    if _kind(data) != KIND:
        raise Refused("it holds no finished builds, as lab.export writes them")
    try:
        return Index.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:4])
        what = str(first["msg"]).removeprefix("Value error, ")
        said = f"{where}: {what}" if where else what
        raise Refused(f"its {INDEX} is not ours ({_printable(said, 400)})") from error


def _kind(data: bytes) -> Any:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document.get("kind") if isinstance(document, dict) else None


def canonical_sha256(value: Any) -> str:
    """The SHA-256 of a value's JSON with sorted keys and no spaces, as the store has it."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def artifacts_sha256(entry: Entry) -> str:
    """A digest of the files that a build is known by: the same for the same bytes."""
    named = entry.record.artifacts
    return canonical_sha256({name: artifact.model_dump() for name, artifact in named.items()})


def _problems(entry: Entry) -> Iterator[str]:
    """What keeps an entry from being one."""
    record = entry.record
    if record.inputs.component != record.component:
        yield f"its inputs are those of {record.inputs.component}"
    if canonical_sha256(record.inputs.model_dump(exclude_unset=True))[:12] != record.hash:
        yield "its hash is not that of its inputs"
    names = [*entry.folders, *entry.files, *entry.links]
    for name in names:
        if not _is_plain(name):
            yield f"the name {_printable(name)!r} leads elsewhere"
    if len(set(names)) != len(names):
        yield "a name comes twice"
    folders = set(entry.folders)
    for name in names:
        parent = str(PurePosixPath(name).parent)
        if parent != "." and parent not in folders:
            yield f"{_printable(name)!r} lies in no folder of it"
    for name, target in entry.links.items():
        if not stays_inside(name, target) or not target.isprintable():
            yield f"the link {name!r} leads to {_printable(target)!r}, out of the build"
    yield from _differing(record.artifacts, entry.files)


def _differing(artifacts: dict[str, Artifact], files: dict[str, File]) -> Iterator[str]:
    for name, artifact in artifacts.items():
        file = files.get(name)
        if file is None or (file.sha256, file.bytes) != (artifact.sha256, artifact.bytes):
            yield f"its record and its files do not agree about {_printable(name)!r}"


def _is_plain(name: str) -> bool:
    """Whether a name is one way down, written in the only way there is."""
    parts = name.split("/")
    plain = not {"", ".", ".."} & set(parts) and name.isprintable()
    return plain and len(name) <= _NAME_MAX_LENGTH


def _printable(text: str, length: int = 100) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:length]
