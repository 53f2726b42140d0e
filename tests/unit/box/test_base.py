"""uplab/box/base.py: a base is whole or it is not used."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from uplab.box import base
from uplab.box.base import Recipe
from uplab.box.steps import Steps
from uplab.errors import GateError, UsageError

RECIPE = Recipe("bookworm", ("deb x",), (), ())


class Heard(Steps):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


class Maker:
    """Stands in for mmdebstrap: writes a small tar; counts."""

    def __init__(self, boxes: Path) -> None:
        self.boxes = boxes
        self.built = 0
        self.text = "content"

    def __call__(self, _wanted: Recipe, part: Path, _log: Path, _steps: Steps) -> None:
        self.built += 1
        tree = self.boxes.parent / "tree"
        (tree / "etc").mkdir(parents=True, exist_ok=True)
        (tree / "dev").mkdir(exist_ok=True)
        (tree / "etc" / "file").write_text(self.text)
        (tree / "dev" / "thing").touch()
        subprocess.run(["tar", "-cf", str(part / "base.tar"), "-C", str(tree), "."], check=True)


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    return tmp_path / "boxes"


@pytest.fixture
def maker(boxes: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    maker = Maker(boxes)
    monkeypatch.setattr(base, "_build_tar", maker)
    return maker


def ensure(boxes: Path, recipe: Recipe = RECIPE, in_use: frozenset[str] = frozenset()) -> Path:
    return base.ensure(boxes, recipe, Steps(), in_use)


def test_a_base_is_made_once(boxes: Path, maker: Maker) -> None:
    folder = ensure(boxes)
    assert (folder / "root" / "etc" / "file").read_text() == "content"
    assert not (folder / "root" / "dev" / "thing").exists()
    assert ensure(boxes) == folder
    assert maker.built == 1
    assert {path.name for path in boxes.iterdir()} == {"locks", folder.name}


def change_content(root: Path) -> None:
    (root / "etc" / "file").write_text("changed")


def add_file(root: Path) -> None:
    (root / "etc" / "more").touch()


def remove_file(root: Path) -> None:
    (root / "etc" / "file").unlink()


def change_mode(root: Path) -> None:
    (root / "etc" / "file").chmod(0o4755)


def cut_record(root: Path) -> None:
    record = root.parent / "base.json"
    record.write_text(record.read_text()[:-5])


@pytest.mark.parametrize("harm", [change_content, add_file, remove_file, change_mode])
def test_damaged_files_are_unpacked_again_from_the_tar(
    boxes: Path, maker: Maker, harm: Callable[[Path], None]
) -> None:
    folder = ensure(boxes)
    harm(folder / "root")
    heard = Heard()
    base.ensure(boxes, RECIPE, heard)
    assert maker.built == 1
    assert heard.lines[0].startswith("the base of bookworm is damaged: its files are not those")
    assert "unpacked again from its tar" in heard.lines[1]
    assert (folder / "root" / "etc" / "file").read_text() == "content"
    assert base.damage(folder) is None


def test_a_base_whose_tar_is_damaged_too_is_built_again(boxes: Path, maker: Maker) -> None:
    folder = ensure(boxes)
    change_content(folder / "root")
    with (folder / "base.tar").open("r+b") as file:
        file.write(b"x")
    ensure(boxes)
    assert maker.built == 2
    assert base.damage(folder) is None


def test_a_base_whose_record_is_cut_off_is_built_again(boxes: Path, maker: Maker) -> None:
    folder = ensure(boxes)
    cut_record(folder / "root")
    ensure(boxes)
    assert maker.built == 2


def test_what_a_crash_left_half_built_is_not_used(boxes: Path, maker: Maker) -> None:
    part = boxes / f".part-base-{RECIPE.digest}"
    (part / "root" / "etc").mkdir(parents=True)
    (part / "base.json").write_text("{}")
    ensure(boxes)
    assert maker.built == 1
    assert not part.exists()


def test_a_build_that_fails_leaves_nothing(boxes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "echo 'E: the reason' >&2; echo 'I: cleaning up'; exit 25"
    monkeypatch.setattr(base, "mmdebstrap_argv", lambda *_: ["sh", "-c", script])
    with pytest.raises(GateError) as caught:
        ensure(boxes)
    log = boxes / "base-bookworm.log"
    assert caught.value.message == (
        f"building the base of bookworm failed: E: the reason. Run: less {log}"
    )
    assert "cleaning up" in log.read_text()
    assert {path.name for path in boxes.iterdir()} == {"locks", log.name}


def test_a_tar_that_cannot_be_unpacked_is_no_base(boxes: Path, maker: Maker) -> None:
    def cut(wanted: Recipe, part: Path, log: Path, steps: Steps) -> None:
        maker(wanted, part, log, steps)
        tar = part / "base.tar"
        tar.write_bytes(b"no tar" * 200)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "_build_tar", cut)
        with pytest.raises(GateError, match="unpacking the base failed: tar: "):
            ensure(boxes)
    assert {path.name for path in boxes.iterdir()} == {"locks"}


@pytest.mark.usefixtures("maker")
def test_a_new_recipe_is_another_base_and_the_old_one_goes(boxes: Path, tmp_path: Path) -> None:
    old = ensure(boxes)
    trixie = ensure(boxes, Recipe("trixie", ("deb x",), (), ()))
    certificate = tmp_path / "a.crt"
    certificate.write_text("one")
    recipe = Recipe("bookworm", ("deb x",), (), (str(certificate),))
    second = ensure(boxes, recipe, in_use=frozenset({old.name}))
    assert old.exists(), "a box stands on it"
    certificate.write_text("two")
    third = ensure(boxes, recipe)
    assert len({old.name, trixie.name, second.name, third.name}) == 4
    assert trixie.exists()
    assert third.exists()
    assert not old.exists()
    assert not second.exists()


def test_other_releases_are_refused() -> None:
    with pytest.raises(UsageError, match="no box is made of 'sid'; there are bookworm, trixie"):
        base.recipe("sid")


@pytest.mark.usefixtures("maker")
def test_the_recipe_is_kept_with_the_base(boxes: Path) -> None:
    facts = json.loads((ensure(boxes) / "base.json").read_text())
    assert facts["recipe"]["sources"] == ["deb x"]
    assert len(facts["tar_sha256"]) == 64


def test_mmdebstrap_gets_all_of_the_recipe(tmp_path: Path) -> None:
    recipe = Recipe(
        "bookworm",
        ("deb one", "deb two"),
        ('Acquire::Retries "3";',),
        ("/a.crt",),
        packages=("ssh", "sudo"),
        masked=("udev.service",),
    )
    argv = base.mmdebstrap_argv(recipe, tmp_path / "base.tar")
    assert argv[-4:] == ["bookworm", str(tmp_path / "base.tar"), "deb one", "deb two"]
    assert "--include=ssh,sudo" in argv
    assert '--aptopt=Acquire::Retries "3";' in argv
    hooks = [word for word in argv if word.startswith("--customize-hook=")]
    assert any("systemctl mask --quiet udev.service" in hook for hook in hooks)
    assert any("copy-in /a.crt" in hook for hook in hooks)
    plain = base.mmdebstrap_argv(RECIPE, tmp_path / "base.tar")[:-3]
    assert not [word for word in plain if "copy-in" in word or "update-ca" in word]
