"""What is wrong with a site's mirrors is said before anything is fetched from them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.roles.conftest import load
from tests.roles.plays import PLAYBOOKS

GOOD = {
    "git": {
        "https://github.com/": "https://git.example.com/mirror/",
        "https://a.example/": "git@git.example.com:mirror/",
    },
    "archives": "file:///srv/archives",
    "crates": "sparse+https://crates.example.com/",
    "apt": {"http://apt.example/debian": "/srv/debian"},
    "python": "https://pypi.example.com/simple",
}


def problems(mirrors: Any) -> list[str]:
    module = load(PLAYBOOKS / "filter_plugins" / "uplab_mirrors.py")
    found = module.FilterModule().filters()["uplab_mirror_problems"](mirrors)
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("mirrors", [{}, GOOD, {"crates": "/srv/crates"}, {"archives": ""}])
def test_what_can_be_fetched_from_is_taken(mirrors: dict[str, Any]) -> None:
    assert problems(mirrors) == []


@pytest.mark.parametrize(
    ("mirrors", "message"),
    [
        ([], "expected a mapping, not []"),
        ({"gti": {}}, "gti: nothing reads this; there are apt, archives, crates, git, python"),
        ({"git": "x"}, "git: expected prefixes of addresses with their mirrors, not 'x'"),
        ({"apt": {"http://a/": 5}}, "apt, http://a/: 5 is no address"),
        ({"apt": {"http://a/": None}}, "apt, http://a/: None is no address"),
        ({"git": {"": "http://b/"}}, "git, prefix: '' is no address"),
        ({"git": {"github.com": "http://b/"}}, "git, prefix: 'github.com' is no address"),
        ({"archives": "files.example.com"}, "archives: 'files.example.com' is no address"),
        ({"crates": ["http://a/"]}, "crates: ['http://a/'] is no address"),
        ({"python": "http://a/ b"}, "python: 'http://a/ b' is no address"),
    ],
)
def test_what_cannot_is_named(mirrors: Any, message: str) -> None:
    (found,) = problems(mirrors)
    assert found.startswith(message)
