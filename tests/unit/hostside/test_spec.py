"""uplab/hostside/spec.py: what an adapter must not say."""

from dataclasses import replace
from typing import Any

import pytest

from uplab.hostside.spec import (
    FileRef,
    LoadAdapter,
    ModeSpec,
    Parameter,
    Placing,
    ServerAdapter,
    Site,
    TracerAdapter,
)

RATE = Parameter(1000, 1, 1_000_000, "requests/s", "how many")
DURATION = Parameter(1, 1, 9, "s", "how long")


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"component": "c"},
        {"file": "f"},
        {"component": "c", "file": "f", "path": "/p"},
    ],
)
def test_a_file_is_of_a_component_or_a_path(data: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="either component and file, or path"):
        FileRef(**data)


def test_a_default_lies_in_its_range() -> None:
    with pytest.raises(ValueError, match=r"default 5 is not in 1\.\.4"):
        Parameter(default=5, minimum=1, maximum=4, unit="s", help="")


@pytest.mark.parametrize("mode", ["none", "none-again"])
def test_a_tracer_offers_no_untraced_mode(mode: Any) -> None:
    with pytest.raises(ValueError, match=rf"modes: {mode} has no tracer"):
        TracerAdapter(1, "tracer", "t", "", (), {mode: ModeSpec()})


def test_one_site_is_in_one_place() -> None:
    with pytest.raises(ValueError, match=r"^kernel: a, b is in userspace already$"):
        Placing(userspace=("b", "a", "c"), kernel=("a", "b"))
    with pytest.raises(ValueError, match=r"^userspace: at least one site$"):
        Placing(userspace=(), kernel=("a",))


def test_placements_are_for_userspace_modes_and_they_for_placements() -> None:
    placements = {"entries": Placing(userspace=("a",))}
    with pytest.raises(ValueError, match=r"^placements: for placement userspace$"):
        ModeSpec(placement="kernel", placements=placements)
    with pytest.raises(ValueError, match=r"^placements: for placement userspace$"):
        ModeSpec(placement="userspace")
    with pytest.raises(ValueError, match=r"^loaders: at least one$"):
        ModeSpec(placement="userspace", placements=placements, loaders=())


def test_a_placement_names_sites_of_its_tracer() -> None:
    mode = ModeSpec(placement="userspace", placements={"odd": Placing(userspace=("b",))})
    site = Site("a", "traced", "entry", ())
    with pytest.raises(ValueError, match=r"placements\.odd: no site b; there are a$"):
        TracerAdapter(1, "tracer", "t", "", ("p",), {"userspace-uprobe": mode}, sites=(site,))


@pytest.mark.parametrize("name", ["servers/bin/go-server", "/usr/sbin/nginx"])
def test_the_name_of_a_file_names_it(name: str) -> None:
    assert FileRef.named(name).name == name


def test_what_the_host_makes_itself_has_no_name() -> None:
    assert FileRef(path="{root}/tls/key.pem").name is None


def test_an_open_loop_has_a_rate() -> None:
    parameters = {"duration_s": DURATION}
    closed = LoadAdapter(1, "load", "l", "", "closed", ("l",), "a.py", parameters=parameters)
    with pytest.raises(ValueError, match=r"^parameters: rate_per_s is missing"):
        replace(closed, loop="open")
    rated = replace(closed, loop="open", parameters={**parameters, "rate_per_s": RATE})
    assert rated.loop == "open"


def test_what_is_lent_is_one_of_the_programs() -> None:
    programs = {"program": FileRef(path="/p"), "key": FileRef(path="/k")}
    server = ServerAdapter(
        1, "server", "s", "", ("{program}",), "http://127.0.0.1/", "ready", programs=programs
    )
    assert replace(server, lent=("key",)).lent == ("key",)
    known = r"'other' is none of the programs \(there are: program, key\)$"
    with pytest.raises(ValueError, match=rf"^lent\.1: {known}"):
        replace(server, lent=("key", "other"))
