"""Boxes made by hand, for tests of what is done with their records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from uplab.box import record
from uplab.box.record import Box


def box(folder: Path, name: str, **changes: Any) -> Box:
    """A box that is up since this boot; nothing of it is there."""
    made = Box(
        name=name,
        folder=folder / name,
        port=22,
        suite="bookworm",
        base="base-x",
        machine=f"uplab-{name}-1",
        cgroups=(),
        state=record.UP,
        boot_id=record.boot_id(),
        started_utc="",
    )
    return replace(made, **changes)
