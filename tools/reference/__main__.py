"""``python -m tools.reference [--check]``: ``./invoke build.reference`` runs it.

A process of its own, because what it describes includes the task that asks for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tools.reference import pages
from uplab.errors import EXIT_GATE

CHECK = "--check"


def main(words: Sequence[str]) -> int:
    """Make the pages, or say which ones are not what the code says; out: the exit code."""
    if CHECK not in words:
        for line in pages.write():
            print(line)
        return 0
    stale = pages.stale()
    if stale:
        names = ", ".join(map(str, stale))
        said = f"build.reference: not what the code says: {names}. Run: ./invoke build.reference"
        print(said, file=sys.stderr)
    return EXIT_GATE if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
