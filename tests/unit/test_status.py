"""uplab/status.py: what is installed beside what the pins want."""

from __future__ import annotations

import json
from typing import Any

import pytest

from uplab import status
from uplab.status import Component, Status, judge, wanted_pins

GOLANG = {
    "policy": "distro",
    "packages": ["golang-go", "gcc"],
    "upstream": {"version": "1.19.13", "packages": ["gcc"]},
}
AGENT = {"policy": "build", "version": "0.9", "commit": "a" * 40, "needs": ["compiler"]}
COMPILER = {"policy": "distro", "packages": ["clang"]}
PINS = {"golang": GOLANG, "agent": AGENT, "compiler": COMPILER}
FOUND = {
    "hash": "123456789abc",
    "source": "distro",
    "version": "1.19.8-2",
    "built_utc": "2026-11-22T14:05:58Z",
    "build_s": 19.3,
    "files": 2,
    "bytes": 13_430_614,
    "problems": [],
}
INSTALLED = {**GOLANG, "packages": {"golang-go": "2:1.19~1", "gcc": "4:12"}}


def answer(pins: dict[str, Any] | None = None, **components: Any) -> dict[str, Any]:
    found = components or {"golang": FOUND}
    return {
        "set_up": True,
        "digest": "d",
        "pins": {"golang": INSTALLED} if pins is None else pins,
        "components": found,
    }


def golang(wanted: Any, said: dict[str, Any]) -> Component:
    (only,) = [
        entry
        for entry in judge("h", {"golang": wanted} if wanted else {}, said, "d").components
        if entry.name == "golang"
    ]
    return only


def test_what_is_installed_as_wanted_has_no_problems() -> None:
    found = judge("h", {"golang": GOLANG}, answer(), "d")
    assert (found.set_up, found.up_to_date, found.exit_code) == (True, True, 0)
    (component,) = found.components
    assert component.problems == ()
    assert (component.pin_wanted, component.pin_installed) == ("distro", "distro")
    assert (component.version, component.size_bytes) == ("1.19.8-2", 13_430_614)


@pytest.mark.parametrize(
    ("wanted", "said", "problem"),
    [
        (GOLANG, answer(other=FOUND), "not installed"),
        ({**GOLANG, "packages": ["golang-go"]}, answer(), "installed from another pin"),
        ({**GOLANG, "version": "2"}, answer(), "installed from another pin"),
        (GOLANG, answer(pins={}), "installed from another pin"),
        ({**GOLANG, "policy": "upstream"}, answer(), "installed from distro, wanted from upstream"),
        (None, answer(), "nothing wants it here"),
        (GOLANG, answer(golang={**FOUND, "problems": ["/x: sha256 is"]}), "/x: sha256 is"),
        (GOLANG, answer(golang={**FOUND, "problems": ["a\x1b[2Jb"]}), "a?[2Jb"),
    ],
)
def test_what_is_wrong_is_told_and_exit_code_1(
    wanted: Any, said: dict[str, Any], problem: str
) -> None:
    assert golang(wanted, said).problems == (problem,)
    assert judge("h", {"golang": wanted} if wanted else {}, said, "d").exit_code == 1


def test_a_part_of_a_pin_that_is_not_used_here_does_not_matter() -> None:
    newer = {**GOLANG, "upstream": {"version": "1.20"}}
    assert golang(newer, answer()).problems == ()


def test_an_installation_of_the_host_s_own_has_no_pin() -> None:
    said = answer(golang={**FOUND, "source": "path"}, pins={})
    assert golang(GOLANG, said).problems == ()


def test_what_builds_a_component_is_wanted_with_it() -> None:
    variables = {"uplab_pins": PINS, "uplab_components": ["agent"]}
    assert list(wanted_pins(variables, {})) == ["agent", "compiler"]
    own = {"components": {"agent": {"source": "path"}}}
    assert list(wanted_pins(variables, own)) == ["agent"]
    assert list(wanted_pins({"uplab_pins": PINS}, {})) == ["golang", "agent", "compiler"]


