"""uplab/hostside/store.py: what is installed, and where its files lie."""

import hashlib
import json
from pathlib import Path

import pytest

from uplab.hostside import store
from uplab.hostside.spec import FileRef
from uplab.hostside.store import Store


@pytest.fixture
def installed(tmp_path: Path) -> Store:
    prefix = tmp_path / "store" / "thing-0123456789ab"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "thing").write_bytes(b"program")
    manifest = {"schema": 1, "components": {"thing": {"prefix": str(prefix)}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return store.load(tmp_path)


def test_a_file_of_a_component_lies_below_its_prefix(installed: Store) -> None:
    ref = FileRef(component="thing", file="bin/thing")
    expected = installed.root / "store" / "thing-0123456789ab" / "bin" / "thing"
    assert installed.path(ref) == expected
    assert installed.missing(ref) is None
    assert installed.sha256(ref) == hashlib.sha256(b"program").hexdigest()


def test_a_path_may_name_the_root(installed: Store) -> None:
    ref = FileRef(path="{root}/tls/cert.pem")
    assert installed.path(ref) == installed.root / "tls" / "cert.pem"
    assert installed.path(FileRef(path="/etc/hosts")) == Path("/etc/hosts")


def test_what_is_missing_is_named(installed: Store) -> None:
    component = FileRef(component="other", file="x")
    assert installed.missing(component) == (
        f"other is not installed (no such component in {installed.root})"
    )
    with pytest.raises(KeyError):
        installed.path(component)
    file = FileRef(component="thing", file="bin/nothing")
    assert installed.missing(file) == f"{installed.path(file)} is missing"
    path = FileRef(path="{root}/tls/cert.pem")
    assert installed.missing(path) == f"{installed.root}/tls/cert.pem is missing"


def test_a_directory_is_no_file(installed: Store) -> None:
    ref = FileRef(component="thing", file="bin")
    assert installed.missing(ref) == f"{installed.path(ref)} is missing"


def test_a_host_that_was_never_set_up_has_an_empty_manifest(tmp_path: Path) -> None:
    empty = store.load(tmp_path / "nothing")
    assert empty.manifest == {}
    assert empty.components == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '"text"'])
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=str(path)):
        store.load(tmp_path)
