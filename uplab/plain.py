"""Dataclasses as plain data for JSON; ``dataclasses.asdict`` takes several times as long."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

_LEAVES = frozenset({str, int, float, bool, type(None)})


def plain(value: Any) -> Any:
    """Dataclasses and tuples, however deep, as dictionaries and lists; the rest as it is."""
    kind = type(value)
    if kind in _LEAVES:
        return value
    if kind is dict:
        return {key: v if type(v) in _LEAVES else plain(v) for key, v in value.items()}
    if kind is list or kind is tuple:
        return [v if type(v) in _LEAVES else plain(v) for v in value]
    if is_dataclass(kind):
        return plain({name: getattr(value, name) for name in _names(kind)})
    return value


@cache
def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
