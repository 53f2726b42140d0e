"""Small bundles, good and bad, for the tests."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import zstandard

from uplab.bundle import index as indexes
from uplab.bundle import writing
from uplab.bundle.index import Index, Part
from uplab.bundle.reading import unpack

SAME = "0" * 64
CONTENT = {
    "wheels/tiny-1.0-py3-none-any.whl": b"a wheel\n",
    "debs/bookworm/tiny_1.0_all.deb": b"a package\n" * 100,
    "archives/tiny.tar": b"an archive\n" * 1000,
}
KINDS = {"wheels": "wheel", "debs": "deb", "archives": "archive", "crates": "crates", "git": "git"}


def part(path: str, data: bytes, **facts: str) -> Part:
    """A part as it should be."""
    folder, *below = path.split("/")
    kind = KINDS[folder]
    if kind == "deb":
        facts = {"release": below[0], **facts}
    if kind == "crates":
        facts = {"commit": "c" * 40, **facts}
    return Part(path, hashlib.sha256(data).hexdigest(), len(data), kind, ("x",), facts)


def index_of(content: Mapping[str, bytes] = CONTENT, **changes: Any) -> Index:
    """The index of some parts, with changes."""
    parts = sorted((part(path, data) for path, data in content.items()), key=lambda p: p.order)
    made_from = dict.fromkeys((indexes.PINS, *indexes.LOCKS.values()), SAME)
    return replace(Index(made_from, ("x",), (), tuple(parts)), **changes)


def write(out: Path, content: Mapping[str, bytes] = CONTENT, found: Index | None = None) -> Path:
    """A whole bundle, written as uplab writes it."""
    folder = out.with_name(f"{out.name}-parts")
    files = {}
    for path, data in content.items():
        files[path] = folder / path
        files[path].parent.mkdir(parents=True, exist_ok=True)
        files[path].write_bytes(data)
    writing.write(out, found or index_of(content), files, lambda _done, _all: None)
    return out


Members = list[tuple[tarfile.TarInfo, bytes]]


def members(content: Mapping[str, bytes] = CONTENT, found: Index | None = None) -> Members:
    """What a whole bundle holds, to be changed and packed by :func:`forge`."""
    named = {indexes.NAME: indexes.as_json(found or index_of(content)), **content}
    listed = []
    for name, data in named.items():
        member = tarfile.TarInfo(name)
        member.size = len(data)
        listed.append((member, data))
    return listed


def forge(out: Path, what: Members, tail: Callable[[bytes], bytes] = bytes) -> Path:
    """A bundle of these members, whatever they are; ``tail`` changes the compressed bytes."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for member, data in what:
            tar.addfile(member, io.BytesIO(data))
    out.write_bytes(tail(zstandard.compress(stream.getvalue())))
    return out


def forge_index(out: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A bundle whose index was changed by hand."""
    listed = members()
    document = json.loads(listed[0][1])
    change(document)
    data = json.dumps(document).encode()
    listed[0][0].size = len(data)
    return forge(out, [(listed[0][0], data), *listed[1:]])


def open_whole(bundle: Path, into: Path) -> Index:
    """Unpack a bundle, wherever it was made."""
    return unpack(bundle, into, accept=lambda _index: None)
