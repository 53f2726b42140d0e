"""What changes for a host whose builds come from another one: components, packages, probes."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.roles.conftest import load
from tests.roles.plays import PLAYBOOKS

PINS: dict[str, Any] = yaml.safe_load((PLAYBOOKS / "group_vars" / "all" / "pins.yml").read_text())[
    "uplab_pins"
]
DEFAULT = ["golang", "wrk", "servers", "gotrace"]
COPIES = {"servers": {"packages": ["libc6"]}, "gotrace": {"packages": ["libbpf1", "libc6"]}}
NOT_COPIED: dict[str, Any] = {}


@pytest.fixture(scope="module")
def filters() -> ModuleType:
    return load(PLAYBOOKS / "filter_plugins" / "uplab_pins.py")


def test_what_comes_from_elsewhere_is_what_the_host_names_and_lacks(filters: ModuleType) -> None:
    source = {"host": "r720", "entries": {"servers": {"hash": "s"}, "bpftime": {"hash": "b"}}}
    assert filters.copied(DEFAULT, source, {}) == {"servers": {"hash": "s"}}
    both = [*DEFAULT, "bpftime"]
    assert set(filters.copied(both, source, {"bpftime": ""})) == {"servers", "bpftime"}
    # An installation that the host names is its own wish.
    assert set(filters.copied(both, source, {"bpftime": "/opt/bpftime"})) == {"servers"}
    assert filters.copied(DEFAULT, {}, {}) == {}


def test_what_would_only_have_built_it_is_left_out(filters: ModuleType) -> None:
    assert filters.wanted(DEFAULT, PINS, {}, COPIES) == ["wrk", "servers", "gotrace"]
    assert filters.wanted(DEFAULT, PINS, {}, ["gotrace"]) == DEFAULT
    heavy = ["bpftime", "deepflow"]
    assert filters.wanted(heavy, PINS, {}, heavy) == heavy
    # One of them is still built, with what builds it.
    assert filters.wanted(heavy, PINS, {}, ["bpftime"]) == [*heavy, "rust"]
    assert filters.wanted(heavy, PINS, {}, ["deepflow"]) == [*heavy, "llvm"]
    assert filters.wanted([*heavy, "llvm"], PINS, {}, heavy) == heavy
    assert filters.wanted(["golang", "wrk"], PINS, {}, ["gotrace"]) == ["golang", "wrk"]


def test_a_copied_component_brings_what_runs_it(filters: ModuleType) -> None:
    wanted = filters.wanted(DEFAULT, PINS, {}, COPIES)
    names = filters.needed_packages(wanted, PINS, {}, COPIES)["names"]
    assert names == ["libbpf1", "libc6", "openssl", "wrk"]
    built = filters.needed_packages(DEFAULT, PINS, {}, {})["names"]
    assert {"gcc", "golang-go", "clang", "openssl", "wrk"} <= set(built)


def test_packages_that_run_a_component_are_among_those_that_it_needs() -> None:
    for name, pin in PINS.items():
        assert set(pin.get("run_packages", [])) <= set(pin.get("packages", [])), name


# --- the probe ------------------------------------------------------------------------------------


RECIPE: dict[str, Any] = {
    "version": "1",
    "commands": [{"argv": ["no-such-compiler"], "chdir": "{source}"}],
    "environment": {},
    "artifacts": ["bin/lab"],
    "tools": {"cc": ["no-such-compiler", "--version"]},
    "packages": ["no-such-package"],
    "kernel_btf": True,
    "sources": [],
}


@pytest.fixture
def parameters(uplab_store: ModuleType, root: Path) -> dict[str, Any]:
    """A build of another host in the store, and what its role asks."""
    inputs, _ = uplab_store.inputs_of(root, "lab", "a" * 64, uplab_store.without_tools(RECIPE))
    inputs |= {"toolchain": {"cc": "of another host"}, "packages": {"no-such-package": "1"}}
    place = uplab_store.Place(root, "lab", uplab_store.hash12(inputs))
    (place.prefix / "bin").mkdir(parents=True)
    (place.prefix / "bin" / "lab").write_text("the program")
    artifact = uplab_store.artifact(place.prefix / "bin" / "lab")
    record = {"prefix": str(place.prefix), "inputs": inputs, "artifacts": {"bin/lab": artifact}}
    place.record.write_text(json.dumps(record))
    return {
        "root": str(root),
        "state": "probed",
        "component": "lab",
        "source_sha256": "a" * 64,
        "recipe": RECIPE,
        "copied": {"hash": place.hash12},
    }


def test_a_copied_build_is_ready_without_a_compiler(
    uplab_store: ModuleType, parameters: dict[str, Any]
) -> None:
    found = uplab_store.act(parameters, False)
    assert (found["ready"], found["missing"], found["changed"]) == (True, [], False)
    assert found["hash"] == parameters["copied"]["hash"]
    plain = uplab_store.act({**parameters, "copied": NOT_COPIED}, False)
    assert set(plain) == set(found)
    assert not plain["ready"]
    assert "command no-such-compiler" in plain["missing"]


def test_a_copied_build_that_was_damaged_is_not_ready(
    uplab_store: ModuleType, parameters: dict[str, Any]
) -> None:
    (path,) = Path(parameters["root"]).glob("store/lab-*/bin/lab")
    path.write_text("altered")
    found = uplab_store.act(parameters, False)
    assert not found["ready"]
    assert "sha256" in found["damaged"][0]


def test_before_it_has_come_check_mode_counts_on_it(
    uplab_store: ModuleType, parameters: dict[str, Any]
) -> None:
    assert uplab_store.act({**parameters, "copied": {"hash": "0" * 12}}, True)["ready"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"source_sha256": "b" * 64}, "source_sha256"),
        ({"recipe": {**RECIPE, "version": "2"}}, "flags"),
        (
            {
                "recipe": {
                    **RECIPE,
                    "sources": [
                        {
                            "url": "https://x.example.invalid/lab",
                            "commit": "c" * 40,
                            "sha256": None,
                            "into": ".",
                            "strip": 1,
                            "unpack": True,
                        }
                    ],
                }
            },
            "sources",
        ),
    ],
)
def test_a_copied_build_of_something_else_is_refused(
    uplab_store: ModuleType, parameters: dict[str, Any], change: dict[str, Any], named: str
) -> None:
    """The host's variables may name another commit than the host that built it."""
    with pytest.raises(uplab_store.StoreError, match=f"its {named} differ") as caught:
        uplab_store.act({**parameters, **change}, False)
    assert "Run lab.setup without --from" in str(caught.value)


def test_other_tools_make_no_other_build_of_it(
    uplab_store: ModuleType, parameters: dict[str, Any]
) -> None:
    recipe = {**RECIPE, "tools": {}, "packages": ["dash"]}
    assert uplab_store.act({**parameters, "recipe": recipe}, False)["ready"]


# --- the manifest ---------------------------------------------------------------------------------


def test_the_manifest_says_what_was_left_out(uplab_store: ModuleType, root: Path) -> None:
    def write(left_out: list[str]) -> bool:
        changed = uplab_store.manifest(root, None, {}, False, ["lab"], left_out)["changed"]
        assert isinstance(changed, bool)
        return changed

    assert write(["golang"])
    assert json.loads((root / "manifest.json").read_text())["left_out"] == ["golang"]
    assert not write(["golang"])
    assert write([])
