"""Load texts through the parser of an adapter: by path, by name, and one bad file among good."""

import io
from pathlib import Path

import pytest

from uplab.errors import UsageError
from uplab.report import parsing
from uplab.report.parsing import load_parsers, parse_files

# A load generator that prints `NAME <requests>` lines; anything else is not its own.
ADAPTER = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Line:
    requests: int

class ParseError(ValueError):
    def __init__(self, source, number, line, parsed):
        super().__init__(f"{source}:{number}: not of NAME: {line!r}")
        self.parsed = parsed

def parse(text, source):
    runs = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("NAME "):
            raise ParseError(source, number, line, runs)
        runs.append({"source": source, "requests": Line(int(line.split()[1])).requests})
    return runs
"""


@pytest.fixture
def loads(tmp_path: Path) -> Path:
    for name in ("beta", "alpha"):
        (tmp_path / "loads" / name).mkdir(parents=True)
        (tmp_path / "loads" / name / "adapter.py").write_text(ADAPTER.replace("NAME", name))
    (tmp_path / "loads" / "gamma").mkdir()
    (tmp_path / "loads" / "gamma" / "adapter.py").write_text("VERSION = 1\n")
    return tmp_path / "loads"


def file_of(tmp_path: Path, content: bytes, name: str = "load.txt") -> str:
    path = tmp_path / name
    path.write_bytes(content)
    return str(path)


def test_the_adapter_that_recognises_a_text_reads_it(loads: Path, tmp_path: Path) -> None:
    one, two = file_of(tmp_path, b"alpha 1\nalpha 2\n", "1"), file_of(tmp_path, b"beta 3\n", "2")
    results = list(parse_files([one, two], loads))
    assert [[run["requests"] for run in parsed.runs] for parsed in results] == [[1, 2], [3]]
    assert [parsed.error for parsed in results] == [None, None]
    assert results[1].runs[0]["source"] == two


def test_a_named_adapter_is_the_only_one_asked(loads: Path, tmp_path: Path) -> None:
    (parsed,) = parse_files([file_of(tmp_path, b"alpha 1\n")], loads, "beta")
    assert parsed.runs == ()
    assert parsed.error is not None
    assert "not of beta: 'alpha 1'" in parsed.error


def test_runs_before_the_error_are_kept(loads: Path, tmp_path: Path) -> None:
    name = file_of(tmp_path, b"beta 1\nbeta 2\nrubbish\nbeta 3\n")
    (parsed,) = parse_files([name], loads)
    assert [run["requests"] for run in parsed.runs] == [1, 2]
    assert parsed.error == f"{name}:3: not of beta: 'rubbish'"


def test_a_text_that_nobody_knows_is_an_error_of_the_first(loads: Path, tmp_path: Path) -> None:
    name = file_of(tmp_path, b"rubbish\n")
    (parsed,) = parse_files([name], loads)
    assert parsed.error == f"{name}:1: not of alpha: 'rubbish'"


def test_other_files_are_read_after_an_error(loads: Path, tmp_path: Path) -> None:
    good = file_of(tmp_path, b"alpha 1\n")
    results = list(parse_files([str(tmp_path / "absent"), good], loads))
    assert results[0].error == f"{tmp_path / 'absent'}: cannot be read: No such file or directory"
    assert len(results[1].runs) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"alpha 1\nalpha \xff\n", r":2: not UTF-8 \(byte 0xff\)"),
        (b"\x7fELF\0\0", r": a binary file, not a text \(a zero byte at 4\)"),
        ("alpha 1\n".encode("utf-16"), ": a binary file"),
    ],
)
def test_what_is_no_text_is_named(loads: Path, tmp_path: Path, content: bytes, reason: str) -> None:
    import re

    (parsed,) = parse_files([file_of(tmp_path, content)], loads)
    assert parsed.error is not None
    assert re.search("load.txt" + reason, parsed.error)


def test_a_byte_order_mark_is_no_error(loads: Path, tmp_path: Path) -> None:
    (parsed,) = parse_files([file_of(tmp_path, b"\xef\xbb\xbfalpha 1\n")], loads)
    assert (len(parsed.runs), parsed.error) == (1, None)


def test_a_directory_is_an_error(loads: Path, tmp_path: Path) -> None:
    (parsed,) = parse_files([str(tmp_path)], loads)
    assert parsed.error == f"{tmp_path}: cannot be read: Is a directory"


def test_an_oversized_file_is_refused(
    loads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parsing, "MAX_TEXT_BYTES", 5)
    (parsed,) = parse_files([file_of(tmp_path, b"alpha 1\n")], loads)
    assert parsed.error is not None
    assert "larger than 5 bytes" in parsed.error


def test_a_dash_is_stdin(loads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"beta 7\nrubbish\n"))
    monkeypatch.setattr("sys.stdin", stdin)
    (parsed,) = parse_files(["-"], loads)
    assert [run["source"] for run in parsed.runs] == ["stdin"]
    assert parsed.error == "stdin:2: not of beta: 'rubbish'"


def test_no_file_is_wrong_usage(loads: Path) -> None:
    with pytest.raises(UsageError, match="no file given"):
        list(parse_files([], loads))


def test_an_unknown_adapter_is_answered_with_the_known_ones(loads: Path) -> None:
    with pytest.raises(UsageError, match=r"no load adapter delta .*\(known: alpha, beta, gamma\)"):
        load_parsers(loads, "delta")


@pytest.mark.parametrize("load", ["gamma", None])
def test_adapters_without_a_parser_are_no_help(
    loads: Path, tmp_path: Path, load: str | None
) -> None:
    only = tmp_path / "only"
    only.mkdir()
    (loads / "gamma").rename(only / "gamma")
    with pytest.raises(UsageError, match="no load adapter with a parser"):
        load_parsers(only, load)


def test_a_fault_of_an_adapter_is_not_taken_for_a_bad_file(loads: Path, tmp_path: Path) -> None:
    (loads / "alpha" / "adapter.py").write_text("def parse(text, source):\n    return text.nope\n")
    with pytest.raises(AttributeError):
        list(parse_files([file_of(tmp_path, b"alpha 1\n")], loads))
