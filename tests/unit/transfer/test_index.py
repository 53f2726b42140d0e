"""uplab/transfer/index.py: an index is believed in nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.transfer.builds import make, request
from uplab.hostside import transfer
from uplab.transfer import index
from uplab.transfer.index import Refused

Document = dict[str, Any]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("root")
    make(root, "lab", inputs={"kernel": {"btf_sha256": "b" * 64}})
    make(root, "other")
    return json.dumps(transfer.index(root, request("lab", "other")))


@pytest.fixture
def document(text: str) -> Document:
    found: Document = json.loads(text)
    return found


def refusal(document: object) -> str:
    with pytest.raises(Refused) as caught:
        index.parse(json.dumps(document).encode())
    message = str(caught.value)
    assert message.isprintable()
    return message


def test_what_a_host_sends_is_read_as_it_is(document: Document) -> None:
    found = index.parse(json.dumps(document).encode())
    assert found.components == ["lab", "other"]
    assert found.host == "r720"
    lab = found.entries[0]
    assert lab.name == f"lab-{document['entries'][0]['record']['hash']}"
    assert lab.record.inputs.kernel == {"btf_sha256": "b" * 64}
    assert lab.size_bytes == sum(file["bytes"] for file in document["entries"][0]["files"].values())
    assert found.size_bytes == sum(entry.size_bytes for entry in found.entries)


def test_the_digest_of_files_is_that_of_their_record(document: Document) -> None:
    found = index.parse(json.dumps(document).encode())
    artifacts = document["entries"][0]["record"]["artifacts"]
    assert index.artifacts_sha256(found.entries[0]) == index.canonical_sha256(artifacts)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"kind": "other"}'])
def test_something_else_is_told_as_such(data: bytes) -> None:
    with pytest.raises(Refused, match=r"^it holds no finished builds, as lab\.export writes them$"):
        index.parse(data)


NAMES = [
    *("../evil", "/etc/passwd", "bin/../../evil", "bin//evil", "./evil", "bin/", "", ".", ".."),
    *("bin/.", "a\x1b[2J", "a\nb", "a" * 1100),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["files", "folders", "links"])
def test_a_name_that_leads_elsewhere(document: Document, name: str, kind: str) -> None:
    entry = document["entries"][0]
    if kind == "folders":
        entry["folders"].append(name)
    elif kind == "links":
        entry["links"][name] = "lab"
    else:
        entry["files"][name] = {"sha256": "0" * 64, "bytes": 0, "mode": 0o644}
    assert "leads elsewhere" in refusal(document)


@pytest.mark.parametrize("target", ["/etc/passwd", "../../evil", "", "a/../../../evil", "a\nb"])
def test_a_link_that_leads_out(document: Document, target: str) -> None:
    document["entries"][0]["links"]["share/program"] = target
    assert "out of the build" in refusal(document)


def test_nothing_lies_below_a_link_or_a_file(document: Document) -> None:
    """Written through a link it would land elsewhere, by whatever the link leads to."""
    entry = document["entries"][0]
    for parent in ("share/all", "bin/lab", "no/such"):
        files = {**entry["files"], f"{parent}/x": {"sha256": "0" * 64, "bytes": 0, "mode": 0o644}}
        changed = {**document, "entries": [{**entry, "files": files}]}
        assert f"'{parent}/x' lies in no folder of it" in refusal(changed)


def test_a_name_that_comes_twice(document: Document) -> None:
    document["entries"][0]["folders"].append("share/all")
    assert "a name comes twice" in refusal(document)
    document["entries"][0] = document["entries"][1]
    assert "a component comes twice" in refusal(document)


def set_record(key: str, value: Any) -> Callable[[Document], None]:
    return lambda document: document["entries"][0]["record"].__setitem__(key, value)


def set_file(key: str, value: Any) -> Callable[[Document], None]:
    return lambda document: document["entries"][0]["files"]["bin/lab"].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_record("hash", "0" * 12), "its hash is not that of its inputs"),
        (set_record("hash", "../../../etc"), "entries.0.record.hash"),
        (set_record("component", "../x"), "entries.0.record.component"),
        (set_record("component", "other"), "its inputs are those of lab"),
        (set_record("source", "path"), "entries.0.record.source"),
        (set_record("artifacts", {}), "entries.0.record.artifacts"),
        (
            set_record("artifacts", {"x": {"sha256": "0" * 64, "bytes": 1}}),
            "do not agree about 'x'",
        ),
        (set_record("built_utc", "\x1b[31m"), "entries.0.record.built_utc"),
        (set_file("sha256", "0" * 64), "do not agree about 'bin/lab'"),
        (set_file("bytes", 1), "do not agree about 'bin/lab'"),
        (set_file("bytes", -1), "entries.0.files.bin/lab"),
        (set_file("bytes", 1 << 60), "entries.0.files.bin/lab"),
        (set_file("mode", 0o4755), "entries.0.files.bin/lab"),
        (lambda d: d["entries"][0]["record"]["inputs"].update(flags={}), "its hash is not that"),
        (lambda d: d["entries"][0].update(glibc="2.36; rm"), "entries.0.glibc"),
        (lambda d: d["entries"][0].update(libraries={"a": "--purge"}), "entries.0.libraries"),
        (lambda d: d["entries"][0].update(libraries={"a": "x y"}), "entries.0.libraries"),
        (lambda d: d["entries"][0].update(more=1), "entries.0.more"),
        (lambda d: d.update(schema=2), "schema"),
        (lambda d: d.update(host="a\nb"), "host"),
        (lambda d: d.update(checkout_sha256="x"), "checkout_sha256"),
        (lambda d: d.pop("entries"), "entries"),
    ],
)
def test_what_no_index_of_ours_says(
    document: Document, change: Callable[[Document], None], words: str
) -> None:
    change(document)
    message = refusal(document)
    assert message.startswith("its index.json is not ours (")
    assert words in message


def test_more_than_any_build_has(document: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MAX_FILES", 3)
    assert "more than 3 files" in refusal(document)
    monkeypatch.undo()
    monkeypatch.setattr(index, "MAX_BYTES", 10)
    assert "or 10 bytes" in refusal(document)
