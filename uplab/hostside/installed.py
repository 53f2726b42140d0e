"""What is installed, looked at byte by byte: the answer behind ``lab.status``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from uplab.hostside import store


def look(root: Path) -> dict[str, Any]:
    """The manifest, and each component with all of its artifacts read again.

    Args:
        root: of the store.

    Returns:
        ``digest``, ``pins``, ``written_utc``, ``left_out`` of the manifest (null or empty where
        there is none) and
        ``components``: by name ``record``, ``bytes`` of all artifacts and ``problems``.

    Raises:
        ValueError: the manifest is damaged.
    """
    installed = store.load(root)
    components = {
        name: _component(root, name, record) for name, record in installed.components.items()
    }
    return {
        "set_up": bool(installed.manifest),
        "digest": installed.manifest.get("digest"),
        "pins": installed.manifest.get("pins", {}),
        "written_utc": installed.manifest.get("written_utc"),
        "left_out": installed.manifest.get("left_out", []),
        "components": components,
    }


def _component(root: Path, name: str, record: dict[str, Any]) -> dict[str, Any]:
    prefix = Path(str(record.get("prefix", "")))
    artifacts = record.get("artifacts") or {}
    problems = [
        p for file, noted in sorted(artifacts.items()) if (p := _altered(prefix, file, noted))
    ]
    if not artifacts:
        problems.append("its record names no file")
    problems += _link_problem(root, name, prefix) + _record_problem(root, name, record)
    shown = ("hash", "source", "version", "prefix", "built_utc", "build_s", "from")
    return {
        **{key: record.get(key) for key in shown},
        "files": len(artifacts),
        "bytes": sum(int(noted.get("bytes", 0)) for noted in artifacts.values()),
        "problems": problems,
    }


def _altered(prefix: Path, file: str, noted: dict[str, Any]) -> str | None:
    """Why a file is not what its record says; None when it is."""
    path = prefix / file
    try:
        with path.open("rb") as stream:
            seen = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        return f"{path}: {error.strerror}"
    if seen != noted.get("sha256"):
        return (
            f"{path}: sha256 is {seen[:12]}..., the record says {str(noted.get('sha256'))[:12]}..."
        )
    return None


def _link_problem(root: Path, name: str, prefix: Path) -> list[str]:
    link = root / "current" / name
    if not link.is_symlink():
        return [f"{link} is missing"]
    target = link.readlink()
    return [] if target == prefix else [f"{link} leads to {target}, not to {prefix}"]


def _record_problem(root: Path, name: str, record: dict[str, Any]) -> list[str]:
    """Without its record beside it, a build does not count as finished."""
    path = root / "store" / f"{name}-{record.get('hash')}.json"
    try:
        beside = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        return [f"{path} cannot be read ({type(error).__name__})"]
    return [] if beside == record else [f"{path} differs from the manifest"]
