"""Figures and foreign text as a reader gets them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.handmade import cell
from uplab.estimates import Estimate, Interval, Spread
from uplab.hostside.spec import HitsRule
from uplab.report import text


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b31mred", "red"),
        ("\x1bPq#0\x1b\\x", "x"),
        ("\x1b]unterminated", ""),
        ("a\nb\r\n\tc\0d", "a b c d"),
        ("back\x08space", "back space"),
        ("\u202egnp.exe", "gnp.exe"),
        ("zero\u200bwidth", "zero width"),
        ("half \ud800 pair", "half pair"),
        ("  much   space ", "much space"),
    ],
)
def test_what_a_terminal_would_obey_is_removed(dirty: str, clean: str) -> None:
    assert text.plain(dirty) == clean


@given(st.text())
def test_plain_text_is_one_printable_line_of_utf8(dirty: str) -> None:
    clean = text.plain(dirty, 80)
    assert len(clean) <= 80
    assert "\x1b" not in clean
    assert clean.encode().decode() == clean
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in clean)


@given(st.text(alphabet="\x1b\x9b[]();?0123456789mKPX\\\x07 -/@~ab"))
def test_removing_a_sequence_never_makes_a_new_one(dirty: str) -> None:
    assert text.plain(text.plain(dirty)) == text.plain(dirty)


def test_long_text_is_cut_and_says_so() -> None:
    assert text.plain("x" * 1000, 10) == "xxxxxxx..."


@pytest.mark.parametrize(
    ("dirty", "safe"),
    [
        ("<script>alert(1)</script>", r"\<script>alert(1)\</script>"),
        ("a | b", r"a \| b"),
        ("[x](http://evil)", r"\[x\](http\://evil)"),
        ("![x](y)", r"!\[x\](y)"),
        ("*bold* `code` ~gone~", r"\*bold\* \`code\` \~gone\~"),
        ("_em_ but tls_read stays", r"\_em\_ but tls_read stays"),
        ("&lt;b&#62;", r"\&lt;b\&#62;"),
        ("AT&T", r"AT\&T"),
        ("www.evil.org and @someone", r"www\.evil.org and \@someone"),
        ("$x$ :smile:", r"\$x\$ \:smile:"),
        (r"back\slash", r"back\\slash"),
        ("# heading", r"\# heading"),
        ("> quote", r"\> quote"),
        ("- item", r"\- item"),
        ("1. item", r"1\. item"),
        ("---", r"\---"),
        ("-3.0 % of 1.5 at 13:17:51", "-3.0 % of 1.5 at 13:17:51"),
        ("CPU @ 3.00GHz, 6.1 % > 5.0 %", "CPU @ 3.00GHz, 6.1 % > 5.0 %"),
    ],
)
def test_what_markdown_would_obey_is_escaped(dirty: str, safe: str) -> None:
    assert text.markdown(dirty) == safe


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (43104.6, "43,105"), (999.4, "999"), (13.24, "13.2"), (5.0, "5"), (0, "0")],
)
def test_rates_and_counts(value: float | None, shown: str) -> None:
    assert text.whole(value) == shown


def test_a_missing_figure_is_never_zero() -> None:
    shown = {
        text.whole(None),
        text.decimal(None),
        text.percent(None),
        text.bounds(None),
        text.estimate(None),
        text.spread(None),
        text.duration_us(None),
        text.utc(None),
    }
    assert shown == {"-"}


@pytest.mark.parametrize(
    ("value", "shown"), [(-0.04, "0.0"), (-0.05, "-0.1"), (1234.56, "1,234.6")]
)
def test_a_rounded_zero_has_no_sign(value: float, shown: str) -> None:
    assert text.decimal(value) == shown


def test_an_estimate_shows_its_interval_when_it_has_one() -> None:
    assert text.estimate(Estimate(6, 83.41, Interval(82.1, 84.6))) == "83.4 % (82.1 to 84.6)"
    assert text.estimate(Estimate(2, 83.41, None)) == "83.4 %"


def test_spread_without_a_deviation_is_its_ends() -> None:
    assert text.spread(Spread(None, 900, 1000)) == "900 to 1,000"
    assert text.spread(Spread(3.14, 900, 1000)) == "CV 3.1 %, 900 to 1,000"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(850, "850 us"), (2130, "2.13 ms"), (999_999, "1000.00 ms"), (1_040_000, "1.04 s")],
)
def test_latencies_have_the_unit_that_fits(value: float, shown: str) -> None:
    assert text.duration_us(value) == shown


@pytest.mark.parametrize(
    ("stamp", "shown"),
    [
        ("2026-11-22T13:17:51Z", "2026-11-22 13:17:51 UTC"),
        ("2026-11-22T13:17:51.123456Z", "2026-11-22 13:17:51 UTC"),
        ("2026-11-22T13:17:51+00:00", "2026-11-22 13:17:51 UTC"),
        ("yesterday\x1b[1m", "yesterday"),
    ],
)
def test_times_are_utc_or_as_written(stamp: str, shown: str) -> None:
    assert text.utc(stamp) == shown


def test_sizes_and_placements() -> None:
    assert [text.body(n) for n in (12, 1024, 1500, 262_144)] == [
        "12 B",
        "1 KiB",
        "1,500 B",
        "256 KiB",
    ]
    assert text.placement({"b": "kernel", "a": "userspace"}) == "a=userspace b=kernel"
    assert text.placement("hybrid") == "hybrid"
    assert text.placement(None) == ""


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, ""),
        ({"jit": True, "shm_mb": 50, "map_kind": "array", "bpftime_prefix": ""}, ""),
        ({"jit": False, "shm_mb": 100}, "no JIT, 100 MB"),
        ({"map_kind": "percpu-hash", "bpftime_prefix": "/srv/b"}, "percpu-hash maps, /srv/b"),
        ({"of a later uplab": 1}, ""),
    ],
)
def test_only_unusual_options_of_the_runtime_are_named(options: dict[str, Any], shown: str) -> None:
    assert text.runtime(options) == shown


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "userspace-uprobe (gotrace)"),
        (
            {"placement": "hybrid", "loader": "syscall-server"},
            "userspace-uprobe (gotrace, hybrid)",
        ),
        (
            {"placement": "entries", "loader": "daemon", "runtime": {"jit": False}},
            "userspace-uprobe (gotrace, entries, daemon, no JIT)",
        ),
    ],
)
def test_a_cell_is_called_by_what_tells_it_from_its_neighbours(
    changes: dict[str, Any], shown: str
) -> None:
    assert text.mode(cell("userspace-uprobe", **changes)) == shown


@pytest.mark.parametrize(
    ("places", "shown"),
    [
        ({}, "-"),
        ({"a": "untouched"}, "no site"),
        ({"b": "kernel", "a": "userspace", "c": "untouched"}, "userspace: a; kernel: b"),
        (dict.fromkeys("abcd", "kernel"), "kernel: 4 sites"),
        ({"a": "kernel and userspace"}, "kernel and userspace: a"),
    ],
)
def test_places_in_short(places: dict[str, str], shown: str) -> None:
    assert text.places(places) == shown


@pytest.mark.parametrize(
    ("rule", "shown"),
    [
        (None, "-"),
        (HitsRule(0, 0), "0"),
        (HitsRule(1, 2.1), "1 to 2.1"),
        (HitsRule(1, 1, 5), "1, +5/connection"),
    ],
)
def test_a_declared_range(rule: HitsRule | None, shown: str) -> None:
    assert text.declared(rule) == shown


def test_a_median_with_its_ends() -> None:
    assert text.middle(13, 12.911, 13.4) == "13.00 (12.91 to 13.40)"
    assert text.middle(13, 13, 13) == "13.00"
    assert text.middle(None, None, None) == "-"
