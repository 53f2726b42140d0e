"""Texts that a load generator printed, elsewhere and some time, as a run directory.

The same reports are made of it. What the texts do not prove is not made up: the run's provenance is
`imported`, the evidence of every trial is `not attested`, and a figure that no text holds is
missing, never 0. The mode of each text comes from the heading above it or from the name of its file
or folder, or from whoever imports it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uplab import __version__, yamlfile
from uplab.errors import UsageError
from uplab.hostside import rundir, sums
from uplab.report import parsing

PROVENANCE, NOT_ATTESTED = "imported", "not attested"
MATRIX = "imported"
MAX_FILES = 20_000
#: What no text of a load can prove.
UNPROVED = (
    "that the server was traced as its mode says (no bytes were compared, no hits counted)",
    "the server's build, its answers' body size and its CPU",
    "the host, its settings and what else ran on it",
    "when and in which order the texts were made: the n-th text of each mode is taken as block n",
    "that no text was left out",
)

# From the most particular to the least: `userspace uprobe` also holds `uprobe`.
_MODES = (
    ("none-again", r"none[- _]again"),
    ("tracer-only", r"tracer[- _]only|no[- _]uprobes?\b|uprobes?[- _]off"),
    ("userspace-uprobe", r"user(?:[- _]?space)?[- _]u?probes?"),
    ("kernel-uprobe", r"kernel[- _]u?probes?"),
    (
        "none",
        r"without[- _](?:trac\w*|probes?)|no[- _](?:probes?|trac\w*)|untraced|baseline|\bnone\b",
    ),
    ("userspace-uprobe", r"bpftime"),
)
_HEADING = re.compile(r"^ {0,3}#{1,6} +(.*\S) *$", re.MULTILINE)
_NAME = re.compile(r"[^A-Za-z0-9._+-]+")


@dataclass(frozen=True, slots=True)
class Given:
    """What whoever imports says of all texts; None: the texts have to.

    `body_bytes` always has to be said: no text of a load holds it.
    """

    body_bytes: int
    mode: str | None = None
    server: str | None = None
    tracer: str | None = None
    host: str = "unknown"


def given(
    body_bytes: int | None, mode: str | None, server: str | None, tracer: str | None, host: str
) -> Given:
    """What was said on the command line. Raises UsageError for what is missing or no mode."""
    if body_bytes is None or body_bytes < 0:
        raise UsageError(
            "the texts do not say how large the server's answers were. "
            "Run: invoke report.import FILE... --body-bytes N"
        )
    known = [name for name, _ in _MODES]
    if mode is not None and mode not in known:
        raise UsageError(f"no mode {mode!r}; there are: {', '.join(known)}")
    return Given(body_bytes, mode, server, tracer, host)


def now() -> datetime:
    """The time in UTC, of which the run's name is made."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Found:
    """One report of a load: what was parsed, from which file, and how it was traced."""

    load: str
    loop: str
    run: Mapping[str, Any]
    file: Path
    mode: str

    @property
    def server(self) -> str:
        """The scheme of its address, which is what the shipped servers are called by."""
        return str(self.run.get("url", "")).partition("://")[0] or "unknown"


# ---------------------------------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class Text:
    """A file, and the part of its path that may say how the server was traced.

    That is what was named and what lies below it: a folder above them is somebody's workplace.
    """

    path: Path
    label: str


def files_of(named: Sequence[str]) -> list[Text]:
    """The files meant: each that is named, and all below each folder, sorted.

    Raises UsageError for none at all, for one that is not there, and for too many.
    """
    found: list[Text] = []
    for name in named:
        path = Path(name)
        if path.is_dir():
            inside = sorted(each for each in path.rglob("*") if each.is_file())
            found += [Text(each, str(Path(path.name, each.relative_to(path)))) for each in inside]
        elif path.is_file():
            found.append(Text(path, path.name))
        else:
            raise UsageError(f"{name}: no such file or folder")
    if not found:
        raise UsageError("no file given. Run: invoke report.import FILE... --body-bytes N")
    if len(found) > MAX_FILES:
        raise UsageError(f"{len(found)} files are too many, at most {MAX_FILES}")
    return found


def read(files: Sequence[Text], loads_dir: Path, given: Given, load: str | None) -> list[Found]:
    """Every report in the files. Raises UsageError that names file and line of what is not read.

    In: `load` the adapter that reads them; None for the first that recognises each file.
    """
    names = [load] if load else sorted(path.parent.name for path in loads_dir.glob("*/adapter.py"))
    readers = [_Reader.of(loads_dir, name) for name in names]
    return [found for text in files for found in _of_file(text, readers, given)]


