"""The zipapp that travels to a host: hostside and the files of the adapters in use."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from uplab.adapters import Registry
from uplab.errors import UsageError

_PACKAGE = Path(__file__).resolve().parent
_MAIN = b"import sys\nfrom uplab.hostside.__main__ import main\nsys.exit(main())\n"
#: The earliest time that a zip file can hold: the same bytes whenever it is made.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def contents(registry: Registry) -> Iterator[tuple[str, bytes]]:
    """The files of the zipapp by name, sorted."""
    files = {"__main__.py": _MAIN, "uplab/__init__.py": (_PACKAGE / "__init__.py").read_bytes()}
    for path in (_PACKAGE / "hostside").glob("*.py"):
        files[f"uplab/hostside/{path.name}"] = path.read_bytes()
    for kind, name, file, path in registry.travelling():
        files[f"adapters/{kind}/{name}/{file}"] = path.read_bytes()
    yield from sorted(files.items())


def pack(registry: Registry) -> bytes:
    """The zipapp's bytes; the same sources give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents(registry):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def write(registry: Registry, folder: Path) -> Path:
    """Write the zipapp under the digest of its bytes, unless it is there; out: its path.

    Raises:
        UsageError: the folder cannot be written.
    """
    data = pack(registry)
    path = folder / f"hostside-{hashlib.sha256(data).hexdigest()[:12]}.pyz"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            part.write_bytes(data)
            part.replace(path)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    return path
