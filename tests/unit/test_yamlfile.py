"""uplab/yamlfile.py: every error of a YAML file says file, line, field and what is allowed."""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from uplab import yamlfile
from uplab.errors import EXIT_USAGE, UsageError


@dataclass(frozen=True)
class Inner:
    size_bytes: int
    kind: Literal["a", "b"] = "a"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    many: tuple[Inner, ...] = ()
    named: dict[str, Inner] = field(default_factory=dict)
    perhaps: Inner | None = None
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")
    schema_version: Annotated[int, Field(alias="schema", ge=1)]
    inner: Inner | None = None


GOOD = """\
name: x
inner:
  size_bytes: 1
many:
  - size_bytes: 2
  - {size_bytes: 3,
     kind: b}
named:
  first: {size_bytes: 4}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "file.yml"
    path.write_text(text, encoding="utf-8")
    return path


def understood(path: Path, settings: Iterable[str], model: type[Any]) -> object:
    document = yamlfile.read(path)
    yamlfile.override(document, settings)
    return yamlfile.validate(document, model)


def refusal(tmp_path: Path, text: str, *settings: str, model: type[Any] = Outer) -> str:
    """The message for a file that is refused, the file's folder left out."""
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        understood(path, settings, model)
    assert caught.value.exit_code == EXIT_USAGE
    return caught.value.message.replace(f"{tmp_path}/", "")


def test_a_good_file_becomes_the_model(tmp_path: Path) -> None:
    document = yamlfile.read(write(tmp_path, GOOD))
    assert yamlfile.validate(document, Outer) == Outer(
        "x", Inner(1), (Inner(2), Inner(3, "b")), {"first": Inner(4)}
    )


def test_each_field_knows_its_line(tmp_path: Path) -> None:
    document = yamlfile.read(write(tmp_path, GOOD))
    lines = {
        (): 1,
        ("name",): 1,
        ("inner",): 2,
        ("inner", "size_bytes"): 3,
        ("many",): 4,
        ("many", 0): 5,
        ("many", 0, "size_bytes"): 5,
        ("many", 1): 6,
        ("many", 1, "size_bytes"): 6,
        ("many", 1, "kind"): 7,
        ("named",): 8,
        ("named", "first"): 9,
        ("named", "first", "size_bytes"): 9,
    }
    assert document.lines == lines
    assert document.where(("many", 1, "kind")) == f"{tmp_path}/file.yml:7"
    # What is not in the file is where it belongs.
    assert document.where(("many", 0, "kind")) == f"{tmp_path}/file.yml:5"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: x", "nome: x", "file.yml:1: name: this field is missing"),
        (
            "  size_bytes: 1",
            "  size: 1",
            "file.yml:2: inner.size_bytes: this field is missing\n"
            "file.yml:3: inner.size: no such field; allowed are kind, size_bytes",
        ),
        (
            "- size_bytes: 2",
            "- size_bytes: two",
            "file.yml:5: many.0.size_bytes: input should be a valid integer, found 'two'",
        ),
        ("kind: b", "kind: c", "file.yml:7: many.1.kind: input should be 'a' or 'b', found 'c'"),
        (
            "kind: b",
            "sort: b",
            "file.yml:7: many.1.sort: no such field; allowed are kind, size_bytes",
        ),
        (
            "first: {size_bytes: 4}",
            "first: {size_bytes: 4, more: 5}",
            "file.yml:9: named.first.more: no such field; allowed are kind, size_bytes",
        ),
        ("first: {size_bytes: 4}", "first: 4", "file.yml:9: named.first: "),
    ],
)
def test_a_wrong_field_is_told_with_its_line_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in GOOD
    said = refusal(tmp_path, GOOD.replace(old, new)).splitlines()
    for line in message.splitlines():
        assert any(heard.startswith(line) for heard in said), said


def test_an_unknown_field_at_the_top_is_told_with_the_known_ones(tmp_path: Path) -> None:
    said = refusal(tmp_path, GOOD + "more: 1\n")
    assert said == "file.yml:10: more: no such field; allowed are inner, many, name, named, perhaps"


