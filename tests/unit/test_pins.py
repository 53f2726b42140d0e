"""uplab/pins.py: pins that are none are told, and what hangs on each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from uplab import pins
from uplab.errors import UsageError

ROOT = Path(__file__).parents[2]
GOOD = {
    "policy": "build",
    "version": "1.2",
    "commit": "a" * 40,
    "url": "https://example.org/x",
    "archives": [{"url": "https://example.org/y.tar.xz", "sha256": "b" * 64}],
    "upstream": {"key_url": "https://example.org/key", "packages": ["libc6-dev", "g++"]},
    "majors": {"12": 15},
    "packages": ["make"],
}


def test_the_pins_of_this_checkout_are_pins() -> None:
    text, problems = pins.as_text(ROOT)
    assert problems == []
    assert "golang\n  policy: distro\n" in text


def test_good_pins_have_no_problems() -> None:
    assert pins.problems({"x": GOOD}) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"version": "latest"}, "x.version: 'latest' is not a version"),
        ({"version": "Main"}, "x.version: 'Main' is not a version"),
        ({"version": 1.2}, "x.version: 1.2 is read as a number; put it in quotes"),
        ({"commit": "abc"}, "x.commit: 'abc' is not 40 hex digits"),
        ({"commit": "v0.9.0"}, "x.commit: 'v0.9.0' is not 40 hex digits"),
        ({"archives": [{"sha256": "b" * 63}]}, f"x.archives.sha256: '{'b' * 63}' is not 64 hex"),
        ({"url": "http://example.org"}, "x.url: 'http://example.org' is not an https address"),
        ({"url": "https://me:pw@example.org"}, "is not an https address"),
        ({"upstream": {"key_url": "ftp://x"}}, "x.upstream.key_url: 'ftp://x' is not an https"),
        ({"packages": ["make=1", "-y"]}, "x.packages: 'make=1' is no name of a Debian package"),
        ({"run_packages": ["-y"]}, "x.run_packages: '-y' is no name of a Debian package"),
        ({"policy": None}, "x: has no policy"),
    ],
)
def test_what_is_no_pin_is_told(change: dict[str, Any], problem: str) -> None:
    found = pins.problems({"x": {**GOOD, **change}})
    assert any(problem in entry for entry in found), found


def test_a_component_that_is_no_mapping_has_no_policy() -> None:
    assert pins.problems({"x": "1.2"}) == ["x: has no policy"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """`app` is built by `compiler` (its role says so), `tool` needs `app` (its pin says so)."""
    roles = tmp_path / "roles"
    for name in ("compiler", "app", "tool", "apart"):
        (roles / name / "vars").mkdir(parents=True)
        (roles / name / "vars" / "main.yml").write_text("a: 1\n")
    (roles / "app" / "vars" / "main.yml").write_text('cc: "{root}/current/compiler/bin/cc"\n')
    file = tmp_path / pins.FILE
    file.parent.mkdir(parents=True)
    file.write_text(
        "uplab_pins:\n"
        "  compiler: {policy: distro}\n"
        "  app: {policy: own}\n"
        "  tool: {policy: own, needs: [app], packages: [make, gcc]}\n"
        "  apart: {policy: own}\n"
    )
    return tmp_path


def test_what_hangs_on_a_pin_is_all_that_uses_it(project: Path) -> None:
    after = pins.dependents(project, pins.read(project))
    assert after == {"compiler": ["app", "tool"], "app": ["tool"], "tool": [], "apart": []}
    text, _ = pins.as_text(project)
    assert "compiler\n  policy: distro\n  a change rebuilds: compiler, app, tool\n" in text
    assert "  packages: make, gcc\n" in text


def test_the_servers_hang_on_the_toolchain() -> None:
    after = pins.dependents(ROOT, pins.read(ROOT))
    assert "servers" in after["golang"]


@pytest.mark.parametrize("text", ["uplab_pins: [", "", "other: 1\n", "uplab_pins: [a]\n"])
def test_a_file_without_pins_is_told(project: Path, text: str) -> None:
    (project / pins.FILE).write_text(text)
    with pytest.raises(UsageError, match=r"pins\.yml: "):
        pins.read(project)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"pins\.yml: no pins can be read there"):
        pins.read(tmp_path)
