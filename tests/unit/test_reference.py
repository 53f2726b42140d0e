"""The pages that are made from the code say what it says now; the site builds, and leads nowhere
wrong.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from invoke.context import Context
from invoke.exceptions import Exit

import tasks
from tools import site
from tools.reference import __main__, adapterfields, commands, markdown, pages, runfields, schemas
from uplab import errors, gates, results
from uplab.cli import build
from uplab.errors import GateError
from uplab.hostside.reasons import REASONS
from uplab.matrix import Factors, Matrix

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


# --- pages made from the code ---------------------------------------------------------------------


def test_every_page_is_what_the_code_says() -> None:
    stale = [str(path) for path in pages.stale()]
    assert stale == [], "Run: ./invoke build.reference"


def test_a_page_that_is_edited_or_missing_is_found(tmp_path: Path) -> None:
    for folder in ("roles", "playbooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.py"))
    written = list(pages.write(tmp_path))
    assert pages.stale(tmp_path) == []
    assert all(line.endswith(": changed") for line in written)
    cli = Path("docs", "reference", "cli.md")
    (tmp_path / cli).write_text((tmp_path / cli).read_text().replace("--json", "--jsno"))
    (tmp_path / "docs" / "reference" / "reasons.md").unlink()
    assert pages.stale(tmp_path) == [cli, Path("docs", "reference", "reasons.md")]
    assert next(iter(pages.write(tmp_path))) == f"{cli}: changed"


def test_every_task_and_flag_is_on_the_page_of_the_command_line() -> None:
    documented = commands.flags_of(commands.page())
    collection = tasks.wire()
    assert sorted(documented) == sorted(collection.task_names)
    for context in collection.to_contexts():
        known = {*context.flags, *context.inverse_flags}
        named = set(documented[str(context.name)])
        assert named <= known, context.name
        assert len(named) == len({id(argument) for argument in context.args.values()})


def test_every_reason_is_on_its_page() -> None:
    text = (DOCS / "reference" / "reasons.md").read_text()
    assert re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE) == list(REASONS)


def test_every_option_of_every_role_is_on_the_page() -> None:
    text = (DOCS / "reference" / "role-variables.md").read_text()
    for spec in ROOT.glob("roles/*/meta/argument_specs.yml"):
        section = text.split(f"\n## {spec.parts[-3]}\n", 1)[1].split("\n## ", 1)[0]
        options = yaml.safe_load(spec.read_text())["argument_specs"]["main"]["options"]
        assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == sorted(options)


def test_the_fields_that_are_read_are_those_of_a_run() -> None:
    found = runfields.fields()
    assert sorted(found) == ["host.json", "run.json", "trial.json"]
    assert found["run.json"]["schema"] == (f"`{results.SCHEMA}`", True)
    assert found["run.json"]["cells[].id"] == ("text", True)
    assert found["run.json"]["sequential.half_width_pp"] == ("number", False)
    assert found["trial.json"]["load.requests_per_s"] == ("number", False)
    assert found["trial.json"]["hits.sites[].name"] == ("text", True)
    assert found["trial.json"]["verdict.reasons[].code"] == ("text", True)


def test_a_stand_in_for_the_reader_knows_all_its_questions() -> None:
    from uplab.fields import Fields

    asked = {name for name in vars(Fields) if not name.startswith("_")} - {"of_file"}
    assert asked <= {name for name in vars(runfields.Asked) if not name.startswith("_")}


def test_types_are_said_in_words() -> None:
    assert adapterfields.kind({"type": "array", "items": {"type": "string"}}) == "list of text"
    assert adapterfields.kind({"anyOf": [{"type": "integer"}, {"type": "null"}]}) == "whole number"
    assert adapterfields.kind({"$ref": "#/$defs/Site"}) == "[Site](#site)"
    assert adapterfields.kind({"enum": ["a", "b"]}) == "`a`, `b`"


def test_a_table_holds_what_could_end_it() -> None:
    assert markdown.table(("a",), [("x | y\nz",)]) == "| a |\n| --- |\n| x \\| y z |\n"
    assert markdown.words("``--set`` of <name>") == "`--set` of &lt;name>"


# --- pages written by hand, held against the code -------------------------------------------------


def rows(page: str) -> dict[str, str]:
    """The first two columns of a page's tables."""
    text = (DOCS / "reference" / page).read_text()
    return dict(re.findall(r"^\| `?([^`|]+)`?(?:, `[^|]*)? \| (.*?) \|", text, re.MULTILINE))


def default_of(value: Any) -> str:
    if isinstance(value, tuple):
        return str(list(value)).replace("'", "").replace("True", "true")
    return str(value)