def test_fields_are_named_as_the_file_spells_them(tmp_path: Path) -> None:
    assert refusal(tmp_path, "schema: 0\n", model=Model) == (
        "file.yml:1: schema: input should be greater than or equal to 1, found 0"
    )
    said = refusal(tmp_path, "schema: 1\nversion: 1\n", model=Model)
    assert said == "file.yml:2: version: no such field; allowed are inner, schema"
    assert refusal(tmp_path, "inner: null\n", model=Model) == (
        "file.yml:1: schema: this field is missing"
    )


def test_an_optional_part_is_looked_into(tmp_path: Path) -> None:
    said = refusal(tmp_path, GOOD + "perhaps: {size_bytes: 1, x: 2}\n")
    assert said == "file.yml:10: perhaps.x: no such field; allowed are kind, size_bytes"


def test_all_wrong_fields_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("size_bytes: 1", "size_bytes: a").replace("kind: b", "kind: c")
    assert len(refusal(tmp_path, text).splitlines()) == 2


@pytest.mark.parametrize("value", ["true", "yes", "1.0", '"1"'])
def test_a_number_is_a_number_and_nothing_that_could_be_one(tmp_path: Path, value: str) -> None:
    said = refusal(tmp_path, GOOD.replace("size_bytes: 1", f"size_bytes: {value}"))
    assert said.startswith("file.yml:3: inner.size_bytes: input should be a valid integer")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [x\n", "file.yml:2: not YAML: "),
        ("name: 'x\n", "file.yml:2: not YAML: "),
        ("name: x\n\tinner: 1\n", "file.yml:2: not YAML: "),
        ("", "file.yml:1: expected a mapping of fields"),
        ("- a\n- b\n", "file.yml:1: expected a mapping of fields"),
        ("just text\n", "file.yml:1: expected a mapping of fields"),
        ("a: 1\nb: 2\na: 3\n", "file.yml:3: a is given twice (first in line 1)"),
        (
            "a:\n  b: 1\n  c: 1\n  b: 2\n",
            "file.yml:4: a.b is given twice (first in line 2)",
        ),
        ("a: [{b: 1, b: 2}]\n", "file.yml:1: a.0.b is given twice (first in line 1)"),
        ("a: 1\n---\nb: 1\n", "file.yml:2: not YAML: "),
        ("a: *nothing\n", "file.yml:1: not YAML: "),
        ("a: !!python/object:os.system x\n", "file.yml:1: not YAML: "),
        ("a: 2026-13-45\n", "file.yml:1: not YAML: "),
        ("a: !!int x\n", "file.yml:1: not YAML: "),
        ("a: &a [*a]\n", "file.yml:1: not YAML: "),
        ("? [a, b]\n: 1\n", "file.yml:1: not YAML: "),
        ("a: \0\n", "file.yml: not YAML: "),
    ],
)
def test_a_file_that_cannot_be_read_as_fields(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        yamlfile.read(path)
    assert caught.value.message.replace(f"{tmp_path}/", "").startswith(message)


def test_a_key_that_is_no_text_is_an_unknown_field(tmp_path: Path) -> None:
    assert "no such field; allowed are" in refusal(tmp_path, GOOD + "1: x\n")
    assert "no such field; allowed are" in refusal(tmp_path, GOOD + "on: x\n")


def test_aliases_do_not_multiply_what_is_read(tmp_path: Path) -> None:
    """Ten lines can name a billion fields; such a file is refused, or read once."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 5):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    try:
        read = len(yamlfile.read(write(tmp_path, "\n".join(lines))).lines)
    except UsageError:
        read = 0
    assert read < 1000


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.yml: No such file or directory$"):
        yamlfile.read(tmp_path / "nothing.yml")
    with pytest.raises(UsageError, match=r"Is a directory$"):
        yamlfile.read(tmp_path)
    (tmp_path / "binary.yml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(UsageError, match=r"binary\.yml: not UTF-8 text$"):
        yamlfile.read(tmp_path / "binary.yml")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a: " + "x" * (1 << 20))
    with pytest.raises(UsageError, match=f"larger than {1 << 20} bytes"):
        yamlfile.read(path)


# --- --set ----------------------------------------------------------------------------------------


def overridden(tmp_path: Path, *settings: str) -> yamlfile.Document:
    document = yamlfile.read(write(tmp_path, GOOD))
    yamlfile.override(document, settings)
    return document


def test_a_setting_replaces_one_field_and_keeps_the_others(tmp_path: Path) -> None:
    document = overridden(tmp_path, "inner.size_bytes=30", "inner.kind=b")
    assert yamlfile.validate(document, Outer).inner == Inner(30, "b")
    assert document.data["name"] == "x"


def test_a_setting_may_be_any_yaml(tmp_path: Path) -> None:
    document = overridden(tmp_path, "many=[{size_bytes: 7}]", "name=a=b", "perhaps=null")
    model = yamlfile.validate(document, Outer)
    assert (model.many, model.name, model.perhaps) == ((Inner(7),), "a=b", None)


def test_a_setting_makes_the_part_that_is_not_in_the_file(tmp_path: Path) -> None:
    model = yamlfile.validate(overridden(tmp_path, "perhaps.size_bytes=9"), Outer)
    assert model.perhaps == Inner(9)


def test_the_last_setting_of_a_field_holds(tmp_path: Path) -> None:
    document = overridden(tmp_path, "inner.size_bytes=1", "inner.size_bytes=2")
    assert yamlfile.validate(document, Outer).inner.size_bytes == 2
    assert document.where(("inner", "size_bytes")) == "--set inner.size_bytes=2"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("name", "--set name: expected FIELD=VALUE, such as load.duration_s=30"),
        ("=1", "--set =1: expected FIELD=VALUE, such as load.duration_s=30"),
        ("a..b=1", "--set a..b=1: expected FIELD=VALUE, such as load.duration_s=30"),
        ("name=[", "--set name=[: the value is not YAML"),
        ("name=2026-13-45", "--set name=2026-13-45: the value is not YAML"),
        ("name.x=1", "--set name.x=1: name holds no fields"),
        ("many.0.size_bytes=1", "--set many.0.size_bytes=1: many holds no fields"),
        (
            "inner.size_bytes=big",
            "--set inner.size_bytes=big: inner.size_bytes: input should be a valid integer, "
            "found 'big'",
        ),
        (
            "inner.size_bytes=",
            "--set inner.size_bytes=: inner.size_bytes: "
            "input should be a valid integer, found None",
        ),
        ("inner.kind=c", "--set inner.kind=c: inner.kind: input should be 'a' or 'b', found 'c'"),
        (
            "inner.size=1",
            "--set inner.size=1: inner.size: no such field; allowed are kind, size_bytes",
        ),
        (
            "more.size=1",
            "--set more.size=1: more: no such field; allowed are inner, many, name, named, perhaps",
        ),
        (
            "many=[{size_bytes: 1, x: 2}]",
            "--set many=[{size_bytes: 1, x: 2}]: many.0.x: no such field; "
            "allowed are kind, size_bytes",
        ),
    ],
)
def test_a_wrong_setting_is_told_as_it_was_typed(
    tmp_path: Path, setting: str, message: str
) -> None:
    assert refusal(tmp_path, GOOD, setting) == message


def test_what_the_file_has_wrong_is_not_blamed_on_a_setting(tmp_path: Path) -> None:
    text = GOOD.replace("kind: b", "kind: c")
    said = refusal(tmp_path, text, "inner.size_bytes=3")
    assert said == "file.yml:7: many.1.kind: input should be 'a' or 'b', found 'c'"


@given(st.text(max_size=60))
def test_no_text_is_a_traceback(text: str) -> None:
    """Whatever is in a file: it is read, or refused by an error for a person."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.yml"
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        message = str(path)
        try:
            yamlfile.read(path)
        except UsageError as error:
            message = error.message
        assert message.startswith(str(path))
