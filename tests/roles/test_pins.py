"""The pins, and which components and packages follow from them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.roles.conftest import load
from tests.roles.plays import PLAYBOOKS

TEXT = (PLAYBOOKS / "group_vars" / "all" / "pins.yml").read_text()
PINS: dict[str, Any] = yaml.safe_load(TEXT)["uplab_pins"]
GROUP: dict[str, Any] = yaml.safe_load((PLAYBOOKS / "group_vars" / "all" / "main.yml").read_text())


@pytest.fixture(scope="module")
def filters() -> ModuleType:
    return load(PLAYBOOKS / "filter_plugins" / "uplab_pins.py")


def entries(value: Any, key: str) -> Iterator[dict[str, Any]]:
    """Every mapping below a value that has a key."""
    if isinstance(value, dict):
        if key in value:
            yield value
        for inner in value.values():
            yield from entries(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from entries(inner, key)


def test_every_address_is_upstreams_and_has_a_full_pin() -> None:
    pinned = list(entries(PINS, "url"))
    assert len(pinned) >= 7
    for entry in pinned:
        assert entry["url"].startswith("https://")
        if "commit" in entry:
            assert re.fullmatch(r"[0-9a-f]{40}", entry["commit"])
        else:
            assert re.fullmatch(r"[0-9a-f]{64}", entry["sha256"])
    for entry in entries(PINS, "key_url"):
        assert re.fullmatch(r"[0-9A-F]{40}", entry["key_fingerprint"])


@pytest.mark.parametrize("name", PINS)
def test_every_component_says_where_to_look_for_the_next_version(name: str) -> None:
    before = TEXT.split(f"\n  {name}:\n")[0].splitlines()
    comment = []
    while before and before[-1].startswith("  #"):
        comment.append(before.pop())
    assert any(line.startswith("  # Next:") for line in comment)


def test_the_heavy_components_are_opt_in(filters: ModuleType) -> None:
    default = GROUP["uplab_components"]
    assert default == ["golang", "wrk", "servers", "gotrace"]
    assert filters.wanted(default, PINS, {}) == default
    names = filters.needed_packages(default, PINS, {})["names"]
    assert "wrk" in names
    assert not {"rustc", "cmake", "libboost-all-dev"} & set(names)


def test_what_builds_a_component_comes_along_once(filters: ModuleType) -> None:
    assert filters.wanted(["bpftime", "deepflow"], PINS, {}) == [
        "bpftime",
        "deepflow",
        "llvm",
        "rust",
    ]
    given = {"bpftime": "/opt/bpftime", "deepflow": ""}
    assert filters.wanted(["bpftime"], PINS, given) == ["bpftime"]
    assert filters.wanted(["golang", "no-such"], PINS, {}) == ["golang"]


def test_packages_follow_the_policy(filters: ModuleType) -> None:
    distro = filters.needed_packages(["golang", "llvm"], PINS, {"golang": "", "llvm": ""})
    assert "golang-go" in distro["names"]
    assert "clang-15" in distro["by_release"]["12"]
    assert distro["sources"] == []
    policies = {"golang": "upstream", "llvm": "upstream"}
    upstream = filters.needed_packages(["golang", "llvm"], PINS, policies)
    assert "golang-go" not in upstream["names"]
    assert "gcc" in upstream["names"]
    assert [source["name"] for source in upstream["sources"]] == ["llvm"]
    own = filters.needed_packages(["bpftime"], PINS, {"bpftime": "path"})
    assert own == {"names": [], "by_release": {}, "sources": []}


def test_needs_are_components() -> None:
    assert {need for pin in PINS.values() for need in pin.get("needs", [])} <= set(PINS)
