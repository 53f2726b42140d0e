"""Metadata, lock files and documents agree with each other, and name nothing of one machine."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import uplab
from tools import bootstrap, lock
from uplab.errors import GateError, UsageError

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIN = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>[^\s;]+)(?P<marker> ;[^\\]*)? \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")


def direct(name: str) -> list[str]:
    """The requirements in requirements/<name>.in."""
    lines = (ROOT / "requirements" / f"{name}.in").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def base_name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9-]+", requirement)
    assert found
    return found[0].lower()


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    found = (PIN.match(line) for line in text.splitlines())
    return {match["name"]: match["version"] for match in found if match}


@pytest.mark.parametrize(
    ("name", "declared"),
    [
        ("runtime", PROJECT["dependencies"]),
        ("dev", PROJECT["optional-dependencies"]["dev"]),
    ],
)
def test_requirements_agree_with_the_metadata_the_lock_and_the_document(
    name: str, declared: list[str]
) -> None:
    assert direct(name) == declared
    assert declared == sorted(declared, key=base_name)
    names = {base_name(requirement) for requirement in declared}
    assert names <= set(pins(name))
    document = (ROOT / "docs" / "dependencies.md").read_text()
    section = document.split(f"(`{name}`)", 1)[1].split("\n## ", 1)[0]
    assert set(re.findall(r"^\| `([^`]+)` \| .{8,} \|$", section, re.MULTILINE)) == names


@pytest.mark.parametrize("name", ["runtime", "dev"])
def test_a_lock_file_holds_pins_with_hashes_and_nothing_of_a_machine(name: str) -> None:
    lines = (ROOT / "requirements" / f"{name}.lock").read_text().splitlines()
    for line in lines:
        comment = line.lstrip().startswith("#")
        assert comment or PIN.match(line) or HASH.match(line), line
        assert "://" not in line
        assert not re.search(r"(^|\s)--(?!hash=)", line), line
        assert not re.search(r"(^|[\s=:])/\w", line), line
    for number, line in enumerate(lines):
        if PIN.match(line):
            assert HASH.match(lines[number + 1]), line
    # One version for every Python.
    names = [match["name"] for match in map(PIN.match, lines) if match]
    assert len(names) == len(set(names))


def test_both_lock_files_have_one_version_of_each_package() -> None:
    runtime, dev = pins("runtime"), pins("dev")
    both = set(runtime) & set(dev)
    assert both
    assert {name: runtime[name] for name in both} == {name: dev[name] for name in both}


def test_the_environment_has_what_the_lock_files_say() -> None:
    code = (
        "import json, importlib.metadata as m\n"
        "print(json.dumps({d.name.lower().replace('_', '-').replace('.', '-'): d.version"
        " for d in m.distributions()}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    installed = json.loads(done.stdout)
    wanted = {base_name(one) for one in [*direct("runtime"), *direct("dev")]}
    locked = {**pins("dev"), **pins("runtime")}
    assert {name: installed.get(name) for name in wanted} == {name: locked[name] for name in wanted}


def test_making_the_lock_files_asks_for_hashes_and_leaves_the_index_out() -> None:
    uv = Path("/v/bin/uv")
    command = lock.compile_command(uv, "dev", upgrade=False)
    assert command[:3] == [str(uv), "pip", "compile"]
    assert {"--universal", "--generate-hashes", "--no-emit-index-url"} <= set(command)
    assert command[command.index("--python-version") + 1] == "3.11"
    assert command[command.index("--constraint") + 1] == "requirements/runtime.lock"
    assert "--upgrade" not in command
    assert "--upgrade" in lock.compile_command(uv, "runtime", upgrade=True)
    assert "--constraint" not in lock.compile_command(uv, "runtime", upgrade=False)


@pytest.fixture
def fake_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with lock files, and a folder for a uv of the test's own."""
    (tmp_path / "requirements").mkdir()
    for name in ("runtime", "dev"):
        (tmp_path / "requirements" / f"{name}.lock").write_text("old\n")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    return tmp_path / "uv"


def test_remaking_says_which_lock_file_changed(fake_uv: Path, tmp_path: Path) -> None:
    fake_uv.write_text(
        '#!/bin/sh\nfor out; do :; done\n[ "$out" != requirements/dev.lock ] || echo new >"$out"\n'
    )
    fake_uv.chmod(0o755)
    assert list(lock.remake(upgrade=False, root=tmp_path)) == [
        "requirements/runtime.lock: unchanged",
        "requirements/dev.lock: changed",
    ]


def test_remaking_fails_with_the_reason(fake_uv: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no uv beside .* Run: \./invoke build\.lock"):
        list(lock.remake(upgrade=False, root=tmp_path))
    fake_uv.write_text("#!/bin/sh\necho 'no solution found' >&2\nexit 1\n")
    fake_uv.chmod(0o755)
    with pytest.raises(GateError, match=r"requirements/runtime\.lock: no solution found"):
        list(lock.remake(upgrade=False, root=tmp_path))


def test_the_version_is_the_same_everywhere() -> None:
    assert "version" in PROJECT["dynamic"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == uplab.__version__
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert citation["authors"] == [{"name": "The uplab authors"}] == PROJECT["authors"]
    assert "Apache License" in (ROOT / "LICENSE").read_text().splitlines()[1]


def test_every_file_that_the_report_is_made_of_is_packaged() -> None:
    tool: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    patterns = tool["setuptools"]["package-data"]["uplab.report.html"]
    folder = ROOT / "uplab" / "report" / "html"
    packaged = {path for pattern in patterns for path in folder.glob(pattern)}
    others = {path for path in folder.iterdir() if path.is_file() and path.suffix != ".py"}
    assert packaged == others
    assert packaged


def test_the_package_itself_imports_nothing() -> None:
    # It travels to the hosts, and is loaded before anything else everywhere.
    tree = ast.parse((ROOT / "uplab" / "__init__.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def test_the_bootstrap_uses_the_standard_library_alone() -> None:
    assert bootstrap.__file__
    tree = ast.parse(Path(bootstrap.__file__).read_text())
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    froms = {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    # What reads a bundle is held to the same rule, in tests/unit/bundle.
    froms -= {"uplab.bundle", "uplab.bundle.offline", "uplab.errors"}
    assert {name.split(".")[0] for name in froms} | names <= set(sys.stdlib_module_names)


def test_ci_runs_what_a_person_types() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert os.access(ROOT / "invoke", os.X_OK)
    lines = script.read_text().splitlines()
    assert lines[-1] == "exec ./invoke test"
    assert "set -eu" in lines


def test_the_bootstraps_exit_codes_are_the_projects() -> None:
    from uplab import errors

    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert {bootstrap.EXIT_USAGE, bootstrap.EXIT_UNREACHABLE, bootstrap.EXIT_INTERRUPTED} <= codes