def test_the_host_s_own_policy_counts() -> None:
    variables = {"uplab_pins": PINS, "uplab_components": ["golang"], "golang_policy": "upstream"}
    assert wanted_pins(variables, {})["golang"]["policy"] == "upstream"
    wanted = wanted_pins(variables, {})["golang"]
    upstream = answer(golang={**FOUND, "source": "upstream"})
    component = golang(wanted, upstream)
    assert (component.problems, component.pin_wanted) == ((), "upstream 1.19.13")


def test_the_table_names_every_component_and_every_problem() -> None:
    said = answer(golang={**FOUND, "problems": ["/opt/x: sha256 is 1..., the record says 2..."]})
    text = status.as_text(judge("h", {"golang": GOLANG, "agent": AGENT}, said, "d"))
    head, agent, go, *rest = text.splitlines()
    assert head.split() == [
        *("component", "pin", "wanted", "pin", "installed", "version", "sha256", "size"),
        *("built", "took"),
    ]
    assert agent.split() == ["agent", "build", "0.9", "a" * 12, *"------"]
    assert go.split() == [
        *("golang", "distro", "distro", "1.19.8-2", "differs", "12.8", "MiB"),
        *("2026-11-22T14:05:58Z", "19.3", "s"),
    ]
    assert rest == [
        "agent: not installed",
        "golang: /opt/x: sha256 is 1..., the record says 2...",
        "2 problems. Run: invoke lab.setup --host h",
    ]


def test_intact_and_up_to_date_are_two_things() -> None:
    text = status.as_text(judge("h", {"golang": GOLANG}, answer(), "another"))
    assert "same (2)" in text
    assert text.splitlines()[-1] == (
        "all of it is intact; roles, sources or variables changed since. "
        "Run: invoke lab.setup --host h"
    )
    text = status.as_text(judge("h", {"golang": GOLANG}, answer(), "d"))
    assert text.splitlines()[-1] == "all of it is intact and up to date"


def test_a_host_that_was_never_set_up() -> None:
    found = judge("h", {"golang": GOLANG}, {"set_up": False}, "d")
    assert status.as_text(found) == "h is not set up. Run: invoke lab.setup --host h"
    assert found.exit_code == 1


def test_json_has_all_of_it() -> None:
    decoded = json.loads(status.as_json(judge("h", {"golang": GOLANG}, answer(), "d")))
    assert (decoded["host"], decoded["exit_code"], decoded["up_to_date"]) == ("h", 0, True)
    assert decoded["components"][0]["build_s"] == 19.3


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1 << 20, "1.0 MiB"),
        (1 << 41, "2048.0 GiB"),
    ],
)
def test_sizes_are_short(size_bytes: int, text: str) -> None:
    component = Component("c", None, (), size_bytes=size_bytes, files=1)
    assert f"  {text}  " in status.as_text(Status("h", True, True, (component,)))


# --- builds of another host -----------------------------------------------------------------------


def test_what_only_builds_is_not_missed_where_its_builds_were_copied() -> None:
    variables = {"uplab_components": ["golang", "agent"], "uplab_pins": PINS}
    copied = {**FOUND, "source": "build", "from": {"host": "r720"}}
    said = {**answer(agent=copied, pins={"agent": AGENT}), "left_out": ["golang", "compiler"]}
    wanted = wanted_pins(variables, said)
    assert set(wanted) == {"agent"}
    found = judge("h", wanted, said, "d")
    assert (found.exit_code, found.components[0].copied_from) == (0, "r720")
    assert "2026-11-22T14:05:58Z on r720" in status.as_text(found)
    assert json.loads(status.as_json(found))["components"][0]["copied_from"] == "r720"


def test_without_copies_what_builds_is_missed() -> None:
    variables = {"uplab_components": ["agent"], "uplab_pins": PINS}
    assert set(wanted_pins(variables, answer())) == {"agent", "compiler"}
