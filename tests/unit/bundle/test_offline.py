"""UPLAB_BUNDLE=... ./invoke: the real wrapper in a small checkout, without any network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.unit import test_wrapper
from tests.unit.bundle import bundles
from tests.unit.test_wrapper import Done, Small, make_small
from tools import bootstrap
from uplab.bundle import index as indexes
from uplab.bundle import offline
from uplab.bundle.index import Part
from uplab.errors import UsageError

ROOT = Path(__file__).parents[3]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
TIMEOUT_S = 100.0
#: What reads a bundle, and so has to be in the small checkout.
READERS = ("__init__.py", "errors.py", "bundle")


quick_ensurepip = test_wrapper.quick_ensurepip
quick_python = test_wrapper.quick_python


@pytest.fixture
def small(tmp_path: Path, quick_python: Path) -> Small:
    """A small checkout; pip is led to wheels that are not there, so that only a bundle helps."""
    made = make_small(tmp_path / "check out", tmp_path / "wheels")
    made.environment["PATH"] = f"{quick_python.parent}:{os.environ['PATH']}"
    for name in READERS:
        source, target = ROOT / "uplab" / name, made.root / "uplab" / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    (made.root / indexes.PINS).parent.mkdir(parents=True)
    (made.root / indexes.PINS).write_text("uplab_pins: {}\n")
    made.environment["PIP_FIND_LINKS"] = str(tmp_path / "nowhere")
    return made


def wheels(small: Small, python: str = PYTHON, lock: str = "runtime") -> dict[str, Part]:
    """The parts for the wheels that the lock files of a small checkout name."""
    found = {}
    for path in sorted(small.wheels.glob("*.whl")):
        name = "dev" if "_dev-" in path.name else lock
        part = bundles.part(f"wheels/{path.name}", path.read_bytes(), lock=name, python=python)
        found[path.name] = part
    return found


def bundle(small: Small, parts: Mapping[str, Part]) -> Path:
    """A bundle of a small checkout's wheels."""
    made_from = indexes.made_from(small.root)
    listed = tuple(sorted(parts.values(), key=lambda part: part.order))
    content = {part.path: (small.wheels / name).read_bytes() for name, part in parts.items()}
    found = bundles.index_of({}, parts=listed, made_from=made_from)
    return bundles.write(small.root.parent / "lab.tar.zst", content, found)


def test_what_reads_a_bundle_stands_on_the_standard_library_alone() -> None:
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import uplab.bundle.offline"
    program += "; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    # Without site-packages: whatever else is imported is not found.
    argv = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    foreign = set(done.stdout.split()) - set(sys.stdlib_module_names) - {"__main__"}
    assert foreign == {"uplab"}


def run(small: Small, named: Path | str, *words: str) -> Done:
    """./invoke in a network that has nothing in it, not even the loopback."""
    done = subprocess.run(
        ["unshare", "--net", str(small.root / "invoke"), *words],
        env={**os.environ, **small.environment, "UPLAB_BUNDLE": str(named)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def refused(small: Small, named: Path, *words: str) -> str:
    done = run(small, named, *words)
    assert done.code == bootstrap.EXIT_USAGE, done.stderr
    assert small.venvs == []
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("invoke: ")
    return last


def test_an_environment_is_made_from_a_bundle_without_a_network(small: Small) -> None:
    done = run(small, bundle(small, wheels(small)), "first")
    assert done.code == 0, done.stderr
    assert done.said("probe") == "1.0"
    assert "from which .venv is made" in done.stderr
    assert not (small.root / ".uplab" / "bundle" / "offline").exists()
    # It is there now, so nobody looks at the bundle again.
    again = run(small, small.root / "gone.tar.zst", "second")
    assert (again.code, again.stderr) == (0, "")


def test_without_the_bundle_it_could_not_be_made(small: Small) -> None:
    done = run(small, "", "first")
    assert done.code == bootstrap.EXIT_UNREACHABLE, done.stderr


def test_a_relative_name_is_one_of_the_caller_s_folder(small: Small) -> None:
    named = bundle(small, wheels(small))
    done = subprocess.run(
        [str(small.root / "invoke"), "first"],
        cwd=named.parent,
        env={**os.environ, **small.environment, "UPLAB_BUNDLE": named.name},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_wheel_that_was_changed_is_refused_before_pip_sees_it(small: Small) -> None:
    parts = wheels(small)
    named = bundle(small, parts)
    found = bundles.index_of(
        {}, parts=tuple(parts.values()), made_from=indexes.made_from(small.root)
    )
    data = {part.path: b"X" * part.bytes for part in parts.values()}
    named = bundles.forge(named, bundles.members(data, found))
    assert "in it has" in refused(small, named, "first")


def test_wheels_that_the_lock_file_does_not_name_are_refused_by_pip(small: Small) -> None:
    parts = wheels(small)
    named = bundle(small, parts)
    # The same lock file, other bytes under the wheel's name, and an index that vouches for them.
    name = next(iter(parts))
    (small.wheels / name).write_bytes((small.wheels / name).read_bytes() + b"more")
    named = bundle(small, wheels(small))
    last = refused(small, named, "first")
    assert "pip could not install what lies in" in last
    assert "Run: unset UPLAB_BUNDLE" in last


def test_a_bundle_of_another_lock_file_is_refused(small: Small) -> None:
    named = bundle(small, wheels(small))
    with (small.root / "requirements" / "runtime.lock").open("a") as file:
        file.write("# changed\n")
    last = refused(small, named, "first")
    assert "it was made from another requirements/runtime.lock than this checkout has" in last


def test_other_pins_do_not_matter_to_the_environment(small: Small) -> None:
    named = bundle(small, wheels(small))
    (small.root / indexes.PINS).write_text("uplab_pins: {changed: {}}\n")
    assert run(small, named, "first").code == 0


def test_wheels_for_another_python_are_refused(small: Small) -> None:
    named = bundle(small, wheels(small, python="3.9"))
    last = refused(small, named, "first")
    assert f"its Python packages are for Python 3.9, this is {PYTHON}" in last


def test_the_tests_need_their_own_wheels(small: Small) -> None:
    parts = {name: part for name, part in wheels(small).items() if "_dev-" not in name}
    last = refused(small, bundle(small, parts), "test")
    assert "it has no Python packages for dev (lab.bundle --dev)" in last
    assert run(small, bundle(small, wheels(small)), "test").code == 0


def test_a_missing_bundle_and_a_foreign_file_are_refused(small: Small, tmp_path: Path) -> None:
    assert "there is no bundle" in refused(small, tmp_path / "gone.tar.zst", "first")
    foreign = tmp_path / "foreign"
    foreign.write_text("no bundle")
    assert "it is not compressed by zstd" in refused(small, foreign, "first")


def test_a_bundle_without_packages_for_this_release_says_how_to_get_them(tmp_path: Path) -> None:
    found = offline.Supplies(tmp_path / "lab.tar.zst", tmp_path, None, "bookworm")
    with pytest.raises(UsageError, match=r"run: \./invoke lab\.bundle .* --debs bookworm"):
        found.apt_options()
