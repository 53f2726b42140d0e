"""uplab/plain.py: the same as dataclasses.asdict, as JSON has it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_plan import experiment, made
from uplab.plain import plain


@dataclass(frozen=True)
class Inner:
    value: object = None
    path: Path = Path("x")


@dataclass(frozen=True)
class Outer:
    inner: Inner
    several: tuple[Inner, ...] = ()
    named: dict[str, Inner] = field(default_factory=dict)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)


@given(values)
def test_it_is_what_asdict_makes(value: object) -> None:
    outer = Outer(Inner(value), (Inner(value), Inner()), {"a": Inner(value)})
    assert json.dumps(plain(outer), default=str) == json.dumps(asdict(outer), default=str)


def test_a_plan_is_the_same_for_the_host() -> None:
    plan = made(experiment())
    assert json.dumps(plain(plan), sort_keys=True) == json.dumps(asdict(plan), sort_keys=True)


def test_dictionaries_are_copied_so_that_a_change_stays_outside() -> None:
    inner = Inner({"a": [1]})
    plain(inner)["value"]["a"].append(2)
    assert inner.value == {"a": [1]}
