"""A folder as one piece of bytes, to be unpacked on another host."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path


def packed(folder: Path) -> bytes:
    """What lies in a folder, as tar."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(folder, arcname=".")
    return buffer.getvalue()
