"""Whole lines out of a stream that comes in parts, from a mark on."""

from __future__ import annotations

from collections.abc import Iterator

from uplab.errors import UplabError

#: A login shell that prints more than this by itself is something else.
_NOISE_BYTES = 1 << 16
_LINE_BYTES = 64 << 20


class Lines:
    """Splits a stream.

    Args:
        mark: after which the lines begin; what comes before is no part of them.
    """

    def __init__(self, mark: bytes) -> None:
        self._mark: bytes | None = mark
        self._rest = b""

    def take(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that a further part completes, without their ends.

        Raises:
            UplabError: no mark comes, or a line without end.
        """
        self._rest += chunk
        if not self._begun():
            return
        *whole, self._rest = self._rest.split(b"\n")
        yield from whole
        if len(self._rest) > _LINE_BYTES:
            raise UplabError("the host sends a line without end")

    def after_mark(self, chunk: bytes) -> bytes:
        """For a stream that is no lines: what of it came after the mark and was not given yet.

        Raises:
            UplabError: no mark comes.
        """
        self._rest += chunk
        if not self._begun():
            return b""
        given, self._rest = self._rest, b""
        return given

    def _begun(self) -> bool:
        if self._mark is None:
            return True
        _, found, rest = self._rest.partition(self._mark)
        if not found:
            if len(self._rest) > _NOISE_BYTES:
                raise UplabError("the host sends something else than was asked for")
            return False
        self._mark, self._rest = None, rest
        return True