@dataclass(frozen=True, slots=True)
class _Reader:
    """A load adapter's parser, and whether such a load is a closed or an open loop."""

    load: str
    loop: str
    parsers: Sequence[parsing.Parse]

    @classmethod
    def of(cls, loads_dir: Path, name: str) -> _Reader:
        parsers = parsing.load_parsers(loads_dir, name)
        adapter = yamlfile.read(loads_dir / name / "adapter.yml").data
        return cls(name, str(adapter.get("loop", "closed")), parsers)


def _of_file(text: Text, readers: Sequence[_Reader], given: Given) -> Iterator[Found]:
    failed = ""
    for reader in readers:
        parsed = parsing.parse_file(str(text.path), reader.parsers)
        if parsed.error is None:
            modes = _modes(text, len(parsed.runs), reader, given)
            for run, mode in zip(parsed.runs, modes, strict=True):
                yield Found(reader.load, reader.loop, run, text.path, mode)
            return
        failed = failed or parsed.error
    raise UsageError(failed)


def _modes(text: Text, reports: int, reader: _Reader, given: Given) -> list[str]:
    """The mode of each report in a file."""
    if given.mode is not None:
        return [given.mode] * reports
    headings = [mode for mode, runs in _sections(text.path, reader) for _ in range(runs)]
    if len(headings) == reports and all(headings):
        return headings
    by_name = mode_of(text.label)
    if by_name is None:
        raise UsageError(
            f"{text.path} does not say how the server was traced: no heading or name in it such as "
            "`Without trace` or `kernel-uprobe`. Run: invoke report.import FILE... --mode MODE"
        )
    return [by_name] * reports


