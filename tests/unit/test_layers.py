"""Who may know whom: the layers of the design, by the source itself."""

import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from uplab import adapters, hostzip
from uplab.adapters import KINDS

ROOT = Path(__file__).parents[2]
UPLAB = ROOT / "uplab"
HOSTSIDE = sorted((UPLAB / "hostside").glob("*.py"))
SOURCES = sorted(UPLAB.rglob("*.py"))
SCHEMES = {"http", "https"}
"""Adapters' names that are also words of the web, and of the standard library."""


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules that are imported anywhere below a node."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a module lies"
            if node.module == "uplab" or node.module == "uplab.hostside":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def top_level_imports(tree: ast.Module) -> Iterator[str]:
    """The modules that are imported when a module is: not in functions, not for types alone."""
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(node)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


# --- hostside stands alone ------------------------------------------------------------------------


def foreign(tree: ast.AST, own: str | None) -> set[str]:
    """What a tree imports that is neither the standard library's nor below ``own``."""
    return {
        name
        for name in imports(tree)
        if name.split(".")[0] not in sys.stdlib_module_names
        and not (own and (name == own or name.startswith(f"{own}.")))
    }


@pytest.mark.parametrize("path", HOSTSIDE, ids=lambda path: path.name)
def test_hostside_imports_the_standard_library_and_itself(path: Path) -> None:
    tree = parse(path)
    for node in ast.walk(tree):
        # For types alone: never there when it runs.
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    assert foreign(tree, "uplab.hostside") == set()


def test_the_rule_about_hostside_sees_a_violation() -> None:
    for line in ("import yaml", "from uplab import plan", "from uplab.errors import UplabError"):
        assert foreign(ast.parse(line), "uplab.hostside")
        assert foreign(ast.parse(f"def f():\n    {line}"), "uplab.hostside")
    for line in ("import json", "from uplab.hostside import spec", "import http.client"):
        assert not foreign(ast.parse(line), "uplab.hostside")


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/*/adapter.py")), ids=short)
def test_an_adapter_s_python_imports_the_standard_library_alone(path: Path) -> None:
    assert foreign(parse(path), None) == set()


def test_hostside_runs_with_nothing_but_python(tmp_path: Path) -> None:
    """The zipapp with the shipped adapters, isolated, in another folder: it knows its modules."""
    zipapp = hostzip.write(adapters.load([ROOT]), tmp_path)
    program = (
        "import sys, runpy, io, json\n"
        "sys.argv = [sys.argv[1], '--root', '/nowhere', 'inspect']\n"
        "sys.stdin = io.StringIO('{}')\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        "files = [getattr(m, '__file__', None) or '' for m in list(sys.modules.values())]\n"
        "print(); print(json.dumps([code, sorted(files)]))\n"
    )
    argv = ["/usr/bin/python3", "-I", "-S", "-c", program, str(zipapp)]
    done = subprocess.run(argv, cwd="/", env={}, capture_output=True, text=True, check=True)
    answer, last = done.stdout.splitlines()
    assert json.loads(answer)["cells"] == {}
    code, files = json.loads(last)
    assert code == 0
    assert not [file for file in files if file.startswith(str(ROOT)) or "site-packages" in file]
    assert any(file.startswith(str(zipapp)) for file in files)


def test_hostside_runs_on_the_oldest_python_that_is_supported() -> None:
    """By its grammar: the host's Python may be older than the controller's."""
    for path in HOSTSIDE:
        ast.parse(path.read_text(), str(path), feature_version=(3, 11))


# --- uplab knows no adapter's name ----------------------------------------------------------------


def adapter_names() -> set[str]:
    return {
        path.parent.name
        for folder, _ in KINDS.values()
        for path in (ROOT / folder).glob("*/adapter.yml")
    }


def words(text: str) -> set[str]:
    """The words of a text or an identifier: ``run_wrk`` and ``WrkParser`` both hold ``wrk``."""
    apart = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", text)
    return {word.lower() for word in re.split(r"[^A-Za-z0-9]+", apart)}


def tokens_with(source: str, name: str) -> Iterator[int]:
    """The lines of names and strings (texts for a reader included) that hold a name as a word."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        held = token.type in (tokenize.NAME, tokenize.STRING)
        # From Python 3.12 on, an f-string's text is a token of its own kind.
        held = held or tokenize.tok_name[token.type] == "FSTRING_MIDDLE"
        if held and name in words(token.string):
            yield token.start[0]


def constants_equal_to(source: str, name: str) -> Iterator[int]:
    """The lines of strings that are exactly a name, but for comparisons of a URL's scheme."""
    tree = ast.parse(source)
    excused: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(isinstance(s, ast.Attribute) and s.attr == "scheme" for s in sides):
                excused.update(inner for side in sides for inner in ast.walk(side))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value == name and node not in excused:
            yield node.lineno


