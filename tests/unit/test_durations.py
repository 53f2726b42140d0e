"""uplab/durations.py: lengths of time on the command line."""

from __future__ import annotations

import pytest

from uplab import durations
from uplab.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("1.5h", 5400), (" 2m ", 120), ("0.5s", 0.5)]
)
def test_a_length_has_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert durations.read("--wait", text) == seconds


def test_no_flag_is_no_length() -> None:
    assert durations.read("--wait", None) is None


@pytest.mark.parametrize("text", ["", "15", "m", "0m", "-1m", "1d", "1m30s", "1e3s", "nan", "1 m"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--wait .*: expected a time above 0 with s, m or h"):
        durations.read("--wait", text)
