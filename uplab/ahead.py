"""Import what a report is computed with while its run goes on elsewhere: that takes a second."""

from __future__ import annotations

import threading
from importlib import import_module

from uplab.estimates import LEAST_FOR_BOOTSTRAP
from uplab.remote import Host, LocalHost

_ALWAYS = (
    "uplab.report.write",
    "uplab.report.terminal",
    "numpy",
    "scipy.special",
    "rich.console",
    "rich.table",
)
#: It is the largest, and only medians of so many blocks need it.
_MEDIANS = "scipy.stats"


def begin(host: Host, blocks: int) -> None:
    """Begin in a thread of its own; nothing where the host is this machine.

    There it would be a foreign load on what is measured.
    """
    if isinstance(host, LocalHost):
        return
    names = [*_ALWAYS, *([_MEDIANS] if blocks >= LEAST_FOR_BOOTSTRAP else [])]
    threading.Thread(target=_import, args=(names,), name="ahead", daemon=True).start()


def _import(names: list[str]) -> None:
    for name in names:
        import_module(name)
