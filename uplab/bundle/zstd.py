"""Reading zstd wherever uplab runs: by Python, by its library, by a program, by apt itself.

Standard library only (the others are tried, none is needed): a small Debian has Python 3.11 and no
program ``zstd``, but its apt unpacks zstd for its own lists and packages.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from uplab.bundle.index import Refused
from uplab.errors import UsageError

Way = Callable[[Path], AbstractContextManager[IO[bytes]]]
MAGIC = b"\x28\xb5\x2f\xfd"
#: Commands that write what they are given; FILE stands for a name that must end in .zst, without it
#: they read their standard input.
FILE = "FILE"
PROGRAMS = (
    ("zstd", "-dcq"),
    ("unzstd", "-cq"),
    ("/usr/lib/apt/apt-helper", "cat-file", FILE),
)


class Damaged(Refused):
    """What was read is not zstd, or not to its end."""


def ways() -> list[Way]:
    """All ways to read zstd that this machine has, the quickest first."""
    found: list[Way] = []
    for module in ("compression.zstd", "zstandard"):
        try:
            found.append(_by_module(importlib.import_module(module)))
        except ImportError:
            continue
    found += [by_program(argv) for argv in PROGRAMS if shutil.which(argv[0])]
    return found


@contextmanager
def reading(path: Path) -> Iterator[IO[bytes]]:
    """The content of a compressed file as a stream.

    Raises:
        Damaged: it is not zstd, or cut off; also while it is read.
        UsageError: this machine has no way to read zstd.
    """
    known = ways()
    if not known:
        raise UsageError(
            f"nothing here can unpack {path}: no zstd in Python, no program zstd, no apt. "
            "Run: apt-get install zstd"
        )
    with path.open("rb") as raw:
        # Looked at first: what a program says of a foreign file helps nobody.
        if raw.read(len(MAGIC)) != MAGIC:
            raise Damaged("it is not compressed by zstd")
    with known[0](path) as stream:
        yield stream


def _by_module(module: Any) -> Way:
    """``compression.zstd`` and ``zstandard`` have the same ``open`` and ``ZstdError``."""

    @contextmanager
    def read(path: Path) -> Iterator[IO[bytes]]:
        try:
            with module.open(path, "rb") as stream:
                yield cast(BinaryIO, stream)
        except (module.ZstdError, EOFError) as error:
            raise Damaged(f"it is cut off or damaged ({error})") from error

    return read


def by_program(argv: Sequence[str]) -> Way:
    """Let a program write the content to its standard output."""

    @contextmanager
    def read(path: Path) -> Iterator[IO[bytes]]:
        # apt goes by a file's name, whatever the file is called that somebody carried here.
        with tempfile.TemporaryDirectory() as folder, path.open("rb") as given:
            named = Path(folder, "bundle.zst")
            named.symlink_to(path.absolute())
            words = [str(named) if word == FILE else word for word in argv]
            with _output(words, given) as stream:
                yield stream

    return read


@contextmanager
def _output(argv: list[str], given: IO[bytes]) -> Iterator[IO[bytes]]:
    """What a command writes; Damaged where it was read to its end and the command then failed."""
    process = subprocess.Popen(argv, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield process.stdout
        # Who stops before the end kills the command, and learns nothing from how it ended.
        if not process.stdout.read(1):
            said = process.communicate()[1].decode(errors="replace").strip().splitlines()
            if process.returncode != 0:
                raise Damaged(f"it is cut off or damaged ({' '.join(said[:1]) or argv[0]})")
    finally:
        process.kill()
        process.communicate()
