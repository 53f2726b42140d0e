"""Lengths of time as they are given on the command line: `90s`, `15m`, `1.5h`."""

from __future__ import annotations

import re

from uplab.errors import UsageError

_LENGTH = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(s|m|h)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def read(flag: str, text: str | None) -> float | None:
    """A length of time in seconds; None where the flag is not given.

    Args:
        flag: that it was given with, for the error.
        text: a number and its unit: s, m or h.

    Raises:
        UsageError: it is no such text, or not above 0.
    """
    if text is None:
        return None
    match = _LENGTH.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise UsageError(f"{flag} {text}: expected a time above 0 with s, m or h, such as 15m")
    return float(match[1]) * _SECONDS[match[2]]
