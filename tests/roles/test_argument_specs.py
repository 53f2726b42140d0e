"""Every role refuses wrong values before it does anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.roles.plays import REPOSITORY, Runner

ROLES = sorted(path.name for path in (REPOSITORY / "roles").iterdir())
OWN = ("gotrace", "servers")
COMMIT = "0123456789" * 4
#: What the group variables beside the playbooks say; these plays lie elsewhere.
GROUP: dict[str, Any] = {
    "uplab_pins": {},
    "uplab_components": [],
    "uplab_mirrors": {},
    "uplab_wanted": [],
    "uplab_rebuild": "",
}
BUILT = {
    "bpftime_url": "x",
    "bpftime_commit": COMMIT,
    "deepflow_url": "x",
    "deepflow_commit": COMMIT,
}
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("base", {"uplab_root": None}, "missing required arguments: uplab_root"),
    ("base", {"base_packages": {"a": 1}}, "argument 'base_packages' is of type dict"),
    ("base", {"base_lists_max_age_s": "a day"}, "argument 'base_lists_max_age_s' is of type str"),
    ("base", {"base_lock_timeout_s": "long"}, "argument 'base_lock_timeout_s' is of type str"),
    ("base", {"base_components": ["bpftrace"]}, "base_components must be one or more of"),
    ("base", {"base_mirrors": {"gti": {}}}, "base_mirrors.gti. Supported parameters include: apt"),
    ("base", {"base_mirrors": {"git": "x"}}, "'git' is of type str"),
    ("base", {"base_mirrors": {"apt": {"http://a/": 5}}}, "apt, http://a/: 5 is no address"),
    ("base", {"base_mirrors": {"python": "pypi"}}, "python: 'pypi' is no address"),
    ("base", {"base_pve_no_subscription": "maybe"}, "'base_pve_no_subscription' is of type str"),
    ("base", {"base_allow_upgrade": "perhaps"}, "'base_allow_upgrade' is of type str"),
    ("base", {"base_packages_by_release": []}, "'base_packages_by_release' is of type list"),
    ("base", {"base_apt_sources": ["x"]}, "option 'base_apt_sources' is of type str"),
    (
        "golang",
        {"golang_policy": "latest"},
        "value of golang_policy must be one of: distro, upstream",
    ),
    ("llvm", {"llvm_policy": "latest"}, "value of llvm_policy must be one of: distro, upstream"),
    ("llvm", {"uplab_root": None}, "missing required arguments: uplab_root"),
    ("rust", {"rust_policy": "rustup"}, "value of rust_policy must be one of: distro, upstream"),
    ("rust", {"uplab_root": None}, "missing required arguments: uplab_root"),
    ("bpftime", {"bpftime_jit": "fast"}, "argument 'bpftime_jit' is of type str"),
    ("bpftime", {"uplab_root": None}, "missing required arguments: uplab_root"),
    ("bpftime", {"bpftime_prefix": "own"}, "own/bpftime, own/bpftimetool"),
    ("deepflow", {"uplab_root": None}, "missing required arguments: uplab_root"),
    ("deepflow", {"deepflow_tracer_path": "own"}, "deepflow: own: not an absolute path"),
    ("wrk", {"wrk_policy": "upstream"}, "value of wrk_policy must be one of: distro"),
    ("servers", {"servers_policy": "distro"}, "value of servers_policy must be one of: own"),
    ("servers", {"servers_certificate_days": "x"}, "'servers_certificate_days' is of type str"),
    (
        "servers",
        {"servers_certificate_renew_days": [1]},
        "'servers_certificate_renew_days' is of type list",
    ),
    ("copied", {"uplab_root": None}, "missing required arguments: uplab_root"),
    ("copied", {"copied_from": {"host": "r720"}}, "archive, debian, entries, sha256 found in cop"),
    ("copied", {"copied_entries": ["servers"]}, "argument 'copied_entries' is of type list"),
    ("gotrace", {"gotrace_policy": ["own"]}, "value of gotrace_policy must be one of: own"),
    ("gotrace", {"gotrace_policy": "path"}, "value of gotrace_policy must be one of: own"),
    ("gotrace", {"uplab_root": None}, "missing required arguments: uplab_root"),
]


def test_every_role_is_covered() -> None:
    assert {role for role, _, _ in WRONG} == set(ROLES)


@pytest.mark.parametrize("role", ROLES)
def test_every_default_is_specified_and_described(role: str) -> None:
    top = REPOSITORY / "roles" / role
    defaults = yaml.safe_load((top / "defaults" / "main.yml").read_text())
    specs = yaml.safe_load((top / "meta" / "argument_specs.yml").read_text())
    options = specs["argument_specs"]["main"]["options"]
    readme = (top / "README.md").read_text()
    assert set(defaults) | {"uplab_root"} == set(options)
    assert all(name.startswith(f"{role}_") for name in defaults)
    assert all(f"`{name}`" in readme for name in options)


@pytest.mark.parametrize(
    ("role", "wrong", "message"),
    WRONG,
    ids=[f"{role}-{name}={value}" for role, bad, _ in WRONG for name, value in bad.items()],
)
def test_a_wrong_value_is_refused(
    run_play: Runner, tmp_path: Path, role: str, wrong: dict[str, Any], message: str
) -> None:
    playbook = tmp_path / "play.yml"
    root = tmp_path / "uplab"
    good = {f"{name}_policy": "own" if name in OWN else "distro" for name in ROLES}
    variables = {"uplab_root": str(root), **GROUP, **BUILT, **good, **wrong}
    given = {name: value for name, value in variables.items() if value is not None}
    play = {"name": "Run one role", "hosts": "uplab", "gather_facts": False, "roles": [role]}
    playbook.write_text(json.dumps([play]))
    done = run_play(playbook, variables=given)
    assert done.exit_code == 2, done.output
    assert message in done.text
    assert not root.exists()
