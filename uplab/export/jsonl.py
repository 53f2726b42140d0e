"""Trials as JSON lines: one object a line, of the published schema."""

from __future__ import annotations

import json

from uplab.export.records import records
from uplab.report.model import Report


def render(report: Report) -> bytes:
    """The trials, one line each; pure ASCII, so that no reader's encoding matters."""
    lines = (json.dumps(record, allow_nan=False) for record in records(report))
    return "".join(f"{line}\n" for line in lines).encode("ascii")
