"""The kernel's own messages since a moment: what it killed, and what its hardware reported.

Format: Documentation/ABI/testing/dev-kmsg: ``PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT``, lines of
further data behind it begin with a space.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

#: Shown of each kind; all are counted.
SHOWN = 20
_TEXT_CHARACTERS = 300
_RECORD_BYTES = 8192
#: Never more in one go: a driver in a loop could write without end.
_MOST_RECORDS = 100_000
_KERNEL = 0
_KINDS = {
    "oom": re.compile(r"[Oo]ut of memory.*Kill(ed)? process"),
    "throttle": re.compile(r"temperature above threshold|cpu clock throttled", re.IGNORECASE),
    "mce": re.compile(r"\[Hardware Error\]|machine check|EDAC .*\b[CU]E\b", re.IGNORECASE),
}


@dataclass
class Messages:
    """What the kernel said that bears on a figure, by kind: how often, and the first lines."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    lines: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in _KINDS})
    lost: bool = False

    def add(self, text: str) -> None:
        """Take one record's text."""
        for kind, pattern in _KINDS.items():
            if pattern.search(text):
                self.counts[kind] += 1
                if len(self.lines[kind]) < SHOWN:
                    self.lines[kind].append(text[:_TEXT_CHARACTERS])
                return


def kernel_text(line: str) -> str | None:
    """The text of a record's line; None where the kernel did not say it, or it is no record."""
    head, found, text = line.partition(";")
    try:
        facility = int(head.split(",")[0]) >> 3
    except ValueError:
        return None
    # Root's programs can write there, too; only the kernel's own facility is the kernel's word.
    return text if found and facility == _KERNEL else None


class Kmsg:
    """The messages from now on.

    Args:
        path: ``/dev/kmsg``.

    Raises:
        OSError: it is not there or not for us (``kernel.dmesg_restrict`` without CAP_SYSLOG).
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._descriptor, 0, os.SEEK_END)

    def read(self) -> Messages:
        """What was said so far; never waits."""
        messages = Messages()
        for _ in range(_MOST_RECORDS):
            try:
                data = os.read(self._descriptor, _RECORD_BYTES)
            except BlockingIOError:
                return messages
            except OSError as error:
                # EPIPE: the oldest ones were overwritten before we came; the next ones are there.
                if error.errno != errno.EPIPE:
                    raise
                messages.lost = True
                continue
            if not data:
                return messages
            for line in data.decode(errors="replace").splitlines():
                text = kernel_text(line)
                if text is not None:
                    messages.add(text)
        messages.lost = True
        return messages

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)
