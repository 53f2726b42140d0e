"""JSON from elsewhere, read field by field: what is wrong becomes one error that names its place.

A missing figure is None, never 0. NaN and Infinity, which some writers emit, are missing figures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from uplab.errors import UsageError

MAX_JSON_BYTES = 16_000_000
MAX_WHOLE = 2**64

T = TypeVar("T")


class Fields:
    """A JSON object from a run, read field by field; a wrong field is an error with its place.

    In: the parsed object and where it stands, for the message. Every method raises UsageError for
    a field that is not what its name says.
    """

    __slots__ = ("_place", "_values")

    def __init__(self, values: Any, place: str) -> None:
        if not isinstance(values, dict):
            raise UsageError(f"{place}: expected an object, got {_short(values)}")
        self._values: dict[str, Any] = values
        self._place = place

    @classmethod
    def of_file(cls, path: Path, run_dir: Path) -> Fields:
        """The object in a JSON file of the run. Raises UsageError where there is none."""
        place = str(path.relative_to(run_dir.parent))
        text = text_of(path, MAX_JSON_BYTES)
        try:
            values = json.loads(text, parse_constant=_no_figure)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{place} is not valid JSON: {error}") from error
        return cls(values, place)

    def check_schema(self, known: int) -> None:
        """Refuse a version of the form that this uplab does not know."""
        version = self._values.get("schema")
        if version != known or isinstance(version, bool):
            raise UsageError(
                f"{self._place}: schema {_short(version)}, this uplab reads {known}; "
                "the run's run.json names the uplab version that wrote it"
            )

    def text(self, key: str) -> str:
        """A text."""
        value = self._values.get(key)
        if not isinstance(value, str):
            raise self._wrong(key, "a text")
        return value

    def optional_text(self, key: str) -> str | None:
        """A text; None where it is absent or null."""
        value = self._values.get(key)
        if value is None or isinstance(value, str):
            return value
        raise self._wrong(key, "a text or null")

    def boolean(self, key: str) -> bool:
        """True or false."""
        value = self._values.get(key)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def whole(self, key: str, least: int) -> int:
        """A whole number of at least `least`."""
        value = self._values.get(key)
        if not _is_whole(value) or value < least:
            raise self._wrong(key, f"a whole number of at least {least}")
        return value

    def optional_whole(self, key: str) -> int | None:
        """A whole number; None where it is absent or null."""
        value = self._values.get(key)
        if value is None:
            return None
        if not _is_whole(value):
            raise self._wrong(key, "a whole number or null")
        return value

    def figure(self, key: str) -> float | None:
        """A number; None where it is absent, null or not finite."""
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, "a number or null")
        return _finite(value)

    def mapping(self, key: str) -> dict[str, Any]:
        """An object as it stands; empty where it is absent or null."""
        value = self._values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._wrong(key, "an object")
        return value

    def figures(self, key: str) -> dict[str, float | None]:
        """An object of numbers (as figure())."""
        inner = self.part(key)
        return {} if inner is None else {name: inner.figure(name) for name in inner._values}

    def counts(self, key: str) -> dict[str, int | None]:
        """An object of whole numbers (as optional_whole())."""
        inner = self.part(key)
        return {} if inner is None else {name: inner.optional_whole(name) for name in inner._values}

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; empty where it is absent or null."""
        values = self._list(key)
        if not all(isinstance(value, str) for value in values):
            raise self._wrong(key, "a list of texts")
        return tuple(values)

    def part(self, key: str) -> Fields | None:
        """An object; None where it is absent or null."""
        value = self._values.get(key)
        return None if value is None else Fields(value, f"{self._place}, {key}")

    def part_or_empty(self, key: str) -> Fields:
        """An object; one without fields where it is absent or null."""
        return self.part(key) or Fields({}, f"{self._place}, {key}")

    def maybe(self, key: str, read: Callable[[Fields], T]) -> T | None:
        """What `read` makes of the object under `key`; None where there is none."""
        part = self.part(key)
        return None if part is None else read(part)

    def needed_part(self, key: str) -> Fields:
        """An object that must be there."""
        return Fields(self._values.get(key), f"{self._place}, {key}")

    def parts(self, key: str) -> list[Fields]:
        """A list of objects; empty where it is absent or null."""
        return [
            Fields(value, f"{self._place}, {key}[{index}]")
            for index, value in enumerate(self._list(key))
        ]

    def parts_by_name(self, key: str) -> dict[str, Fields]:
        """An object of objects; empty where it is absent or null."""
        return {
            name: Fields(value, f"{self._place}, {key}.{name}")
            for name, value in self.mapping(key).items()
        }

    def anything(self, key: str) -> Any:
        """Whatever is under `key`; None where it is absent."""
        return self._values.get(key)

    def one_of(self, key: str, allowed: tuple[str, ...]) -> str:
        """One of the allowed texts."""
        value = self.text(key)
        if value not in allowed:
            raise self._wrong(key, " or ".join(allowed))
        return value

    def wrong(self, key: str, expected: str) -> UsageError:
        """The error that says what `key` should have been."""
        return self._wrong(key, expected)

    def _list(self, key: str) -> list[Any]:
        value = self._values.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._wrong(key, "a list")
        return value

    def _wrong(self, key: str, expected: str) -> UsageError:
        if key not in self._values:
            return UsageError(f"{self._place}: `{key}` is missing, expected {expected}")
        return UsageError(
            f"{self._place}: `{key}` must be {expected}, got {_short(self._values[key])}"
        )


def text_of(path: Path, max_bytes: int) -> str:
    """The text of a file of at most `max_bytes`. Raises UsageError where it cannot be had."""
    try:
        data = bytes_of(path, max_bytes)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is {error}") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start})") from error


def bytes_of(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file. Raises ValueError where there are more than `max_bytes`, and OSError.

    The size is asked for first: read(max_bytes) would make room for all of them each time.
    """
    with path.open("rb", buffering=0) as stream:
        if os.fstat(stream.fileno()).st_size > max_bytes:
            raise ValueError(f"larger than {max_bytes} bytes")
        return stream.readall()


def _is_whole(value: Any) -> TypeGuard[int]:
    """Whole numbers that no real counter reaches are refused: they would overflow later."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_WHOLE


def _no_figure(_constant: str) -> None:
    """NaN and Infinity are not JSON; some writers emit them for a figure they do not have."""
    return


def _finite(value: float) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if isfinite(number) else None


def _short(value: Any) -> str:
    shown = ascii(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
