"""Small Debian packages and repositories of them, made by the tests."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Deb:
    """A package; ``fields`` are further ones of its control file, ``files`` its files' texts."""

    name: str
    version: str = "1"
    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def control(self) -> str:
        fields = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": "all",
            "Maintainer": "uplab's tests <tests@example.invalid>",
            "Description": "made by a test",
            **self.fields,
        }
        return "".join(f"{key}: {value}\n" for key, value in fields.items())

    def build(self, folder: Path) -> Path:
        """Make the package in a folder; its path."""
        tree = folder / f".{self.name}"
        for name, text in {"DEBIAN/control": self.control, **self.files}.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        path = folder / f"{self.name}_{self.version}_all.deb"
        argv = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(path)]
        subprocess.run(argv, check=True, capture_output=True)
        return path


def index(top: Path, debs: list[Deb], pool: str = ".") -> str:
    """Build packages in a folder below the top of a repository; the text of its index."""
    folder = top / pool
    folder.mkdir(parents=True, exist_ok=True)
    stanzas = []
    for deb in debs:
        path = deb.build(folder)
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        place = f"Filename: {pool}/{path.name}\nSize: {len(data)}\nSHA256: {digest}\n"
        stanzas.append(f"{deb.control}{place}")
    return "\n".join(stanzas)


def release(folder: Path, **fields: str) -> None:
    """Write the Release file of a repository over all files that lie in the folder."""
    names = sorted(path for path in folder.rglob("*") if path.is_file())
    rows = [
        f" {hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_size} "
        f"{path.relative_to(folder)}\n"
        for path in names
    ]
    head = "".join(f"{key}: {value}\n" for key, value in fields.items())
    (folder / "Release").write_text(
        f"{head}Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n{''.join(rows)}"
    )


def flat(top: Path, debs: list[Deb]) -> None:
    """A repository for ``deb [trusted=yes] ADDRESS ./``."""
    (top / "Packages").write_text(index(top, debs))
    release(top)


def suite(top: Path, name: str, component: str, debs: list[Deb]) -> Path:
    """A repository for ``deb ADDRESS name component``; the folder whose Release is to be signed."""
    text = index(top, debs, "pool")
    folder = top / "dists" / name
    place = folder / component / "binary-amd64"
    place.mkdir(parents=True)
    (place / "Packages").write_text(text)
    (place / "Packages.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    release(folder, Suite=name, Codename=name, Components=component, Architectures="amd64")
    return folder