def _sections(path: Path, reader: _Reader) -> Iterator[tuple[str, int]]:
    """Of each part below a heading the mode that it names, "" where it names none; and its runs."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    parts = _HEADING.split(text)
    for heading, part in zip(["", *parts[1::2]], parts[::2], strict=True):
        yield mode_of(heading) or "", _runs_in(part, reader)


def _runs_in(part: str, reader: _Reader) -> int:
    """How many reports a part of a document holds; what is cut in two is in none."""
    for parse in reader.parsers:
        try:
            return len(parse(part, "part"))
        except ValueError:
            continue
    return 0


def mode_of(text: str) -> str | None:
    """The mode that a heading or a path names; None where it names none."""
    for part in reversed(Path(text).parts):
        for mode, pattern in _MODES:
            if re.search(pattern, part, re.IGNORECASE):
                return mode
    return None


# ---------------------------------------------------------------------------------------- writing


def write(found: Sequence[Found], given: Given, results: Path, now: datetime) -> Path:
    """Write a run directory from reports; out: its path.

    In: `now` in UTC, of which its name is made. Raises UsageError where it cannot be written.
    """
    run_id = f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{_NAME.sub('-', given.host)}-{MATRIX}"
    run_dir = results / run_id
    part = results / f".part-{run_id}"
    try:
        results.mkdir(parents=True, exist_ok=True)
        if part.exists():
            shutil.rmtree(part)
        if run_dir.exists():
            raise UsageError(f"{run_dir} is there already")
        _write_into(part, run_id, found, given, now)
        part.rename(run_dir)
    except OSError as error:
        raise UsageError(f"{run_dir} cannot be written: {error.strerror}") from error
    return run_dir


def _write_into(
    part: Path, run_id: str, found: Sequence[Found], given: Given, now: datetime
) -> None:
    copies = _copy_sources(part, found)
    cells = [_cell(each, given) for each in found]
    plan = hashlib.sha256(
        json.dumps([cells, [copies[each.file] for each in found]], sort_keys=True).encode()
    ).hexdigest()
    blocks: Counter[str] = Counter()
    of_file: Counter[Path] = Counter()
    for number, (each, cell) in enumerate(zip(found, cells, strict=True), start=1):
        blocks[cell["id"]] += 1
        of_file[each.file] += 1
        name = f"{number:04d}-{cell['id']}-b{blocks[cell['id']]:02d}"
        trial = _trial(name, number, blocks[cell["id"]], each, cell) | {
            "plan_sha256": plan,
            "imported": {"file": copies[each.file]["copy"], "report": of_file[each.file]},
        }
        (part / "trials" / name).mkdir(parents=True)
        rundir.write_json(part / "trials" / name / "trial.json", trial)
    loops = {each.load: {"loop": each.loop} for each in found}
    rundir.write_json(
        part / "run.json",
        _document(run_id, cells, copies, loops, given, now)
        | {"plan_sha256": plan}
        | _counts(blocks),
    )
    sums.write(part)


def _copy_sources(part: Path, found: Sequence[Found]) -> dict[Path, dict[str, str]]:
    """Keep every text as it was; out: of each its copy and its digest, by the file."""
    folder = part / "imported"
    folder.mkdir(parents=True)
    copies = {}
    for number, path in enumerate(dict.fromkeys(each.file for each in found), start=1):
        copy = f"imported/{number:04d}-{_NAME.sub('-', path.name)[-80:]}"
        data = path.read_bytes()
        (part / copy).write_bytes(data)
        copies[path] = {"copy": copy, "sha256": hashlib.sha256(data).hexdigest()}
    return copies


def _counts(blocks: Counter[str]) -> dict[str, Any]:
    return {"blocks": max(blocks.values()), "trials_planned": sum(blocks.values())}


def _document(
    run_id: str,
    cells: Sequence[Mapping[str, Any]],
    copies: Mapping[Path, Mapping[str, str]],
    loops: Mapping[str, Mapping[str, str]],
    given: Given,
    now: datetime,
) -> dict[str, Any]:
    """run.json, without what depends on the trials."""
    stamp = f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    known = {cell["id"]: cell for cell in cells}
    return {
        "schema": 1,
        "run_id": run_id,
        "host": given.host,
        "matrix": {"name": MATRIX, "source": None, "sha256": None, "content": {}},
        "seed": 0,
        "uplab_version": __version__,
        "pins": {},
        "artifacts": {copy["copy"]: copy["sha256"] for copy in copies.values()},
        "cells": [{**cell, "status": "available", "reason": None} for cell in known.values()],
        "hit_cost": [],
        "started_utc": stamp,
        "ended_utc": stamp,
        "outcome": "complete",
        "error": None,
        "provenance": PROVENANCE,
        "not_attested": list(UNPROVED),
        "loads": loops,
        "declared": {},
    }


def _cell(found: Found, given: Given) -> dict[str, Any]:
    server = given.server or found.server
    untraced = found.mode in ("none", "none-again")
    tracer = None if untraced else given.tracer
    parameters = {
        name: value for name in ("threads", "connections") if (value := found.run.get(name))
    }
    words = [
        server,
        found.mode,
        tracer,
        *(f"{name[0]}{value}" for name, value in parameters.items()),
    ]
    parts = [*(word for word in words if word), f"{given.body_bytes}B"]
    return {
        "id": _NAME.sub("-", "-".join(parts)),
        "server": server,
        "mode": found.mode,
        "tracer": tracer,
        "body_bytes": given.body_bytes,
        "load": found.load,
        "load_parameters": parameters,
        "loader": None,
        "placement": None,
        "runtime": None,
    }


def _trial(
    name: str, number: int, block: int, found: Found, cell: Mapping[str, Any]
) -> dict[str, Any]:
    problems = list(found.run.get("problems", ()))
    return {
        "schema": 1,
        "trial": name,
        "number": number,
        "block": block,
        "attempt": 1,
        "position": None,
        "cell": cell,
        "times": {"load_elapsed_s": found.run.get("elapsed_s")},
        "load": _load(found.run, problems),
        "warm_up": None,
        "cpu": None,
        "hits": None,
        "attestation": {"grade": NOT_ATTESTED},
        "verdict": {
            "valid": not problems,
            "reasons": [{"code": "load", "text": problem} for problem in problems],
            "flags": [],
        },
    }


def _load(run: Mapping[str, Any], problems: Sequence[str]) -> dict[str, Any]:
    """The figures of a text under the names of trial.json; those that it does not hold, null."""
    latency: dict[str, float | None] = defaultdict(lambda: None)
    for name in ("avg", "stdev", "max", "p50", "p75", "p90", "p99"):
        latency[name] = run.get(f"latency_{name}_us")
    read_bytes = run.get("read_bytes")
    return {
        "requests": run.get("requests"),
        "elapsed_s": run.get("elapsed_s"),
        "requests_per_s": run.get("requests_per_s"),
        # As printed: two decimals of a unit.
        "read_bytes": None if read_bytes is None else round(read_bytes),
        "transfer_bytes_per_s": run.get("transfer_bytes_per_s"),
        "latency_us": dict(latency),
        "socket_errors": run.get("socket_errors"),
        "non_2xx_responses": run.get("non_2xx_responses"),
        "histogram_count": None,
        "problems": list(problems),
    }