def test_the_defaults_of_a_matrix_are_the_code_s() -> None:
    documented = rows("matrix.md")
    for name, entry in Factors.model_fields.items():
        if entry.is_required():
            assert documented[f"factors.{name}"] == "required"
        elif entry.default:
            shown = documented[f"factors.{name}"].strip("`").replace('""', "")
            assert shown == default_of(entry.default), name
    for name in ("warm_up_s", "blocks"):
        assert documented[name] == str(Matrix.model_fields[name].default)


def test_the_matrices_that_are_shipped_fit_the_published_schema() -> None:
    schema = schemas.matrix()
    jsonschema.Draft202012Validator.check_schema(schema)
    for path in (ROOT / "matrices").glob("*.yml"):
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema": 1, "name": "x"}, schema)


def test_the_page_of_gates_names_all_pieces() -> None:
    text = (DOCS / "reference" / "gates.md").read_text()
    for name in (*gates.SELECTORS, gates.PASSED, gates.FAILED, gates.UNDECIDED):
        assert re.search(rf"\b{re.escape(name)}\b", text), name


def test_the_exit_codes_of_the_page_are_the_code_s() -> None:
    known = {str(value) for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert set(rows("exit-codes.md")) - {"code", "---"} == known


# --- the site -------------------------------------------------------------------------------------


@dataclass
class Page(HTMLParser):
    """What a page refers to, and the places in it that can be referred to."""

    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.anchors.add(str(given["id"]))
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        self.loaded += [str(given[name]) for name in ("src",) if given.get(name)]
        if tag == "link" and given.get("rel") not in (
            "canonical",
            "next",
            "prev",
            "index",
            "search",
        ):
            self.loaded.append(str(given["href"]))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    assert site.build(out) == out / "index.html"
    return out


@pytest.fixture(scope="module")
def parsed(built: Path) -> dict[Path, Page]:
    found = {}
    for path in built.rglob("*.html"):
        page = Page()
        page.feed(path.read_text())
        found[path] = page
    return found


def local(page: Path, target: str) -> tuple[Path, str]:
    name, _, anchor = target.partition("#")
    return (page.parent / name).resolve() if name else page, anchor


def test_every_page_of_docs_is_on_the_site(built: Path) -> None:
    written = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert {path for path in written if not (built / path).is_file()} == set()


def test_every_page_can_be_reached_from_the_first(built: Path, parsed: dict[Path, Page]) -> None:
    reached: set[Path] = set()
    todo = [built / "index.html"]
    while todo:
        page = todo.pop()
        if page in reached or page not in parsed:
            continue
        reached.add(page)
        todo += [local(page, link)[0] for link in parsed[page].links if "://" not in link]
    written = {built / path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert written <= reached


def broken(parsed: dict[Path, Page]) -> Iterator[str]:
    for page, content in parsed.items():
        for link in content.links:
            if "://" in link or link.startswith("mailto:"):
                continue
            target, anchor = local(page, link)
            anchors = parsed[target].anchors | {""} if target in parsed else {anchor}
            if not target.exists() or anchor not in anchors:
                yield f"{page.name}: {link}"


def test_no_link_of_the_site_is_broken(parsed: dict[Path, Page]) -> None:
    assert list(broken(parsed)) == []


def test_the_site_loads_nothing_from_elsewhere(built: Path, parsed: dict[Path, Page]) -> None:
    for page, content in parsed.items():
        for target in content.loaded:
            assert "//" not in target, f"{page.name} loads {target}"
            assert local(page, target.partition("?")[0])[0].is_file(), target
    for path in built.rglob("*.css"):
        for target in re.findall(r"url\(\s*[\"']?([^)\"']+)", path.read_text()):
            assert target.startswith(("data:", "#")) or "//" not in target, f"{path}: {target}"
        assert "@import" not in path.read_text(), path


def test_what_is_wrong_in_a_page_fails_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# A\n\n[there](nowhere.md)\n")
    shutil.copy(DOCS / "conf.py", docs)
    (tmp_path / "uplab").mkdir()
    (tmp_path / "uplab" / "__init__.py").write_text('__version__ = "1"\n')
    with pytest.raises(GateError, match=r"index\.md:3.*nowhere"):
        site.build(tmp_path / "out", tmp_path)


def test_the_check_names_what_is_not_what_the_code_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pages, "stale", lambda: [Path("docs/reference/cli.md")])
    assert __main__.main(["--check"]) == errors.EXIT_GATE
    assert "docs/reference/cli.md. Run: ./invoke build.reference" in capsys.readouterr().err


def test_the_task_ends_as_its_process_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    build.reference.body(Context(), check=True)
    # Where nothing of ours is, there is nothing to run.
    monkeypatch.setattr(build, "PROJECT_ROOT", tmp_path)
    with pytest.raises(Exit) as ended:
        build.reference.body(Context(), check=True)
    assert ended.value.code == errors.EXIT_GATE
