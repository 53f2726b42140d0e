"""Dataclasses from decoded JSON: what :func:`dataclasses.asdict` made of them, and back."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def build(cls: type[T], data: Any) -> T:
    """Rebuild a dataclass of this module from what :func:`dataclasses.asdict` and JSON made of it.

    Args:
        cls: the dataclass.
        data: the decoded JSON object.

    Returns:
        the instance, nested dataclasses and tuples included.

    Raises:
        ValueError: a field is missing or unknown (a plan of another version).
    """
    if not isinstance(data, dict):
        raise ValueError(f"{cls.__name__}: expected an object, found {type(data).__name__}")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    unknown = set(data) - set(known)
    if unknown:
        raise ValueError(f"{cls.__name__}: unknown field {', '.join(sorted(unknown))}")
    values = {}
    for name in known:
        if name in data:
            try:
                values[name] = _value(hints[name], data[name])
            except ValueError as error:
                raise ValueError(f"{cls.__name__}.{name}: {error}") from error
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"{cls.__name__}: {error}") from error


def _value(hint: Any, data: Any) -> Any:
    """One field of :func:`build`: follow tuples, dicts, unions and dataclasses."""
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise ValueError(f"expected a list, found {type(data).__name__}")
        return tuple(_value(arguments[0], item) for item in data)
    if origin is dict:
        if not isinstance(data, dict):
            raise ValueError(f"expected an object, found {type(data).__name__}")
        return {key: _value(arguments[1], item) for key, item in data.items()}
    if origin in (types.UnionType, typing.Union):
        for option in arguments:
            if dataclasses.is_dataclass(option) and isinstance(data, dict):
                return _value(option, data)
        return data
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return build(hint, data)
    return data
