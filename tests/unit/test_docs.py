"""What the reference says is what the code does."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml
from invoke.parser import Parser

import tasks
from uplab import adapters, errors, gates, matrix
from uplab.cli.words import Reader
from uplab.hostside.reasons import REASONS
from uplab.matrix import Factors, Matrix

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/*/README.md")]
GATED = ROOT / "docs" / "how-to" / "gate-a-change-in-ci.md"
EXAMPLE = ROOT / "docs" / "how-to" / "add-your-tracer-server-load.md"
BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(document: Path) -> list[list[str]]:
    """The arguments of each ``./invoke`` in a document's blocks that has any."""
    lines = "\n".join(BLOCK.findall(document.read_text())).splitlines()
    found = (re.match(r"(?:sudo |# )?\./invoke ([a-z][^#]*)", line) for line in lines)
    return [shlex.split(match[1]) for match in found if match]


def test_every_reason_is_in_the_reference() -> None:
    text = (REFERENCE / "reasons.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*) \| (.*) \|$", text, re.MULTILINE)
    assert rows == [(code, e.means, e.look_at) for code, e in REASONS.items()]


def test_every_exit_code_is_in_the_reference() -> None:
    text = (REFERENCE / "exit-codes.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    known = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert documented == known


def test_every_field_of_a_matrix_is_in_the_reference() -> None:
    text = (REFERENCE / "matrix.md").read_text()
    for name, entry in Matrix.model_fields.items():
        assert re.search(rf"`{entry.alias or name}[`.]", text), name
    for name in Factors.model_fields:
        assert f"`factors.{name}`" in text


def test_every_fault_in_the_page_has_a_test_and_every_test_its_fault() -> None:
    tested = [
        (ast.get_docstring(found) or "").rstrip(".")
        for module in sorted((ROOT / "tests" / "system").glob("test_*_faults.py"))
        for found in ast.parse(module.read_text()).body
        if isinstance(found, ast.FunctionDef) and found.name.startswith("test_")
    ]
    rows = re.findall(r"^\| (.*?) \|", (ROOT / "docs" / "reliability.md").read_text(), re.MULTILINE)
    assert sorted(rows[1:]) == sorted(tested)
    assert len(tested) >= 15


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_in_a_document_is_one(document: Path) -> None:
    collection = tasks.wire()
    parser = Parser(contexts=collection.to_contexts())
    # As the command line reads them: a task may take any number of bare words.
    rest = {name: collection[name].rest for name in collection.task_names if collection[name].rest}
    for arguments in commands(document):
        words = Reader(parser.contexts, frozenset(), rest).read(arguments)
        parsed = parser.parse_argv(words.tokens)
        assert [context.name for context in parsed] == [arguments[0]]


def test_an_example_quotes_the_tested_files() -> None:
    blocks = BLOCK.findall(EXAMPLE.read_text())
    quoted = [block.split("\n", 1) for block in blocks if block.startswith("# tests/")]
    assert len(quoted) >= 6
    for first, rest in quoted:
        name = first.removeprefix("# ")
        assert rest in (ROOT / name).read_text(), f"{EXAMPLE.name} quotes {name} wrongly"


def test_an_example_s_folders_are_there() -> None:
    for folder, files in re.findall(r"^  (\w+/\w+)/ +(.*)$", EXAMPLE.read_text(), re.MULTILINE):
        for file in files.split():
            assert (ROOT / "tests" / "data" / "adapters" / folder / file).is_file()


def test_the_matrices_of_an_example_load() -> None:
    named = [part for line in commands(EXAMPLE) for part in line if part.endswith(".yml")]
    assert named
    for name in named:
        assert matrix.load(name, ROOT).cells


def test_the_gates_and_the_matrix_of_the_how_to_are_what_is_read(tmp_path: Path) -> None:
    text = GATED.read_text(encoding="utf-8")
    (block,) = [block for block in BLOCK.findall(text) if block.startswith("# matrices/gate.yml")]
    (tmp_path / "gate.yml").write_text(block, encoding="utf-8")
    cells = matrix.load(str(tmp_path / "gate.yml"), ROOT).cells
    written = re.findall(r"--gate '([^']+)'|^`'([^']+)'`", text, re.MULTILINE)
    assert len(written) >= 3
    gates.check(gates.parse_all(one or other for one, other in written), cells)


def test_every_field_of_an_adapter_in_the_example_is_one() -> None:
    known = {name for kind in adapters.KINDS for name in adapters.json_schema(kind)["properties"]}
    for block in BLOCK.findall(EXAMPLE.read_text()):
        if block.startswith("# tests/data/adapters"):
            assert set(yaml.safe_load(block)) <= known


def test_the_explanation_names_every_factor_with_its_default() -> None:
    text = (ROOT / "docs" / "explanation" / "userspace-uprobes.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| `?([\w-]+)`? \|$", text, re.MULTILINE))
    factors = ("placement", "loader", "jit", "shm_mb", "map_kind", "bpftime_prefix")
    for name in factors:
        (default,) = Factors.model_fields[name].default
        assert rows[name] == (str(default).lower() or "empty"), name


def test_the_placements_of_the_explanation_are_the_adapter_s() -> None:
    text = (ROOT / "docs" / "explanation" / "userspace-uprobes.md").read_text()
    mode = adapters.load([ROOT]).tracers["gotrace"].modes["userspace-uprobe"]
    (row,) = re.findall(r"gotrace has (.*?) \|", text)
    assert re.findall(r"`([\w-]+)`", row) == list(mode.placements)
    for name in mode.placements:
        assert re.search(rf"^\| `{name}` \| ", text, re.MULTILINE)
