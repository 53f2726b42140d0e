"""uplab/hostside/templates.py: filling templates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uplab.hostside.templates import fill, fill_argv, placeholders

names = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=8)


def test_fill_replaces_every_placeholder_and_leaves_other_braces() -> None:
    text = fill("http://{host}:{port}/{a} {} {A} {1x}", {"host": "h", "port": 4, "a": "{port}"})
    assert text == "http://h:4/{port} {} {A} {1x}"


def test_fill_names_the_unknown_and_the_known() -> None:
    with pytest.raises(ValueError, match=r"^\{prot\} has no value here; there are port, root$"):
        fill("{prot}", {"root": "/", "port": 1})


def test_fill_argv_splices_only_a_whole_argument() -> None:
    argv = fill_argv(("p", "{more}", "-{x}"), {"x": 1}, {"more": ("--a", "b {x}")})
    assert argv == ["p", "--a", "b 1", "-1"]
    assert fill_argv(("{more}",), {}, {"more": ()}) == []
    with pytest.raises(ValueError, match="more"):
        fill_argv(("--all={more}",), {}, {"more": ("a",)})


@given(st.lists(names, max_size=4))
def test_placeholders_are_what_fill_asks_for(wanted: list[str]) -> None:
    template = " ".join(f"{{{name}}}" for name in wanted)
    assert placeholders(template) == set(wanted)
    assert "{" not in fill(template, dict.fromkeys(wanted, "v"))