def occurrences(source: str, name: str) -> list[int]:
    return sorted((constants_equal_to if name in SCHEMES else tokens_with)(source, name))


def test_there_are_names_to_look_for() -> None:
    """The rule would hold for an empty list."""
    assert len(adapter_names()) >= 4
    assert adapter_names() >= SCHEMES


@pytest.mark.parametrize("name", sorted(adapter_names()))
def test_no_adapter_s_name_is_in_uplab(name: str) -> None:
    found = [
        f"{short(path)}:{line}" for path in SOURCES for line in occurrences(path.read_text(), name)
    ]
    assert found == [], f"{name} is an adapter's name: say it in its folder"


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("wrk", "x = 'wrk'"),
        ("wrk", "x = f'loads/{y}/wrk'"),
        ("wrk", "def parse_wrk(): pass"),
        ("wrk", "class WrkParser: pass"),
        ("wrk", "import loads.wrk"),
        ("wrk", '"""What wrk does."""'),
        ("http", "x = 'http'"),
        ("https", "port = ports['https']"),
        ("https", "if server == 'https': pass"),
    ],
)
def test_the_rule_about_names_sees_a_violation(name: str, source: str) -> None:
    assert occurrences(source, name) == [1]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("wrk", "work = 'wrking'"),
        ("http", "import http.client"),
        ("http", "http.client.HTTPConnection('http://a')"),
        ("https", "if parts.scheme == 'https': pass"),
        ("https", "if parts.scheme in ('http', 'https'): pass"),
        ("https", "x = 'such as server=https'"),
    ],
)
def test_the_rule_about_names_lets_others_be(name: str, source: str) -> None:
    assert occurrences(source, name) == []


# --- the command line is quick --------------------------------------------------------------------

CLI = sorted((UPLAB / "cli").glob("*.py"))
LIGHT = ("invoke", "uplab.cli", "uplab.__version__", "uplab.errors")
# PyYAML is not among them: Invoke itself loads it.
HEAVY = {
    "ansible",
    "fabric",
    "jinja2",
    "mitogen",
    "numpy",
    "paramiko",
    "pydantic",
    "rich",
    "scipy",
}


def heavy_at_top(tree: ast.Module) -> set[str]:
    return {
        name
        for name in top_level_imports(tree)
        if name.split(".")[0] not in sys.stdlib_module_names
        and not any(name == light or name.startswith(f"{light}.") for light in LIGHT)
    }


@pytest.mark.parametrize("path", CLI, ids=lambda path: path.name)
def test_the_command_line_imports_heavy_things_inside_functions(path: Path) -> None:
    assert heavy_at_top(parse(path)) == set()


def test_the_rule_about_heavy_things_sees_a_violation() -> None:
    assert heavy_at_top(ast.parse("import numpy")) == {"numpy"}
    assert heavy_at_top(ast.parse("from uplab import campaign")) == {"uplab.campaign"}
    assert heavy_at_top(ast.parse("class A:\n    import yaml")) == {"yaml"}
    assert heavy_at_top(ast.parse("def f():\n    import numpy")) == set()
    assert heavy_at_top(ast.parse("if TYPE_CHECKING:\n    import numpy")) == set()
    assert heavy_at_top(ast.parse("import sys\nfrom uplab import __version__")) == set()


def test_listing_the_tasks_loads_nothing_heavy() -> None:
    program = "import sys, tasks; print(' '.join({name.split('.')[0] for name in sys.modules}))"
    argv = [sys.executable, "-c", program]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split()) == set()


# --- nothing measured in Ansible, nothing of Ansible in Python ------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_ansible_s_internals_are_never_imported(path: Path) -> None:
    assert not {name for name in imports(parse(path)) if name.split(".")[0].startswith("ansible")}


def test_everything_right_of_collect_needs_no_host() -> None:
    """A report is made from the run directory alone: offline, and in a year."""
    left = {
        "uplab.campaign",
        "uplab.provision",
        "uplab.remote",
        "uplab.playbook",
        "uplab.inventory",
    }
    right = [UPLAB / "results.py", UPLAB / "analysis.py", *(UPLAB / "report").glob("*.py")]
    for path in right:
        assert left & set(imports(parse(path))) == set(), short(path)
