"""Finished builds to give away: stores of hosts, and tars that no host of ours would send."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from uplab.hostside import transfer

CHECKOUT = "c" * 64


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def make(root: Path, component: str = "lab", **changes: Any) -> Path:
    """A finished build in a store, linked and in the manifest; returns its prefix."""
    inputs = {"component": component, "architecture": os.uname().machine, "flags": {"version": "1"}}
    inputs |= changes.pop("inputs", {})
    digest = sha256(canonical(inputs))[:12]
    prefix = root / "store" / f"{component}-{digest}"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "share" / "empty").mkdir(parents=True)
    program = prefix / "bin" / component
    program.write_bytes(Path("/usr/bin/true").read_bytes())
    program.chmod(0o755)
    (prefix / "share" / "notes").write_text("notes\n")
    (prefix / "share" / "program").symlink_to(f"../bin/{component}")
    (prefix / "share" / "all").symlink_to("../bin")
    names = (f"bin/{component}", "share/notes")
    artifacts = {
        name: {
            "sha256": sha256((prefix / name).read_bytes()),
            "bytes": (prefix / name).stat().st_size,
        }
        for name in names
    }
    record = {
        "schema": 1,
        "component": component,
        "hash": digest,
        "source": "build",
        "version": "1.0",
        "prefix": str(prefix),
        "inputs": inputs,
        "artifacts": artifacts,
        "built_utc": "2026-11-22T13:00:00Z",
        "build_s": 1.5,
        **changes,
    }
    (root / "store" / f"{component}-{digest}.json").write_text(json.dumps(record))
    (root / "current").mkdir(exist_ok=True)
    (root / "current" / component).symlink_to(prefix)
    path = root / "manifest.json"
    manifest = json.loads(path.read_text()) if path.exists() else {"components": {}}
    manifest["components"][component] = record
    path.write_text(json.dumps(manifest))
    return prefix


def request(*components: str) -> dict[str, Any]:
    return {"components": components or ["lab"], "host": "r720", "checkout_sha256": CHECKOUT}


def tar_of(root: Path, *components: str) -> bytes:
    """What a host sends, from the mark on."""
    out = io.BytesIO()
    transfer.write(root, request(*components), out)
    return out.getvalue().removeprefix(transfer.MARK)


Members = list[tuple[tarfile.TarInfo, bytes]]


def members(data: bytes) -> Members:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(m, (tar.extractfile(m) or io.BytesIO()).read() if m.isreg() else b"") for m in tar]


def pack(entries: Members) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in entries:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: Any) -> Members:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in more.items():
        setattr(info, key, value)
    return [(info, content)]


def with_index(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The same tar with another index."""
    (info, content), *rest = members(data)
    index = copy.deepcopy(json.loads(content))
    change(index)
    return pack([(info, json.dumps(index).encode()), *rest])
