"""What was installed on this host: the manifest beside the store, and where its files lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uplab.hostside.errors import HostError
from uplab.hostside.spec import FileRef
from uplab.hostside.templates import fill

DEFAULT_ROOT = Path("/opt/uplab")


@dataclass(frozen=True)
class Store:
    """The store's root and its manifest; an empty manifest where nothing was set up."""

    root: Path
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def components(self) -> dict[str, dict[str, Any]]:
        """The component records by name."""
        components: dict[str, dict[str, Any]] = self.manifest.get("components", {})
        return components

    def path(self, ref: FileRef) -> Path:
        """Where a file lies.

        Raises:
            KeyError: the host has no such component.
        """
        if ref.path is not None:
            return Path(fill(ref.path, {"root": str(self.root)}))
        return Path(self.components[str(ref.component)]["prefix"]) / str(ref.file)

    def missing(self, ref: FileRef) -> str | None:
        """Why a file cannot be used, in words; None when it is there."""
        if ref.component is not None and ref.component not in self.components:
            return f"{ref.component} is not installed (no such component in {self.root})"
        path = self.path(ref)
        return None if path.is_file() else f"{path} is missing"

    def sha256(self, ref: FileRef) -> str:
        """The digest of the file as it is now; OSError when it cannot be read."""
        with self.path(ref).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def load(root: Path) -> Store:
    """Read the manifest; a host that was never set up has an empty one.

    Raises:
        ValueError: the manifest is not JSON of an object.
    """
    path = root / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        manifest = {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Run: invoke lab.setup") from error
    if not isinstance(manifest, dict):
        raise ValueError(f"{path} is not a manifest")
    return Store(root, manifest)


def load_for(root: Path, artifacts: Mapping[str, str]) -> Store:
    """Read the manifest of a host whose artifacts are those that a plan was made for.

    Args:
        root: of the store.
        artifacts: the SHA-256 of each, by the name of its ``FileRef``.

    Raises:
        HostError: one is missing, or another file.
        ValueError: as :func:`load`.
    """
    installed = load(root)
    for name, wanted in artifacts.items():
        ref = FileRef.named(name)
        reason = installed.missing(ref)
        if reason is None and installed.sha256(ref) != wanted:
            reason = f"{installed.path(ref)} is not the file that was planned for"
        if reason is not None:
            raise HostError(f"{reason}. Run: invoke lab.setup")
    return installed
