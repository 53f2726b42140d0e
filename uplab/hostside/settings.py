"""The kernel's settings: small files below ``/proc`` and ``/sys``, read and written by value."""

from __future__ import annotations

import os
import re
from pathlib import Path

_CHOSEN = re.compile(r"\[([^\]\s]+)\]")


def value_of(text: str) -> str:
    """What a setting's text says: ``never`` of ``always madvise [never]``, ``1 2`` of ``1<tab>2``.

    As it can be written again.
    """
    chosen = _CHOSEN.search(text)
    return chosen.group(1) if chosen else " ".join(text.split())


def reason(error: OSError) -> str:
    """Why a setting could not be read or written, without its path."""
    return error.strerror or type(error).__name__


class Settings:
    """The settings below a root; a test gives it a tree of files.

    Args:
        root: ``/`` for the running kernel.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Where a path of the host lies; in: absolute."""
        return self.root / name.lstrip("/")

    def find(self, pattern: str) -> list[str]:
        """The host's paths that fit a pattern, numbers in their order; in: absolute."""
        found = (f"/{path.relative_to(self.root)}" for path in self.root.glob(pattern.lstrip("/")))
        return sorted(found, key=_by_numbers)

    def read(self, name: str) -> str:
        """The value of a setting.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        return value_of(self.path(name).read_text(errors="replace"))

    def get(self, name: str) -> str | None:
        """The value of a setting; None where there is none that can be read."""
        try:
            return self.read(name)
        except OSError:
            return None

    def write(self, name: str, value: str) -> None:
        """Set a setting; the kernel takes a value in one write, or refuses it.

        Raises:
            OSError: it is not there, or the kernel refuses.
        """
        # Never O_CREAT: a setting that went away must not become a file.
        descriptor = os.open(self.path(name), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(descriptor, f"{value}\n".encode())
        finally:
            os.close(descriptor)


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """``cpu10`` after ``cpu9``."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", name)]
