"""A copy of a run without what tells whose it is: names, users, addresses, MACs, serial numbers.

Figures stay as they are, and so does everything that says how they came about: versions, digests,
the CPU, the kernel. All else is replaced, in logs as well; see :mod:`uplab.redactor`.

Two passes: the first learns names where their place tells what they are (`host:`, `user@host`,
`/home/NAME`), the second replaces them wherever else they stand.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from uplab import __version__, checksums
from uplab.checksums import SUMS_FILE
from uplab.errors import GateError, UsageError
from uplab.hostside import sums
from uplab.redactor import COMMON, VERSION_KEYS, WORDS, Kind, Redactor

#: Compressed figures; nothing else is in them, and text cannot be looked for.
_NO_TEXT = (".hist",)
_MAX_TEXT_BYTES = 256_000_000


def redact(run_dir: Path, out: Path, keep: Collection[str], also: Iterable[str] = ()) -> list[Kind]:
    """Write a redacted copy of a run into a new folder.

    In: a run whose files match its SHA256SUMS; `keep` the names of hosts that are public, and stay;
    `also` further words to replace. Out: what was replaced, by kind. The copy has checksums of its
    own, and its run.json says under `redacted` what was done, and to a run of which SHA256SUMS.
    Raises GateError where a value is still there afterwards, with the file.
    """
    files = checksums.list_files(run_dir)
    redactor = Redactor(_vocabulary(run_dir), keep)
    for word in also:
        redactor.learn(WORDS, word)
    for name in files:
        _learn_file(run_dir / name, redactor)
    for name in _load_hosts(run_dir):
        redactor.learn_from(name, "host")
    original = hashlib.sha256((run_dir / SUMS_FILE).read_bytes()).hexdigest()
    for name in files:
        target = out / redactor.text(name, count=False)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = _redacted(run_dir / name, redactor)
        leak = None if target.suffix in _NO_TEXT else redactor.leak(content)
        if leak is not None:
            raise GateError(f"{run_dir / name} would still hold a value of the kind {leak}")
        target.write_bytes(content)
    kinds = redactor.kinds()
    _record(out / "run.json", original, kinds)
    sums.write(out)
    return kinds


def public_hosts(pins: Path) -> set[str]:
    """The hosts that the project itself names as sources: they say nothing about a user of it."""
    found = re.findall(r"https?://[^\s\"'{}]+", pins.read_text(encoding="utf-8"))
    return {name for url in found if (name := urlsplit(url).hostname)}


def _record(path: Path, original: str, kinds: list[Kind]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    document["redacted"] = {
        "of_sha256": original,
        "by_uplab": __version__,
        "replaced": {kind.name: {"values": kind.values, "times": kind.times} for kind in kinds},
    }
    path.write_text(_json(document), encoding="utf-8")


def _vocabulary(run_dir: Path) -> set[str]:
    """The words of the experiment: a host of such a name does not make them private."""
    document = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    words = {str(document.get("matrix", {}).get("name", ""))}
    for cell in document.get("cells", ()):
        words |= {str(value) for key, value in cell.items() if key not in ("reason", "id")}
    words |= set(_told_of_host(run_dir))
    parts = {part for word in words for part in re.split(r"[^\w]+", word)}
    return {word.lower() for word in words | parts if word} | COMMON


def _load_hosts(run_dir: Path) -> Iterator[str]:
    """The second machine that the load came from: a name under a key that others have, too."""
    far = json.loads((run_dir / "run.json").read_text(encoding="utf-8")).get("load_from")
    if isinstance(far, dict) and isinstance(far.get("name"), str):
        yield far["name"]


def _told_of_host(run_dir: Path) -> Iterator[str]:
    """What the fingerprint says of the machine's kind: `Debian` is no name of a host there."""
    path = run_dir / "host.json"
    before = json.loads(path.read_text(encoding="utf-8")).get("before") if path.is_file() else None
    facts = before if isinstance(before, dict) else {}
    for name in ("distribution", "kernel", "cpu"):
        yield from (text for text, _ in _leaves({name: facts.get(name)}, ""))
    components = facts.get("components")
    yield from components if isinstance(components, dict) else ()


def _learn_file(path: Path, redactor: Redactor) -> None:
    for value, key in _values(path):
        redactor.learn_from(value, key)


def _values(path: Path) -> Iterator[tuple[str, str]]:
    """The texts of a file with the field that each stands in; a log is one text of no field."""
    if path.suffix in _NO_TEXT:
        return
    documents = _documents(path)
    if documents is None:
        yield _text(path), ""
        return
    for document in documents:
        yield from _leaves(document, "")


def _documents(path: Path) -> list[Any] | None:
    """What a file of JSON or of JSON lines holds; None for another, and where it is damaged."""
    text = _text(path) if path.suffix in (".json", ".jsonl") else ""
    parts = [text] if path.suffix == ".json" else [line for line in text.split("\n") if line]
    try:
        return [json.loads(part) for part in parts] if text else None
    except (ValueError, RecursionError):
        return None


def _leaves(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name, ""
            yield from _leaves(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, key)
    elif isinstance(value, str):
        yield value, key


def _redacted(path: Path, redactor: Redactor) -> bytes:
    if path.suffix in _NO_TEXT:
        return path.read_bytes()
    documents = _documents(path)
    if documents is None:
        return redactor.text(_text(path)).encode("utf-8", "surrogateescape")
    changed = [_walk(document, "", redactor) for document in documents]
    if path.suffix == ".json":
        return _json(changed[0]).encode("utf-8", "surrogatepass")
    lines = (json.dumps(document, ensure_ascii=False) for document in changed)
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")


def _json(document: Any) -> str:
    """As the host writes it."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _walk(value: Any, key: str, redactor: Redactor) -> Any:
    if isinstance(value, dict):
        return {
            redactor.text(name): _walk(inner, _inherited(name, key), redactor)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_walk(inner, key, redactor) for inner in value]
    return redactor.value(value, key) if isinstance(value, str) else value


def _inherited(name: str, key: str) -> str:
    """Everything below `pins` or `packages` is a version."""
    return key if VERSION_KEYS.fullmatch(key) else name


def _text(path: Path) -> str:
    """A file as text; bytes that are no UTF-8 come back as they were."""
    if path.stat().st_size > _MAX_TEXT_BYTES:
        raise UsageError(f"{path} is larger than {_MAX_TEXT_BYTES} bytes, too large to be redacted")
    return path.read_bytes().decode("utf-8", "surrogateescape")
