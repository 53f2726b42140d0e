"""Every reason for `invalid`."""

from __future__ import annotations

from tools.reference.markdown import code, table, words
from uplab.hostside.reasons import REASONS

_HEAD = """# Reasons for `invalid`

A trial counts only if nothing speaks against it. An invalid one is kept and shown with its reasons,
and its whole block is measured again, up to the cap of the matrix.
"""


def page() -> str:
    """The page: a row for each."""
    rows = [(code(name), words(e.means), words(e.look_at)) for name, e in REASONS.items()]
    shown = table(("reason", "what it means", "what to look at"), rows)
    return f"{_HEAD}\n{shown}"
